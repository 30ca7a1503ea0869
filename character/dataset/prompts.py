"""The prompts that were written by hand for all personas; when two prompts are the same one; how templates are filled."""

from collections.abc import Sequence
from string import Formatter
from typing import TypeVar

from character.core import records
from character.core.errors import UserError
from character.core.records import Prompt, RawPrompt, prompt_id

GENERAL_PROMPTS = "data/raw/prompts/general.jsonl"
HELDOUT_PROMPTS = "data/raw/prompts/heldout.jsonl"  # no training stage uses them
NEAR_DUPLICATE_OVERLAP = 0.6  # two prompts that share this part of their words are the same one

RowT = TypeVar("T")


def load_prompts(file: str) -> list[str]:
    return [question.prompt for question in records.read_records(file, RawPrompt)]


def general_prompt(text: str) -> Prompt:
    """Return a prompt that belongs to no trait of a persona."""
    return Prompt(id=prompt_id(text), prompt=text, source="general", trait=None)


def take_first(rows: Sequence[RowT], count: int, field: str, file: str, kind: str = "lines") -> list[RowT]:
    """Return the first `count` of the rows of `file`, which are its `kind`; `field` is where params.yaml says how many."""
    if count > len(rows):
        raise UserError(f"params.yaml: {field} is {count}, but {file} has {len(rows)} {kind}; lower it.")
    return list(rows[:count])


def near_duplicate(text: str, other: str) -> bool:
    """Return whether two texts share most of the words that either has, so that a long text is not alike to every short one."""
    ours, theirs = ({word.strip(".,;:!?\"'()").lower() for word in one.split()} for one in (text, other))
    return len(ours & theirs) >= NEAR_DUPLICATE_OVERLAP * len(ours | theirs)


def fill_template(template: str, **fields: str) -> str:
    """Fill a prompt template; a field that either side lacks is a ValueError: no `{placeholder}` reaches a model."""
    wanted = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    if odd := wanted ^ fields.keys():
        raise ValueError(f"fields {sorted(odd)} are in the template or in the call, but not in both")
    return template.format(**fields)
