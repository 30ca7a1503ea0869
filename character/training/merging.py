"""Merging LoRA adapters: their exact sum, and its best approximation of a lower rank.

The factors of a target, which is a linear layer or the parameter that holds the weights of all experts of a layer, are two
tensors: A `[experts, rank, inputs]` and B `[experts, outputs, rank]`, scaled so that B A is the change of the weights. A
linear layer counts as one expert.
"""

from collections.abc import Sequence
from pathlib import Path

from character.core import models
from character.core.errors import UserError
from character.core.lora import check_lora_weights, does_not_fit, lora_layers, read_lora_config, read_lora_weights

TARGET_OPTIONS = ("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern")


def load_lora_factors(folder: Path) -> dict[str, tuple]:
    """Return {target: (A, B)} of an adapter of the student, with PEFT's own scaling of each target.

    Raises:
        UserError: the adapter is missing, is not supported, or does not fit the student.
    """
    config = read_lora_config(folder)
    try:
        adapted = _put_on_skeleton(config)
    except ValueError as error:
        raise UserError(does_not_fit(folder, error)) from None
    weights = read_lora_weights(folder)
    check_lora_weights(adapted, weights, folder)
    factors = {}
    for target, (prefix, layer) in lora_layers(adapted).items():
        a, b = weights[f"{prefix}.lora_A.weight"], layer.scaling["default"] * weights[f"{prefix}.lora_B.weight"]
        experts = getattr(layer, "num_experts", 1)
        # PEFT's order: A has the ranks of one expert after another, B the experts of one rank after another.
        factors[target] = a.reshape(experts, -1, a.shape[-1]), b.reshape(len(b), -1, experts).permute(2, 0, 1)
    return factors


def _put_on_skeleton(config):
    from peft import get_peft_model

    return get_peft_model(models.load_skeleton(), config)


def sum_factors(adapters: Sequence[dict[str, tuple]]) -> dict[str, tuple]:
    """Return the factors of the sum of adapters: those of each target, stacked along the rank."""
    import torch

    total = {}
    for target in sorted(set().union(*adapters)):
        own = [adapter[target] for adapter in adapters if target in adapter]
        total[target] = torch.cat([a for a, _ in own], dim=1), torch.cat([b for _, b in own], dim=2)
    return total


def largest_rank(factors: dict[str, tuple]) -> int:
    return max(a.shape[1] for a, _ in factors.values())


def truncate_rank(factors: dict[str, tuple], rank: int) -> tuple[dict[str, tuple], float]:
    """Return the best approximation of factors at no more than a rank, and its relative error (Frobenius norm, all targets).

    The truncated SVD of B A is the best one (Eckart and Young). The full matrix is not needed: with B = Q R and A^T = P S, its
    singular values are those of the small R S^T.
    """
    import torch

    truncated, dropped, total = {}, 0.0, 0.0
    for target, (a, b) in factors.items():
        q, r = torch.linalg.qr(b.double())
        p, s = torch.linalg.qr(a.double().mT)
        left, values, right = torch.linalg.svd(r @ s.mT, full_matrices=False)
        root = values[:, :rank].sqrt()
        truncated[target] = (
            (root[:, :, None] * right[:, :rank] @ p.mT).float(),
            (q @ left[:, :, :rank] * root[:, None]).float(),
        )
        dropped += values[:, rank:].square().sum().item()
        total += values.square().sum().item()
    return truncated, (dropped / total) ** 0.5 if total else 0.0


def build_adapter(factors: dict[str, tuple], folders: Sequence[Path]) -> tuple:
    """Return PEFT's configuration and tensors of an adapter with these factors.

    All targets get the rank of the largest, with zeros, and the scaling 1: servers then need no pattern of ranks.

    Args:
        folders: the adapters that were summed; what they target is carried over, if it is the same.
    """
    import torch
    from peft import LoraConfig

    rank = largest_rank(factors)
    configs = [read_lora_config(folder) for folder in folders]
    options = {name: getattr(configs[0], name) for name in TARGET_OPTIONS}
    if any(getattr(config, name) != value for config in configs for name, value in options.items()):
        options = _name_targets(factors)
    config = LoraConfig(r=rank, lora_alpha=rank, task_type="CAUSAL_LM", **options)
    weights = {}
    for target, (prefix, _) in lora_layers(_put_on_skeleton(config)).items():
        a, b = factors[target]
        a = torch.nn.functional.pad(a, (0, 0, 0, rank - a.shape[1]))
        b = torch.nn.functional.pad(b, (0, rank - b.shape[2]))
        weights[f"{prefix}.lora_A.weight"] = a.flatten(0, 1)
        weights[f"{prefix}.lora_B.weight"] = b.permute(1, 2, 0).flatten(1)
    return config, weights


def _name_targets(factors: dict[str, tuple]) -> dict[str, list[str]]:
    """Return PEFT's options for exactly these targets, by their full names."""
    parameters = {name for name, _ in models.load_skeleton().named_parameters()} & factors.keys()
    return {"target_modules": sorted(factors.keys() - parameters), "target_parameters": sorted(parameters)}
