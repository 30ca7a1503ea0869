"""Remotes and the registry: a trained persona is pushed, pulled and published, over a directory and over S3."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import NONE, Project, ran


@pytest.fixture(params=["directory", "s3"])
def shared(request, finished, tmp_path) -> Iterator[Project]:
    """The finished project with a git origin, and an empty DVC remote."""
    finished.git("clone", "--quiet", "--bare", finished.root, tmp_path / "origin.git")
    finished.git("remote", "add", "origin", f"file://{tmp_path}/origin.git")
    if request.param == "s3":
        finished.dvc("remote", "add", "--default", "store", f"s3://store/{tmp_path.name}")
        finished.dvc("remote", "modify", "store", "endpointurl", request.getfixturevalue("bucket"))
    else:
        finished.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    finished.commit("Name a remote")
    finished.git("push", "--quiet", "origin", "main")
    yield finished
    finished.reset()
    finished.git("remote", "remove", "origin")
    for kind in ("tag", "branch"):
        if made := finished.git(kind, "--list", "adapter-*", "persona/*").split():
            finished.git(kind, "--delete", *(["--force"] if kind == "branch" else []), *made)
    finished.git("reset", "--quiet", "--hard", "HEAD~1")


def colleague(shared: Project, folder: Path) -> Project:
    """Return a new clone of the origin, with nothing in its cache."""
    shared.git("clone", "--quiet", shared.git("remote", "get-url", "origin").strip(), folder)
    clone = Project(folder, shared.python)
    clone.git("config", "user.name", "Colleague")
    clone.git("config", "user.email", "colleague@example.org")
    return clone


def test_what_was_pushed_is_pulled_and_runs_nothing(shared, tmp_path):
    shared.dvc("push", "--run-cache", "persona", "--with-deps")
    clone = colleague(shared, tmp_path / "theirs")
    assert ran(clone.dvc("repro", "--pull", "persona")) == NONE
    assert (clone.root / "models/persona/adapter_model.safetensors").is_file()
    assert clone.git("status", "--short") == ""


def test_an_experiment_is_pushed_listed_and_pulled(shared, tmp_path):
    shared.dvc("exp", "run", "--set-param", "merge.introspection_weight=0.5", "--name", "heavier", "persona")
    shared.dvc("exp", "push", "origin", "heavier")
    shared.git("reset", "--quiet", "--hard")
    clone = colleague(shared, tmp_path / "theirs")
    assert "heavier" in clone.dvc("exp", "list", "origin")
    clone.dvc("exp", "pull", "origin", "heavier")
    clone.dvc("exp", "apply", "heavier")
    assert clone.params()["merge"]["introspection_weight"] == 0.5
    assert ran(clone.dvc("repro", "persona")) == NONE


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def publish(project: Project, *arguments: str, fails: bool = False) -> str:
    return project.run("character", "publish", *arguments, fails=fails)


def test_a_published_persona_is_fetched_without_the_pipeline(shared, tmp_path):
    shared.dvc("exp", "run", "--set-param", "merge.introspection_weight=0.5", "--name", "heavier", "persona")
    shared.git("reset", "--quiet", "--hard")
    shared.dvc("checkout", "persona", "--with-deps")
    before = shared.git("rev-parse", "HEAD")
    said = publish(shared, "heavier", "--version", "1.0.0")
    assert "published adapter-poeticism@v1.0.0 on persona/poeticism" in said
    assert (shared.git("rev-parse", "HEAD"), shared.git("status", "--short")) == (before, "")
    assert shared.git("branch", "--show-current").strip() == "main"
    origin = shared.git("remote", "get-url", "origin").strip()
    empty = Project(tmp_path / "empty", shared.python)
    empty.root.mkdir()
    by_name, by_path = empty.root / "by name", empty.root / "by path"
    empty.dvc("artifacts", "get", origin, "adapter-poeticism", "--rev", "v1.0.0", "--out", str(by_name))
    empty.dvc("get", origin, "models/persona", "--rev", "adapter-poeticism@v1.0.0", "--out", str(by_path))
    files = contents(by_name)
    assert files == contents(by_path) and "adapter_model.safetensors" in files
    clone = colleague(shared, tmp_path / "theirs")
    fetching = "from character.publish import registry; print(registry.fetch_adapter('poeticism', '1.0.0'))"
    fetched = clone.root / clone.run("python", "-c", fetching).strip()
    assert contents(fetched) == files, "for chat and serve, from the remote"
    again = publish(shared, "heavier", "--version", "1.0.0", fails=True)
    assert "adapter-poeticism@v1.0.0 exists already; give a higher --version" in again
    assert (shared.git("rev-parse", "HEAD"), shared.git("status", "--short")) == (before, "")


MISTAKES = {
    "changes": "there are uncommitted changes",
    "no remote": "no default DVC remote; run `dvc remote add --default NAME URL`",
    "version": "--version is '1.0'; write it as 1.0.0",
    "experiment": "`dvc exp apply nosuch` failed",
}


@pytest.mark.parametrize("shared", ["directory"], indirect=True)
def test_what_cannot_be_published_is_reported_and_nothing_is_pushed(shared):
    (shared.root / "notes.txt").write_text("Not committed.")
    assert MISTAKES["changes"] in publish(shared, "--version", "1.0.0", fails=True)
    (shared.root / "notes.txt").unlink()
    assert MISTAKES["version"] in publish(shared, "--version", "1.0", fails=True)
    assert MISTAKES["experiment"] in publish(shared, "nosuch", "--version", "1.0.0", fails=True)
    shared.dvc("config", "--unset", "core.remote")
    shared.commit("Name no remote")
    assert MISTAKES["no remote"] in publish(shared, "--version", "1.0.0", fails=True)
    assert shared.git("ls-remote", "--tags", "origin") == ""
    assert shared.git("branch", "--list", "persona/*") == ""
