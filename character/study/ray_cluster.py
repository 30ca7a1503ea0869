"""The study on many machines: each run a task of Ray, in a clone of its own.

Git's origin carries code and experiments, DVC's remote carries data. Stages that all runs share are done first, in one task;
what they wrote into git's files goes to the others by Ray, their data by the remote. A task whose machine is lost is tried
again on another, and a run is finished only when its experiment is at the origin. So nothing is lost but that run's time, and a
study that was interrupted goes on.
"""

import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from time import monotonic

from character.core import params
from character.core.errors import UserError
from character.publish.commands import run_command as command
from character.study.runs import StudyRun, dvc_environment

CLUSTER_DIR = "~/.cache/character-training"  # on each machine
SHARED_STAGES = ("student", "classifier", "judge")  # stages of a run that no persona shapes
TASK_RETRIES = 5  # of a task whose machine is lost


@dataclass(frozen=True)
class CloneSource:
    """What the machines clone: `commit` of `origin`, with `files` (their texts by path) in the place of its own."""

    origin: str
    commit: str
    author: tuple[str, str]  # name and e-mail of git
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterOptions:
    """`address` of a Ray cluster, or `local` for one on this machine; what a task takes; where the clones lie."""

    address: str
    cpus: float = 1
    gpus: float = 0
    folder: str = CLUSTER_DIR


def pushed_source(remote: str) -> CloneSource:
    """Return what the machines are to clone: the checked-out commit, which is at the git `remote`, and params.yaml as it is.

    Raises:
        UserError: the commit was not pushed, or no default remote of DVC is committed, so no machine could get or give data.
    """
    origin = command("git", "remote", "get-url", remote).strip()
    commit = command("git", "rev-parse", "HEAD").strip()
    if not command("git", "branch", "--remotes", "--contains", commit, "--list", f"{remote}/*").strip():
        raise UserError(f"the commit {commit[:7]} is not at {remote}; run `git push`, so that other machines can clone it.")
    if "remote" not in command("git", "show", "HEAD:.dvc/config"):
        raise UserError("no remote in the committed .dvc/config; run `dvc remote add --default NAME URL`, commit and push it.")
    author = tuple(command("git", "config", f"user.{what}").strip() for what in ("name", "email"))
    return CloneSource(origin, commit, author, {str(params.PARAMS_FILE): params.PARAMS_FILE.read_text(encoding="utf-8")})


def fetch_experiments(remote: str) -> None:
    """Fetch the experiments of the checked-out commit from the git `remote`, without their data."""
    head = command("git", "rev-parse", "HEAD").strip()
    refs = f"refs/exps/{head[:2]}/{head[2:]}/*"
    command("git", "fetch", "--quiet", remote, f"+{refs}:{refs}")


def run_shared_stages(source: CloneSource, folder: str) -> dict[str, str]:
    """Do the stages that all runs share, and push their data; return the texts of git's files that they changed."""
    clone = make_clone(source, folder, "shared")
    how = {"cwd": clone, "env": dvc_environment()}
    command("dvc", "repro", "--pull", *SHARED_STAGES, **how)
    command("dvc", "push", *SHARED_STAGES, **how)
    changed = command("git", "ls-files", "--modified", "--others", "--exclude-standard", **how).splitlines()
    files = {name: (clone / name).read_text(encoding="utf-8") for name in changed}
    shutil.rmtree(clone)
    return files


def run_and_push(run: StudyRun, source: CloneSource, folder: str) -> str:
    """Do one run, push its experiment and data; return the name of the machine that did it."""
    clone = make_clone(source, folder, run.experiment_name)
    how = {"cwd": clone, "env": dvc_environment()}
    command(*run.experiment_command, "--pull", **how)
    command("dvc", "exp", "push", "origin", run.experiment_name, **how)
    shutil.rmtree(clone)
    return socket.gethostname()


def make_clone(source: CloneSource, folder: str, name: str) -> Path:
    """Return a new clone below `folder`, whose data cache it shares with the machine's other clones.

    Each is a folder of its own, since what an interrupted task began may still run in that of an earlier attempt.
    """
    root = Path(folder).expanduser()
    (root / "clones").mkdir(parents=True, exist_ok=True)
    clone = Path(mkdtemp(prefix=f"{name}-", dir=root / "clones"))
    command("git", "clone", "--quiet", source.origin, str(clone))
    command("git", "checkout", "--quiet", source.commit, cwd=clone)
    for what, text in zip(("name", "email"), source.author, strict=True):
        command("git", "config", f"user.{what}", text, cwd=clone)
    command("dvc", "config", "--local", "cache.dir", str(root / "cache"), cwd=clone, env=dvc_environment())
    for path, text in source.files.items():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text(text, encoding="utf-8")
    return clone


def execute_on_cluster(
    runs: Sequence[StudyRun], source: CloneSource, machines: ClusterOptions
) -> Iterator[tuple[StudyRun, str, float]]:
    """Do all runs; yield each as it is finished, with the machine that did it and the minutes since the start.

    Raises:
        UserError: a run failed, not by the loss of a machine; told once the others are done.
    """
    import ray

    ray.init(None if machines.address == "local" else machines.address, log_to_driver=False, include_dashboard=False)
    needs = {"num_cpus": machines.cpus, "num_gpus": machines.gpus, "max_retries": TASK_RETRIES}
    start, failed = monotonic(), []
    try:
        files = task_result(ray.remote(**needs)(run_shared_stages).remote(source, machines.folder))
        complete = replace(source, files=source.files | files)
        tasks = {ray.remote(**needs)(run_and_push).remote(run, complete, machines.folder): run for run in runs}
        while tasks:
            (task,), _ = ray.wait(list(tasks))
            run = tasks.pop(task)
            try:
                yield run, task_result(task), (monotonic() - start) / 60
            except UserError as error:
                failed.append(f"{run.experiment_name}: {error}")
    finally:
        ray.shutdown()
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed, the first is {failed[0]}; mend it, then run the study again."
        )


def task_result(task):
    """Return what a task returned.

    Raises:
        UserError: it failed, or too many of its machines were lost.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(task)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise UserError(f"no machine finished it, {TASK_RETRIES + 1} were tried ({str(error).splitlines()[0]})") from None
