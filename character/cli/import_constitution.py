"""Constitutions of the method's reference implementation, as ours: JSON lists and JSON Lines of traits with their questions.

There each trait is `{"trait": ..., "questions": [...]}`, in the files of `few-shot/` with `additional_questions` besides. What
our schema refuses (empty and repeated texts) is left out and told; everything else is kept, in its order.
"""

import json
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from character.core import records
from character.core.errors import UserError
from character.dataset import constitution
from character.dataset.constitution import CONSTITUTIONS_DIR


class ReferenceTrait(records.Record):
    """A trait as the reference writes it."""

    trait: str
    questions: list[str]
    additional_questions: list[str] = Field(default_factory=list)


def read_reference_traits(path: Path) -> list[ReferenceTrait]:
    """Return the traits of a JSON list (.txt, .json) or of JSON Lines (.jsonl)."""
    if not path.is_file():
        raise UserError(f"{path} is missing; correct the path.")
    found = records.read_records(path, ReferenceTrait) if path.suffix == ".jsonl" else _read_json_list(path)
    if not found:
        raise UserError(f"{path} has no traits; fill it in.")
    return found


def _read_json_list(path: Path) -> list[ReferenceTrait]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8; convert it.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); correct it.") from None
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
    """Return the traits in our schema, and a sentence for each text that was left out."""
    kept, told, known = [], [], {}

    def is_new(text: str, place: str) -> bool:
        if not text.strip():
            told.append(f"{place} is empty")
            return False
        first = known.setdefault(" ".join(text.split()).casefold(), place)
        if first != place:
            told.append(f"{place} repeats {first}")
        return first == place

    for number, row in enumerate(rows, start=1):
        if not is_new(row.trait, f"trait {number}"):
            continue
        questions = [*row.questions, *row.additional_questions]
        prompts = [text.strip() for at, text in enumerate(questions, start=1) if is_new(text, f"trait {number}, question {at}")]
        if prompts:
            kept.append({"trait": row.trait.strip(), "prompts": prompts})
        else:
            told.append(f"trait {number} has no question of its own")
    return kept, told


def read_reference(path: Path, name: str, summary: str) -> tuple[constitution.Constitution, list[str]]:
    """Return the constitution in `path` as ours, and what was left out of it.

    Raises:
        UserError: nothing is left, or `name` cannot be a persona's.
    """
    kept, told = convert_traits(read_reference_traits(path))
    if not kept:
        raise UserError(f"{path}: no trait has a text and a question; fill it in.")
    try:
        return constitution.Constitution(name=name, summary=summary, traits=kept), told
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise UserError(f"{path}: `{fault['loc'][0]}` {fault['msg'].removeprefix('Value error, ')}.") from None


def convert_constitution(
    path: Path, name: str | None, summary: str | None, force: bool
) -> tuple[Path, constitution.Constitution, list[str]]:
    """Write constitutions/<name>.yaml, called like `path` without a `name`; return it, what it holds, what was left out.

    Raises:
        UserError: as `read`, or the file is there already and `force` is not given.
    """
    persona, told = read_reference(path, name or path.stem, summary or f"Imported from {path.name}.")
    out = CONSTITUTIONS_DIR / f"{persona.name}.yaml"
    if out.exists() and not force:
        raise UserError(f"{out} is there already; give --force to replace it, or another --name.")
    with records.replace_atomically(out) as file:
        yaml.safe_dump(persona.model_dump(), file, sort_keys=False, allow_unicode=True, width=10**6)
    return out, persona, told
