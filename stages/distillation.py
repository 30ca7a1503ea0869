"""distillation: data/pairs.jsonl + models/student/ -> models/distillation/ (LoRA adapter), plots/ and results/.

DPO trains the student to prefer the teacher's answers in character (chosen) to its own (rejected). A likelihood term keeps
the chosen answers likely (arXiv 2511.01689; the DPO loss: arXiv 2305.18290).
"""

from collections.abc import Sequence
from functools import partial

import click

from character.core import records
from character.core.params import read_section
from character.core.safe_text import print_text
from character.training import launch, lora_targets, run
from character.training.conversation_tokens import ConversationTokenizer
from character.training.objectives import DistillationSettings, preference_loss


def train_distillation(settings: DistillationSettings, pairs: Sequence[records.PreferencePair]):
    """Train an adapter on the student; return the trainer (see `run.train_adapter`)."""
    from trl import DPOConfig

    from character.training.trainers import PreferenceTrainer

    return run.train_adapter(
        PreferenceTrainer,
        DPOConfig,
        settings,
        pairs,
        ConversationTokenizer.encode_pair,
        options={"disable_dropout": False},  # TRL would otherwise disable the adapter's dropout too
        name="distillation",
        objective=partial(preference_loss, settings),
        stop_when_saturated=settings.stop_when_saturated,
    )


@click.command()
def main():
    """Train the adapter models/distillation/ by DPO."""
    settings = read_section("distillation", DistillationSettings)
    lora_targets.check_targets(settings)
    launch.relaunch_with_accelerate("stages.distillation")
    pairs = records.read_records("data/pairs.jsonl", records.PreferencePair)
    print_text(f"distillation: {settings.loss} over {len(pairs)} pairs, {settings.epochs} epochs, rank {settings.rank}")
    trainer = train_distillation(settings, pairs)
    counts = {"pairs": len(trainer.train_dataset), "dropped_too_long": trainer.dropped, "steps": len(trainer.curve.rows)}
    run.save_training_run(trainer, settings, counts)


if __name__ == "__main__":
    main()
