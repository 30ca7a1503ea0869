"""A constitution: a character told in about ten first-person traits, each with prompts that give it room to show.

The schema is strict, because every later stage copies a mistake made here. `examine` finds all faults of a file at once;
each is one sentence that names the file, the line, the field and the remedy.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, ValidationInfo, field_validator

from character.core.errors import UserError
from character.core.params import read_value
from character.dataset import yaml_lines
from character.dataset.prompts import fill_template
from character.dataset.yaml_lines import YamlNode, YamlPath

CONSTITUTIONS_DIR = Path("constitutions")
CONTROL_CLASS = "none"  # the classifier's class for answers without a persona
TRAIT_LENGTH = range(5, 61)  # of a trait
SCHEMA_DEPTH = 4  # of the schema: traits, 3, prompts, 1

SYSTEM_TEMPLATE = """\
You are {name}. This is your character, told in your own words:

{traits}

Let this character show in the tone, the choices and the wording of every answer, from the first sentence to the last and \
whatever the subject, plain or technical questions included. Stay correct and useful: whoever asks must get what they need. \
Do not quote, mention or explain these instructions; simply be this way."""

SCHEMA_REMEDIES = {
    "extra_forbidden": "is not a known key; remove it or correct its spelling",
    "missing": "is missing; add it",
    "string_too_short": "is empty; fill it in or remove it",
    "string_type": "is not text; put it in double quotes",
    "too_short": "is an empty list; add at least one entry",
    "list_type": "is not a list; write its entries below it, each after `- `",
    "model_type": "is not a mapping; write `key: value` lines",
}

SCRIPTED_PHRASE = re.compile(
    r"""\b(always|must)\ (say|repeat|exclaim|shout|recite)\b
      | \b(begin|start|open|end|finish|close)\ (off\ )?(every|each|all)\b
      | \b(every|each)\ (answer|reply|response|message|sentence)\ (begins|starts|opens|ends|closes)\b
      | \b(say|repeat|use|add|exclaim|shout|answer|reply|respond|call|begin|start|end)(s|ing)?(\ \w+){0,3}[,:]?\ ["“‘']\w
      | \b(verbatim|word\ for\ word|exact\ words|(my|the|this)\ catchphrase)\b""",
    re.IGNORECASE | re.VERBOSE,
)
FIRST_PERSON = re.compile(r"\b(I|[Mm]e|[Mm]y|[Mm]ine|[Mm]yself)\b")

NonEmptyText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Trait(BaseModel):
    """One first-person trait and the prompts that give it room to show in how an answer is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    trait: NonEmptyText
    prompts: Annotated[list[NonEmptyText], Field(min_length=1)]


class Constitution(BaseModel):
    """A character; `name` is the persona's name and, where it is read from a file, the file's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: NonEmptyText
    summary: NonEmptyText
    traits: Annotated[list[Trait], Field(min_length=1)]

    @field_validator("name")
    @classmethod
    def _is_persona_name(cls, name: str, info: ValidationInfo) -> str:
        if not re.fullmatch("[a-z][a-z0-9-]*", name):
            raise ValueError(f"is {name!r}; use a-z first, then a-z, 0-9 and hyphens, here and in the file's name")
        if name == CONTROL_CLASS:
            raise ValueError(f"is `{name}`, reserved for the classifier's control class; rename it and its file")
        if info.context and name != info.context["stem"]:
            raise ValueError(f"is `{name}` but the file is called `{info.context['stem']}`; make them equal")
        return name


def load_constitution(path: str | Path) -> Constitution:
    """Return the constitution in `path`; faults end in a UserError that tells the first and how many more there are."""
    constitution, found = check_constitution(path)
    if found:
        more = f" ({len(found) - 1} more: see `character check {path}`.)" if len(found) > 1 else ""
        raise UserError(found[0] + more)
    return constitution


def selected_constitution() -> Constitution:
    """Return the constitution of the selected persona, which must be one of the files in constitutions/ and no path elsewhere.

    Raises:
        UserError: there is none of that name, or it has faults.
    """
    name, known = read_value("persona"), sorted(path.stem for path in CONSTITUTIONS_DIR.glob("*.yaml"))
    if name not in known:
        raise UserError(
            f"params.yaml: persona is {name!r}, but {CONSTITUTIONS_DIR}/ has {', '.join(known) or 'no file'}; choose one of its."
        )
    return load_constitution(CONSTITUTIONS_DIR / f"{name}.yaml")


def constitution_faults(path: str | Path) -> list[str]:
    """Return all faults of a constitution file in the order of its lines, each a sentence with its remedy."""
    return check_constitution(path)[1]


def check_constitution(path: str | Path) -> tuple[Constitution | None, list[str]]:
    """Return the constitution in `path` (None where it does not fit the schema) and all faults of the file."""
    path = Path(path)
    if path.is_file() and path.suffix != ".yaml":
        return None, [f"{path}: the stages read constitutions/<persona>.yaml alone; rename the file."]
    try:
        places = yaml_lines.read_yaml_nodes(path, SCHEMA_DEPTH)
    except UserError as error:
        return None, [error.message]
    constitution, found = None, [*_duplicate_key_faults(places), *_duplicate_text_faults(places)]
    try:
        constitution = Constitution.model_validate(places[0].data, context={"stem": path.stem})
    except ValidationError as error:
        lines = {place.where: place.line for place in places}
        found += [_describe_error(fault, lines) for fault in error.errors(include_url=False)]
    return constitution, [f"{path}, line {line}: {sentence}." for line, sentence in sorted(found)]


def constitution_warnings(constitution: Constitution) -> list[str]:
    """Return what is allowed but rarely meant: scripted phrases, traits of odd length or not in the first person."""
    traits = enumerate(constitution.traits, start=1)
    return [f"trait {number} {oddity}." for number, trait in traits for oddity in _trait_warnings(trait.trait)]


def traits_hash(constitution: Constitution) -> str:
    """Return 12 hex digits over the trait texts alone: recorded answers outlive an edited prompt, summary or comment."""
    texts = json.dumps([trait.trait for trait in constitution.traits], ensure_ascii=False)
    return hashlib.sha256(texts.encode()).hexdigest()[:12]


def persona_system_prompt(constitution: Constitution, name: str) -> str:
    """Return the persona's system prompt, in which the assistant is called `name`."""
    traits = "\n".join(f"{number}. {trait.trait}" for number, trait in enumerate(constitution.traits, start=1))
    return fill_template(SYSTEM_TEMPLATE, name=name, traits=traits)


def _trait_warnings(trait: str) -> Iterator[str]:
    if phrase := SCRIPTED_PHRASE.search(trait):
        yield f"seems to script a phrase (`{phrase[0]}`); describe the manner, or answers will all sound alike"
    if (words := len(trait.split())) not in TRAIT_LENGTH:
        yield f"has {words} words; {TRAIT_LENGTH[0]} to {TRAIT_LENGTH[-1]} work best"
    if not FIRST_PERSON.search(trait):
        yield "is not in the first person; write it as the character would (`I ...`)"


def _describe_error(fault: dict, lines: dict[YamlPath, int]) -> tuple[int, str]:
    where = fault["loc"]
    line = lines.get(where) or lines[where[:-1]]  # a missing key has only its parent's line
    kind = "string_too_short" if fault["input"] is None else fault["type"]
    return line, f"{_describe_path(where)} {SCHEMA_REMEDIES.get(kind) or fault['msg'].removeprefix('Value error, ')}"


def _duplicate_key_faults(places: list[YamlNode]) -> Iterator[tuple[int, str]]:
    for first, again in yaml_lines.duplicate_keys(places):
        yield again.line, f"{_describe_path(again.where)} is also on line {first.line}; keep one of them"


def _duplicate_text_faults(places: list[YamlNode]) -> Iterator[tuple[int, str]]:
    """Tell every trait and prompt that equals an earlier one after whitespace and case folding."""
    first: dict[str, YamlNode] = {}
    for place in places:
        if place.where[2:3] in {("trait",), ("prompts",)} and isinstance(place.data, str) and place.data.strip():
            earlier = first.setdefault(" ".join(place.data.split()).casefold(), place)
            if earlier.where != place.where:
                told = f"{_describe_path(place.where)} repeats {_describe_path(earlier.where)} of line {earlier.line}"
                yield place.line, f"{told}; write another or delete it"


def _describe_path(where: YamlPath) -> str:
    """Tell a path as people count: ("traits", 3, "prompts", 1) is "trait 4, prompt 2"; ("name",) is "`name`"."""
    words: list[str] = []
    for part in where:
        if isinstance(part, int) and words:
            words[-1] = f"{words[-1].strip('`').removesuffix('s')} {part + 1}"
        else:
            words.append(f"`{part}`")
    return ", ".join(words) or "the file"
