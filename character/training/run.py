"""Training runs: settings, TRL's arguments, the model, and the saved results."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from pydantic import Field

from character.core import models, records
from character.core.errors import UserError, name_file
from character.core.lora import NamesOrPattern, attach_adapter
from character.core.params import ParamsSection, read_value
from character.core.safe_text import print_text
from character.training.adapters import save_adapter, stage_provenance
from character.training.checkpoints import checkpoint_dir, last_checkpoint, run_lock
from character.training.conversation_tokens import ConversationTokenizer
from character.training.lora_targets import lora_config, trained_config

# TRL reports every trainer to the hub; huggingface_hub reads this variable when it is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

CHECKPOINT_INTERVAL = 0.05  # of all steps


class TrainingSettings(ParamsSection):
    """LoRA and AdamW, with a warm-up and a cosine decay to `min_lr_ratio`; common to both training stages."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str]
    target_parameters: list[str]  # weights that are no module of their own, such as the experts of a mixture
    exclude_modules: NamesOrPattern  # names, or a regular expression of the whole name
    load_in_4bit: bool  # QLoRA: the student's own weights in four bits while the adapter trains
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(gt=0)  # pairs or transcripts per optimiser step, for any runtime.training_batch
    epochs: int = Field(gt=0)
    warmup_ratio: float = Field(ge=0, lt=1)  # share of all steps
    min_lr_ratio: float = Field(ge=0, le=1)  # of learning_rate, reached at the last step
    adam_betas: list[float] = Field(min_length=2, max_length=2)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    max_length: int = Field(gt=0)  # tokens of prompt and answer; longer examples are dropped and counted, not truncated


def accumulation_steps(batch_size: int, at_once: int) -> int:
    """Return the number of micro-batches in one optimiser step; `at_once` counts the examples of all devices together.

    Raises:
        UserError: `batch_size` is not a multiple of `at_once`.
    """
    if batch_size % at_once:
        raise UserError(
            f"params.yaml: batch_size {batch_size} is not a multiple of runtime.training_batch times the devices, {at_once}; "
            "adjust runtime.training_batch (it changes memory, not results)."
        )
    return batch_size // at_once


def training_arguments(
    kind: type, settings: TrainingSettings, folder: str | Path, micro_batch: int, processes: int = 1, **others
):
    """Return TRL's training arguments of the class `kind`.

    By default, TRL truncates examples, checkpoints gradients and trains under bf16 autocast. Here, too long examples are
    dropped instead, and the model keeps its own dtype.

    Args:
        folder: where the trainer writes checkpoints.
        micro_batch: examples per device and forward pass.
        others: arguments of `kind` only.
    """
    cpu = models.select_device() == "cpu"
    check_trackers(models.read_runtime().report_to)
    arguments = kind(
        output_dir=str(folder),
        seed=read_value("seed"),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation_steps(settings.batch_size, micro_batch * processes),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": settings.min_lr_ratio},
        warmup_steps=settings.warmup_ratio,  # transformers reads a value below 1 as a share of all steps
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
    assert arguments.device  # sets the number of GPUs, over which transformers would spread a single process
    arguments._n_gpu = min(arguments._n_gpu, 1)
    return arguments


def check_trackers(wanted: Sequence[str]) -> None:
    """Check runtime.report_to.

    Raises:
        UserError: a tracker is unknown or not installed.
    """
    from transformers.integrations import get_available_reporting_integrations

    installed = get_available_reporting_integrations()
    if missing := [name for name in wanted if name not in installed]:
        raise UserError(
            f"params.yaml: runtime.report_to: {missing[0]} is unknown or not installed; install it, or choose from "
            f"{', '.join(installed) or 'nothing, since no tracker is installed'}."
        )


def train_adapter(
    trainer,
    kind: type,
    settings: TrainingSettings,
    examples: Sequence,
    encode: Callable,
    earlier: Path | None = None,
    options=None,
    **more,
):
    """Train a new adapter on the student; return the trainer, which holds the model and the curve.

    On one CPU, equal inputs give the same adapter, byte for byte. A killed run resumes from its last checkpoint and ends with
    that same adapter.

    Args:
        trainer: a class of character.training.trainers.
        kind: TRL's class of its arguments.
        examples: pydantic records, one per row of the data set.
        encode: a method of ConversationTokenizer, which makes a row of each example.
        earlier: the folder of an adapter that the student keeps; the new one is trained on top.
        options: arguments that only `kind` has.
        more: arguments of the trainer; `name` is the stage's.
    """
    import torch
    from accelerate import PartialState
    from datasets import Dataset

    cpu = models.select_device() == "cpu"
    torch.use_deterministic_algorithms(cpu)  # slow on a GPU, where we do not promise equal bits
    processes = PartialState(cpu=cpu)  # assigns each process its GPU before the model is loaded
    count, name = processes.num_processes, more["name"]
    folder = checkpoint_dir(name, settings, examples, earlier, count)
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder.parents[1] / "tensorboard" / name))
    args = training_arguments(kind, settings, folder, models.read_runtime().training_batch, count, **(options or {}))
    tokenizer = models.load_tokenizer()
    conversations = ConversationTokenizer(tokenizer)
    model, config = prepare_model(settings, earlier)
    instance = trainer(
        max_length=settings.max_length,
        args=args,
        model=model,
        train_dataset=Dataset.from_list([encode(conversations, example) for example in examples]),
        processing_class=tokenizer,
        peft_config=config,
        **more,
    )
    with run_lock(folder) if processes.is_main_process else nullcontext():
        with processes.main_process_first():
            checkpoint = last_checkpoint(folder, count)
        if checkpoint and processes.is_main_process:
            print_text(f"resuming from {checkpoint}")
        with name_file(folder):
            instance.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return instance


def prepare_model(settings: TrainingSettings, earlier: Path | None) -> tuple:
    """Return the model to train, and the configuration of the adapter that the trainer has to add, None if it is there already.

    An earlier adapter is merged into the weights. Rounding to four bits would lose most of it, so a quantised student keeps it
    as a second, frozen adapter.
    """
    from transformers import set_seed

    kept = [earlier] if earlier and settings.load_in_4bit else []
    model = models.load_model(adapters=[earlier] if earlier and not kept else [], load_in_4bit=settings.load_in_4bit)
    new = lora_config(settings, model)
    if not kept:
        return model, new
    model = attach_adapter(model, earlier, "earlier")
    set_seed(read_value("seed"))  # as the trainer does before it adds an adapter
    model.add_adapter("default", new)
    model.base_model.set_adapter(["earlier", "default"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".default." in name)
    return model, None


def save_training_run(trainer, settings: TrainingSettings, counts: dict) -> None:
    """Write models/<stage>/, plots/<stage>.csv and results/<stage>.json, and delete the checkpoints.

    With several processes, all of them must call this; only the main process writes.
    """
    from peft import get_peft_model_state_dict

    name, curve = trainer.curve.name, trainer.curve.rows
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathered, if the model is sharded over devices
    if not trainer.is_world_process_zero():
        return
    # The default, "auto", looks up on the hub whether the vocabulary differs from the base model's.
    weights = get_peft_model_state_dict(trainer.model, state_dict=state_dict, save_embedding_layers=False)
    save_adapter(Path("models", name), weights, trained_config(trainer.model), stage_provenance(name))
    records.write_csv(f"plots/{name}.csv", curve)
    records.write_json(f"results/{name}.json", counts | tail_means(curve))
    with run_lock(Path(trainer.args.output_dir)):
        shutil.rmtree(trainer.args.output_dir, ignore_errors=True)


def tail_means(curve: Sequence[dict]) -> dict[str, float]:
    """Return the mean of every column over the last fifth of the steps; a single step is too noisy."""
    tail = curve[-max(1, len(curve) // 5) :]
    return {name: sum(row[name] for row in tail) / len(tail) for name in tail[0] if name != "step"}
