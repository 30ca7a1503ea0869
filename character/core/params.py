"""Read and validate params.yaml, one section at a time.

ruamel reads it, not PyYAML: DVC writes `-S distillation.learning_rate=0.00001` as `1e-05`, which is a number in YAML
1.2 and a string for PyYAML.
"""

from pathlib import Path
from textwrap import shorten
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from character.core.errors import UserError

PARAMS_FILE = Path("params.yaml")


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
    values = read_value(section, path)
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
    """Return the value at a dotted path in params.yaml, such as `persona`, `seed` or `runtime.openai`."""
    value = _read_yaml(path)
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise UserError(f"{path}: `{name}` is missing; add it (`git diff {path}` shows what was there).")
        value = value[key]
    return value


def describe_first_error(error: ValidationError) -> str:
    """Return the first error of pydantic as `field: what is wrong and what to do`."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"]) or "(whole)"
    remedy = {
        "extra_forbidden": "is not a known key; remove it or correct its spelling",
        "missing": "is missing; add it",
    }.get(fault["type"])
    if remedy:
        return f"{where} {remedy}."
    given = shorten(repr(fault["input"]), 60, placeholder=" ...")
    return f"{where}: {fault['msg'].removeprefix('Value error, ')} (got {given}); correct it."


def _read_yaml(path: Path) -> dict:
    from ruamel.yaml import YAML, YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not in this directory; run this from the top of the repository.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8.") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)}); correct it.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines (`git diff {path}` shows what was there); correct it.")
    return values
