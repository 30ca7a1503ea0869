"""Which personas are found: those of the tags, the newest version of each, fetched once, and the one in models/persona."""

import json
from pathlib import Path

import pytest
from personas import git, tag, write_constitution

from character.core import models
from character.core.errors import UserError
from character.core.params import read_value
from character.publish import registry
from character.publish.registry import (
    ADAPTER_CACHE,
    TrainedPersona,
    fetch_adapter,
    find_persona,
    latest_versions,
    list_personas,
    run_command,
)


def write_adapter(content: str, folder: Path = models.PERSONA_DIR) -> None:
    """Write a placeholder for an adapter; nothing loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "made": content}), encoding="utf-8")
    (folder / "adapter_model.safetensors").touch()


@pytest.fixture
def tagged(repository):
    """A repository with the selected persona `pirate` and tags of others, odd ones among them."""
    tag("v1.0.0", "adapter-loving@v1.9.0", "adapter-loving@v1.10.0", "adapter-loving@v1.2.0", "adapter-humor@v0.1.0")
    tag("adapter-humor@v1.0", "adapter-Bad/Name@v1.0.0", "adapter-pirate@v2.0.0")


def test_the_newest_version_of_each_published_persona_is_found_by_its_tag(tagged):
    assert latest_versions() == {"humor": "0.1.0", "loving": "1.10.0", "pirate": "2.0.0"}


def test_the_selected_persona_comes_first_and_as_it_lies_here(tagged):
    assert list_personas() == [
        TrainedPersona("pirate", None),
        TrainedPersona("humor", "0.1.0"),
        TrainedPersona("loving", "1.10.0"),
    ]
    assert find_persona("pirate") == TrainedPersona("pirate", None)
    assert find_persona("loving") == TrainedPersona("loving", "1.10.0")


def test_the_selected_persona_needs_no_git(repository):
    write_adapter("here")
    assert find_persona("pirate").adapter_dir() == models.PERSONA_DIR


@pytest.mark.parametrize("name", ["sarcasm", "../loving", "Bad/Name", ""])
def test_a_persona_that_is_not_here_is_reported_with_those_that_are(name, tagged):
    with pytest.raises(
        UserError, match=r"neither the selected persona nor a published one; there are pirate, humor, loving \("
    ):
        find_persona(name)


def test_a_persona_without_an_adapter_is_reported_with_the_command_that_makes_it(repository):
    with pytest.raises(UserError, match=r"models/persona: no adapter here; run `dvc repro` to make it, or `dvc pull`"):
        find_persona("pirate").adapter_dir()


@pytest.fixture
def two_versions(repository, monkeypatch):
    """A repository with two published versions of `loving`, made by real DVC, while `pirate` is selected."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    git("init", "--quiet")
    run_command("dvc", "init", "--quiet")
    for version in ("1.0.0", "1.1.0"):
        write_adapter(version)
        run_command("dvc", "add", "--quiet", str(models.PERSONA_DIR))
        git("add", "--all")
        tag(f"adapter-loving@v{version}")
    write_adapter("pirate")


def test_a_published_adapter_is_fetched_once(two_versions, monkeypatch):
    folder = find_persona("loving").adapter_dir()
    assert folder == Path(".cache/personas/loving@1.1.0")
    assert json.loads((folder / "adapter_config.json").read_text())["made"] == "1.1.0"
    assert [path.name for path in ADAPTER_CACHE.iterdir()] == ["loving@1.1.0"], "nothing else is left behind"
    assert "1.0.0" in (fetch_adapter("loving", "1.0.0") / "adapter_config.json").read_text()
    assert "pirate" in (models.PERSONA_DIR / "adapter_config.json").read_text(), "what is checked out stays"
    monkeypatch.setattr(registry, "run_command", None)
    assert fetch_adapter("loving", "1.1.0") == folder


def test_what_cannot_be_fetched_is_reported_and_leaves_nothing(two_versions):
    git("tag", "adapter-humor@v1.0.0", "HEAD~1^{tree}")
    with pytest.raises(UserError, match=r"^`dvc get \. models/persona --rev adapter-humor@v1\.0\.0 .*` failed: "):
        find_persona("humor").adapter_dir()
    assert list(ADAPTER_CACHE.iterdir()) == []


@pytest.fixture
def origin(repository, tmp_path_factory, monkeypatch) -> Path:
    """Be in a finished project whose persona can be published; returns its git origin, which refuses nothing."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    remotes = tmp_path_factory.mktemp("remotes")
    bare = remotes / "origin.git"
    git("init", "--quiet", "--initial-branch=main")
    for key, text in (("name", "Test"), ("email", "test@example.org")):
        git("config", f"user.{key}", text)
    git("init", "--quiet", "--bare", str(bare))
    git("remote", "add", "origin", str(bare))
    write_constitution("pirate")
    stage = {"cmd": "mkdir -p models/persona && cp params.yaml models/persona", "outs": ["models/persona"]}
    Path("dvc.yaml").write_text(json.dumps({"stages": {"persona": stage}}), encoding="utf-8")
    run_command("dvc", "init", "--quiet")
    run_command("dvc", "remote", "add", "--quiet", "--default", "store", str(remotes / "store"))
    run_command("dvc", "repro", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Run it")
    return bare


def references() -> str:
    return run_command("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags")


def refuse(origin: Path) -> str:
    hook = origin / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho 'error: no personas on Tuesdays' >&2\necho 'ask the captain' >&2\nexit 1\n")
    hook.chmod(0o755)
    return r"failed: error: no personas on Tuesdays; ! \[remote rejected\].*; error: failed to push.*; ask the captain$"


def break_store(origin: Path) -> str:
    origin.with_name("store").write_text("a file")
    return r"^`dvc push` failed: .*ERROR: .*(Not a directory|File exists)"


@pytest.mark.parametrize("obstacle", [refuse, break_store])
def test_a_version_that_could_not_be_pushed_leaves_neither_tag_nor_branch(origin, obstacle):
    before, message = references(), obstacle(origin)
    with pytest.raises(UserError, match=message):
        registry.publish_persona(None, "1.0.0", "origin")
    assert references() == before and run_command("git", "ls-remote", "origin") == ""
    assert run_command("git", "branch", "--show-current") == "main\n" and run_command("git", "status", "--porcelain") == ""


def test_a_version_that_could_not_be_pushed_leaves_the_earlier_one_and_can_be_tried_again(origin):
    registry.publish_persona(None, "1.0.0", "origin")
    before = references()
    assert "adapter-pirate@v1.0.0" in before and before.count("\n") == 3
    refuse(origin)
    with pytest.raises(UserError, match="no personas on Tuesdays"):
        registry.publish_persona(None, "1.1.0", "origin")
    assert references() == before
    (origin / "hooks/pre-receive").unlink()
    assert registry.publish_persona(None, "1.1.0", "origin") == ("persona/pirate", "adapter-pirate@v1.1.0")
    assert "adapter-pirate@v1.1.0" in run_command("git", "ls-remote", "--tags", "origin")


def test_a_persona_is_published_only_as_it_was_trained(origin):
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text().replace("mkdir -p", "mkdir  -p"))
    git("commit", "--quiet", "--all", "--message", "Edit it")
    with pytest.raises(UserError, match=r"models/persona is not up to date .* \(stage persona\); run `dvc repro`"):
        registry.publish_persona(None, "1.0.0", "origin")


FAILURES = {
    "a push that would lose commits": (
        "To example.org\n ! [rejected]  main -> main (fetch first)\nerror: failed to push some refs to 'x'\n"
        "hint: Updates were rejected because the remote has work\nhint: that you do not have.\n",
        "! [rejected]  main -> main (fetch first); error: failed to push some refs to 'x'",
    ),
    "files in the way": (
        "error: Your changes to these files would be overwritten by checkout:\n\ta.py\n\tb.py\nPlease commit.\nAborting\n",
        "error: Your changes to these files would be overwritten by checkout:; a.py; b.py",
    ),
    "a remote of DVC that is locked": (
        "0% Pushing|\nERROR: failed to transfer 'ab' - [Errno 13] Permission denied\n"
        "ERROR: failed to push data to the cloud - 1 files failed to upload\n\nHaving any troubles? Ask us.\n",
        "ERROR: failed to transfer 'ab' - [Errno 13] Permission denied; "
        "ERROR: failed to push data to the cloud - 1 files failed to upload",
    ),
    "a stage": (
        "Traceback (most recent call last):\n  File 'x', line 1\ntorch.OutOfMemoryError: CUDA out of memory.\n"
        "ERROR: failed to reproduce 'student'\n",
        "torch.OutOfMemoryError: CUDA out of memory.; ERROR: failed to reproduce 'student'",
    ),
    "a push with secrets": (
        "".join(f"remote: {line}\n" for line in ("Hello!", "  ——— ", "", "- GITHUB PUSH PROTECTION", "error: GH013: rules"))
        + "To example.org\n ! [remote rejected] main -> main (push declined)\n",
        "error: GH013: rules; ! [remote rejected] main -> main (push declined); Hello!; - GITHUB PUSH PROTECTION",
    ),
    "many files": (
        "".join(f"ERROR: file {number}\n" for number in range(9)),
        "ERROR: file 0; ERROR: file 1; ERROR: file 2; ERROR: file 3; ERROR: file 4; and 4 more lines",
    ),
    "no line of these": ("one\n\ntwo\n", "one; two"),
    "no line": ("", "exit code 3"),
    "a secret": (
        "fatal: unable to access https://me:tok3n@example.org/a.git",
        "fatal: unable to access https://***@example.org/a.git",
    ),
}


@pytest.mark.parametrize(("printed", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_failed_command_is_reported_with_its_reasons_and_without_its_hints_and_secrets(printed, reason, tmp_path):
    (tmp_path / "printed").write_text(printed, encoding="utf-8")
    with pytest.raises(UserError) as error:
        run_command("sh", "-c", "cat printed >&2; exit 3", cwd=tmp_path)
    assert error.value.message == f"`sh -c cat printed >&2; exit 3` failed: {reason}"


def test_a_failed_command_may_print_its_reason_anywhere_and_in_any_encoding(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    script = "printf 'wait\\n' >&2; printf 'fatal: caf\\351 '; echo $LC_ALL $LANGUAGE; exit 1"
    with pytest.raises(UserError, match=r"failed: fatal: caf\ufffd C\.UTF-8 C$"):
        run_command("sh", "-c", script)


def test_a_branch_of_another_worktree_leaves_no_tag_and_the_reason(origin, tmp_path_factory):
    registry.publish_persona(None, "1.0.0", "origin")
    git("worktree", "add", "--quiet", str(tmp_path_factory.mktemp("other") / "tree"), "persona/pirate")
    before, message = references(), refuse(origin)
    with pytest.raises(UserError, match=rf"{message}|fatal: .*worktree"):  # newer versions of git refuse to switch
        registry.publish_persona(None, "1.1.0", "origin")
    assert references() == before and run_command("git", "branch", "--show-current") == "main\n"


def test_what_cannot_be_undone_is_printed_and_does_not_hide_the_reason(origin, capsys):
    def push(*command, **options):
        if command[1] == "push":
            Path(".git/refs/tags/adapter-pirate@v1.0.0.lock").touch()
        return run_command(*command, **options)

    message = refuse(origin)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(UserError, match=message):
        patched.setattr(registry, "run_command", push)
        registry.publish_persona(None, "1.0.0", "origin")
    assert "publish: not undone: `git update-ref -d refs/tags/adapter-pirate@v1.0.0` failed: " in capsys.readouterr().err
    assert "refs/heads/persona" not in references()


def test_a_published_persona_is_for_research_only_if_its_own_constitution_or_the_present_one_says_so(repository):
    write_constitution("humor", research_only=True)
    write_constitution("loving")
    tag("adapter-humor@v1.0.0", "adapter-loving@v1.0.0")
    humor, loving = find_persona("humor"), find_persona("loving")
    assert registry.is_research_only(humor) and not registry.is_research_only(loving)
    write_constitution("humor")
    write_constitution("loving", research_only=True)
    assert registry.is_research_only(humor) and registry.is_research_only(loving)
    loving.constitution_path.unlink()
    assert not registry.is_research_only(loving), "the one that was published says so"


@pytest.mark.usefixtures("student")
def test_an_adapter_of_another_student_or_other_traits_is_doubted():
    traits, persona = write_constitution(read_value("persona")), TrainedPersona(read_value("persona"), None)
    write_adapter("here")

    def doubts_of(**origin) -> list[str]:
        (models.PERSONA_DIR / models.PROVENANCE_FILE).write_text(json.dumps(origin), encoding="utf-8")
        return registry.check_compatibility(persona)

    here = [{"deps": {"models/student": models.directory_fingerprint(models.STUDENT_DIR)}}]
    there = [{"deps": {"models/student": "another"}}]
    assert doubts_of(constitution=traits, merged=here) == []
    assert doubts_of(constitution=traits, merged=there) == [
        "models/persona was trained on another models/student than the present one."
    ]
    assert doubts_of(constitution="others", merged=here) == [
        "models/persona was trained on other traits than those of constitutions/pirate.yaml as it is now."
    ]
    persona.constitution_path.unlink()
    assert doubts_of(constitution="others", merged=here) == [], "there is nothing to compare with"
