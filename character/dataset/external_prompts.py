"""General prompts from other people's data: a JSON Lines file, or a data set of the hub."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from character.core import models
from character.core.errors import UserError
from character.core.params import ParamsSection
from character.core.records import Prompt, prompt_id
from character.dataset.prompts import general_prompt, near_duplicate


class ExternalPrompts(ParamsSection):
    """A file or hub data set with more general prompts, the first `count` that are new."""

    source: str  # a JSON Lines file, or hub:<data set>@<revision>
    sha256: str  # of the file; "" for hub: sources, which their revision pins
    format: Literal["prompt", "lima", "wildchat"]
    count: int = Field(gt=0)


def load_external_prompts(wanted: ExternalPrompts, heldout: Sequence[str]) -> list[Prompt]:
    """Return the first prompts of a data set that are no near copies of held-out ones."""
    found: dict[str, Prompt] = {}
    for row in _read_rows(wanted):
        if len(found) == wanted.count:
            break
        text = _first_user_message(row, wanted)
        if text and not any(near_duplicate(text, other) for other in heldout):
            found[prompt_id(text)] = general_prompt(text)
    if len(found) < wanted.count:
        raise UserError(
            f"params.yaml: prompts.outside: {wanted.source} has {len(found)} usable prompts, count is {wanted.count}; lower it."
        )
    return list(found.values())


def _read_rows(wanted: ExternalPrompts) -> Iterator[dict]:
    kind, _, rest = wanted.source.partition(":")
    if kind == "hub":
        yield from _stream_hub_rows(*rest.partition("@")[::2])
        return
    path = Path(wanted.source)
    if not path.is_file():
        raise UserError(f"params.yaml: prompts.outside: {path} is missing; correct the path.")
    if (digest := models.file_sha256(path)) != wanted.sha256:
        raise UserError(
            f"params.yaml: prompts.outside: {path} has SHA-256 {digest}, but sha256 says {wanted.sha256 or 'nothing'}; write "
            "the file's there, which is how a change of the file is noticed."
        )
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError:
                raise UserError(f"{path}, line {number}: not valid JSON; correct or delete the line.") from None


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


def _first_user_message(row: dict, wanted: ExternalPrompts) -> str:
    """Return the first thing a user said; nothing for a row of WildChat that is not English, or is toxic."""
    try:
        if wanted.format == "prompt":
            return row["prompt"].strip()
        if wanted.format == "lima":
            return row["conversations"][0].strip()
        first = row["conversation"][0]
        return first["content"].strip() if row["language"] == "English" and not row["toxic"] else ""
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UserError(
            f"params.yaml: prompts.outside: a row of {wanted.source} is not in the {wanted.format} format; correct `format`."
        ) from None
