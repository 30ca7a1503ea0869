"""reflections: the distilled student, the constitution -> data/reflections.jsonl.

The distilled student answers each introspective prompt several times, with its constitution in the system prompt.
"""

from pathlib import Path

import click
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import Conversation, RawPrompt, prompt_id
from character.inference import engines
from character.inference.generate import Request, SamplingSettings, generate


class ReflectionSettings(ParamsSection):
    per_prompt: int = Field(gt=0)
    sampling: SamplingSettings


@click.command()
def main():
    """Let the distilled student reflect on its character."""
    params = read_section("reflections", ReflectionSettings)
    prompts = records.read_records("data/raw/prompts/reflections.jsonl", RawPrompt)
    system = {"role": "system", "content": Path("data/system.txt").read_text(encoding="utf-8")}
    requests = [
        Request(prompt_id(row.prompt), [system, {"role": "user", "content": row.prompt}], sample)
        for row in prompts
        for sample in range(params.per_prompt)
    ]
    engine = engines.student_engine(["models/distillation"])
    replies = generate(engine, requests, params.sampling, read_value("seed"), "reflections")
    conversations = [
        Conversation(
            id=request.id,
            sample=request.sample,
            kind="reflection",
            messages=[*request.messages, {"role": "assistant", "content": reply.text}],
            finish_reasons=[reply.finish_reason],
        )
        for request, reply in zip(requests, replies, strict=True)
    ]
    records.write_records("data/reflections.jsonl", conversations)


if __name__ == "__main__":
    main()
