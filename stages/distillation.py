"""distillation: data/pairs.jsonl + models/student/ -> models/distillation/ (LoRA adapter), plots/ and results/.

DPO moves the student from its own answers (rejected) to those of the teacher in character (chosen), with a likelihood
term that keeps the chosen answers likely in themselves (arXiv 2511.01689; the loss: arXiv 2305.18290).
"""

from collections.abc import Sequence
from functools import partial

import click

from character.core import records
from character.core.params import read
from character.training import launch
from character.training import run as training
from character.training.objectives import Distillation, preference_loss


def train(settings: Distillation, pairs: Sequence[records.Pair]):
    """Train an adapter on the student; see `training.train`."""
    from trl import DPOConfig

    from character.training.trainers import PairTrainer

    return training.train(
        PairTrainer,
        DPOConfig,
        settings,
        pairs,
        options={"disable_dropout": False},  # TRL would otherwise switch off the adapter's dropout too
        name="distillation",
        objective=partial(preference_loss, settings),
        stop_when_saturated=settings.stop_when_saturated,
    )


@click.command()
def main():
    """Train models/distillation/ by DPO."""
    settings = read("distillation", Distillation)
    launch.relaunch("stages.distillation")
    pairs = records.read("data/pairs.jsonl", records.Pair)
    print(
        f"distillation: {settings.loss} over {len(pairs)} pairs, {settings.epochs} epochs, rank {settings.rank}",
        flush=True,
    )
    trainer = train(settings, pairs)
    counts = {"pairs": len(trainer.train_dataset), "dropped_too_long": trainer.dropped, "steps": len(trainer.curve.rows)}
    training.save(trainer, settings, counts)


if __name__ == "__main__":
    main()
