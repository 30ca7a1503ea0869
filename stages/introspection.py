"""introspection: data/transcripts.jsonl + the distilled student -> models/introspection/ (adapter), plots/, results/.

Supervised fine-tuning on what the distilled student wrote about itself, with a loss on every assistant turn
(arXiv 2511.01689). The distillation adapter is merged into the student in memory; the new adapter is trained on top.
"""

from collections.abc import Sequence
from pathlib import Path

import click

from character.core import records
from character.core.params import read_section
from character.core.safe_text import print_text
from character.training import launch, lora_targets, run
from character.training.conversation_tokens import ConversationTokenizer


class IntrospectionSettings(run.TrainingSettings):
    pass


def train_introspection(settings: IntrospectionSettings, transcripts: Sequence[records.TrainingTranscript]):
    """Train an adapter on the distilled student; return the trainer (see `run.train_adapter`)."""
    from trl import SFTConfig

    from character.training.trainers import ConversationTrainer

    encode, earlier = ConversationTokenizer.encode_transcript, Path("models/distillation")
    return run.train_adapter(ConversationTrainer, SFTConfig, settings, transcripts, encode, earlier, name="introspection")


def count_trained_tokens(rows: Sequence[dict]) -> int:
    """Return the number of tokens with a loss in one epoch."""
    return sum(label >= 0 for row in rows for label in row["labels"])


@click.command()
def main():
    """Train the adapter models/introspection/ by SFT."""
    settings = read_section("introspection", IntrospectionSettings)
    lora_targets.check_targets(settings)
    launch.relaunch_with_accelerate("stages.introspection")
    transcripts = records.read_records("data/transcripts.jsonl", records.TrainingTranscript)
    print_text(f"introspection: {len(transcripts)} transcripts, {settings.epochs} epochs, rank {settings.rank}")
    trainer = train_introspection(settings, transcripts)
    rows = trainer.train_dataset
    counts = {
        "transcripts": len(rows),
        "dropped_too_long": trainer.dropped,
        "tokens": count_trained_tokens(rows),
        "steps": len(trainer.curve.rows),
    }
    run.save_training_run(trainer, settings, counts)


if __name__ == "__main__":
    main()
