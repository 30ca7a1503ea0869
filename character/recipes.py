"""Recipes: values for params.yaml that go together, from a first try to the paper's scale.

recipes/default.yaml holds every entry that some recipe sets, with the default's value. Another recipe holds what differs from
it, or from the recipe that it is `like`. So what a recipe writes does not hang on which one was written before.

A value is copied as it is written in the recipe, and the text around it stays: a YAML library would move comments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import yaml

from character import marked, records
from character.errors import UserError
from character.params import PARAMS

FOLDER = Path("recipes")
DEFAULT = "default"
RATES = "rates"  # the file beside the recipes that is none: how fast machines are, for character/estimate.py
LIKE = "like"
OTHERS = ("persona", "seed", "runtime")  # of params.yaml: who, which draw and how to run, whatever the scale
WHOLE = ("tasks.metrics",)  # mappings that are one value, since their keys are no settings
DEPTH = 4  # of a recipe, as far as its faults are looked for

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a mapping"}


@dataclass(frozen=True)
class Written:
    """A value in the text of a file: from `start` to `end`, in a `block` of lines or on one line."""

    text: str
    start: int
    end: int
    column: int
    block: bool

    def value(self):
        return parsed(" " * self.column + self.text)

    def kind(self) -> str:
        found = self.value()
        return next((told for kind, told in KINDS.items() if isinstance(found, kind)), "nothing")

    def told(self) -> str:
        return shorten(self.text, 80, placeholder=" ...")


def names() -> dict[str, str]:
    """Return the name of each recipe, with what its first line says of it."""
    files = sorted((path for path in FOLDER.glob("*.yaml") if path.stem != RATES), key=lambda path: path.stem)
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in files}


def write(name: str) -> list[str]:
    """Write a recipe's values into params.yaml, which keeps its comments and all other entries; return what changed."""
    text, changes = applied(name)
    with records.replacing(PARAMS) as file:
        file.write(text)
    return changes


def applied(name: str) -> tuple[str, list[str]]:
    """Return the text of params.yaml with a recipe's values, and what they change: `entry: old -> new`."""
    wanted, (text, there) = entries(name), _read(PARAMS)
    if missing := [entry for entry in wanted if entry not in there]:
        raise UserError(f"{PARAMS}: `{missing[0]}` is missing; add it (`git diff {PARAMS}` shows what was there).")
    changes = [entry for entry, new in wanted.items() if new.value() != there[entry].value()]
    for entry in sorted(changes, key=lambda entry: -there[entry].start):
        old, new = there[entry], wanted[entry]
        if new.block and not old.block:
            raise UserError(f"{PARAMS}: {entry} stands on one line; write it in the recipe in brackets too.")
        moved = new.text.replace("\n" + " " * new.column, "\n" + " " * old.column)
        text = text[: old.start] + moved + text[old.end :]
    return text, [f"{entry}: {there[entry].told()} -> {wanted[entry].told()}" for entry in changes]


def entries(name: str, liked_by: tuple[str, ...] = ()) -> dict[str, Written]:
    """Return what a recipe and those below it set, by dotted name of the entry."""
    path = FOLDER / f"{name}.yaml"
    _, found = _read(path)
    if other := [entry for entry in found if entry.partition(".")[0] in OTHERS]:
        raise UserError(f"{path}: {other[0]} is not for recipes; set it in {PARAMS} and remove it here.")
    if name == DEFAULT:
        return found
    like = found.pop(LIKE).value() if LIKE in found else DEFAULT
    if like in (*liked_by, name):
        raise UserError(f"{path}: {LIKE} leads from {like} back to itself; remove it in one of them.")
    below = entries(like, (*liked_by, name))
    for entry, new in found.items():
        if entry not in below:
            default = FOLDER / f"{DEFAULT}.yaml"
            raise UserError(f"{path}: {entry} is not in {default}; correct the name, or add it there with the default's value.")
        if new.kind() != below[entry].kind() and (new.kind(), below[entry].kind()) != (KINDS[int], KINDS[float]):
            raise UserError(f"{path}: {entry} is {new.kind()}, but {below[entry].kind()} is needed; correct it.")
    return below | found


def parsed(text: str):
    """Return what YAML 1.2 says, in which 1e-05 is a number."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def _read(path: Path) -> tuple[str, dict[str, Written]]:
    """Return the text of a file, and each of its entries."""
    places = marked.read(path, DEPTH)  # tells what is wrong with the file
    if not isinstance(places[0].data, dict):
        raise UserError(f"{path}: expected sections as in the default's {PARAMS}; correct it.")
    if again := next(marked.repeated_keys(places), None):
        raise UserError(f"{path}, line {again[1].line}: {again[1].where[-1]} is given twice; remove one.")
    text = path.read_text(encoding="utf-8")
    return text, dict(_entries(yaml.compose(text, Loader=yaml.SafeLoader), text))


def _entries(node: yaml.MappingNode, text: str, above: str = "") -> Iterator[tuple[str, Written]]:
    for key, found in node.value:
        entry = f"{above}{key.value}"
        if isinstance(found, yaml.MappingNode) and entry not in WHOLE:
            yield from _entries(found, text, f"{entry}.")
        else:
            start, end = found.start_mark.index, _end(found)
            yield entry, Written(text[start:end], start, end, found.start_mark.column, _is_block(found))


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _end(node: yaml.Node) -> int:
    """Return where a value's text ends: the end that YAML tells of a block stands behind the comments that follow it."""
    if not _is_block(node):
        return node.end_mark.index
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)
