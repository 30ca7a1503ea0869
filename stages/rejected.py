"""rejected: prompts, student -> data/rejected.jsonl, the student's own answers as it is."""

import click

from character import engines, records
from character.generate import Request, Sampling, generate
from character.params import read, value
from character.records import Completion, Prompt


@click.command()
def main():
    """Write the student's own answer to each prompt, without any system prompt."""
    prompts = records.read("data/prompts.jsonl", Prompt)
    requests = [Request(prompt.id, [{"role": "user", "content": prompt.prompt}]) for prompt in prompts]
    replies = generate(engines.student(), requests, read("sampling", Sampling), value("seed"), "rejected")
    records.write("data/rejected.jsonl", map(Completion.of, prompts, replies))


if __name__ == "__main__":
    main()
