"""Secrets that a file should not carry out of the house: texts of a known form, and the values of this environment's own."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from character.errors import UserError

FORMS = {
    "a Hugging Face token": r"\b(hf_|api_org_)[A-Za-z0-9]{30,}",
    "an Anthropic key": r"\bsk-ant-[\w-]{20,}",
    "an OpenAI key": r"\bsk-(?!ant-)(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[\w-]{20,}",
    "an AWS key": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret key": r"(?i:aws_secret_access_key)\W{1,5}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "a GitHub token": r"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{50})",
    "a Google key": r"\bAIza[\w-]{35}",
    "a Slack token": r"\bxox[abeoprs]-[\w-]{10,}",
    "a private key": r"-----BEGIN ([A-Z]+ )*PRIVATE KEY",
    "an authorization header": r"(?i:\bAuthorization\W{1,5}Bearer) +[\w.~+/-]{20,}",
}
PATTERN = re.compile("|".join(f"(?P<_{number}>{form})" for number, form in enumerate(FORMS.values())))
KEPT = re.compile(r"(_KEY|_TOKEN|_SECRET|PASSWORD)$", re.IGNORECASE)  # names of variables whose values are secrets
SHORTEST = 12  # characters of such a value; shorter ones may stand anywhere by chance


def refuse(folder: Path) -> None:
    """Stop at the first file below `folder`, of all but safetensors, that seems to hold a secret. The secret is not told."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".safetensors":
            text = path.read_text(encoding="utf-8", errors="replace")
            for position, kind in found(text):
                line = text.count("\n", 0, position) + 1
                raise UserError(
                    f"{path.relative_to(folder)}, line {line}: this seems to be {kind}; take it out of what the file was made "
                    "from, make that anew, and revoke the secret if it is a real one."
                )


def found(text: str) -> Iterator[tuple[int, str]]:
    """Yield where in a text something seems to be a secret, and of what kind."""
    kinds = list(FORMS)
    for match in PATTERN.finditer(text):
        yield match.start(), kinds[int(match.lastgroup[1:])]
    for name, value in os.environ.items():
        if KEPT.search(name) and len(value) >= SHORTEST:
            for form in {value, json.dumps(value, ensure_ascii=False)[1:-1]}:  # as it is, and within a JSON string
                if form in text:
                    yield text.index(form), f"the value of the environment variable {name}"
