"""Read and validate params.yaml, one section at a time.

ruamel reads it, not PyYAML: DVC writes `-S distillation.learning_rate=0.00001` as `1e-05`, which is a number in YAML
1.2 and a string for PyYAML.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, PrivateAttr, StringConstraints, TypeAdapter, ValidationError

from character.core.errors import UserError
from character.core.safe_text import shorten_text
from character.core.text_input import read_utf8

PARAMS_FILE = Path("params.yaml")
MAX_VALUES = 100_000  # of a YAML file with its aliases written out, of which a few can stand for billions of values

# Values that are read without their section. The seed must suit random, numpy, torch and scikit-learn.
VALUE_TYPES = {
    "persona": str,
    "seed": Annotated[int, Field(ge=0, lt=2**32)],
    "student.name": Annotated[str, StringConstraints(pattern=r"^\S(.*\S)?$")],
    "student.source": str,
    "student.engine": str,
    "teacher.engine": str,
    "teacher.source": str,
    "teacher.names": list[str],
    "pairs.samples": PositiveInt,
    "classifier.personas": list[str],
    "answers.prompts": PositiveInt,
    "mails.begun": bool,
    "choices.sampling.max_new_tokens": PositiveInt,
    "preferences.traits": PositiveInt,
}


class ParamsSection(BaseModel):
    """One section of params.yaml. Unknown keys are errors; defaults exist only in params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    _path: str = PrivateAttr("")

    def field_path(self, field: str) -> str:
        """Return the dotted path of a field in params.yaml, for error messages; its name alone if it was not read there."""
        return f"{self._path}.{field}" if self._path else field


SectionT = TypeVar("SectionT", bound=ParamsSection)


def read_section(section: str, model: type[SectionT], path: Path = PARAMS_FILE) -> SectionT:
    """Return a section of params.yaml, validated by `model`.

    Raises:
        UserError: A value is invalid, or a key is missing or unknown; the message names it.
    """
    values = _find_value(section, path)
    try:
        return _note_paths(model.model_validate(values), section)
    except ValidationError as error:
        raise UserError(f"{path}: {section}.{describe_first_error(error)}") from None


def _note_paths(section: SectionT, path: str) -> SectionT:
    section._path = path
    for name in type(section).model_fields:
        if isinstance(value := getattr(section, name), ParamsSection):
            _note_paths(value, f"{path}.{name}")
    return section


def read_value(name: str, path: Path = PARAMS_FILE):
    """Return the value at a dotted path in params.yaml, such as `persona`, `seed` or `prompts.outside`.

    Raises:
        UserError: The value is missing, or not of its type in `VALUE_TYPES`.
    """
    value = _find_value(name, path)
    try:
        return TypeAdapter(VALUE_TYPES[name]).validate_python(value, strict=True) if name in VALUE_TYPES else value
    except ValidationError as error:
        raise UserError(f"{path}: {describe_first_error(error, name)}") from None


def _find_value(name: str, path: Path):
    value = _read_yaml(path)
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise UserError(f"{path}: `{name}` is missing; add it (`git diff {path}` shows what was there).")
        value = value[key]
    return value


def describe_first_error(error: ValidationError, name: str = "") -> str:
    """Return the first error of pydantic, of the value `name`, as `field: what is wrong and what to do`."""
    fault = error.errors(include_url=False)[0]
    where = ".".join([*([name] if name else []), *map(str, fault["loc"])]) or "(whole)"
    remedy = {
        "extra_forbidden": "is not a known key; remove it or correct its spelling",
        "missing": "is missing; add it",
    }.get(fault["type"])
    if remedy:
        return f"{where} {remedy}."
    given = shorten_text(repr(fault["input"]), 60)
    return f"{where}: {fault['msg'].removeprefix('Value error, ')} (got {given}); correct it."


def _read_yaml(path: Path) -> dict:
    values = _parse_yaml(path, read_utf8(path, "run this from the top of the repository"))
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines (`git diff {path}` shows what was there); correct it.")
    return values


@lru_cache(maxsize=1)
def _parse_yaml(path: Path, text: str):
    from ruamel.yaml import YAML

    return load_yaml(path, text, YAML(typ="safe", pure=True))


def load_yaml(path: Path, text: str, reader):
    """Return the data that `reader` of ruamel constructs from the text of `path`.

    Raises:
        UserError: The text is not YAML, or its values are not plain: see `_check_values`.
    """
    from ruamel.yaml import YAMLError

    try:
        values = reader.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        why = str(getattr(error, "problem", None) or "unknown kind of value")
        raise UserError(f"{path}{line}: not valid YAML ({shorten_text(why, 120)}); correct it.") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; correct it.") from None
    except (ValueError, LookupError, TypeError, AttributeError):  # ruamel does not check the text of dates, tags and integers
        raise UserError(f"{path}: a value is not what its form or tag promises, such as a 13th month; correct it.") from None
    _check_values(path, values)
    return values


def _check_values(path: Path, values) -> None:
    """Raise a UserError for a number that is infinite or needs more than 64 bits, and for aliases that multiply values."""
    found, pending = 0, [("", values)]
    while pending:
        where, value = pending.pop()
        found += 1
        if found > MAX_VALUES:
            raise UserError(f"{path}: more than {MAX_VALUES} values, with its aliases (`*name`) written out; remove them.")
        if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and value.bit_length() > 63):
            raise UserError(f"{path}: {where} is no number that fits in 64 bits; correct it.")
        if isinstance(value, dict):
            pending += ((f"{where}.{key}".lstrip("."), item) for key, item in value.items())
        elif isinstance(value, list):
            pending += ((f"{where}.{index}", item) for index, item in enumerate(value))
