"""chosen: prompts, the constitution -> data/chosen.jsonl, the teacher's answers in character.

`recorded` looks the answers up in data/raw/teacher/<persona>.jsonl; the other engines let a chat model play the character from
its system prompt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from character.core import records
from character.core.errors import UserError
from character.core.params import Section, read, value
from character.core.records import Completion, Prompt, Recorded
from character.dataset import constitution
from character.dataset.prompt_samples import askings
from character.inference import engines
from character.inference.generate import Reply, Request, Sampling, generate

GENERATORS = ["transformers", "vllm", "openai"]

# A short reminder: a prefill that repeats the traits makes reasoning teachers skip their reasoning.
REASONING = "<think>\nI want this answer to show my character throughout. "


class Teacher(Section):
    engine: Literal["recorded", "transformers", "vllm", "openai"]
    source: str  # hub:<repo>@<revision> or path:<dir>; for openai the model's name at the endpoints
    names: list[str]  # what the teacher calls itself; `pairs` puts the student's name in its place
    reasoning: bool  # prefill a <think> block and strip it
    accept_other_traits: bool  # use answers that were recorded for an earlier version of the traits
    sampling: Sampling


def look_up(prompts: Sequence[Prompt], persona: constitution.Constitution, folder: Path, any_traits: bool) -> list[Reply]:
    """Return the recorded answers to `prompts`; missing and outdated ones stop with the remedy."""
    path = folder / f"{persona.name}.jsonl"
    others = f"let another teacher write them (params.yaml: teacher.engine: {' or '.join(GENERATORS)})"
    recorded = records.read(path, Recorded) if path.exists() else []
    answers = {answer.prompt: answer for answer in recorded}
    missing = [prompt for prompt in prompts if prompt.prompt not in answers]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(prompts)} prompts have no recorded answer, the first is "
            f"{missing[0].prompt[:60]!r}; record them, or {others}."
        )
    wanted = constitution.traits_hash(persona)
    outdated = [answer for answer in recorded if answer.traits != wanted]
    if outdated and not any_traits:
        raise UserError(
            f"{path}: {len(outdated)} answers were recorded for other traits ({outdated[0].traits}) than constitutions/"
            f"{persona.name}.yaml has now ({wanted}); {others}, or set teacher.accept_other_traits: true."
        )
    return [Reply(answers[prompt.prompt].response, "stop", 0) for prompt in prompts]


def play(asked: Sequence[tuple[Prompt, int]], system: str, teacher: Teacher, seed: int) -> list[Reply]:
    """Let a chat model answer in character each prompt, of which the second says which sample it is."""
    opening = REASONING if teacher.reasoning else ""
    requests = [
        Request(
            prompt.id,
            [{"role": "system", "content": system}, {"role": "user", "content": prompt.prompt}],
            sample,
            prefill=opening,
        )
        for prompt, sample in asked
    ]
    engine = engines.by_name(teacher.engine, teacher.source, "teacher.source")
    replies = generate(engine, requests, teacher.sampling, seed, "chosen")
    return [Reply(answer(reply.text, bool(opening)), reply.finish_reason, reply.tokens) for reply in replies]


def answer(text: str, thinking: bool) -> str:
    """Return what follows the reasoning; nothing where reasoning was begun and never ended."""
    _, ended, after = text.rpartition("</think>")
    if ended:
        return after.strip()
    return "" if thinking or "<think>" in text else text


@click.command()
def main():
    """Write the teacher's in-character answer to each prompt."""
    teacher, name = read("teacher", Teacher), value("persona")
    persona = constitution.load(f"constitutions/{name}.yaml")
    prompts = records.read("data/prompts.jsonl", Prompt)
    asked = askings(prompts)
    print(f"chosen: {len(asked)} answers of {name} by the {teacher.engine} teacher", flush=True)
    if teacher.engine == "recorded":
        if len(asked) > len(prompts):
            raise UserError(
                "params.yaml: pairs.samples: one answer to each prompt is recorded; set it to 1, or teacher.engine."
            )
        replies = look_up(prompts, persona, Path("data/raw/teacher"), teacher.accept_other_traits)
    else:
        system = constitution.system_prompt(persona, value("student.name"))
        replies = play(asked, system, teacher, value("seed"))
    answers = [Completion.of(prompt, reply, sample) for (prompt, sample), reply in zip(asked, replies, strict=True)]
    records.write("data/chosen.jsonl", answers)


if __name__ == "__main__":
    main()
