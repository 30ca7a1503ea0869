"""introspection: data/transcripts.jsonl + the distilled student -> models/introspection/ (adapter), plots/, metrics/.

Supervised fine-tuning on what the distilled student wrote about itself, every assistant turn a target
(arXiv 2511.01689). The distillation adapter is folded into the student in memory; the new adapter is trained on top.
"""

from collections.abc import Sequence
from pathlib import Path

import click

from character import models, records, training
from character.params import read


class Introspection(training.Training):
    pass


def train(settings: Introspection, transcripts: Sequence[records.Transcript]):
    """Train an adapter on the distilled student; see `training.train`."""
    from trl import SFTConfig

    from character.trainers import TranscriptTrainer

    options = {"assistant_only_loss": True}
    return training.train(
        TranscriptTrainer, SFTConfig, settings, transcripts, ["models/distillation"], options, name="introspection"
    )


def trained_tokens(rows: Sequence[dict]) -> int:
    """Return how many tokens carry loss in one epoch."""
    return sum(label >= 0 for row in rows for label in row["labels"])


@click.command()
def main():
    """Train models/introspection/ by SFT."""
    settings = read("introspection", Introspection)
    transcripts = records.read("data/transcripts.jsonl", records.Transcript)
    training.accumulation(settings.batch_size, models.runtime().training_batch)
    print(f"introspection: {len(transcripts)} transcripts, {settings.epochs} epochs, rank {settings.rank}", flush=True)
    trainer = train(settings, transcripts)
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
