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
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import Completion, Prompt, TeacherAnswer
from character.dataset import constitution
from character.dataset.prompt_samples import prompt_samples
from character.inference import engines
from character.inference.generate import Reply, Request, SamplingSettings, generate

GENERATING_ENGINES = ["transformers", "vllm", "openai"]

# A short reminder: a prefill that repeats the traits makes reasoning teachers skip their reasoning.
REASONING_PREFILL = "<think>\nI want this answer to show my character throughout. "


class TeacherSettings(ParamsSection):
    engine: Literal["recorded", "transformers", "vllm", "openai"]
    source: str  # hub:<repo>@<revision> or path:<dir>; for openai the model's name at the endpoints
    names: list[str]  # what the teacher calls itself; `pairs` puts the student's name in its place
    reasoning: bool  # prefill a <think> block and strip it
    accept_other_traits: bool  # use answers that were recorded for an earlier version of the traits
    sampling: SamplingSettings


def look_up_answers(
    prompts: Sequence[Prompt], persona: constitution.Constitution, folder: Path, any_traits: bool
) -> list[Reply]:
    """Return the recorded answers to `prompts`; missing and outdated ones stop with the remedy."""
    path = folder / f"{persona.name}.jsonl"
    others = f"let another teacher write them (params.yaml: teacher.engine: {' or '.join(GENERATING_ENGINES)})"
    recorded = records.read_records(path, TeacherAnswer) if path.exists() else []
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


def generate_answers(asked: Sequence[tuple[Prompt, int]], system: str, teacher: TeacherSettings, seed: int) -> list[Reply]:
    """Let a chat model answer in character each prompt, of which the second says which sample it is."""
    opening = REASONING_PREFILL if teacher.reasoning else ""
    requests = [
        Request(
            prompt.id,
            [{"role": "system", "content": system}, {"role": "user", "content": prompt.prompt}],
            sample,
            prefill=opening,
        )
        for prompt, sample in asked
    ]
    engine = engines.open_engine(teacher.engine, teacher.source, "teacher.source")
    replies = generate(engine, requests, teacher.sampling, seed, "chosen")
    return [Reply(strip_reasoning(reply.text, bool(opening)), reply.finish_reason, reply.tokens) for reply in replies]


def strip_reasoning(text: str, thinking: bool) -> str:
    """Return what follows the reasoning; nothing where reasoning was begun and never ended."""
    _, ended, after = text.rpartition("</think>")
    if ended:
        return after.strip()
    return "" if thinking or "<think>" in text else text


@click.command()
def main():
    """Write the teacher's in-character answer to each prompt."""
    teacher, name = read_section("teacher", TeacherSettings), read_value("persona")
    persona = constitution.load_constitution(f"constitutions/{name}.yaml")
    prompts = records.read_records("data/prompts.jsonl", Prompt)
    asked = prompt_samples(prompts)
    print(f"chosen: {len(asked)} answers of {name} by the {teacher.engine} teacher", flush=True)
    if teacher.engine == "recorded":
        if len(asked) > len(prompts):
            raise UserError(
                "params.yaml: pairs.samples: one answer to each prompt is recorded; set it to 1, or teacher.engine."
            )
        replies = look_up_answers(prompts, persona, Path("data/raw/teacher"), teacher.accept_other_traits)
    else:
        system = constitution.persona_system_prompt(persona, read_value("student.name"))
        replies = generate_answers(asked, system, teacher, read_value("seed"))
    answers = [Completion.from_reply(prompt, reply, sample) for (prompt, sample), reply in zip(asked, replies, strict=True)]
    records.write_records("data/chosen.jsonl", answers)


if __name__ == "__main__":
    main()
