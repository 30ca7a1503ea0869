"""Publishing a persona: its commit on a branch of its own, a tag that DVC's model registry reads, and its data in the remote.

One commit holds one persona, since paths do not name it. So each is published from a branch `persona/<name>`, and its tags
`adapter-<name>@vX.Y.Z` keep it reachable: `dvc artifacts get <git url> adapter-<name> --rev vX.Y.Z`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from character import personas
from character.errors import UserError
from character.shell import run

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
        return _publish(personas.selected().name, version, remote)


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
