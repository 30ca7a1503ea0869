"""Compare Python and the installed packages with constraints.txt, the versions that produced the committed dvc.lock."""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name

from character.core.errors import UserError

CONSTRAINTS = Path("constraints.txt")
PYTHON_LINE = re.compile(r"^# Python (\d+\.\d+)$", re.MULTILINE)  # the comment in constraints.txt with the version of Python


REMEDY = (
    f"`make install` installs the versions of {CONSTRAINTS}, but only of packages that the project requires. To change Python "
    "or remove other packages, delete .venv first; `make install PYTHON=python3.11` selects a Python."
)


class VersionMismatch(NamedTuple):
    package: str
    installed: str
    expected: str


def read_constraints(path: Path = CONSTRAINTS) -> list[Requirement]:
    """Return the constraints that apply to this Python and platform.

    Raises:
        UserError: The file is missing, or a line is not a requirement.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: run this in the project's folder, or restore the file with `git checkout {path}`.")
    lines = path.read_text(encoding="utf-8").splitlines()
    parsed = [_requirement(path, number, line) for number, line in enumerate(lines, start=1) if line.split("#")[0].strip()]
    return [requirement for requirement in parsed if _applies(requirement)]


def python_mismatches(path: Path = CONSTRAINTS) -> list[VersionMismatch]:
    """Return this Python, if its minor version is not the one that a comment in the file names, as `# Python 3.11`."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    recorded = PYTHON_LINE.search(path.read_text(encoding="utf-8"))
    return [VersionMismatch("Python", here, recorded[1])] if recorded and recorded[1] != here else []


def version_mismatches(constraints: list[Requirement]) -> list[VersionMismatch]:
    """Return the packages whose installed version breaks a constraint, and required packages that are not installed.

    A local version such as `+cpu` is ignored if the constraint has none. A package that no installed package requires, such
    as a development tool, may be missing.
    """
    versions = [(requirement, _installed_version(requirement.name)) for requirement in constraints]
    missing = {canonicalize_name(requirement.name) for requirement, installed in versions if installed is None}
    needed = missing & _required_names() if missing else set()
    return [
        VersionMismatch(requirement.name, installed or "not installed", str(requirement.specifier).removeprefix("=="))
        for requirement, installed in versions
        if (canonicalize_name(requirement.name) in needed if installed is None else installed not in requirement.specifier)
    ]


def mismatch_table(mismatches: list[VersionMismatch]) -> str:
    """Return a table with one line per mismatch, followed by the remedy."""
    if not mismatches:
        return f"Python and the installed packages have the versions of {CONSTRAINTS}."
    rows = [VersionMismatch("package", "installed", "expected"), *mismatches]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, REMEDY])


def mismatch_warning(mismatches: list[VersionMismatch]) -> str:
    """Return one line that names the first three mismatches."""
    shown = [f"{package} {installed}, not {expected}" for package, installed, expected in mismatches[:3]]
    rest = [f"{len(mismatches) - 3} more"] if len(mismatches) > 3 else []
    return (
        f"warning: this environment is not the one of dvc.lock ({'; '.join(shown + rest)}), so bytes of results may differ. "
        "`character environment` lists all differences, and how to remove them."
    )


def _requirement(path: Path, number: int, line: str) -> Requirement:
    try:
        return Requirement(line.split("#")[0].strip())
    except InvalidRequirement as error:
        raise UserError(
            f"{path}, line {number}: {line.strip()!r} is not a requirement such as name==1.0; correct it."
        ) from error


def _applies(requirement: Requirement) -> bool:
    """Return whether the marker holds here; a requirement of an extra (`extra == "..."`) does not apply."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _required_names() -> set[NormalizedName]:
    """Return the names of all packages that the installed ones require here, extras excluded."""
    lines = [line for distribution in distributions() for line in distribution.requires or ()]
    return {name for line in lines for name in _required_name(line)}


def _required_name(line: str) -> Iterator[NormalizedName]:
    """Yield the name of the package that a line of some package's metadata requires here; nothing if the line is malformed."""
    try:
        requirement = Requirement(line)
        if _applies(requirement):
            yield canonicalize_name(requirement.name)
    except ValueError:  # InvalidRequirement, or a marker that cannot be evaluated
        return
