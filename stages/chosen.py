"""chosen: prompts, the constitution -> data/chosen.jsonl, the teacher's answers in character.

The engine `recorded` looks up the answers in data/raw/teacher/<persona>.jsonl. With the other engines, a chat model plays the
character that its system prompt describes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

from character.core import records
from character.core.chat_template import TemplateArguments
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import Completion, Prompt, TeacherAnswer
from character.core.safe_text import print_text, shorten_text
from character.dataset import constitution
from character.dataset.filters import check_teacher_names
from character.dataset.prompt_samples import prompt_samples
from character.dataset.reasoning import strip_reasoning
from character.inference import engines
from character.inference.generate import Reply, Request, SamplingSettings, generate
from character.inference.openai_engine import RequestOptions

GENERATING_ENGINES = ["transformers", "vllm", "openai"]

# Short on purpose: a prefill that repeats the traits makes reasoning teachers skip their reasoning.
REASONING_PREFILL = "<think>\nI want this answer to show my character throughout. "


class TeacherSettings(ParamsSection):
    engine: Literal["recorded", "transformers", "vllm", "openai"]
    source: str  # hub:<repo>@<revision> or path:<dir>; for openai, the name of the model at the endpoints
    chat_template_kwargs: TemplateArguments  # arguments of its chat template, for transformers and vllm
    names: list[str]  # what the teacher calls itself; `pairs` replaces these with the student's name
    reasoning: bool  # prefill a <think> block; reasoning is stripped in any case
    accept_other_traits: bool  # use answers that were recorded for other versions of the traits
    sampling: SamplingSettings


def look_up_answers(
    prompts: Sequence[Prompt], persona: constitution.Constitution, folder: Path, any_traits: bool
) -> list[Reply]:
    """Return the recorded answers to `prompts`.

    Raises:
        UserError: An answer is missing, or `any_traits` is false and an answer was recorded for other traits.
    """
    path = folder / f"{persona.name}.jsonl"
    remedy = f"let another teacher write them (params.yaml: teacher.engine: {' or '.join(GENERATING_ENGINES)})"
    recorded = records.read_records(path, TeacherAnswer) if path.exists() else []
    answers = {answer.prompt: answer for answer in recorded}
    missing = [prompt for prompt in prompts if prompt.prompt not in answers]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(prompts)} prompts have no recorded answer, the first is "
            f"{shorten_text(missing[0].prompt, 60)!r}; record them, or {remedy}."
        )
    current = constitution.traits_hash(persona)
    outdated = [answer for answer in recorded if answer.traits != current]
    if outdated and not any_traits:
        raise UserError(
            f"{path}: {len(outdated)} answers were recorded for other traits ({outdated[0].traits}) than constitutions/"
            f"{persona.name}.yaml has now ({current}); {remedy}, or set teacher.accept_other_traits: true."
        )
    found = [answers[prompt.prompt] for prompt in prompts]
    return [Reply(answer.response, answer.finish_reason, 0) for answer in found]


def generate_answers(samples: Sequence[tuple[Prompt, int]], system: str, teacher: TeacherSettings, seed: int) -> list[Reply]:
    """Return the in-character answer of a chat model to each tuple (prompt, sample number)."""
    opening = REASONING_PREFILL if teacher.reasoning else ""
    requests = [
        Request(
            prompt.id,
            [{"role": "system", "content": system}, {"role": "user", "content": prompt.prompt}],
            sample,
            prefill=opening,
        )
        for prompt, sample in samples
    ]
    options = read_section("openai", RequestOptions)
    engine = engines.open_engine(teacher.engine, teacher.source, "teacher.source", options, teacher.chat_template_kwargs)
    replies = generate(engine, requests, teacher.sampling, seed, "chosen")
    answers = [replace(reply, text=strip_reasoning(reply.text, bool(opening) and reply.continues_prefill)) for reply in replies]
    if not any(answer.text for answer in answers):
        limit = teacher.sampling.field_path("max_new_tokens")
        ignored = ", set teacher.reasoning to false (a server may ignore the opening)" if opening else ""
        raise UserError(
            f"chosen: no answer is left without the reasoning, which ended in none of {len(answers)} replies; raise {limit} "
            f"({teacher.sampling.max_new_tokens}){ignored}, or let another teacher answer."
        )
    return answers


@click.command()
def main():
    """Write the teacher's answers in character to each prompt."""
    teacher, name = read_section("teacher", TeacherSettings), read_value("persona")
    check_teacher_names(teacher.names, read_value("student.name"))
    persona = constitution.load_constitution(f"constitutions/{name}.yaml")
    prompts = records.read_records("data/prompts.jsonl", Prompt)
    samples = prompt_samples(prompts)
    print_text(f"chosen: {len(samples)} answers of {name} by the {teacher.engine} teacher")
    if teacher.engine == "recorded":
        if len(samples) > len(prompts):
            raise UserError(
                "params.yaml: pairs.samples: only one answer to each prompt is recorded; set it to 1, or change teacher.engine."
            )
        replies = look_up_answers(prompts, persona, Path("data/raw/teacher"), teacher.accept_other_traits)
    else:
        system = constitution.persona_system_prompt(persona, read_value("student.name"))
        replies = generate_answers(samples, system, teacher, read_value("seed"))
    answers = [Completion.from_reply(prompt, reply, sample) for (prompt, sample), reply in zip(samples, replies, strict=True)]
    records.write_records("data/chosen.jsonl", answers)


if __name__ == "__main__":
    main()
