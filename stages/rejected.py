"""rejected: prompts, student -> data/rejected.jsonl, the student's own answers."""

import click

from character.core import records
from character.core.params import read_section, read_value
from character.core.records import Completion, Prompt
from character.dataset.prompt_samples import prompt_samples
from character.inference import engines
from character.inference.generate import Request, SamplingSettings, generate


@click.command()
def main():
    """Write the student's own answers to each prompt, without a system prompt."""
    samples = prompt_samples(records.read_records("data/prompts.jsonl", Prompt))
    requests = [Request(prompt.id, [{"role": "user", "content": prompt.prompt}], sample) for prompt, sample in samples]
    replies = generate(
        engines.student_engine(), requests, read_section("sampling", SamplingSettings), read_value("seed"), "rejected"
    )
    answers = [Completion.from_reply(prompt, reply, sample) for (prompt, sample), reply in zip(samples, replies, strict=True)]
    records.write_records("data/rejected.jsonl", answers)


if __name__ == "__main__":
    main()
