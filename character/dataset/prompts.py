"""The hand-written prompts that all personas share, near duplicates of prompts, and filling templates."""

from collections.abc import Sequence
from string import Formatter
from typing import TypeVar

from character.core import records
from character.core.errors import UserError
from character.core.records import Prompt, RawPrompt, prompt_id
from character.dataset.segmentation import word_set

GENERAL_PROMPTS = "data/raw/prompts/general.jsonl"
HELDOUT_PROMPTS = "data/raw/prompts/heldout.jsonl"  # no training stage uses them
NEAR_DUPLICATE_OVERLAP = 0.6  # Jaccard similarity of the words of two prompts that count as the same

RowT = TypeVar("RowT")


def load_prompts(file: str) -> list[str]:
    return [row.prompt for row in records.read_records(file, RawPrompt)]


def general_prompt(text: str) -> Prompt:
    """Return a prompt that belongs to no trait of a persona."""
    return Prompt(id=prompt_id(text), prompt=text, source="general", trait=None)


def take_first(rows: Sequence[RowT], count: int, field: str, file: str, kind: str = "lines") -> list[RowT]:
    """Return the first `count` rows.

    `field` of params.yaml has the count, and `file` has the rows, which are called `kind` in the UserError for too few.
    """
    if count > len(rows):
        raise UserError(f"params.yaml: {field} is {count}, but {file} has {len(rows)} {kind}; lower it.")
    return list(rows[:count])


def near_duplicate(text: str, other: str) -> bool:
    """Return whether two texts share most of their words, by the Jaccard similarity of their sets of lower-case words.

    The union in the denominator keeps a long text from being a near duplicate of every short one.
    """
    ours, theirs = word_set(text), word_set(other)
    return len(ours & theirs) >= NEAR_DUPLICATE_OVERLAP * len(ours | theirs)


def fill_template(template: str, **fields: str) -> str:
    """Fill a prompt template, and never let an unfilled `{placeholder}` reach a model.

    Raises:
        ValueError: The fields of the template are not exactly those that are given.
    """
    expected = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    if mismatched := expected ^ fields.keys():
        raise ValueError(f"fields {sorted(mismatched)} are in the template or in the call, but not in both")
    return template.format(**fields)
