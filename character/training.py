"""What the training stages share: settings, TRL's arguments, and adapters that are the same bytes on every run."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from character import models
from character.errors import UserError
from character.params import Section, value

# TRL reports every trainer to the hub; huggingface_hub reads this when it is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

CHECKPOINT_EVERY = 0.05  # of all steps
TRAINING_VERSION = 1  # raise with every change of the training loop: no checkpoint of the old one is then gone on from


class Training(Section):
    """LoRA and AdamW with a warm-up and a cosine down to `min_lr_ratio`; the start of both training sections."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str]
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(gt=0)  # pairs or transcripts per optimiser step, whatever runtime.training_batch is
    epochs: int = Field(gt=0)
    warmup_ratio: float = Field(ge=0, lt=1)  # share of all steps
    min_lr_ratio: float = Field(ge=0, le=1)  # of learning_rate, reached at the last step
    adam_betas: list[float] = Field(min_length=2, max_length=2)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    max_length: int = Field(gt=0)  # tokens of prompt and answer; longer examples are dropped and counted, never cut


def accumulation(batch_size: int, micro_batch: int) -> int:
    """Return how many micro-batches make one optimiser step.

    Raises:
        UserError: the effective batch is not a multiple of the micro-batch.
    """
    if batch_size % micro_batch:
        raise UserError(
            f"params.yaml: batch_size {batch_size} is not a multiple of runtime.training_batch {micro_batch}; "
            "set runtime.training_batch to one of its divisors (it changes memory, not results)."
        )
    return batch_size // micro_batch


def arguments(kind: type, settings: Training, folder: str | Path, seed: int, micro_batch: int, cpu: bool, **others):
    """Return TRL's `kind` of training arguments; the trainer writes its checkpoints to `folder`, and reports to nobody.

    TRL by default truncates, checkpoints gradients and trains under bf16 autocast: here an example is whole or absent,
    and the model's own dtype holds.
    """
    return kind(
        output_dir=str(folder),
        seed=seed,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation(settings.batch_size, micro_batch),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": settings.min_lr_ratio},
        warmup_steps=settings.warmup_ratio,  # below 1, transformers takes it as a share
        optim="adamw_torch",
        adam_beta1=settings.adam_betas[0],
        adam_beta2=settings.adam_betas[1],
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        save_strategy="steps",
        save_steps=CHECKPOINT_EVERY,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        **others,
    )


def train(trainer, kind: type, settings: Training, examples: Sequence, adapters: Sequence[str] = (), options=None, **more):
    """Train a new adapter on the student, with `adapters` folded in, and return the trainer, with its model and its curve.

    `trainer` is a class of character.trainers, `kind` TRL's class of its arguments, and `options` what only that one has;
    `more` goes to the trainer. On one CPU, the same inputs give the same adapter, byte for byte, and a run that was killed
    goes on from its last checkpoint to that same adapter.
    """
    import torch
    from datasets import Dataset

    model = models.load_model(adapters=[Path(adapter) for adapter in adapters])
    cpu = model.device.type == "cpu"
    torch.use_deterministic_algorithms(cpu)  # on a GPU that would cost speed, and is not promised
    seed, folder = value("seed"), workshop(settings, examples, adapters)
    trained = trainer(
        max_length=settings.max_length,
        model=model,
        args=arguments(kind, settings, folder, seed, models.runtime().training_batch, cpu, **(options or {})),
        train_dataset=Dataset.from_list([example.model_dump() for example in examples]),
        processing_class=models.load_tokenizer(),
        peft_config=adapter_config(settings),
        **more,
    )
    checkpoint = last_checkpoint(folder)
    if checkpoint:
        print(f"going on from {checkpoint}", flush=True)
    trained.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    shutil.rmtree(folder, ignore_errors=True)
    return trained


def workshop(settings: Training, examples: Sequence, adapters: Sequence[str]) -> Path:
    """Return the directory for the checkpoints of this training and of no other: all that shapes it is in its name."""
    import torch

    runtime = models.runtime()
    weights = [models.fingerprint(Path(folder)) for folder in (models.STUDENT, *adapters)]
    shapes = [settings.model_dump(), [example.model_dump() for example in examples], value("seed"), weights]
    shapes += [models.device(), runtime.threads, runtime.training_batch, torch.__version__, TRAINING_VERSION]
    digest = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
    return Path(os.environ.get("DVC_ROOT", ".")) / ".cache" / "train" / digest[:32]


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; the trainer writes its state last. Others are deleted."""
    whole = None
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2])):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            shutil.rmtree(path)
        else:
            whole = path
    return whole


def adapter_config(settings: Training):
    """Return PEFT's description of the adapter to train."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )


def save_adapter(folder: str | Path, model, settings: Training) -> None:
    """Save the adapter of a PEFT model; see `write_adapter`."""
    from peft import get_peft_model_state_dict

    # "auto" would ask the hub whether the base model's vocabulary has changed.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    write_adapter(folder, weights, settings.rank, settings.alpha)


def write_adapter(folder: str | Path, weights: dict, rank: int, alpha: float) -> None:
    """Write `folder` as PEFT would (safetensors and adapter_config.json), but with nothing that differs between runs.

    PEFT writes target modules in hash order and the base model's path as it was loaded.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    modules = sorted({key.split(".")[-3] for key in weights})  # ...self_attn.q_proj.lora_A.weight
    config = LoraConfig(r=rank, lora_alpha=alpha, task_type="CAUSAL_LM", inference_mode=True).to_dict()
    config |= {"target_modules": modules, "base_model_name_or_path": "models/student"}
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {key: weights[key].detach().cpu().contiguous() for key in sorted(weights)}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def final(curve: Sequence[dict]) -> dict[str, float]:
    """Return the mean of every column over the last fifth of the steps: one step alone is noise."""
    tail = curve[-max(1, len(curve) // 5) :]
    return {name: sum(row[name] for row in tail) / len(tail) for name in tail[0] if name != "step"}
