"""Publishing a persona: its commit on a branch of its own, a tag that DVC's model registry reads, and its data in the remote.

One commit holds one persona, since paths do not name it. So each is published from a branch `persona/<name>`, and its tags
`adapter-<name>@vX.Y.Z` keep it reachable: `dvc artifacts get <git url> adapter-<name> --rev vX.Y.Z`.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from character import personas
from character.errors import UserError

VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


def run(*command: str, **how) -> str:
    """Run git or dvc, `how` subprocess.run takes it; return what it printed.

    Raises:
        UserError: it failed; tells its last complaint.
    """
    try:
        done = subprocess.run(command, text=True, capture_output=True, **how)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here; install it, or activate the environment that has it.") from None
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise UserError(f"`{' '.join(command)}` failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


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


def _publish(persona: str, version: str, remote: str) -> tuple[str, str]:
    branch, tag = f"persona/{persona}", f"adapter-{persona}@v{version}"
    if run("git", "tag", "--list", tag).strip():
        raise UserError(f"{tag} is there already; raise --version.")
    if "up to date" not in run("dvc", "status", "--with-deps", "persona"):
        raise UserError("models/persona is not of this code and these params; run `dvc repro` or `dvc exp run`, then publish.")
    run("git", "switch", "--quiet", "--force-create", branch)
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--allow-empty", "--message", f"Publish {tag}")
    run("git", "tag", "--annotate", tag, "--message", f"The {persona} adapter, version {version}")
    run("dvc", "push")
    run("git", "push", "--quiet", "--force-with-lease", remote, branch, tag)
    return branch, tag
