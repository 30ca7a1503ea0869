"""answers: held-out prompts, one method's model and system prompt -> data/answers/<method>.jsonl.

Each prompt is sent plain and with break-character suffixes, which are assigned in turn. No training stage uses the answers.
"""

from collections.abc import Sequence

import click
from pydantic import Field, field_validator

from character.core import records
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section
from character.core.records import EvaluatedAnswer, Prompt, Record
from character.dataset.conditions import PLAIN, RESERVED_CONDITIONS
from character.dataset.prompts import HELDOUT_PROMPTS, general_prompt, load_prompts, take_first
from character.evaluation.methods import Method, method_options
from character.inference.generate import Request, SamplingSettings


class AnswerSettings(ParamsSection):
    prompts: int = Field(gt=0)  # the first lines of HELDOUT_PROMPTS
    suffixes_per_prompt: int = Field(ge=0)


class Suffix(Record):
    name: str
    suffix: str

    @field_validator("name")
    @classmethod
    def _is_free_name(cls, name: str) -> str:
        if name in RESERVED_CONDITIONS:
            raise ValueError("is reserved for other answers, choose another name")
        return name


def assign_suffixes(count: int, suffixes: Sequence[Suffix], per_prompt: int) -> list[list[Suffix]]:
    """Return the suffixes of each of `count` prompts, `per_prompt` for each, besides the plain prompt.

    Raises:
        UserError: there are fewer suffixes than that.
    """
    if per_prompt > len(suffixes):
        raise UserError(f"params.yaml: answers.suffixes_per_prompt is {per_prompt}, but there are {len(suffixes)}; lower it.")
    return [[suffixes[(index + step) % len(suffixes)] for step in range(per_prompt)] for index in range(count)]


def conditioned_prompts(prompts: Sequence[Prompt], assigned: Sequence[Sequence[Suffix]]) -> list[tuple[Prompt, str, str]]:
    """Return (prompt, condition, text to send) for each answer."""
    rows = []
    for prompt, suffixes in zip(prompts, assigned, strict=True):
        rows.append((prompt, PLAIN, prompt.prompt))
        rows += [(prompt, suffix.name, f"{prompt.prompt} {suffix.suffix}") for suffix in suffixes]
    return rows


@click.command()
@method_options
def main(method: Method):
    """Answer the held-out prompts with one method."""
    params = read_section("answers", AnswerSettings)
    prompts = list(
        map(general_prompt, take_first(load_prompts(HELDOUT_PROMPTS), params.prompts, "answers.prompts", HELDOUT_PROMPTS))
    )
    suffixes = records.read_records("data/raw/prompts/suffixes.jsonl", Suffix)
    rows = conditioned_prompts(prompts, assign_suffixes(len(prompts), suffixes, params.suffixes_per_prompt))
    requests = [Request(f"{prompt.id}-{condition}", method.build_messages(text)) for prompt, condition, text in rows]
    replies = method.answer_requests(requests, read_section("sampling", SamplingSettings), "answers")
    answers = [
        EvaluatedAnswer.from_reply(prompt, reply, condition=condition)
        for (prompt, condition, _), reply in zip(rows, replies, strict=True)
    ]
    records.write_records(f"data/answers/{method.name}.jsonl", answers)


if __name__ == "__main__":
    main()
