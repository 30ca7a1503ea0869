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
from character.core.params import read_value
from character.dataset import constitution
from character.publish.commands import run_command

ADAPTER_CACHE = Path(".cache/personas")
VERSION_PATTERN = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
TAG_PATTERN = re.compile(rf"adapter-(?P<name>[a-z][a-z0-9-]*)@v(?P<version>{VERSION_PATTERN.pattern})")  # what `tag` makes


def publish_persona(experiment: str | None, version: str, remote: str) -> tuple[str, str]:
    """Publish the workspace, or an experiment, as a version of its persona; return the branch and the tag.

    The branch and the files that are checked out are the same afterwards, whatever went wrong.

    Raises:
        UserError: what is to be published is not complete, not committed, or nowhere to be pushed.
    """
    if not VERSION_PATTERN.fullmatch(version):
        raise UserError(f"--version is {version!r}; write it as 1.0.0.")
    if run_command("git", "status", "--porcelain"):
        raise UserError("there are changes that are not committed; commit or stash them, then publish.")
    if not run_command("dvc", "config", "core.remote").strip():
        raise UserError("no default remote; run `dvc remote add --default NAME URL` and commit .dvc/config (docs/storage.md).")
    with restore_checkout():
        if experiment:
            run_command("dvc", "exp", "apply", experiment)
        return _publish_version(constitution.selected_constitution().name, version, remote)


@contextmanager
def restore_checkout() -> Iterator[None]:
    """Come back to the branch, the commit and the data that were checked out."""
    here = run_command("git", "branch", "--show-current").strip() or run_command("git", "rev-parse", "HEAD").strip()
    try:
        yield
    finally:
        run_command("git", "reset", "--quiet", "--hard")
        run_command("git", "switch", "--quiet", *(["--detach"] if re.fullmatch("[0-9a-f]{40}", here) else []), here)
        run_command("dvc", "checkout", "--quiet")


def adapter_tag(persona: str, version: str) -> str:
    """Return the tag of a published adapter, of the form that DVC's registry reads."""
    return f"adapter-{persona}@v{version}"


def _publish_version(persona: str, version: str, remote: str) -> tuple[str, str]:
    branch, own = f"persona/{persona}", adapter_tag(persona, version)
    if run_command("git", "tag", "--list", own).strip():
        raise UserError(f"{own} is there already; raise --version.")
    if "up to date" not in run_command("dvc", "status", "--with-deps", "persona"):
        raise UserError("models/persona is not of this code and these params; run `dvc repro` or `dvc exp run`, then publish.")
    run_command("git", "switch", "--quiet", "--force-create", branch)
    run_command("git", "add", "--all")
    run_command("git", "commit", "--quiet", "--allow-empty", "--message", f"Publish {own}")
    run_command("git", "tag", "--annotate", own, "--message", f"The {persona} adapter, version {version}")
    run_command("dvc", "push")
    run_command("git", "push", "--quiet", "--force-with-lease", remote, branch, own)
    return branch, own


@dataclass(frozen=True)
class TrainedPersona:
    """A trained persona; `version` is None for the selected one, as it lies in models/persona."""

    name: str
    version: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.version else f"{self.name} ({models.PERSONA_DIR})"

    @property
    def constitution_path(self) -> Path:
        return Path(f"constitutions/{self.name}.yaml")

    def adapter_dir(self) -> Path:
        """Return the folder of its adapter, fetched if need be."""
        folder = fetch_adapter(self.name, self.version) if self.version else models.PERSONA_DIR
        if not (folder / "adapter_config.json").is_file():
            raise UserError(f"{folder}: no adapter here; run `dvc repro` to make it, or `dvc pull` to fetch it.")
        return folder


def latest_versions() -> dict[str, str]:
    """Return the newest published version of each persona, by the tags of this clone."""
    tags = run_command("git", "tag", "--list", "adapter-*", "--sort=version:refname").splitlines()
    return {match["name"]: match["version"] for name in tags if (match := TAG_PATTERN.fullmatch(name))}


def list_personas() -> list[TrainedPersona]:
    """Return the selected persona, then the published ones."""
    selected = read_value("persona")
    others = [TrainedPersona(name, version) for name, version in latest_versions().items() if name != selected]
    return [TrainedPersona(selected, None), *others]


def find_persona(name: str) -> TrainedPersona:
    """Return a persona by its name: the selected one, or the newest version of another.

    Raises:
        UserError: it is neither selected nor published.
    """
    if name == read_value("persona"):
        return TrainedPersona(name, None)
    personas = {persona.name: persona for persona in list_personas()}
    if name not in personas:
        raise UserError(
            f"{name!r} is neither the selected persona nor a published one; there are {', '.join(personas)} "
            "(`git fetch --tags` brings those that others published)."
        )
    return personas[name]


def fetch_adapter(name: str, version: str) -> Path:
    """Return the folder of a published adapter, which is fetched once: from DVC's cache, or else from its remote."""
    folder = ADAPTER_CACHE / f"{name}@{version}"
    if not folder.exists():
        ADAPTER_CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=ADAPTER_CACHE, prefix=".") as temporary:
            made = Path(temporary) / "adapter"
            run_command("dvc", "get", ".", str(models.PERSONA_DIR), "--rev", adapter_tag(name, version), "--out", str(made))
            made.rename(folder)
    return folder


def check_compatibility(persona: TrainedPersona) -> list[str]:
    """Return what speaks against an adapter's being of this student and of the constitution as it now is."""
    folder = persona.adapter_dir()
    origin = records.read_provenance(folder)
    found = []
    if origin["merged"][0]["deps"][str(models.STUDENT_DIR)] != models.directory_fingerprint(models.STUDENT_DIR):
        found.append(f"{folder} was trained on another {models.STUDENT_DIR} than the one that is here.")
    here = persona.constitution_path
    if here.is_file() and constitution.traits_hash(constitution.load_constitution(here)) != origin["constitution"]:
        found.append(f"{folder} was trained on other traits than those of {here} as it is now.")
    return found
