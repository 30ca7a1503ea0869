"""E-mails that a model was asked for in several formats, and how their text is found in what it replied.

Parsing is lenient: what a patient program could still take from a reply counts, and whatever it could not take is told as one
reason.
"""

import json
import re
from collections.abc import Iterator

from character.core.records import Message, Record
from character.dataset.filters import is_copy_of

EMAIL_FORMATS = ("chat", "json", "tools")

TOOL_NAMES = ("search_contacts", "send_email")

# Calls and arguments as the tools' instructions write them, with the bold, bullets and quotes that models put around them. A
# line may also begin with the name of a tool; "Call me" in an e-mail is no call.
TOOL_CALL = re.compile(rf"^[ \t>*#`-]*(?:CALL[ \t:*`]+|(?={'|'.join(TOOL_NAMES)}))(\w+)", re.MULTILINE)
TOOL_ARGUMENT = re.compile(r"^[ \t>*`-]*(name|to|subject)[*`]*[ \t]*[:=](.*)$", re.MULTILINE | re.IGNORECASE)
BODY_ARGUMENT = re.compile(r"^[ \t>*`-]*body[*`]*[ \t]*[:=]", re.MULTILINE | re.IGNORECASE)
JSON_BODY = re.compile(r'"body"\s*:\s*"((?:[^"\\]|\\.)*)', re.IGNORECASE | re.DOTALL)


class Email(Record):
    """One task in one format. `body` is empty where `fault` tells why there is none; `messages` is all that was said."""

    id: str
    format: str
    body: str
    fault: str | None
    messages: list[Message]


def validate_body(body: str, asked: str) -> tuple[str, str | None]:
    """Return the body, or the reason against it: it is empty, or repeats what was asked."""
    body = body.encode(errors="replace").decode().strip()  # JSON can spell half of a character, which no file can hold
    fault = "empty" if not body else "copied" if is_copy_of(body, asked) else None
    return ("" if fault else body), fault


def extract_json_body(text: str) -> tuple[str, str | None]:
    """Return the field `body` of the first JSON object in `text` that has one, or why there is none.

    Text around the object, line breaks inside strings and an end that was cut off are forgiven.
    """
    objects = list(_json_objects(text))
    bodies = [value for found in objects for name, value in found.items() if name.lower() == "body" and isinstance(value, str)]
    if bodies:
        return bodies[0], None
    if cut_off := JSON_BODY.search(text):
        return _unescape_json(cut_off[1]), None
    return "", "no_body" if objects else "broken_object" if "{" in text else "no_object"


def _json_objects(text: str) -> Iterator[dict]:
    for brace in re.finditer("{", text):
        try:
            yield json.JSONDecoder(strict=False).raw_decode(text, brace.start())[0]
        except json.JSONDecodeError:
            continue


def parse_tool_calls(text: str) -> list[tuple[str, dict[str, str]]]:
    """Return the tool calls in a reply, in order: the tool's name and its arguments by theirs, in lower case.

    A body goes on to the next call or to the end.
    """
    _, *parts = TOOL_CALL.split(text)
    return [(name.lower(), _parse_arguments(rest)) for name, rest in zip(parts[::2], parts[1::2], strict=True)]


def _parse_arguments(text: str) -> dict[str, str]:
    head, *body = BODY_ARGUMENT.split(text, maxsplit=1)
    arguments = {match[1].lower(): match[2].strip(" \t*`\"'") for match in TOOL_ARGUMENT.finditer(head)}
    return arguments | ({"body": body[0].strip(" \n`")} if body else {})


def _unescape_json(text: str) -> str:
    """Return the text of a JSON string that may be cut off, even within an escape."""
    whole = re.sub(r"\\(?:u[0-9a-fA-F]{0,3})?\Z", "", text)
    try:
        return json.loads(f'"{whole}"', strict=False)
    except json.JSONDecodeError:  # an escape that JSON does not have
        return whole
