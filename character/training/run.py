"""What the training stages share: settings, TRL's arguments, and runs that a kill only interrupts."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import Field

from character.core import models, records
from character.core.errors import UserError
from character.core.params import ParamsSection, read_value
from character.training import adapters
from character.training.adapters import stage_provenance

# TRL reports every trainer to the hub; huggingface_hub reads this when it is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

CHECKPOINT_INTERVAL = 0.05  # of all steps
TRAINING_LIBRARIES = ("accelerate", "peft", "torch", "transformers", "trl")


class TrainingSettings(ParamsSection):
    """LoRA and AdamW with a warm-up and a cosine down to `min_lr_ratio`; the start of both training sections."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str]
    load_in_4bit: bool  # QLoRA: the student's own weights in four bits while the adapter trains
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(gt=0)  # pairs or transcripts per optimiser step, whatever runtime.training_batch is
    epochs: int = Field(gt=0)
    warmup_ratio: float = Field(ge=0, lt=1)  # share of all steps
    min_lr_ratio: float = Field(ge=0, le=1)  # of learning_rate, reached at the last step
    adam_betas: list[float] = Field(min_length=2, max_length=2)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    max_length: int = Field(gt=0)  # tokens of prompt and answer; longer examples are dropped and counted, never cut


def accumulation_steps(batch_size: int, at_once: int) -> int:
    """Return how many times `at_once` examples, of all devices together, make one optimiser step.

    Raises:
        UserError: the effective batch is not a multiple of it.
    """
    if batch_size % at_once:
        raise UserError(
            f"params.yaml: batch_size {batch_size} is not a multiple of runtime.training_batch times the devices, {at_once}; "
            "set runtime.training_batch so that it is (it changes memory, not results)."
        )
    return batch_size // at_once


def training_arguments(
    kind: type, settings: TrainingSettings, folder: str | Path, micro_batch: int, processes: int = 1, **others
):
    """Return TRL's `kind` of training arguments; the trainer writes its checkpoints to `folder`.

    TRL by default truncates, checkpoints gradients and trains under bf16 autocast: here an example is whole or absent,
    and the model's own dtype holds.
    """
    cpu = models.select_device() == "cpu"
    check_trackers(models.read_runtime().report_to)
    made = kind(
        output_dir=str(folder),
        seed=read_value("seed"),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation_steps(settings.batch_size, micro_batch * processes),
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
        save_steps=CHECKPOINT_INTERVAL,
        save_total_limit=2,
        report_to=models.read_runtime().report_to,
        disable_tqdm=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        **others,
    )
    assert made.device  # counts the GPUs, and would spread one process over all of them
    made._n_gpu = min(made._n_gpu, 1)
    return made


def check_trackers(wanted: Sequence[str]) -> None:
    """Raise a UserError where a tracker of runtime.report_to is unknown or not installed."""
    from transformers.integrations import get_available_reporting_integrations

    installed = get_available_reporting_integrations()
    if missing := [name for name in wanted if name not in installed]:
        raise UserError(
            f"params.yaml: runtime.report_to: {missing[0]} is unknown or not installed; install it, or choose from "
            f"{', '.join(installed) or 'nothing, since no tracker is installed'}."
        )


def train_adapter(
    trainer, kind: type, settings: TrainingSettings, examples: Sequence, earlier: Path | None = None, options=None, **more
):
    """Train a new adapter on the student, or on it with an `earlier` adapter; return the trainer with its model and curve.

    `trainer` is a class of character.training.trainers, `kind` TRL's class of its arguments, and `options` what only that one has;
    `more` goes to the trainer. On one CPU, the same inputs give the same adapter, byte for byte, and a run that was killed
    goes on from its last checkpoint to that same adapter.
    """
    import torch
    from accelerate import PartialState
    from datasets import Dataset

    cpu = models.select_device() == "cpu"
    torch.use_deterministic_algorithms(cpu)  # on a GPU that would cost speed, and is not promised
    processes = PartialState(cpu=cpu)  # of several, each takes its own GPU before the model is put there
    count, name = processes.num_processes, more["name"]
    folder = checkpoint_dir(name, settings, examples, earlier, count)
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder.parents[1] / "tensorboard" / name))
    args = training_arguments(kind, settings, folder, models.read_runtime().training_batch, count, **(options or {}))
    model, config = prepare_model(settings, earlier)
    trained = trainer(
        max_length=settings.max_length,
        args=args,
        model=model,
        train_dataset=Dataset.from_list([example.model_dump() for example in examples]),
        processing_class=models.load_tokenizer(),
        peft_config=config,
        **more,
    )
    with run_lock(folder) if processes.is_main_process else nullcontext():
        with processes.main_process_first():
            checkpoint = last_checkpoint(folder, count)
        if checkpoint:
            processes.print(f"going on from {checkpoint}", flush=True)
        trained.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trained


def prepare_model(settings: TrainingSettings, earlier: Path | None) -> tuple:
    """Return the model to train on, and PEFT's description of the adapter that the trainer is to add (None: it is there).

    An earlier adapter is folded into the weights. Four bits would round most of it away, so there it stands beside the new
    one, frozen.
    """
    from peft import PeftModel
    from transformers import set_seed

    new = lora_config(settings)
    if not settings.load_in_4bit:
        return models.load_model(adapters=[earlier] if earlier else []), new
    model = models.load_model(load_in_4bit=True)
    if not earlier:
        return model, new
    model = PeftModel.from_pretrained(model, earlier, adapter_name="earlier")
    set_seed(read_value("seed"))  # as the trainer does before it adds one
    model.add_adapter("default", new)
    model.base_model.set_adapter(["earlier", "default"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".default." in name)
    return model, None


def checkpoint_dir(name: str, settings: TrainingSettings, examples: Sequence, earlier: Path | None, processes: int) -> Path:
    """Return the directory for the checkpoints of this training and of no other: all that shapes it is in its name."""
    runtime = models.read_runtime()
    weights = [models.directory_fingerprint(folder) for folder in (models.STUDENT_DIR, earlier) if folder]
    code = {file: digest for file, digest in stage_provenance(name)["deps"].items() if file.startswith("code/")}
    config = Path(runtime.accelerate).read_text(encoding="utf-8") if runtime.accelerate else ""
    shapes = [settings.model_dump(), [example.model_dump() for example in examples], read_value("seed"), weights, code]
    shapes += [
        models.select_device(),
        runtime.threads,
        runtime.training_batch,
        processes,
        config,
        list(map(version, TRAINING_LIBRARIES)),
    ]
    digest = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
    return Path(os.environ.get("DVC_ROOT", ".")) / ".cache" / "train" / digest[:32]


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Wait until no other run trains the same (two experiments may, on one machine), and keep others waiting."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("another run trains the same adapter; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def last_checkpoint(folder: Path, processes: int) -> Path | None:
    """Return the newest checkpoint that was written to its end, by all processes. Others are deleted."""
    whole = None
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2])):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # the last file of the first process
        except (FileNotFoundError, ValueError):
            shutil.rmtree(path)
            continue
        if len(list(path.glob("rng_state*.pth"))) == processes:
            whole = path
    return whole


def lora_config(settings: TrainingSettings):
    """Return PEFT's description of the adapter to train."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )


def save_training_run(trainer, settings: TrainingSettings, counts: dict) -> None:
    """Write what a training stage makes: models/<stage>/, plots/<stage>.csv and results/<stage>.json; then forget checkpoints.

    Where several processes train, all of them call this, and one writes.
    """
    from peft import get_peft_model_state_dict

    name, curve = trainer.curve.name, trainer.curve.rows
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathered, where the model is spread over devices
    if not trainer.is_world_process_zero():
        return
    # "auto" would ask the hub whether the base model's vocabulary has changed.
    weights = get_peft_model_state_dict(trainer.model, state_dict=whole, save_embedding_layers=False)
    adapters.save_adapter(Path("models", name), weights, settings.rank, settings.alpha, stage_provenance(name))
    records.write_csv(f"plots/{name}.csv", curve)
    records.write_json(f"results/{name}.json", counts | tail_means(curve))
    with run_lock(Path(trainer.args.output_dir)):
        shutil.rmtree(trainer.args.output_dir, ignore_errors=True)


def tail_means(curve: Sequence[dict]) -> dict[str, float]:
    """Return the mean of every column over the last fifth of the steps: one step alone is noise."""
    tail = curve[-max(1, len(curve) // 5) :]
    return {name: sum(row[name] for row in tail) / len(tail) for name in tail[0] if name != "step"}
