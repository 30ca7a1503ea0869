"""Texts as people write and save them: one way to read a file, and one form for texts that are compared."""

import codecs
import json
import re
from pathlib import Path
from typing import Annotated
from unicodedata import normalize

from pydantic import AfterValidator

from character.core.errors import UserError

# Longest first: the mark of UTF-32 begins like that of UTF-16.
OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
HALF_PAIR = re.compile("[\ud800-\udfff]")  # half of a surrogate pair: JSON and YAML can hold it as \\ud83d, UTF-8 cannot
REMAKE = "run `dvc repro` to make it, or `dvc pull` to fetch it"


def read_utf8(path: str | Path, remedy: str = REMAKE) -> str:
    """Return the text of a file, without a byte order mark and with all line ends as "\\n".

    Args:
        path: The file.
        remedy: What to do if it is missing.

    Raises:
        UserError: The file is missing, no regular file, not readable or not UTF-8; the message names the line.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device might never end
            raise UserError(f"{path} is not a file; give a text file.")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); correct its path or its permissions.") from None
    return _decode_utf8(path, content)


def read_json_object(path: Path, remedy: str) -> dict:
    """Return the JSON object in a file of a model or an adapter.

    Args:
        path: The file.
        remedy: What to do if it is missing or damaged.

    Raises:
        UserError: The file cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(read_utf8(path, remedy))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; {remedy}.")
    return content


def normalize_text(text: str) -> str:
    """Return the form in which prompts and traits are stored, hashed and looked up.

    Composed characters (NFC), "\\n" as line end, no space around the text: the difference is invisible, and editors and
    operating systems make it unasked.
    """
    return normalize("NFC", text.replace("\r\n", "\n")).strip()


PromptText = Annotated[str, AfterValidator(normalize_text)]


def _decode_utf8(path: Path, content: bytes) -> str:
    if encoding := next((name for mark, name in OTHER_ENCODINGS.items() if content.startswith(mark)), None):
        raise UserError(f"{path}: {encoding}, not UTF-8; save the file as UTF-8.")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8.") from None
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise UserError(f"{path}, line {line}: a NUL character; save the file as text in UTF-8.")
    return text
