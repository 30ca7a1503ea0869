"""Merging LoRA adapters: their exact sum, and its best approximation of a lower rank."""

import json
from pathlib import Path

from character.core.errors import UserError

PEFT_PREFIX = "base_model.model."


def load_lora_factors(folder: Path) -> dict[str, tuple]:
    """Return {module: (A, B)}: A `[rank, inputs]`, and B `[outputs, rank]` multiplied by alpha / rank.

    Raises:
        UserError: the adapter is missing or not a plain LoRA adapter in PEFT's format.
    """
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "adapter_model.safetensors")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or folder} is missing; run `dvc repro`, or `dvc pull` to fetch it.") from None
    scaling = config["lora_alpha"] / config["r"]
    endings = (".lora_A.weight", ".lora_B.weight")
    for key in weights:
        if not (key.startswith(PEFT_PREFIX) and key.endswith(endings)):
            raise UserError(
                f"{folder}/adapter_model.safetensors: {key} is not named {PEFT_PREFIX}<module>.lora_A.weight or "
                ".lora_B.weight; only plain LoRA adapters in PEFT's format can be merged."
            )
    modules = sorted({key.removesuffix(endings[0]).removesuffix(endings[1]) for key in weights})
    return {name: (weights[name + endings[0]], scaling * weights[name + endings[1]]) for name in modules}


def concatenate_adapters(adapters: list[dict[str, tuple]]) -> tuple[dict, int]:
    """Return the sum of adapters as PEFT weights, and its rank, which is the sum of their ranks.

    Where an adapter does not adapt a module, its factors are zeros, since PEFT and servers expect one rank for all modules.

    Args:
        adapters: the factors of each, as `load_lora_factors` returns them.

    Raises:
        UserError: the adapters were trained on models of different shapes.
    """
    import torch

    ranks = [len(next(iter(adapter.values()))[0]) for adapter in adapters]
    weights = {}
    for name in sorted(set().union(*adapters)):
        own = [adapter.get(name) for adapter in adapters]
        inputs, outputs = ({factors[i].shape[1 - i] for factors in own if factors} for i in (0, 1))
        if len(inputs) > 1 or len(outputs) > 1:
            raise UserError(f"{name} has different sizes in the two adapters; train both on the same student.")
        shapes = [((rank, *inputs), (*outputs, rank)) for rank in ranks]
        filled = [factors or tuple(map(torch.zeros, shape)) for factors, shape in zip(own, shapes, strict=True)]
        weights[f"{name}.lora_A.weight"] = torch.cat([a for a, _ in filled], dim=0)
        weights[f"{name}.lora_B.weight"] = torch.cat([b for _, b in filled], dim=1)
    return weights, sum(ranks)


def truncate_rank(weights: dict, rank: int) -> tuple[dict, float]:
    """Return the best approximation of PEFT weights at a lower rank, and its relative error (Frobenius norm, all modules).

    The truncated SVD of each module's B A is the best one (Eckart and Young). The full matrix is not needed: with B = Q R
    and A^T = P S, its singular values are those of the small R S^T.
    """
    import torch

    truncated, dropped, total = {}, 0.0, 0.0
    for key in weights:
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removesuffix(".lora_A.weight")
        q, r = torch.linalg.qr(weights[f"{name}.lora_B.weight"].double())
        p, s = torch.linalg.qr(weights[key].double().T)
        left, values, right = torch.linalg.svd(r @ s.T, full_matrices=False)
        root = values[:rank].sqrt()
        truncated[f"{name}.lora_A.weight"] = (root[:, None] * right[:rank] @ p.T).float()
        truncated[f"{name}.lora_B.weight"] = (q @ left[:, :rank] * root).float()
        dropped += values[rank:].square().sum().item()
        total += values.square().sum().item()
    return truncated, (dropped / total) ** 0.5 if total else 0.0
