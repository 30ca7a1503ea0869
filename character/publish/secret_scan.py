"""A scan for secrets that must not be published: known types of tokens and keys, and secrets in environment variables.

The types are those of detect-secrets and some that it lacks. Only its detectors are used, line by line, and not its scanner,
which skips lines with an allowlist comment and may verify a secret over the network.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector

from character.core.errors import UserError
from character.core.safe_text import environment_secrets, written_forms

# The detectors of the library whose patterns hardly occur by chance. Left out are entropy, keywords and IP addresses, which
# match hashes, prompt ids and documentation, and OpenAI tokens, since its pattern misses most project keys.
LIBRARY_SECRET_TYPES = (
    "AWS Access Key",
    "Azure Storage Account access key",
    "Basic Auth Credentials",
    "Discord Bot Token",
    "GitHub Token",
    "GitLab Token",
    "JSON Web Token",
    "Mailchimp Access Key",
    "NPM tokens",
    "Private Key",
    "PyPI Token",
    "SendGrid API Key",
    "Slack Token",
    "Square OAuth Secret",
    "Stripe Access Key",
    "Telegram Bot Token",
    "Twilio API Key",
)
OWN_SECRET_PATTERNS = {
    "Hugging Face Token": r"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}",
    "Anthropic Key": r"\bsk-ant-[\w-]{20,}",
    "OpenAI Key": r"\bsk-(?!ant-)(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[\w-]{20,}",
    "Google Key": r"\bAIza[\w-]{35}",
    "AWS Secret Key": r"(?i:aws_secret_access_key)\W{1,5}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",  # also without quotes
    "GitHub Fine-Grained Token": r"\bgithub_pat_\w{50}",
    "Slack App Token": r"\b(?:xapp|xoxe)-\d-[\w-]{10,}",
    "Encrypted Private Key": r"BEGIN ENCRYPTED PRIVATE KEY",
    "Bearer Token": r"(?i:\bAuthorization\W{1,5}Bearer) +[\w.~+/-]{20,}",
}
MIN_VALUE_LENGTH = 12  # in characters; shorter values may occur anywhere by chance


class PatternDetector(RegexBasedDetector):
    """A detector for a type of secret that the library does not know."""

    secret_type, denylist = "", ()

    def __init__(self, secret_type: str, pattern: str):
        self.secret_type, self.denylist = secret_type, (re.compile(pattern),)


@cache
def secret_detectors() -> list[RegexBasedDetector]:
    """Return the detectors of all known types.

    Raises:
        UserError: The installed detect-secrets has no detector of a type in LIBRARY_SECRET_TYPES.
    """
    known = get_mapping_from_secret_type_to_class()
    if missing := [secret_type for secret_type in LIBRARY_SECRET_TYPES if secret_type not in known]:
        raise UserError(
            f"detect-secrets has no detector of type {missing[0]!r}, so nothing was scanned; install the version of "
            "constraints.txt, or correct LIBRARY_SECRET_TYPES in character/publish/secret_scan.py."
        )
    own = [PatternDetector(*item) for item in OWN_SECRET_PATTERNS.items()]
    return [*(known[secret_type]() for secret_type in LIBRARY_SECRET_TYPES), *own]


def check_no_secrets(folder: Path) -> None:
    """Check all files in `folder` and its subfolders, except safetensors.

    Raises:
        UserError: A file seems to contain a secret; the sentence has file, line and type, but not the secret.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".safetensors":
            for line, kind in find_secrets(path.read_text(encoding="utf-8", errors="replace")):
                raise UserError(
                    f"{path.relative_to(folder)}, line {line}: this looks like a secret ({kind}); remove it from the file's "
                    "source, regenerate the file, and revoke the secret if it is real."
                )


def find_secrets(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number (from 1) and the type of each apparent secret in a text, each pair once.

    Known types come first, by line, then the environment variables, by name.
    """
    yield from dict.fromkeys([*_find_known_types(text), *_find_environment_values(text)])


def _find_known_types(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        for detector in secret_detectors():
            yield from ((number, detector.secret_type) for _ in detector.analyze_string(line))


def _find_environment_values(text: str) -> Iterator[tuple[int, str]]:
    for name, value in environment_secrets(MIN_VALUE_LENGTH).items():
        for form in written_forms(value):
            if form in text:
                yield text.count("\n", 0, text.index(form)) + 1, f"value of the environment variable {name}"
