"""Text that is safe to show: without secrets, and without characters that act on a terminal or reorder what is read.

Every text for a terminal goes through `print_text` or `UserError`, every page through `replace_controls`.
"""

import json
import os
import re
from collections.abc import Iterator
from textwrap import shorten
from urllib.parse import quote

import click

MASK = "***"
SECRET_NAME = re.compile(  # of environment variables
    r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|(^|_)PASS|CREDENTIAL|CONNECTION_?STRING)S?$", re.IGNORECASE
)
MIN_SECRET_LENGTH = 8  # characters; a shorter value may be an ordinary word, or a placeholder such as `none`
SECRET_PLACES = (  # what is between the first group, which is kept, and the end of the match is secret, whatever its form
    re.compile(r"""(\b[a-z][a-z0-9+.-]*://)(?!git@)[^\s/'"<>]+(?=@)""", re.IGNORECASE),  # https://user:password@host
    re.compile(r"""([?&](?:[\w-]*(?:key|token|secret|password|signature)|sig)=)[^&\s'"<>]+""", re.IGNORECASE),
    re.compile(r"""(\bauthorization\W{1,6}(?:[a-z]+\s+)?)[^\s'",]+""", re.IGNORECASE),
    re.compile(  # x-api-key: 0a1b2c3d
        r"""((?<![^\W_])api[_-]?key(?:\\*["']\s*[:,=]|\s*[:=])\s*b?\\*["']?)(?=[^\s'",]*\d)[^\s'",\\]{8,}""", re.IGNORECASE
    ),
    re.compile(  # "password": "a secret"
        r"""((["'])[\w-]*(?:api[_-]?key|access[_-]?token|client[_-]?secret|password)\2\s*:\s*["'])[^"']+""", re.IGNORECASE
    ),
    re.compile(r"""(\b(?:Account|SharedAccess)Key=)[^\s'";]+""", re.IGNORECASE),  # of a connection string of Azure
    re.compile(r"""(\bbearer\s+)(?=\S*\d)[^\s'",]+""", re.IGNORECASE),
    re.compile(r"(\b(?:hf_|sk-|gh[oprsu]_|github_pat_|glpat-|xox[abeprs]-|AIza|nvapi-|gsk_))[\w-]{20,}"),
)
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters other than tab and line feed
    "\ud800-\udfff"  # lone surrogates, which cannot be written
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls (CVE-2021-42574)
    "\U000e0000-\U000e007f]"  # tags, which are invisible
)


def environment_secrets(min_length: int = MIN_SECRET_LENGTH) -> dict[str, str]:
    """Return the environment variables whose names say that their values are secret, without surrounding whitespace, by name.

    The path of a file is no secret, but what GOOGLE_APPLICATION_CREDENTIALS and others like it hold.

    Args:
        min_length: Shorter values, in characters, are left out, since they may occur in any text.
    """
    values = {name: value.strip() for name, value in sorted(os.environ.items()) if SECRET_NAME.search(name)}
    return {name: value for name, value in values.items() if len(value) >= min_length and not os.path.isfile(value)}


def redact_secrets(text: str) -> str:
    """Replace secrets by `***`: the values of secret environment variables, and passwords and tokens in URLs and headers."""
    forms = {form for value in environment_secrets().values() for form in written_forms(value)}
    for form in sorted(forms, key=len, reverse=True):  # a secret may contain another one
        text = text.replace(form, MASK)
    for place in SECRET_PLACES:
        text = place.sub(rf"\1{MASK}", text)
    return text


def shorten_text(text: str, width: int) -> str:
    """Return a text as one line of at most `width` characters without secrets; half of a secret would not be recognised."""
    line = " ".join(redact_secrets(text).split())
    return shorten(line, width, placeholder=" ...") if " " in line[: width - 3] else line[:width]


def written_forms(value: str) -> Iterator[str]:
    """Yield a value as it is, and as texts, JSON, bytes and URLs show it."""
    yield value
    yield repr(value)[1:-1]
    yield ascii(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value.encode("utf-8", "surrogateescape"))[2:-1]
    yield quote(value, safe="", errors="surrogateescape")


def replace_controls(text: str) -> str:
    """Replace each character that a terminal or browser obeys instead of showing it by U+FFFD; keep tabs and line ends."""
    return CONTROLS.sub("\ufffd", text.replace("\r\n", "\n"))


def safe_text(text: str) -> str:
    """Return a text without secrets and control characters."""
    return replace_controls(redact_secrets(text))


def print_text(text: str, to_stderr: bool = False) -> None:
    """Print a text as a line, at once, without secrets and control characters."""
    click.echo(safe_text(text), err=to_stderr)
