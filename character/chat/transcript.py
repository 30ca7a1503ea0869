"""The transcript of a chat: one JSON line for each reply, with the conversation up to it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from character.core.errors import UserError
from character.core.records import Message, Record
from character.inference.generate import SamplingSettings


class ChatRecord(Record):
    """One reply; `messages` is the whole conversation, the reply included.

    `student` and `adapter` are fingerprints. `shortened` means that the model did not see the oldest turns.
    """

    time: str
    persona: str
    version: str | None
    method: str
    student: str
    adapter: str | None
    sampling: SamplingSettings
    seed: int
    finish_reason: Literal["stop", "length", "interrupted"]
    shortened: bool
    messages: list[Message]


class TranscriptFile:
    """The records of a chat, appended to a file of JSON Lines after each turn."""

    def __init__(self, path: Path):
        self.path = path
        self._rows: list[ChatRecord] = []
        self._written = 0

    def append_rows(self, rows: Sequence[ChatRecord]) -> None:
        """Append rows, and any earlier ones that could not be written.

        Raises:
            UserError: the file cannot be written. The rows are kept for the next attempt.
        """
        self._rows += rows
        _append_json_lines(self.path, self._rows[self._written :])
        self._written = len(self._rows)

    def move_to(self, path: Path) -> None:
        """Write all rows so far to another file, and append later ones there too.

        Raises:
            UserError: that file cannot be written. The transcript stays where it is.
        """
        _append_json_lines(path, self._rows)
        self.path, self._written = path, len(self._rows)


def _append_json_lines(path: Path, rows: Sequence[ChatRecord]) -> None:
    lines = [json.dumps(row.model_dump(), ensure_ascii=False) + "\n" for row in rows]
    size = path.stat().st_size if path.is_file() else 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
    except OSError as error:
        if path.is_file() and path.stat().st_size > size:
            os.truncate(path, size)  # remove what was written of a line, after which none could be read
        raise UserError(f"{path} cannot be written ({error}); name another file with /save FILE.") from None
