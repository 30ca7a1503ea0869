"""Data files: JSON Lines with one type of validated record per file, written atomically."""

import csv
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import IO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from character.core.errors import UserError, describe_disk_error, name_file
from character.core.models import PROVENANCE_FILE
from character.core.params import describe_first_error
from character.core.safe_text import shorten_text
from character.core.text_input import PromptText, read_utf8

FinishReason = Literal["stop", "length", "skipped"]  # the last two: the token limit cut it off, the model did not answer


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Message(Record):
    role: Literal["system", "user", "assistant"]
    content: str


class Prompt(Record):
    """A training or evaluation prompt; `trait` is its index in the constitution from 0, None for general prompts."""

    id: str
    prompt: str
    source: Literal["constitution", "expanded", "general"]
    trait: int | None


class Completion(Record):
    """An answer to one prompt; if it was skipped, the response is empty."""

    id: str
    sample: int
    prompt: str
    response: str
    finish_reason: FinishReason

    @classmethod
    def from_reply(cls, prompt: Prompt, reply, sample: int = 0, **more):
        """Return the record of a `character.inference.generate.Reply` to `prompt`."""
        text, finish = reply.text, reply.finish_reason
        return cls(id=prompt.id, sample=sample, prompt=prompt.prompt, response=text, finish_reason=finish, **more)


class EvaluatedAnswer(Completion):
    """An answer for evaluation; `condition` is `plain` or the name of the break-character suffix."""

    condition: str


class PreferencePair(Record):
    """A preference in TRL's conversational format.

    A finish reason is `length` if the answer was cut off, even if it was then trimmed to a sentence: its end is not to be
    learnt.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    chosen_finish_reason: FinishReason
    rejected_finish_reason: FinishReason


class Conversation(Record):
    """Generated introspection, before filtering; `kind` is `reflection` or the guidance of an interaction.

    `finish_reasons` has one entry for each assistant turn.
    """

    id: str
    sample: int
    kind: str
    messages: list[Message]
    finish_reasons: list[FinishReason]


class TrainingTranscript(Record):
    """A training example of introspection, in TRL's conversational format; every assistant turn is a target.

    `finish_reasons` has one entry for each assistant turn, with the meaning that it has in a pair.
    """

    messages: list[Message]
    finish_reasons: list[FinishReason]


class RawPrompt(Record):
    """A hand-written prompt of data/raw/prompts."""

    prompt: PromptText


class TeacherAnswer(Record):
    """A recorded teacher answer; `traits` is the hash of the traits for which it was written, or None for no persona.

    The finish reason is `length` if the answer was cut off and then trimmed to a sentence.
    """

    prompt: PromptText
    response: str
    traits: str | None = None
    finish_reason: FinishReason = "stop"


RecordT = TypeVar("RecordT", bound=Record)
CompletionT = TypeVar("CompletionT", bound=Completion)


def prompt_id(prompt: str) -> str:
    """Return a content hash of 12 hex digits: equal prompts have the same id in every file and in the reply cache."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]


def read_records(path: str | Path, model: type[RecordT]) -> list[RecordT]:
    """Read a JSON Lines file.

    Raises:
        UserError: The file cannot be read, or a line is invalid; the message names file, line and field.
    """
    # Split only on "\n": JSON strings may contain other line separators (U+2028), at which str.splitlines would cut.
    lines = enumerate(read_utf8(path).split("\n"), start=1)
    return [_parse_line(path, number, line, model) for number, line in lines if line.strip()]


def _parse_line(path: str | Path, number: int, line: str, model: type[RecordT]) -> RecordT:
    place = f"{path}, line {number}"
    parse_json(line, place)
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        raise UserError(f"{place}: {describe_first_error(error)}") from None


def parse_json(text: str, place: str):
    """Return the data of a JSON text.

    Raises:
        UserError: The text is not JSON that UTF-8 can hold, or an object has a key twice; the message begins with `place`.
    """
    try:
        from_json(text)  # refuses what json accepts: deep nesting, and half of a surrogate pair
        return json.loads(text, object_pairs_hook=_unique_keys)
    except ValueError as error:
        reason = str(error) if "\n" in text else str(error).replace("line 1 column", "column")
        raise UserError(f"{place}: not valid JSON ({reason}); correct it.") from None


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    data = dict(pairs)
    if len(data) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {shorten_text(twice, 40)!r} is given twice")
    return data


def drop_skipped(answers: Iterable[CompletionT]) -> list[CompletionT]:
    """Return the answers that a model gave: a prompt without an answer is no empty answer."""
    return [answer for answer in answers if answer.finish_reason != "skipped"]


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write records as JSON Lines, in order."""
    with replace_atomically(path) as file:
        for record in records:
            file.write(json.dumps(record.model_dump(), ensure_ascii=False) + "\n")


def write_json(path: str | Path, value: dict) -> None:
    """Write indented JSON with floats rounded to four decimals, which gives readable diffs."""
    with replace_atomically(path) as file:
        file.write(json.dumps(_round_floats(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: str | Path, rows: Sequence[dict]) -> None:
    """Write plots data, with the keys of the first row as header and floats rounded to four decimals."""
    with replace_atomically(path) as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(_round_floats(row) for row in rows)


def read_json(path: str | Path) -> dict:
    return parse_json(read_utf8(path), str(path))


def read_result(stage: str) -> dict:
    """Return the results of a stage, results/<stage>.json."""
    return read_json(f"results/{stage}.json")


def read_csv(path: str | Path) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(read_utf8(path), newline="")))


def read_columns(path: str | Path) -> dict[str, list[float]]:
    """Return plots data by column; all values must be numbers."""
    rows = read_csv(path)
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def read_provenance(folder: Path) -> dict:
    """Return the provenance.json of an adapter."""
    return read_json(folder / PROVENANCE_FILE)


@contextmanager
def replace_atomically(path: str | Path) -> Iterator[IO[str]]:
    """Open a temporary file next to `path` and rename it on success: no reader ever sees half a file.

    Raises:
        UserError: the disk is full, or the file cannot be written there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with name_file(path), temporary.open("w", encoding="utf-8", newline="") as file:
                yield file
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # a read-only disk refuses this too, and has nothing to delete
                temporary.unlink(missing_ok=True)
    except OSError as error:
        sentence = describe_disk_error(error)
        if sentence is None:
            raise
        raise UserError(sentence.replace(temporary.name, path.name)) from None


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `folder`, which replaces it on success and is removed on an error.

    Raises:
        OSError: A file could not be written, or `folder` could not be replaced, which is then as before.
    """
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        with name_file(folder):
            yield draft
        _exchange_folder(folder, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _exchange_folder(folder: Path, draft: Path) -> None:
    """Put `draft` in the place of `folder`, which is moved aside first: deleting it may fail halfway."""
    former = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(former, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(former)
    try:
        draft.rename(folder)
    except OSError:
        if former.exists():
            former.rename(folder)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _round_floats(value):
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
