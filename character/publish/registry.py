"""The registry of personas: publishing a version of a persona, and finding the available ones.

`character publish` commits a persona on its own branch, sets a tag that DVC's model registry reads, and pushes its data to the
remote. A commit contains a single persona, since paths do not include its name. Each is therefore published from a branch
`persona/<name>`, and its tags `adapter-<name>@vX.Y.Z` keep it reachable: `dvc artifacts get <git url> adapter-<name> --rev
vX.Y.Z`. The available personas are the selected one, in models/persona, and those with a tag; `git fetch --tags` adds those
that others published.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from character.core import models, records
from character.core.errors import UserError
from character.core.lora import check_adapter_files
from character.core.params import read_value
from character.core.safe_text import print_text
from character.dataset import constitution
from character.publish.commands import changed_stages, run_command

ADAPTER_CACHE = Path(".cache/personas")
VERSION_PATTERN = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
TAG_PATTERN = re.compile(rf"adapter-(?P<name>[a-z][a-z0-9-]*)@v(?P<version>{VERSION_PATTERN.pattern})")  # of `adapter_tag`


def publish_persona(experiment: str | None, version: str, remote: str) -> tuple[str, str]:
    """Publish the workspace or an experiment as a version of its persona.

    Afterwards the same branch and files are checked out as before, even after an error.

    Args:
        experiment: The DVC experiment, or None for the workspace.
        version: The version, as 1.0.0.
        remote: The git remote.

    Returns:
        The branch and the tag.

    Raises:
        UserError: The version is malformed or exists, the workspace is incomplete or not committed, or there is no DVC remote.
    """
    if not VERSION_PATTERN.fullmatch(version):
        raise UserError(f"--version is {version!r}; write it as 1.0.0.")
    if run_command("git", "status", "--porcelain"):
        raise UserError("there are uncommitted changes; commit or stash them, then publish.")
    if not run_command("dvc", "config", "core.remote").strip():
        raise UserError(
            "no default DVC remote; run `dvc remote add --default NAME URL` and commit .dvc/config (docs/storage.md)."
        )
    with restore_checkout():
        if experiment:
            run_command("dvc", "exp", "apply", experiment)
        return _publish_version(constitution.selected_constitution().name, version, remote)


@contextmanager
def restore_checkout() -> Iterator[None]:
    """Return at the end to the branch or commit that was checked out, and to its data."""
    here = run_command("git", "branch", "--show-current").strip() or run_command("git", "rev-parse", "HEAD").strip()
    try:
        yield
    finally:
        _undo("git", "reset", "--quiet", "--hard")
        _undo("git", "switch", "--quiet", *(["--detach"] if re.fullmatch("[0-9a-f]{40}", here) else []), here)
        _undo("dvc", "checkout", "--quiet")


def adapter_tag(persona: str, version: str) -> str:
    """Return the tag of a published adapter, of the form that DVC's registry reads."""
    return f"adapter-{persona}@v{version}"


def _publish_version(persona: str, version: str, remote: str) -> tuple[str, str]:
    branch, tag = f"persona/{persona}", adapter_tag(persona, version)
    use = ", for research only" if constitution.selected_constitution().research_only else ""
    if run_command("git", "tag", "--list", tag).strip():
        raise UserError(f"the tag {tag} exists already; give a higher --version.")
    if changed := changed_stages("persona"):
        raise UserError(
            f"models/persona is not up to date with the code and params.yaml (stage {changed[0]}); run `dvc repro` or "
            "`dvc exp run`, then publish."
        )
    with withdraw_on_failure(branch, tag):
        run_command("git", "switch", "--quiet", "--force-create", branch)
        run_command("git", "add", "--all")
        run_command("git", "commit", "--quiet", "--allow-empty", "--message", f"Publish {tag}")
        run_command("git", "tag", "--annotate", tag, "--message", f"The {persona} adapter, version {version}{use}")
        run_command("dvc", "push")
        run_command("git", "push", "--quiet", "--atomic", "--force-with-lease", remote, branch, tag)
    return branch, tag


@contextmanager
def withdraw_on_failure(branch: str, tag: str) -> Iterator[None]:
    """Remove a new tag, and put a branch back to where it was, if they are not published; print what cannot be undone."""
    former = run_command("git", "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}").strip()
    try:
        yield
    except BaseException:  # also Ctrl-C during the upload
        _undo("git", "update-ref", "-d", f"refs/tags/{tag}")
        _undo("git", "switch", "--quiet", "--detach")
        # Other than `git branch`, this accepts a branch that another worktree has checked out.
        _undo("git", "update-ref", *([f"refs/heads/{branch}", former] if former else ["-d", f"refs/heads/{branch}"]))
        raise


def _undo(*command: str) -> None:
    try:
        run_command(*command)
    except UserError as error:  # the reason why nothing was published must still be shown
        print_text(f"publish: not undone: {error.message}", to_stderr=True)


@dataclass(frozen=True)
class TrainedPersona:
    """A trained persona; `version` is None for the selected one, which is in models/persona."""

    name: str
    version: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.version else f"{self.name} ({models.PERSONA_DIR})"

    @property
    def constitution_path(self) -> Path:
        return Path(f"constitutions/{self.name}.yaml")

    def adapter_dir(self) -> Path:
        """Return the folder of its adapter, after fetching it if necessary.

        Raises:
            UserError: There is no adapter, or its weights are not safetensors.
        """
        folder = fetch_adapter(self.name, self.version) if self.version else models.PERSONA_DIR
        check_adapter_files(folder)
        return folder


def latest_versions() -> dict[str, str]:
    """Return the newest published version of each persona, according to the tags of this clone."""
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
        UserError: It is neither selected nor published.
    """
    if name == read_value("persona"):
        return TrainedPersona(name, None)
    personas = {persona.name: persona for persona in list_personas()}
    if name not in personas:
        raise UserError(
            f"{name!r} is neither the selected persona nor a published one; there are {', '.join(personas)} "
            "(`git fetch --tags` adds those that others published)."
        )
    return personas[name]


def fetch_adapter(name: str, version: str) -> Path:
    """Return the folder of a published adapter; the first call fetches it from DVC's cache or its remote."""
    folder = ADAPTER_CACHE / f"{name}@{version}"
    if not folder.exists():
        ADAPTER_CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=ADAPTER_CACHE, prefix=".") as temporary:
            made = Path(temporary) / "adapter"
            run_command("dvc", "get", ".", str(models.PERSONA_DIR), "--rev", adapter_tag(name, version), "--out", str(made))
            made.rename(folder)
    return folder


def persona_notices(persona: TrainedPersona) -> list[str]:
    """Return that a persona is for research only, if it is, and the sentences of `check_compatibility`."""
    notice = f"{persona} is a character for research, and harmful elsewhere; do not deploy it."
    return [*([notice] if is_research_only(persona) else []), *check_compatibility(persona)]


def is_research_only(persona: TrainedPersona) -> bool:
    """Return whether a persona's constitution says so: the present one or, for a published persona, the published one."""
    path = persona.constitution_path
    if path.is_file() and constitution.load_constitution(path).research_only:
        return True
    if persona.version is None:
        return False
    published = f"{adapter_tag(persona.name, persona.version)}:{path.as_posix()}"
    return yaml.safe_load(run_command("git", "show", published)).get("research_only", False)


def check_compatibility(persona: TrainedPersona) -> list[str]:
    """Return a sentence for each mismatch between an adapter and the present student and constitution."""
    folder = persona.adapter_dir()
    origin = records.read_provenance(folder)
    mismatches = []
    if origin["merged"][0]["deps"][str(models.STUDENT_DIR)] != models.directory_fingerprint(models.STUDENT_DIR):
        mismatches.append(f"{folder} was trained on another {models.STUDENT_DIR} than the present one.")
    path = persona.constitution_path
    if path.is_file() and constitution.traits_hash(constitution.load_constitution(path)) != origin["constitution"]:
        mismatches.append(f"{folder} was trained on other traits than those of {path} as it is now.")
    return mismatches
