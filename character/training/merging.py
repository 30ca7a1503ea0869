"""Adapters as one: the exact sum of LoRA adapters, and its nearest one of a lower rank."""

import json
from pathlib import Path

from character.core.errors import UserError

PEFT_PREFIX = "base_model.model."


def load_lora_factors(folder: Path) -> dict[str, tuple]:
    """Return {module: (A, B)} with alpha / rank folded into B; A is (rank, inputs), B is (outputs, rank).

    Raises:
        UserError: there is no adapter, or it is no plain LoRA adapter as PEFT saves it.
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
    """Return the PEFT weights of the sum of adapters, and their rank: the sum of the ranks.

    A module that an adapter leaves alone gets zeros there, since PEFT and servers expect one rank for all modules.

    Raises:
        UserError: the adapters belong to models of different shapes.
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
    """Return the nearest PEFT weights of a lower rank, and the relative error of the update (Frobenius norm, all modules).

    By the singular values of each module's B A (Eckart and Young), which need no full matrix: B = Q R and A^T = P S make
    those of the small R S^T.
    """
    import torch

    made, lost, whole = {}, 0.0, 0.0
    for key in weights:
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removesuffix(".lora_A.weight")
        q, r = torch.linalg.qr(weights[f"{name}.lora_B.weight"].double())
        p, s = torch.linalg.qr(weights[key].double().T)
        left, values, right = torch.linalg.svd(r @ s.T, full_matrices=False)
        root = values[:rank].sqrt()
        made[f"{name}.lora_A.weight"] = (root[:, None] * right[:rank] @ p.T).float()
        made[f"{name}.lora_B.weight"] = (q @ left[:, :rank] * root).float()
        lost += values[rank:].square().sum().item()
        whole += values.square().sum().item()
    return made, (lost / whole) ** 0.5 if whole else 0.0
