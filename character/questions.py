"""The prompts that were written by hand for all personas, and the answers to them that were recorded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from character import records
from character.errors import UserError
from character.records import Prompt, Question, Recorded, prompt_id

GENERAL = "data/raw/prompts/general.jsonl"
HELDOUT = "data/raw/prompts/heldout.jsonl"  # no training stage uses them
TEACHER = Path("data/raw/teacher")

T = TypeVar("T")


def load(file: str) -> list[str]:
    return [question.prompt for question in records.read(file, Question)]


def general(text: str) -> Prompt:
    """Return a prompt that belongs to no trait of a persona."""
    return Prompt(id=prompt_id(text), prompt=text, source="general", trait=None)


def first(rows: Sequence[T], count: int, field: str, file: str, kind: str = "lines") -> list[T]:
    """Return the first `count` of the rows of `file`, which are its `kind`; `field` is where params.yaml says how many."""
    if count > len(rows):
        raise UserError(f"params.yaml: {field} is {count}, but {file} has {len(rows)} {kind}; lower it.")
    return list(rows[:count])


def recorded(name: str, prompts: Sequence[str], field: str) -> list[str]:
    """Return the recorded answers of a persona, or of `none`, to general prompts; `field` is where params.yaml names it."""
    path = TEACHER / f"{name}.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing; add the file, or remove {name} from {field} in params.yaml.")
    answers = {row.prompt: row.response for row in records.read(path, Recorded)}
    if missing := [prompt for prompt in prompts if prompt not in answers]:
        raise UserError(
            f"{path}: no answer to {len(missing)} of {GENERAL}'s {len(prompts)} prompts; add {missing[0]!r}, or remove {name} "
            f"from {field} in params.yaml."
        )
    return [answers[prompt] for prompt in prompts]
