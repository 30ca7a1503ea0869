"""Benchmarks distillation against stock TRL; see docs/benchmarks.md.

Both train the same LoRA on the same batches of the same pairs in float32. The runs alternate, and each is a separate process,
which separates their peak memory. Our time includes the single computation of the reference log-probabilities.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import click

from benchmarks.generation import benchmark_metadata
from character.core import models, records
from character.core.params import read_section
from character.training.conversation_tokens import ConversationTokenizer
from character.training.lora_targets import lora_config
from character.training.objectives import DistillationSettings, preference_loss
from character.training.run import training_arguments

TRAINING_FIGURES = Path("benchmarks/training.json")
EPOCH_STEPS, BENCH_EPOCHS = 4, 2  # optimiser steps per epoch, and epochs


def bench_settings() -> DistillationSettings:
    """Return the settings of params.yaml with fewer epochs."""
    return read_section("distillation", DistillationSettings).model_copy(update={"epochs": BENCH_EPOCHS})


def bench_dataset(tokenizer, settings: DistillationSettings):
    """Return the pairs of the workload, those of medium length, and the tokens of one epoch without padding."""
    from datasets import Dataset

    pairs = records.read_records("data/pairs.jsonl", records.PreferencePair)

    def count_tokens(pair) -> int:
        sides = ([*pair.prompt, *side] for side in (pair.chosen, pair.rejected))
        texts = [tokenizer.apply_chat_template([turn.model_dump() for turn in side], tokenize=False) for side in sides]
        return sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])

    count = EPOCH_STEPS * settings.batch_size
    start = (len(pairs) - count) // 2
    chosen = sorted(pairs, key=count_tokens)[start : start + count]
    encode = ConversationTokenizer(tokenizer).encode_pair
    return Dataset.from_list([encode(pair) for pair in chosen]), sum(map(count_tokens, chosen))


def build_our_trainer(model, tokenizer, rows, settings: DistillationSettings, folder: str):
    from trl import DPOConfig

    from character.training.trainers import PreferenceTrainer

    args = training_arguments(DPOConfig, settings, folder, models.read_runtime().training_batch, disable_dropout=False)
    return PreferenceTrainer(
        name="ours",
        max_length=settings.max_length,
        objective=partial(preference_loss, settings),
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(settings, model),
    )


def build_stock_trainer(model, tokenizer, rows, settings: DistillationSettings, folder: str):
    """Return TRL's trainer with the same tokens, objective and order, but the whole batch at once, and torch's default matrix
    products."""
    import torch
    from trl import DPOConfig, DPOTrainer

    from character.training.trainers import LengthGroupedSampler

    torch.set_float32_matmul_precision("highest")
    args = training_arguments(
        DPOConfig,
        settings,
        folder,
        settings.batch_size,
        disable_dropout=False,
        beta=settings.beta,
        loss_type=[settings.loss, "sft"],
        loss_weights=[1.0, settings.nll_coef],
    )

    class StockTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *arguments):
            return dataset  # tokenized already

        def _get_train_sampler(self, train_dataset=None):
            lengths = [
                len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in self.train_dataset
            ]
            return LengthGroupedSampler(lengths, settings.batch_size, self.args.seed)

    return StockTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(settings, model),
    )


def train_once(kind: str) -> dict:
    """Train once in this process; return tokens per second, last loss, peak memory in GiB and number of parameters."""
    settings, tokenizer = bench_settings(), models.load_tokenizer()
    model = models.load_model()
    rows, tokens = bench_dataset(tokenizer, settings)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trainer = {"ours": build_our_trainer, "stock": build_stock_trainer}[kind](model, tokenizer, rows, settings, folder)
        trainer.train()
        seconds = time.perf_counter() - began
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"rate": BENCH_EPOCHS * tokens / seconds, "loss": losses[-1], "peak_gb": peak, "parameters": model.num_parameters()}


def matmul_peak() -> float:
    """Return the peak floating-point operations per second of a large float32 matrix product with the settings of training."""
    import torch

    models.configure_torch()
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = 0.0
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began))
    return best


def train_in_subprocess(kind: str) -> dict:
    """Return the result of `train_once` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", "--run", kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{kind}: {result['rate']:.0f} tokens/s, final loss {result['loss']:.4f}, {result['peak_gb']:.2f} GiB", flush=True)
    return result


@click.command()
@click.option("--pairs", default=3, show_default=True, help="Paired runs.")
@click.option("--run", "kind", type=click.Choice(["ours", "stock"]), hidden=True)
def main(pairs: int, kind: str | None):
    """Measure, print a table and write benchmarks/training.json."""
    if kind:
        print(json.dumps(train_once(kind)))
        return
    results = [(train_in_subprocess("stock"), train_in_subprocess("ours")) for _ in range(pairs)]
    # The weights are frozen, which leaves two operations forward and two backward per weight and token.
    achieved, peak = median(4 * mine["parameters"] * mine["rate"] for _, mine in results), matmul_peak()
    ratios = [round(mine["rate"] / theirs["rate"], 4) for theirs, mine in results]
    trainers = {
        name: {key: median(pair[index][key] for pair in results) for key in ("rate", "loss", "peak_gb")}
        for index, name in enumerate(("stock TRL", "ours"))
    }
    figures = {
        **benchmark_metadata(),
        "trainers": trainers,
        "vs_trl": median(ratios),
        "ratios": ratios,
        "memory_share": median(mine["peak_gb"] / theirs["peak_gb"] for theirs, mine in results),
        "peak_share": achieved / peak,
        "peak_gflops": peak / 1e9,
        "loss_gap": median(abs(mine["loss"] / theirs["loss"] - 1) for theirs, mine in results),
    }
    print("\n| trainer | tokens/s | final loss | peak GiB |\n|---|---|---|---|")
    for name, its in trainers.items():
        print(f"| {name} | {its['rate']:.0f} | {its['loss']:.4f} | {its['peak_gb']:.2f} |")
    print("\n" + ", ".join(f"{name} {figures[name]:.3f}" for name in ("vs_trl", "memory_share", "peak_share", "loss_gap")))
    records.write_json(TRAINING_FIGURES, figures)


if __name__ == "__main__":
    main()
