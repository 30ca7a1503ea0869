"""What a server says about an error: its reason in one line, the status in its JSON, and how long to wait."""

import json
import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime

from character.core.safe_text import redact_secrets, shorten_text

REASON_LENGTH = 300  # characters of a server's reason that are shown
NO_CREDIT = re.compile(
    r"insufficient.?(?:user.?)?(?:quota|balance|credit|funds)|exceeded_current_quota_error|credit balance is too low"
    r"|out of credits|billing_(?:hard_limit|not_active)|quota_exhausted",
    re.IGNORECASE,
)
LOADING = re.compile(r"\bloading|being loaded|starting|warming|initiali[sz]ing|not ready|cold start", re.IGNORECASE)
ABOUT_REQUEST = re.compile(r"invalid.?request|bad.?request|content", re.IGNORECASE)  # the type of an error
MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


def server_reason(answer, text: str) -> str:
    """Return what a server says about an error, in one line: the message and the code in its JSON, or else the text of it."""
    error = _error_in(answer) or (answer[0] if isinstance(answer, list) and answer else answer)
    if isinstance(error, dict):
        fields = {name: value for name, value in error.items() if isinstance(value, str) and value}
        told = next((fields[name] for name in ("message", "detail", "error", "msg", "title") if name in fields), text)
        code = fields.get("code") or fields.get("type") or ""
        return reason_line(told + (f" [{code}]" if code and code not in told else ""))
    return reason_line(error if isinstance(error, str) else MARKUP.sub(" ", text))


def embedded_status(answer, text: str) -> int:
    """Return the status of an error that came with HTTP 200, in JSON and as text; 0 if the answer is none."""
    error = _error_in(answer)
    if not error:
        return 0
    fields = error if isinstance(error, dict) else {}
    for code in (fields.get("code"), fields.get("status")):
        with suppress(TypeError, ValueError, OverflowError):
            if 400 <= int(code) < 600:
                return int(code)
    if NO_CREDIT.search(text):
        return 429
    kind = fields.get("type")
    return 400 if isinstance(kind, str) and ABOUT_REQUEST.search(kind) else 500


def retry_after_seconds(headers: Mapping) -> tuple[float, str]:
    """Return the wait that a response asks for in seconds, and the header if it cannot be read.

    `Retry-After-Ms` gives milliseconds, `Retry-After` seconds or a date. A time in the past is no wait; `inf` is one.
    """
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name)
        if not value:
            continue
        with suppress(ValueError):
            if not math.isnan(wait := float(value) / scale):
                return max(0.0, wait), ""
        with suppress(ValueError, TypeError, IndexError, OverflowError, OSError):
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time()), ""
        return 0.0, f"{name}: {reason_line(value)[:40]!r}"
    return 0.0, ""


def connection_reason(error: BaseException) -> str:
    """Return the reason of a failed connection, which the client gives in the errors below its own."""
    causes = [error]
    while causes[-1].__cause__ or causes[-1].__context__:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)
    told = next((str(cause) for cause in causes[1:] if str(cause)), type(causes[min(1, len(causes) - 1)]).__name__)
    return reason_line(told)


def reason_line(text: str) -> str:
    """Return a text of another program as a short printable line without secrets."""
    line = "".join(letter if letter.isprintable() else " " for letter in redact_secrets(text))
    return shorten_text(line, REASON_LENGTH)


def load_json(text: str):
    """Return the JSON in a body, or None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _error_in(answer):
    """Return the error in an answer with HTTP 200, its own or that of its first choice; None if there is none."""
    answer = answer[0] if isinstance(answer, list) and answer else answer  # Gemini
    if not isinstance(answer, dict):
        return None
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    return answer.get("error") or first.get("error") or (answer if answer.get("object") == "error" else None)
