"""The registry of personas: publishing one as a version, and finding those that are here.

`character publish` commits a persona on a branch of its own, sets a tag that DVC's model registry reads, and pushes its data to
the remote. One commit holds one persona, since paths do not name it. So each is published from a branch `persona/<name>`, and
its tags `adapter-<name>@vX.Y.Z` keep it reachable: `dvc artifacts get <git url> adapter-<name> --rev vX.Y.Z`. The personas that
are here are the selected one, in models/persona, and those with a tag; `git fetch --tags` brings those of others.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from character.core import models, records
from character.core.errors import UserError
from character.core.params import value
from character.dataset import constitution
from character.publish.commands import run

FETCHED = Path(".cache/personas")
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
TAG = re.compile(rf"adapter-(?P<name>[a-z][a-z0-9-]*)@v(?P<version>{VERSION.pattern})")  # what `tag` makes


def publish(experiment: str | None, version: str, remote: str) -> tuple[str, str]:
    """Publish the workspace, or an experiment, as a version of its persona; return the branch and the tag.

    The branch and the files that are checked out are the same afterwards, whatever went wrong.

    Raises:
        UserError: what is to be published is not complete, not committed, or nowhere to be pushed.
    """
    if not VERSION.fullmatch(version):
        raise UserError(f"--version is {version!r}; write it as 1.0.0.")
    if run("git", "status", "--porcelain"):
        raise UserError("there are changes that are not committed; commit or stash them, then publish.")
    if not run("dvc", "config", "core.remote").strip():
        raise UserError("no default remote; run `dvc remote add --default NAME URL` and commit .dvc/config (docs/storage.md).")
    with going_back():
        if experiment:
            run("dvc", "exp", "apply", experiment)
        return _publish(constitution.selected_constitution().name, version, remote)


@contextmanager
def going_back() -> Iterator[None]:
    """Come back to the branch, the commit and the data that were checked out."""
    here = run("git", "branch", "--show-current").strip() or run("git", "rev-parse", "HEAD").strip()
    try:
        yield
    finally:
        run("git", "reset", "--quiet", "--hard")
        run("git", "switch", "--quiet", *(["--detach"] if re.fullmatch("[0-9a-f]{40}", here) else []), here)
        run("dvc", "checkout", "--quiet")


def tag(persona: str, version: str) -> str:
    """Return the tag of a published adapter, of the form that DVC's registry reads."""
    return f"adapter-{persona}@v{version}"


def _publish(persona: str, version: str, remote: str) -> tuple[str, str]:
    branch, own = f"persona/{persona}", tag(persona, version)
    if run("git", "tag", "--list", own).strip():
        raise UserError(f"{own} is there already; raise --version.")
    if "up to date" not in run("dvc", "status", "--with-deps", "persona"):
        raise UserError("models/persona is not of this code and these params; run `dvc repro` or `dvc exp run`, then publish.")
    run("git", "switch", "--quiet", "--force-create", branch)
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--allow-empty", "--message", f"Publish {own}")
    run("git", "tag", "--annotate", own, "--message", f"The {persona} adapter, version {version}")
    run("dvc", "push")
    run("git", "push", "--quiet", "--force-with-lease", remote, branch, own)
    return branch, own


@dataclass(frozen=True)
class Persona:
    """A trained persona; `version` is None for the selected one, as it lies in models/persona."""

    name: str
    version: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.version else f"{self.name} ({models.PERSONA})"

    @property
    def constitution(self) -> Path:
        return Path(f"constitutions/{self.name}.yaml")

    def folder(self) -> Path:
        """Return the folder of its adapter, fetched if need be."""
        folder = fetch(self.name, self.version) if self.version else models.PERSONA
        if not (folder / "adapter_config.json").is_file():
            raise UserError(f"{folder}: no adapter here; run `dvc repro` to make it, or `dvc pull` to fetch it.")
        return folder


def available() -> dict[str, str]:
    """Return the newest published version of each persona, by the tags of this clone."""
    tags = run("git", "tag", "--list", "adapter-*", "--sort=version:refname").splitlines()
    return {match["name"]: match["version"] for name in tags if (match := TAG.fullmatch(name))}


def known() -> list[Persona]:
    """Return the selected persona, then the published ones."""
    selected = value("persona")
    others = [Persona(name, version) for name, version in available().items() if name != selected]
    return [Persona(selected, None), *others]


def find(name: str) -> Persona:
    """Return a persona by its name: the selected one, or the newest version of another.

    Raises:
        UserError: it is neither selected nor published.
    """
    if name == value("persona"):
        return Persona(name, None)
    personas = {persona.name: persona for persona in known()}
    if name not in personas:
        raise UserError(
            f"{name!r} is neither the selected persona nor a published one; there are {', '.join(personas)} "
            "(`git fetch --tags` brings those that others published)."
        )
    return personas[name]


def fetch(name: str, version: str) -> Path:
    """Return the folder of a published adapter, which is fetched once: from DVC's cache, or else from its remote."""
    folder = FETCHED / f"{name}@{version}"
    if not folder.exists():
        FETCHED.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FETCHED, prefix=".") as temporary:
            made = Path(temporary) / "adapter"
            run("dvc", "get", ".", str(models.PERSONA), "--rev", tag(name, version), "--out", str(made))
            made.rename(folder)
    return folder


def doubts(persona: Persona) -> list[str]:
    """Return what speaks against an adapter's being of this student and of the constitution as it now is."""
    folder = persona.folder()
    origin = records.read_provenance(folder)
    found = []
    if origin["merged"][0]["deps"][str(models.STUDENT)] != models.fingerprint(models.STUDENT):
        found.append(f"{folder} was trained on another {models.STUDENT} than the one that is here.")
    here = persona.constitution
    if here.is_file() and constitution.traits_hash(constitution.load(here)) != origin["constitution"]:
        found.append(f"{folder} was trained on other traits than those of {here} as it is now.")
    return found
