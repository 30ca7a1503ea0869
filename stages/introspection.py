"""introspection: data/transcripts.jsonl + the distilled student -> models/introspection/ (adapter), plots/, metrics/.

Supervised fine-tuning on what the distilled student wrote about itself, every assistant turn a target
(arXiv 2511.01689). The distillation adapter is folded into the student in memory; the new adapter is trained on top.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from character import models, records, training
from character.params import read, value


class Introspection(training.Training):
    pass


def train(settings: Introspection, transcripts: Sequence[records.Transcript], tokenizer, model, seed: int, micro_batch: int):
    """Train an adapter on `model` and return the trainer, which holds the model, the curve and the number dropped."""
    from datasets import Dataset
    from trl import SFTConfig

    from character.trainers import TranscriptTrainer

    cpu = model.device.type == "cpu"
    training.settle(cpu)
    with tempfile.TemporaryDirectory() as folder:
        args = training.arguments(SFTConfig, settings, folder, seed, micro_batch, cpu, assistant_only_loss=True)
        trainer = TranscriptTrainer(
            name="introspection",
            max_length=settings.max_length,
            model=model,
            args=args,
            train_dataset=Dataset.from_list([transcript.model_dump() for transcript in transcripts]),
            processing_class=tokenizer,
            peft_config=training.adapter_config(settings),
        )
        trainer.train()
    return trainer


def trained_tokens(rows: Sequence[dict]) -> int:
    """Return how many tokens carry loss in one epoch."""
    return sum(label >= 0 for row in rows for label in row["labels"])


@click.command()
def main():
    """Train models/introspection/ by SFT."""
    settings = read("introspection", Introspection)
    transcripts = records.read("data/transcripts.jsonl", records.Transcript)
    micro_batch = models.runtime().training_batch
    training.accumulation(settings.batch_size, micro_batch)
    print(f"introspection: {len(transcripts)} transcripts, {settings.epochs} epochs, rank {settings.rank}", flush=True)
    student = models.load_model(adapters=[Path("models/distillation")])
    trainer = train(settings, transcripts, models.load_tokenizer(), student, value("seed"), micro_batch)
    training.save_adapter(Path("models/introspection"), trainer.model, settings)
    curve, rows = trainer.curve.rows, trainer.train_dataset
    records.write_csv("plots/introspection.csv", curve)
    counts = {
        "transcripts": len(rows),
        "dropped_too_long": trainer.dropped,
        "tokens": trained_tokens(rows),
        "steps": len(curve),
    }
    records.write_json("metrics/introspection.json", counts | training.final(curve))


if __name__ == "__main__":
    main()
