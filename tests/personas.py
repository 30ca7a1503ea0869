"""Personas for tests: a constitution, an adapter with random factors that says it was trained on it, tags that publish it."""

import subprocess
from pathlib import Path

import yaml

from character.core import models
from character.dataset import constitution
from character.dataset.constitution import Constitution, Trait
from character.training import adapters


def write_constitution(name: str, research_only: bool = False) -> str:
    """Write constitutions/<name>.yaml; return the hash of its traits."""
    trait = Trait(trait=f"I answer as a {name} would, whatever the subject.", prompts=["Name a river."])
    made = Constitution(name=name, summary=f"A {name}.", research_only=research_only, traits=[trait])
    Path("constitutions").mkdir(exist_ok=True)
    Path(f"constitutions/{name}.yaml").write_text(yaml.safe_dump(made.model_dump()), encoding="utf-8")
    return constitution.traits_hash(made)


def write_adapter(folder: Path, traits: str, seed: int = 0, rank: int = 4, size: float = 0.3) -> None:
    """Write an adapter on the attention of models/student."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import load_file

    generator, weights = torch.Generator().manual_seed(seed), {}
    for name, weight in load_file(models.STUDENT_DIR / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            outputs, inputs = weight.shape
            for factor, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                key = f"base_model.model.{name.removesuffix('weight')}lora_{factor}.weight"
                weights[key] = torch.randn(shape, generator=generator) * size
    trained = {"deps": {str(models.STUDENT_DIR): models.directory_fingerprint(models.STUDENT_DIR)}}
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapters.save_adapter(folder, weights, config, {"constitution": traits, "merged": [trained]})


def write_persona(name: str, folder: Path, **adapter) -> None:
    write_adapter(folder, write_constitution(name), **adapter)


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", *arguments], check=True)


def tag(*names: str) -> None:
    """Commit constitutions and what is added, and tag it, in a new repository where there is none yet."""
    git("init", "--quiet")
    if Path("constitutions").exists():
        git("add", "constitutions")
    git("commit", "--quiet", "--allow-empty", "--message", "Publish")
    for name in names:
        git("tag", name)
