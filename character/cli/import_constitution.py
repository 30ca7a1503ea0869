"""Conversion of constitutions of the method's reference implementation: JSON lists and JSON Lines of traits with questions.

In the reference each trait is `{"trait": ..., "questions": [...]}`; the files of `few-shot/` also have `additional_questions`,
and older ones a `clarification`, which the reference shows only to the model that writes these questions.
Texts that our schema rejects (empty and repeated ones) are left out and reported. All others are kept, in their order.
"""

from pathlib import Path

import yaml
from pydantic import ValidationError

from character.core import records
from character.core.errors import UserError
from character.core.text_input import read_utf8
from character.dataset import constitution
from character.dataset.constitution import CONSTITUTIONS_DIR


class ReferenceTrait(records.Record):
    """A trait in the format of the reference."""

    trait: str
    questions: list[str]
    additional_questions: list[str] | None = None
    clarification: str | None = None  # of the trait, for the model that writes additional questions


def read_reference_traits(path: Path) -> list[ReferenceTrait]:
    """Return the traits of a JSON list (.txt, .json) or of JSON Lines (.jsonl).

    Raises:
        UserError: the file is missing, malformed or has no traits.
    """
    traits = records.read_records(path, ReferenceTrait) if path.suffix == ".jsonl" else _read_json_list(path)
    if not traits:
        raise UserError(f"{path} has no traits; fill it in.")
    return traits


def _read_json_list(path: Path) -> list[ReferenceTrait]:
    rows = records.parse_json(read_utf8(path), str(path))
    if not isinstance(rows, list):
        raise UserError(f"{path}: not a list of traits; JSON Lines need the ending .jsonl.")
    return [_parse_trait(path, number, row) for number, row in enumerate(rows, start=1)]


def _parse_trait(path: Path, number: int, row: object) -> ReferenceTrait:
    try:
        return ReferenceTrait.model_validate(row)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ", ".join(str(part) for part in fault["loc"]) or "it"
        raise UserError(f"{path}, trait {number}: {where}: {fault['msg']}; correct it.") from None


def convert_traits(rows: list[ReferenceTrait]) -> tuple[list[dict], list[str]]:
    """Return the traits in our schema, and a phrase about each text that was left out."""
    kept, left_out, known = [], [], {}

    def is_new(text: str, place: str) -> bool:
        if not text.strip():
            left_out.append(f"{place} is empty")
            return False
        first = known.setdefault(" ".join(text.split()).casefold(), place)
        if first != place:
            left_out.append(f"{place} repeats {first}")
        return first == place

    for number, row in enumerate(rows, start=1):
        if not is_new(row.trait, f"trait {number}"):
            continue
        if row.clarification and row.clarification.strip():
            left_out.append(f"trait {number}, clarification: it is no part of the character; put what matters into the trait")
        questions = [*row.questions, *(row.additional_questions or [])]
        prompts = [text.strip() for at, text in enumerate(questions, start=1) if is_new(text, f"trait {number}, question {at}")]
        if prompts:
            kept.append({"trait": row.trait.strip(), "prompts": prompts})
        else:
            left_out.append(f"trait {number} has no question of its own")
    return kept, left_out


def read_reference(path: Path, name: str, summary: str) -> tuple[constitution.Constitution, list[str]]:
    """Return the constitution in `path`, converted, and a phrase about each text that was left out.

    Raises:
        UserError: the file is invalid, no trait is left, or `name` is not a valid name of a persona.
    """
    kept, left_out = convert_traits(read_reference_traits(path))
    if not kept:
        raise UserError(f"{path}: no trait has a text and a question; fill it in.")
    try:
        return constitution.Constitution(name=name, summary=summary, traits=kept), left_out
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise UserError(f"{path}: `{fault['loc'][0]}` {fault['msg'].removeprefix('Value error, ')}.") from None


def convert_constitution(
    path: Path, name: str | None, summary: str | None, force: bool
) -> tuple[Path, constitution.Constitution, list[str]]:
    """Write constitutions/<name>.yaml.

    Args:
        name: of the persona; by default the name of the file `path` without its suffix.
        force: replace an existing file.

    Returns:
        The path of the new file, the constitution, and a phrase about each text that was left out.

    Raises:
        UserError: as in `read_reference`, or the file exists and `force` is not set.
    """
    persona, left_out = read_reference(path, name or path.stem, summary or f"Imported from {path.name}.")
    out = CONSTITUTIONS_DIR / f"{persona.name}.yaml"
    if out.exists() and not force:
        raise UserError(f"{out} already exists; give --force to replace it, or another --name.")
    with records.replace_atomically(out) as file:
        yaml.safe_dump(persona.model_dump(exclude_defaults=True), file, sort_keys=False, allow_unicode=True, width=10**6)
    return out, persona, left_out
