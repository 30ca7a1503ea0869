"""Recipes: sets of values for params.yaml, from a smoke test to the paper's scale.

recipes/default.yaml holds every entry that any recipe sets, with its default value. Every other recipe holds the entries that
differ from the default, or from the recipe named by `like`. The result of a recipe therefore does not depend on the one
applied before.

params.yaml is formatted as DVC formats it: a later `dvc exp run -S` changes only the line of its entry.
"""

import json
from collections.abc import Iterator
from functools import reduce
from io import StringIO
from operator import getitem
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from character.core import records
from character.core.errors import UserError
from character.core.params import PARAMS_FILE, load_yaml
from character.core.safe_text import shorten_text
from character.core.text_input import read_utf8
from character.dataset import yaml_lines

RECIPES_DIR = Path("recipes")
DEFAULT_RECIPE = "default"
RATES_NAME = "rates"  # not a recipe: recipes/rates.yaml is read by character/study/rates.py
LIKE = "like"
NOT_FOR_RECIPES = ("persona", "seed", "runtime")  # entries of params.yaml that are independent of the scale
WHOLE = ("openai.extra", "openai.rename", "tasks.metrics")  # mappings that are single values; their keys are not settings
DEPTH = 8  # levels of a file that are searched for duplicate keys

VALUE_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a mapping"}


def list_recipes() -> dict[str, str]:
    """Return the description of each recipe, the first line of its file, by name."""
    files = sorted((path for path in RECIPES_DIR.glob("*.yaml") if path.stem != RATES_NAME), key=lambda path: path.stem)
    return {path.stem: read_utf8(path).partition("\n")[0].lstrip("# ") for path in files}


def write_recipe(name: str) -> list[str]:
    """Write a recipe's values into params.yaml; its comments and all other entries are kept.

    Returns:
        The changes, `entry: old -> new`.

    Raises:
        UserError: the recipe or params.yaml is invalid; params.yaml is not changed.
    """
    params, changes = apply_recipe(name)
    with records.replace_atomically(PARAMS_FILE) as file:
        file.write(format_params(params))
    return changes


def apply_recipe(name: str) -> tuple[dict, list[str]]:
    """Return params.yaml with a recipe's values, and the changes, `entry: old -> new`."""
    wanted, params = recipe_entries(name), _load_yaml(PARAMS_FILE, params_yaml())
    current = dict(_flatten(params))
    if missing := [entry for entry in wanted if entry not in current]:
        raise UserError(f"{PARAMS_FILE}: `{missing[0]}` is missing; add it (`git diff {PARAMS_FILE}` shows what was there).")
    changed = [entry for entry, value in wanted.items() if value != current[entry]]
    for entry in changed:
        _set_entry(params, entry, wanted[entry])
    return params, [f"{entry}: {_show(current[entry])} -> {_show(wanted[entry])}" for entry in changed]


def recipe_entries(name: str, liked_by: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values of a recipe and of those that it builds on, by the entry's dotted name."""
    path = RECIPES_DIR / f"{name}.yaml"
    own = own_entries(path)
    if other := [entry for entry in own if entry.partition(".")[0] in NOT_FOR_RECIPES]:
        raise UserError(f"{path}: {other[0]} is not for recipes; set it in {PARAMS_FILE} and remove it here.")
    if name == DEFAULT_RECIPE:
        return own
    like = own.pop(LIKE, DEFAULT_RECIPE)
    if like in (*liked_by, name):
        raise UserError(f"{path}: {LIKE} leads from {like} back to itself; remove it in one of them.")
    below = recipe_entries(like, (*liked_by, name))
    for entry, value in own.items():
        _check_entry(path, entry, value, below)
    return below | own


def own_entries(path: Path) -> dict[str, Any]:
    """Return the values in one recipe's file, `like` included, by the entry's dotted name."""
    return dict(_flatten(_load_yaml(path, safe_yaml())))


def safe_yaml() -> YAML:
    """Return a reader of plain values in YAML 1.2, where 1e-05 is a number."""
    return YAML(typ="safe", pure=True)


def params_yaml() -> YAML:
    """Return a reader and writer that keeps comments and formats like `dvc.utils.serialize`."""
    yaml = YAML()
    yaml.default_flow_style = False
    return yaml


def format_params(params: dict) -> str:
    """Return the text of params.yaml."""
    text = StringIO()
    params_yaml().dump(params, text)
    return text.getvalue()


def _check_entry(path: Path, entry: str, value: Any, below: dict[str, Any]) -> None:
    """Raise a UserError if a recipe sets an unknown entry, or a value of another kind than the recipe below."""
    if entry not in below:
        default = RECIPES_DIR / f"{DEFAULT_RECIPE}.yaml"
        raise UserError(f"{path}: {entry} is not in {default}; correct the name, or add it there with the default's value.")
    kind, needed = _kind(value), _kind(below[entry])
    if kind != needed and (kind, needed) != (VALUE_KINDS[int], VALUE_KINDS[float]):
        raise UserError(f"{path}: {entry} is {kind}, but {needed} is needed; correct it.")


def _kind(value: Any) -> str:
    return next((name for kind, name in VALUE_KINDS.items() if isinstance(value, kind)), "nothing")


def _show(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return shorten_text(text, 80)


def _load_yaml(path: Path, reader: YAML) -> dict:
    nodes = yaml_lines.read_yaml_nodes(path, DEPTH)  # raises a UserError that names the line
    if not isinstance(nodes[0].data, dict):
        raise UserError(f"{path}: expected sections as in the default's {PARAMS_FILE}; correct it.")
    if duplicate := next(yaml_lines.duplicate_keys(nodes), None):
        raise UserError(f"{path}, line {duplicate[1].line}: {duplicate[1].where[-1]} is given twice; remove one.")
    return load_yaml(path, read_utf8(path), reader)  # which refuses tags too


def _flatten(section: dict, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        entry = f"{above}{key}"
        if isinstance(value, dict) and entry not in WHOLE:
            yield from _flatten(value, f"{entry}.")
        else:
            yield entry, value


def _set_entry(params: dict, entry: str, value: Any) -> None:
    *sections, key = entry.split(".")
    section = reduce(getitem, sections, params)
    section[key] = value
    if comment := section.ca.items.get(key):
        # ruamel keeps the column of the comment, so a longer value would shift it permanently. Column 0 means one space.
        # The last item is set after a list in block style; with it, ruamel writes an empty list as invalid YAML.
        comment[2].start_mark.column, comment[3] = 0, None
