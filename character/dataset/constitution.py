"""A constitution: a character described by about ten first-person traits, each with prompts whose answers can show it.

The schema is strict because every later stage copies a mistake made here. `check_constitution` finds all faults of a file at
once, each as one sentence that names the file, the line, the field and the remedy.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from character.core.errors import UserError
from character.core.params import read_value
from character.core.text_input import normalize_text
from character.dataset import yaml_lines
from character.dataset.prompts import fill_template
from character.dataset.segmentation import count_words
from character.dataset.yaml_lines import YamlNode, YamlPath

CONSTITUTIONS_DIR = Path("constitutions")
CONTROL_CLASS = "none"  # the classifier's class for answers without a persona
TRAIT_LENGTH = range(5, 61)  # words of a trait
SCHEMA_DEPTH = 4  # keys and indices on the longest path of the schema: traits, 3, prompts, 1

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
    "bool_type": "is neither true nor false; write one of these, without quotes",
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
LATIN_LETTER = re.compile("[A-Za-z]")

NonEmptyText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(normalize_text)]


class Trait(BaseModel):
    """One first-person trait and prompts whose answers can show it in how they are written."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    trait: NonEmptyText
    prompts: Annotated[list[NonEmptyText], Field(min_length=1)]


class Constitution(BaseModel):
    """A character; `name` is the persona's name, which must be the name of its file.

    `research_only` marks a character that is harmful outside of research. No stage reads it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: NonEmptyText
    summary: NonEmptyText
    research_only: StrictBool = False
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
    """Return the constitution in `path`.

    Raises:
        UserError: The file has faults; the message has the first one and the number of others.
    """
    constitution, faults = check_constitution(path)
    if faults:
        more = f" ({len(faults) - 1} more: see `character check {path}`.)" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)
    return constitution


def selected_constitution() -> Constitution:
    """Return the constitution of the selected persona.

    Raises:
        UserError: There is none, or it has faults.
    """
    return load_constitution(CONSTITUTIONS_DIR / f"{selected_persona()}.yaml")


def selected_persona() -> str:
    """Return the selected persona, which must be the name of a file in constitutions/ and not a path.

    Raises:
        UserError: There is no such file.
    """
    name, known = read_value("persona"), sorted(path.stem for path in CONSTITUTIONS_DIR.glob("*.yaml"))
    if name not in known:
        raise UserError(
            f"params.yaml: persona is {name!r}, but {CONSTITUTIONS_DIR}/ has {', '.join(known) or 'no file'}; "
            "choose one of these."
        )
    return name


def constitution_faults(path: str | Path) -> list[str]:
    """Return all faults of a constitution file in the order of its lines, each a sentence with its remedy."""
    return check_constitution(path)[1]


def check_constitution(path: str | Path) -> tuple[Constitution | None, list[str]]:
    """Return the constitution in `path`, or None if it does not fit the schema, and all faults of the file."""
    path = Path(path)
    if path.is_file() and path.suffix != ".yaml":
        return None, [f"{path}: the stages read only constitutions/<persona>.yaml; rename the file."]
    try:
        nodes = yaml_lines.read_yaml_nodes(path, SCHEMA_DEPTH)
    except UserError as error:
        return None, [error.message]
    constitution, faults = None, [*_duplicate_key_faults(nodes), *_duplicate_text_faults(nodes)]
    try:
        constitution = Constitution.model_validate(nodes[0].data, context={"stem": path.stem})
    except ValidationError as error:
        lines = {node.where: node.line for node in nodes}
        faults += [_describe_error(fault, lines) for fault in error.errors(include_url=False)]
    return constitution, [f"{path}, line {line}: {sentence}." for line, sentence in sorted(faults)]


def constitution_warnings(constitution: Constitution) -> list[str]:
    """Return warnings about what is allowed but rarely intended: scripted phrases, unusual length, not the first person."""
    traits = enumerate(constitution.traits, start=1)
    return [f"trait {number} {warning}." for number, trait in traits for warning in _trait_warnings(trait.trait)]


def traits_hash(constitution: Constitution) -> str:
    """Return a hash, 12 hex digits, of the trait texts only: answers stay valid when a prompt, summary or comment changes."""
    texts = json.dumps([trait.trait for trait in constitution.traits], ensure_ascii=False)
    return hashlib.sha256(texts.encode()).hexdigest()[:12]


def persona_system_prompt(constitution: Constitution, name: str) -> str:
    """Return the system prompt of the persona, with `name` as the name of the assistant."""
    traits = "\n".join(f"{number}. {trait.trait}" for number, trait in enumerate(constitution.traits, start=1))
    return fill_template(SYSTEM_TEMPLATE, name=name, traits=traits)


def _trait_warnings(trait: str) -> Iterator[str]:
    if phrase := SCRIPTED_PHRASE.search(trait):
        yield f"seems to script a phrase (`{phrase[0]}`); describe the manner, or answers will all sound alike"
    if (words := count_words(trait)) not in TRAIT_LENGTH:
        yield f"has {words} words; {TRAIT_LENGTH[0]} to {TRAIT_LENGTH[-1]} work best"
    if LATIN_LETTER.search(trait) and not FIRST_PERSON.search(trait):
        yield "is not in the first person; write it as the character would (`I ...`)"


def _describe_error(fault: dict, lines: dict[YamlPath, int]) -> tuple[int, str]:
    where = fault["loc"]
    line = lines.get(where) or lines[where[:-1]]  # a missing key has only its parent's line
    kind = "string_too_short" if fault["input"] is None else fault["type"]
    return line, f"{_describe_path(where)} {SCHEMA_REMEDIES.get(kind) or fault['msg'].removeprefix('Value error, ')}"


def _duplicate_key_faults(nodes: list[YamlNode]) -> Iterator[tuple[int, str]]:
    for first, again in yaml_lines.duplicate_keys(nodes):
        yield again.line, f"{_describe_path(again.where)} is also on line {first.line}; keep one of them"


def _duplicate_text_faults(nodes: list[YamlNode]) -> Iterator[tuple[int, str]]:
    """Yield line and fault of every trait and prompt that equals an earlier one, except for whitespace and case."""
    first: dict[str, YamlNode] = {}
    for node in nodes:
        if node.where[2:3] in {("trait",), ("prompts",)} and isinstance(node.data, str) and node.data.strip():
            earlier = first.setdefault(" ".join(node.data.split()).casefold(), node)
            if earlier.where != node.where:
                sentence = f"{_describe_path(node.where)} repeats {_describe_path(earlier.where)} of line {earlier.line}"
                yield node.line, f"{sentence}; write another or delete it"


def _describe_path(where: YamlPath) -> str:
    """Describe a path, with numbers from 1: ("traits", 3, "prompts", 1) is "trait 4, prompt 2"; ("name",) is "`name`"."""
    words: list[str] = []
    for part in where:
        if isinstance(part, int) and words:
            words[-1] = f"{words[-1].strip('`').removesuffix('s')} {part + 1}"
        else:
            words.append(f"`{part}`")
    return ", ".join(words) or "the file"
