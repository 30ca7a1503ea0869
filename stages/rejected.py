"""rejected: prompts, student -> data/rejected.jsonl, the student's own answers as it is."""

import click

from character.core import records
from character.core.params import read_section, read_value
from character.core.records import Completion, Prompt
from character.dataset.prompt_samples import prompt_samples
from character.inference import engines
from character.inference.generate import Request, SamplingSettings, generate


@click.command()
def main():
    """Write the student's own answer to each prompt, without any system prompt."""
    asked = prompt_samples(records.read_records("data/prompts.jsonl", Prompt))
    requests = [Request(prompt.id, [{"role": "user", "content": prompt.prompt}], sample) for prompt, sample in asked]
    replies = generate(
        engines.student_engine(), requests, read_section("sampling", SamplingSettings), read_value("seed"), "rejected"
    )
    answers = [Completion.from_reply(prompt, reply, sample) for (prompt, sample), reply in zip(asked, replies, strict=True)]
    records.write_records("data/rejected.jsonl", answers)


if __name__ == "__main__":
    main()
