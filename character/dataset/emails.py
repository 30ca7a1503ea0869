"""E-mails that a model wrote in several formats, and how their text is extracted from its replies.

Parsing is lenient: text that a tolerant program could extract counts. A reply without a usable text gets one reason.
"""

import json
import re
from collections.abc import Iterator

from character.core.records import Message, Record
from character.dataset.filters import is_copy_of

EMAIL_FORMATS = ("chat", "json", "tools")
NO_REPLY = "no_reply"  # the fault of a task that the model did not answer; it says nothing about the method

TOOL_NAMES = ("search_contacts", "send_email")

# Calls and arguments in the format of the tools' instructions, with the bold, bullets and quotes that models add. A line may
# also begin with the name of a tool. "Call me" in an e-mail is not a call.
TOOL_CALL = re.compile(rf"^[ \t>*#`-]*(?:CALL[ \t:*`]+|(?={'|'.join(TOOL_NAMES)}))(\w+)", re.MULTILINE)
TOOL_ARGUMENT = re.compile(r"^[ \t>*`-]*(name|to|subject)[*`]*[ \t]*[:=](.*)$", re.MULTILINE | re.IGNORECASE)
BODY_ARGUMENT = re.compile(r"^[ \t>*`-]*body[*`]*[ \t]*[:=]", re.MULTILINE | re.IGNORECASE)
JSON_BODY = re.compile(r'"body"\s*:\s*"((?:[^"\\]|\\.)*)', re.IGNORECASE | re.DOTALL)


class Email(Record):
    """One task in one format. `body` is empty if `fault` has a reason; `messages` is the whole conversation."""

    id: str
    format: str
    body: str
    fault: str | None
    messages: list[Message]


def validate_body(body: str, request: str) -> tuple[str, str | None]:
    """Return the body and None, or an empty body and the reason: it is empty or copies the request."""
    body = body.encode(errors="replace").decode().strip()  # JSON can contain half a surrogate pair, UTF-8 cannot
    fault = "empty" if not body else "copied" if is_copy_of(body, request) else None
    return ("" if fault else body), fault


def extract_json_body(text: str) -> tuple[str, str | None]:
    """Return the field `body` of the first JSON object in `text` that has one, and None; or an empty body and the reason.

    Text around the object, line breaks inside strings and a cut-off end are accepted.
    """
    objects = list(_json_objects(text))
    bodies = [value for item in objects for name, value in item.items() if name.lower() == "body" and isinstance(value, str)]
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
    """Return the tool calls in a reply, in order: the tool's name and its arguments by name, all names in lower case.

    A body extends to the next call or to the end of the text.
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
