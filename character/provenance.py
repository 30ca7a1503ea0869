"""What shaped a stage's output, as dvc.yaml lists it: no commit, path on this machine, time, or unlisted parameter.

An adapter carries it as provenance.json. It is left out of the adapter's fingerprint: a comment edited in a training module
changes it, and no answer.
"""

import json
from pathlib import Path

import yaml

from character import models
from character.errors import UserError
from character.params import value


def of(stage: str) -> dict:
    """Return the listed parameters of a stage, and the SHA-256 of each of its dependencies."""
    listed = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    params = {name: value(name) for name in listed["params"] if isinstance(name, str)}
    return {"stage": stage, "params": params, "deps": {name: _digest(Path(name)) for name in listed["deps"]}}


def recorded(folder: Path) -> dict:
    """Return what an adapter carries about itself."""
    return json.loads((folder / models.PROVENANCE).read_text(encoding="utf-8"))


def _digest(path: Path) -> str:
    if not path.exists():
        raise UserError(f"{path} is missing; run `dvc repro` to make it, or `dvc pull` to fetch it.")
    return models.fingerprint(path) if path.is_dir() else models.sha256(path)
