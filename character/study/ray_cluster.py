"""The study on many machines: each run is a Ray task in its own clone.

Code and experiments are exchanged through git's origin, data through DVC's remote. One task runs the stages that all runs
share first; Ray passes the git-tracked files that they changed to the other tasks, the remote their data. If a machine is
lost, its task is retried on another one. A run is finished once its experiment is at the origin, so a lost machine costs only
the time of its run, and an interrupted study continues.
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
from character.publish.commands import run_command
from character.study.runs import StudyRun, dvc_environment

CLUSTER_DIR = "~/.cache/character-training"  # on each machine
SHARED_STAGES = ("student", "classifier", "judge")  # stages that do not depend on the persona
TASK_RETRIES = 5  # retries of a task whose machine is lost


@dataclass(frozen=True)
class CloneSource:
    """What the machines clone: `commit` of `origin`, with some `files` replaced (texts by path)."""

    origin: str
    commit: str
    author: tuple[str, str]  # name and e-mail of git
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterOptions:
    """`address` of a Ray cluster, or `local` for one on this machine; CPUs and GPUs of a task; the folder of the clones."""

    address: str
    cpus: float = 1
    gpus: float = 0
    folder: str = CLUSTER_DIR


def pushed_source(remote: str) -> CloneSource:
    """Return what the machines clone: the checked-out commit from the git `remote`, with the current params.yaml.

    Raises:
        UserError: the commit was not pushed, or no remote of DVC is committed, so machines could not exchange data.
    """
    origin = run_command("git", "remote", "get-url", remote).strip()
    commit = run_command("git", "rev-parse", "HEAD").strip()
    if not run_command("git", "branch", "--remotes", "--contains", commit, "--list", f"{remote}/*").strip():
        raise UserError(f"the commit {commit[:7]} is not at {remote}; run `git push`, so that other machines can clone it.")
    if "remote" not in run_command("git", "show", "HEAD:.dvc/config"):
        raise UserError("no remote in the committed .dvc/config; run `dvc remote add --default NAME URL`, commit and push it.")
    author = tuple(run_command("git", "config", f"user.{key}").strip() for key in ("name", "email"))
    return CloneSource(origin, commit, author, {str(params.PARAMS_FILE): params.PARAMS_FILE.read_text(encoding="utf-8")})


def fetch_experiments(remote: str) -> None:
    """Fetch the experiments of the checked-out commit from the git `remote`, without their data."""
    head = run_command("git", "rev-parse", "HEAD").strip()
    refs = f"refs/exps/{head[:2]}/{head[2:]}/*"
    run_command("git", "fetch", "--quiet", remote, f"+{refs}:{refs}")


def run_shared_stages(source: CloneSource, folder: str) -> dict[str, str]:
    """Run the stages that all runs share and push their data; return the texts of the git-tracked files that they changed."""
    clone = make_clone(source, folder, "shared")
    settings = {"cwd": clone, "env": dvc_environment()}
    run_command("dvc", "repro", "--pull", *SHARED_STAGES, **settings)
    run_command("dvc", "push", *SHARED_STAGES, **settings)
    changed = run_command("git", "ls-files", "--modified", "--others", "--exclude-standard", **settings).splitlines()
    files = {name: (clone / name).read_text(encoding="utf-8") for name in changed}
    shutil.rmtree(clone)
    return files


def run_and_push(run: StudyRun, source: CloneSource, folder: str) -> str:
    """Execute one run and push its experiment and data; return the host name of the machine."""
    clone = make_clone(source, folder, run.experiment_name)
    settings = {"cwd": clone, "env": dvc_environment()}
    run_command(*run.experiment_command, "--pull", **settings)
    run_command("dvc", "exp", "push", "origin", run.experiment_name, **settings)
    shutil.rmtree(clone)
    return socket.gethostname()


def make_clone(source: CloneSource, folder: str, name: str) -> Path:
    """Return a new clone in `folder`; all clones of a machine share one data cache.

    Each attempt gets a new clone because the processes of an interrupted task may still run in an earlier one.
    """
    root = Path(folder).expanduser()
    (root / "clones").mkdir(parents=True, exist_ok=True)
    clone = Path(mkdtemp(prefix=f"{name}-", dir=root / "clones"))
    run_command("git", "clone", "--quiet", source.origin, str(clone))
    run_command("git", "checkout", "--quiet", source.commit, cwd=clone)
    for key, text in zip(("name", "email"), source.author, strict=True):
        run_command("git", "config", f"user.{key}", text, cwd=clone)
    run_command("dvc", "config", "--local", "cache.dir", str(root / "cache"), cwd=clone, env=dvc_environment())
    for path, text in source.files.items():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text(text, encoding="utf-8")
    return clone


def execute_on_cluster(
    runs: Sequence[StudyRun], source: CloneSource, options: ClusterOptions
) -> Iterator[tuple[StudyRun, str, float]]:
    """Execute all runs; yield each when it finishes, with the host name of its machine and the minutes since the start.

    Raises:
        UserError: a run failed for another reason than a lost machine. Raised after all other runs.
    """
    import ray

    ray.init(None if options.address == "local" else options.address, log_to_driver=False, include_dashboard=False)
    needs = {"num_cpus": options.cpus, "num_gpus": options.gpus, "max_retries": TASK_RETRIES}
    start, failed = monotonic(), []
    try:
        files = task_result(ray.remote(**needs)(run_shared_stages).remote(source, options.folder))
        complete = replace(source, files=source.files | files)
        tasks = {ray.remote(**needs)(run_and_push).remote(run, complete, options.folder): run for run in runs}
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
            f"{len(failed)} of {len(runs)} runs failed, the first is {failed[0]}; fix the cause, then run the study again."
        )


def task_result(task):
    """Wait for a task and return its result.

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
        raise UserError(f"no machine finished it in {TASK_RETRIES + 1} attempts ({str(error).splitlines()[0]})") from None
