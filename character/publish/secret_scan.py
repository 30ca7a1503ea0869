"""Secrets that must not be published with a file: known forms of tokens and keys, and values of this environment's own.

The forms are those of detect-secrets, and some that it lacks. Its detectors only match texts here, line by line. Its scanner is
not used: that one leaves out lines with an allowlist comment, and can try what it finds over the network.
"""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector

from character.core.errors import UserError

# Of the library's detectors, those of forms that hardly occur by chance. Left out are entropy, keywords and IP addresses, which
# match hashes, identifiers of prompts and documentation, and OpenAI tokens, where it misses most keys of projects.
LIBRARY_FORMS = (
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
OWN_FORMS = {
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
SECRET_NAME = re.compile(r"(_KEY|_TOKEN|_SECRET|PASSWORD)$", re.IGNORECASE)  # of variables whose values are secrets
SHORTEST = 12  # characters of such a value; shorter ones may stand anywhere by chance


class FormDetector(RegexBasedDetector):
    """Finds one form of secret that the library does not know."""

    secret_type, denylist = "", ()

    def __init__(self, secret_type: str, pattern: str):
        self.secret_type, self.denylist = secret_type, (re.compile(pattern),)


@cache
def secret_detectors() -> list[RegexBasedDetector]:
    """Return the detectors of all known forms."""
    known = get_mapping_from_secret_type_to_class()
    return [*(known[form]() for form in LIBRARY_FORMS), *(FormDetector(*form) for form in OWN_FORMS.items())]


def check_no_secrets(folder: Path) -> None:
    """Check every file below `folder` except safetensors.

    Raises:
        UserError: a file seems to hold a secret; the sentence names file, line and kind, but not the secret.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".safetensors":
            for line, kind in find_secrets(path.read_text(encoding="utf-8", errors="replace")):
                raise UserError(
                    f"{path.relative_to(folder)}, line {line}: this looks like a secret ({kind}); remove it from the file's "
                    "source, make the file again, and revoke the secret if it is a real one."
                )


def find_secrets(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line, counted from 1, and the kind of everything in a text that looks like a secret."""
    for number, line in enumerate(text.split("\n"), start=1):
        for detector in secret_detectors():
            yield from ((number, detector.secret_type) for _ in detector.analyze_string(line))
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= SHORTEST:
            for form in {value, json.dumps(value, ensure_ascii=False)[1:-1]}:  # as it is, and within a JSON string
                if form in text:
                    yield text.count("\n", 0, text.index(form)) + 1, f"value of the environment variable {name}"
