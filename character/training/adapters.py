"""Adapters in PEFT's format: safetensors, adapter_config.json and provenance.json, the same bytes on every run."""

import json
import shutil
from pathlib import Path

import yaml

from character.core import models
from character.core.errors import UserError
from character.core.params import read_value


def save_adapter(folder: Path, weights: dict, rank: int, alpha: float, origin: dict) -> None:
    """Write an adapter to `folder` in PEFT's layout, completely or not at all; equal adapters give equal bytes.

    PEFT itself writes target modules in hash order and the path from which the base model was loaded; both differ between
    runs.

    Args:
        weights: PEFT's names (`<module>.lora_A.weight`, `<module>.lora_B.weight`) and their tensors.
        origin: the content of provenance.json; see `stage_provenance`.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    modules = sorted({key.split(".")[-3] for key in weights})  # ...self_attn.q_proj.lora_A.weight
    config = LoraConfig(r=rank, lora_alpha=alpha, task_type="CAUSAL_LM", inference_mode=True).to_dict()
    config |= {"target_modules": modules, "base_model_name_or_path": "models/student"}
    tensors = {key: weights[key].detach().cpu().contiguous() for key in sorted(weights)}
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file(tensors, draft / "adapter_model.safetensors", metadata={"format": "pt"})
    for name, content in (("adapter_config.json", config), (models.PROVENANCE_FILE, origin)):
        (draft / name).write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def stage_provenance(stage: str) -> dict:
    """Return a stage's name, the parameters that dvc.yaml lists for it, and the SHA-256 of each of its dependencies.

    Raises:
        UserError: a dependency is missing.
    """
    listed = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    params = {name: read_value(name) for name in listed["params"] if isinstance(name, str)}
    return {"stage": stage, "params": params, "deps": {name: _dependency_digest(Path(name)) for name in listed["deps"]}}


def _dependency_digest(path: Path) -> str:
    if not path.exists():
        raise UserError(f"{path} is missing; run `dvc repro` to make it, or `dvc pull` to fetch it.")
    return models.directory_fingerprint(path) if path.is_dir() else models.file_sha256(path)
