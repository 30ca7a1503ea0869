"""Adapters in PEFT's format: safetensors, adapter_config.json and provenance.json, the same bytes on every run."""

import json
from pathlib import Path

import yaml

from character.core import models, records
from character.core.errors import UserError
from character.core.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from character.core.params import read_value


def save_adapter(folder: Path, weights: dict, config, origin: dict) -> None:
    """Write an adapter to `folder` in PEFT's layout, completely or not at all; equal adapters give equal bytes.

    Args:
        weights: PEFT's names (`<module>.lora_A.weight`, `<module>.lora_B.weight`) and their tensors.
        config: PEFT's configuration with which the weights were trained or made.
        origin: the content of provenance.json; see `stage_provenance`.
    """
    from safetensors.torch import save_file

    tensors = {key: weights[key].detach().cpu().contiguous() for key in sorted(weights)}
    with records.replace_folder(folder) as draft:
        save_file(tensors, draft / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        for name, content in ((ADAPTER_CONFIG, _reproducible(config)), (models.PROVENANCE_FILE, origin)):
            (draft / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _reproducible(config) -> dict:
    """Return the content of adapter_config.json.

    PEFT itself writes sets in hash order and the path from which the base model was loaded; both differ between runs. The
    entries of a pattern keep their order, since the first that matches counts.
    """
    content = config.to_dict() | {"base_model_name_or_path": str(models.STUDENT_DIR), "inference_mode": True}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(content.items())}


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
