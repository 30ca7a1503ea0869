"""General prompts from external data: a JSON Lines file, or a data set of the Hugging Face Hub."""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from character.core import models
from character.core.errors import UserError
from character.core.params import ParamsSection
from character.core.records import Prompt, parse_json, prompt_id
from character.core.text_input import normalize_text, read_utf8
from character.dataset.prompts import general_prompt, near_duplicate


class ExternalPrompts(ParamsSection):
    """A file or hub data set with more general prompts, of which the first `count` new ones are used."""

    source: str  # a JSON Lines file, or hub:<data set>@<revision>
    sha256: str  # of the file; "" for hub: sources, which are pinned by their revision
    format: Literal["prompt", "lima", "wildchat"]
    count: int = Field(gt=0)


def load_external_prompts(settings: ExternalPrompts, heldout: Sequence[str]) -> list[Prompt]:
    """Return the first `count` prompts of a data set that are no near duplicates of held-out ones.

    Raises:
        UserError: The data set cannot be read, differs from its SHA-256 or has too few usable prompts.
    """
    prompts: dict[str, Prompt] = {}
    for row in _read_rows(settings):
        if len(prompts) == settings.count:
            break
        text = _first_user_message(row, settings)
        if text and not any(near_duplicate(text, other) for other in heldout):
            prompts[prompt_id(text)] = general_prompt(text)
    if len(prompts) < settings.count:
        raise UserError(
            f"params.yaml: prompts.outside: {settings.source} has {len(prompts)} usable prompts, "
            f"count is {settings.count}; lower it."
        )
    return list(prompts.values())


def _read_rows(settings: ExternalPrompts) -> Iterator[dict]:
    kind, _, rest = settings.source.partition(":")
    if kind == "hub":
        yield from _stream_hub_rows(*rest.partition("@")[::2])
        return
    path = models.original_repository() / settings.source
    if not path.is_file():
        raise UserError(f"params.yaml: prompts.outside: {path} is missing; correct the path.")
    if (digest := models.file_sha256(path)) != settings.sha256:
        raise UserError(
            f"params.yaml: prompts.outside: {path} has SHA-256 {digest}, but sha256 is {settings.sha256 or 'empty'}; set it to "
            "the hash of the file, so that a later change of the file is noticed."
        )
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if line.strip():
            yield parse_json(line, f"{path}, line {number}")


def _stream_hub_rows(name: str, revision: str) -> Iterator[dict]:
    if not revision:
        raise UserError(f"params.yaml: prompts.outside: hub:{name} has no revision; write hub:{name}@<commit>.")
    from datasets import load_dataset

    try:
        yield from load_dataset(name, revision=revision, split="train", streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"params.yaml: prompts.outside: hub:{name}@{revision} cannot be read ({str(error).splitlines()[0]}); "
            "check the name, the revision, the network and HF_TOKEN."
        ) from None


def _first_user_message(row: dict, settings: ExternalPrompts) -> str:
    """Return the first message of the user; an empty text for a row of WildChat that is not English or is toxic."""
    try:
        if settings.format == "prompt":
            return normalize_text(row["prompt"])
        if settings.format == "lima":
            return normalize_text(row["conversations"][0])
        first = row["conversation"][0]
        return normalize_text(first["content"]) if row["language"] == "English" and not row["toxic"] else ""
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UserError(
            f"params.yaml: prompts.outside: a row of {settings.source} is not in the {settings.format} format; "
            "correct `format`."
        ) from None
