"""How fast distillation trains, against stock TRL, as ratios of runs side by side; see docs/benchmarks.md.

Both train the same LoRA on the same batches of the same pairs in float32; each run is a process of its own, so that its peak
memory is its own too, and the two take turns. Ours includes the time that it takes to compute the reference once.
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

from benchmarks.generation import measurement
from character.core import models, records
from character.core.params import read_section
from character.training.objectives import DistillationSettings, preference_loss
from character.training.run import lora_config, training_arguments

TRAINING_FIGURES = Path("benchmarks/training.json")
EPOCH_STEPS, BENCH_EPOCHS = 4, 2  # optimiser steps in an epoch, epochs


def bench_settings() -> DistillationSettings:
    """Return the default settings, for a shorter run."""
    return read_section("distillation", DistillationSettings).model_copy(update={"epochs": BENCH_EPOCHS})


def bench_dataset(tokenizer, wanted: DistillationSettings):
    """Return the pairs of the workload, the middle ones in length, and how many tokens one epoch holds, padding not counted."""
    from datasets import Dataset

    pairs = records.read_records("data/pairs.jsonl", records.PreferencePair)

    def tokens(pair) -> int:
        sides = ([*pair.prompt, *side] for side in (pair.chosen, pair.rejected))
        texts = [tokenizer.apply_chat_template([turn.model_dump() for turn in side], tokenize=False) for side in sides]
        return sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])

    count = EPOCH_STEPS * wanted.batch_size
    start = (len(pairs) - count) // 2
    chosen = sorted(pairs, key=tokens)[start : start + count]
    return Dataset.from_list([pair.model_dump() for pair in chosen]), sum(map(tokens, chosen))


def build_ours(model, tokenizer, rows, wanted: DistillationSettings, folder: str):
    from trl import DPOConfig

    from character.training.trainers import PreferenceTrainer

    args = training_arguments(DPOConfig, wanted, folder, models.read_runtime().training_batch, disable_dropout=False)
    return PreferenceTrainer(
        name="ours",
        max_length=wanted.max_length,
        objective=partial(preference_loss, wanted),
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(wanted),
    )


def build_stock(model, tokenizer, rows, wanted: DistillationSettings, folder: str):
    """Return TRL's trainer with the same objective, the whole batch at once, torch's own matrix products and our order.

    Its answers end where ours do, or its loss would be that of other tokens: TRL counts what the template writes after a turn.
    """
    import torch
    from trl import DPOConfig, DPOTrainer

    from character.training.trainers import LengthGroupedSampler, trailing_token_count, trim_trailing_tokens

    torch.set_float32_matmul_precision("highest")
    args = training_arguments(
        DPOConfig,
        wanted,
        folder,
        wanted.batch_size,
        disable_dropout=False,
        beta=wanted.beta,
        loss_type=[wanted.loss, "sft"],
        loss_weights=[1.0, wanted.nll_coef],
    )

    class Stock(DPOTrainer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.train_dataset = trim_trailing_tokens(self.train_dataset, trailing_token_count(tokenizer))

        def _get_train_sampler(self, train_dataset=None):
            lengths = [
                len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in self.train_dataset
            ]
            return LengthGroupedSampler(lengths, wanted.batch_size, self.args.seed)

    return Stock(
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(wanted),
    )


def train_once(kind: str) -> dict:
    """Train once in this process."""
    wanted, tokenizer = bench_settings(), models.load_tokenizer()
    model = models.load_model()
    rows, tokens = bench_dataset(tokenizer, wanted)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trainer = {"ours": build_ours, "stock": build_stock}[kind](model, tokenizer, rows, wanted, folder)
        trainer.train()
        seconds = time.perf_counter() - began
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"rate": BENCH_EPOCHS * tokens / seconds, "loss": losses[-1], "peak_gb": peak, "parameters": model.num_parameters()}


def matmul_peak() -> float:
    """Return the most floating-point operations per second that a large float32 product reaches as training multiplies."""
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
    command = [sys.executable, "-m", "benchmarks.training", "--run", kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{kind}: {found['rate']:.0f} tokens/s, final loss {found['loss']:.4f}, {found['peak_gb']:.2f} GiB", flush=True)
    return found


@click.command()
@click.option("--pairs", default=3, show_default=True, help="Paired runs.")
@click.option("--run", "kind", type=click.Choice(["ours", "stock"]), hidden=True)
def main(pairs: int, kind: str | None):
    """Measure, print a table and write benchmarks/training.json."""
    if kind:
        print(json.dumps(train_once(kind)))
        return
    found = [(train_in_subprocess("stock"), train_in_subprocess("ours")) for _ in range(pairs)]
    # Weights are frozen: two operations forward and two backward for each of them and each token.
    achieved, peak = median(4 * mine["parameters"] * mine["rate"] for _, mine in found), matmul_peak()
    ratios = [round(mine["rate"] / theirs["rate"], 4) for theirs, mine in found]
    trainers = {
        name: {key: median(pair[index][key] for pair in found) for key in ("rate", "loss", "peak_gb")}
        for index, name in enumerate(("stock TRL", "ours"))
    }
    figures = {
        **measurement(),
        "trainers": trainers,
        "vs_trl": median(ratios),
        "ratios": ratios,
        "memory_share": median(mine["peak_gb"] / theirs["peak_gb"] for theirs, mine in found),
        "peak_share": achieved / peak,
        "peak_gflops": peak / 1e9,
        "loss_gap": median(abs(mine["loss"] / theirs["loss"] - 1) for theirs, mine in found),
    }
    print("\n| trainer | tokens/s | final loss | peak GiB |\n|---|---|---|---|")
    for name, its in trainers.items():
        print(f"| {name} | {its['rate']:.0f} | {its['loss']:.4f} | {its['peak_gb']:.2f} |")
    print("\n" + ", ".join(f"{name} {figures[name]:.3f}" for name in ("vs_trl", "memory_share", "peak_share", "loss_gap")))
    records.write_json(TRAINING_FIGURES, figures)


if __name__ == "__main__":
    main()
