"""answers: held-out prompts, one method's model and system prompt -> data/answers/<method>.jsonl.

Each prompt is asked plain, and with break-character suffixes dealt in turn. Used by no training stage.
"""

from collections.abc import Sequence

import click
from pydantic import Field, field_validator

from character.core import records
from character.core.errors import UserError
from character.core.params import Section, read
from character.core.records import Answer, Prompt, Record
from character.dataset.conditions import PLAIN, RESERVED
from character.dataset.prompts import HELDOUT, general_prompt, load_prompts, take_first
from character.evaluation.methods import Method, one_method
from character.inference.generate import Request, Sampling


class Answers(Section):
    prompts: int = Field(gt=0)  # of the lines of HELDOUT
    suffixes_per_prompt: int = Field(ge=0)


class Suffix(Record):
    name: str
    suffix: str

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name in RESERVED:
            raise ValueError("means other answers already, choose another name")
        return name


def conditions(count: int, suffixes: Sequence[Suffix], per_prompt: int) -> list[list[Suffix]]:
    """Return for each of `count` prompts the suffixes it is asked with, beside being asked plain."""
    if per_prompt > len(suffixes):
        raise UserError(f"params.yaml: answers.suffixes_per_prompt is {per_prompt}, but there are {len(suffixes)}; lower it.")
    return [[suffixes[(index + step) % len(suffixes)] for step in range(per_prompt)] for index in range(count)]


def asked(prompts: Sequence[Prompt], dealt: Sequence[Sequence[Suffix]]) -> list[tuple[Prompt, str, str]]:
    """Return prompt, condition and the text that is sent, for all answers that are wanted."""
    rows = []
    for prompt, suffixes in zip(prompts, dealt, strict=True):
        rows.append((prompt, PLAIN, prompt.prompt))
        rows += [(prompt, suffix.name, f"{prompt.prompt} {suffix.suffix}") for suffix in suffixes]
    return rows


@click.command()
@one_method
def main(method: Method):
    """Answer the held-out prompts by one method."""
    params = read("answers", Answers)
    prompts = list(map(general_prompt, take_first(load_prompts(HELDOUT), params.prompts, "answers.prompts", HELDOUT)))
    suffixes = records.read("data/raw/prompts/suffixes.jsonl", Suffix)
    rows = asked(prompts, conditions(len(prompts), suffixes, params.suffixes_per_prompt))
    requests = [Request(f"{prompt.id}-{condition}", method.conversation(text)) for prompt, condition, text in rows]
    replies = method.answer(requests, read("sampling", Sampling), "answers")
    answers = [
        Answer.of(prompt, reply, condition=condition) for (prompt, condition, _), reply in zip(rows, replies, strict=True)
    ]
    records.write(f"data/answers/{method.name}.jsonl", answers)


if __name__ == "__main__":
    main()
