"""The study: every persona trained and evaluated with the same params, each run a DVC experiment.

DVC executes a run in a copy of the project, so the workspace does not change. A run is finished once it is an experiment of the
checked-out commit, named after its persona, its seed and the other params. An interrupted study continues with the missing
runs; an interrupted run restores finished stages from DVC's run cache and finished replies from the reply cache.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from character.core import params
from character.core.errors import UserError
from character.publish.commands import run_command
from character.study import recipes

# Files of git that may have changes: params.yaml, which is in the name of a run, and what runs and the docs write.
FREE_FILES = ("params.yaml", "dvc.lock", "metrics", "plots", "reports", "docs", "README.md")
PER_RUN_ENTRIES = ("persona", "seed", "runtime")  # entries of params.yaml that may differ between the runs of a study
STUDY_STAGES = ("robustness", "preferences", "coherence", "capabilities")  # run with all that they depend on


@dataclass(frozen=True, order=True)
class StudyRun:
    """One persona with one seed; `digest` is a hash of all other params."""

    persona: str
    seed: int
    digest: str

    @property
    def experiment_name(self) -> str:
        """Return the name of the run's experiment."""
        return f"{self.persona}-{self.seed}-{self.digest}"

    @property
    def experiment_command(self) -> list[str]:
        """Return the command that executes the run as an experiment."""
        changes = ["--set-param", f"persona={self.persona}", "--set-param", f"seed={self.seed}"]
        return ["dvc", "exp", "run", "--name", self.experiment_name, *changes, *STUDY_STAGES]


def plan_runs(personas: Sequence[str], seeds: Sequence[int] = ()) -> list[StudyRun]:
    """Return the runs of a study.

    Args:
        personas: run with the seed of params.yaml; all that the classifier knows if empty.
        seeds: further seeds for the persona of params.yaml.

    Raises:
        UserError: the classifier does not know a persona, so it could not recognise it.
    """
    known, selected, seed = params.read_value("classifier.personas"), params.read_value("persona"), params.read_value("seed")
    if unknown := [persona for persona in personas if persona not in known]:
        raise UserError(f"{unknown[0]!r} is not in classifier.personas of params.yaml ({', '.join(known)}); correct it.")
    shared = shared_params_digest()
    more = [StudyRun(selected, other, shared) for other in dict.fromkeys(seeds) if other != seed]
    return [*(StudyRun(persona, seed, shared) for persona in dict.fromkeys(personas or known)), *more]


def parse_seeds(text: str) -> list[int]:
    """Return the seeds in a comma-separated text such as `1,2`."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--seeds is {text!r}; write it as 1,2.") from None


def shared_params_digest() -> str:
    """Return a hash, 8 hex digits, of the params that all runs of a study share."""
    entries = recipes.safe_yaml().load(params.PARAMS_FILE)
    shared = {name: entry for name, entry in entries.items() if name not in PER_RUN_ENTRIES}
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:8]


def check_committed() -> None:
    """Check that all that shapes a run is committed, since a finished run is found by its commit and its params.

    Raises:
        UserError: a file has uncommitted changes.
    """
    others = [f":(exclude,top){name}" for name in FREE_FILES]
    if changed := run_command("git", "status", "--porcelain", "--", ":(top)", *others).splitlines():
        raise UserError(
            f"{changed[0][3:]} has uncommitted changes, which the name of a run does not tell; commit or stash them, then run "
            "the study."
        )


def finished_experiments() -> dict[str, str]:
    """Return the commit of each experiment of the checked-out commit, by its name."""
    head = run_command("git", "rev-parse", "HEAD").strip()
    listed = run_command("git", "for-each-ref", "--format=%(refname) %(objectname)", f"refs/exps/{head[:2]}/{head[2:]}/")
    return {ref.rpartition("/")[2]: commit for ref, commit in (line.split() for line in listed.splitlines())}


def execute_run(run: StudyRun, folder: Path = Path()) -> None:
    """Execute one run in the project in `folder`; DVC's output is shown.

    Raises:
        UserError: a stage failed. Finished stages are kept.
    """
    done = subprocess.run([*run.experiment_command, "--temp"], cwd=folder, env=dvc_environment())
    if done.returncode:
        raise UserError(
            f"the run of {run.persona} with seed {run.seed} failed, see above; fix the cause, then run the study again."
        )


def dvc_environment() -> dict[str, str]:
    """Return the environment for DVC, with the folder of this Python on PATH, since stages call `python`."""
    own, path = str(Path(sys.executable).parent), os.environ["PATH"].split(os.pathsep)
    return os.environ | {"PATH": os.pathsep.join(path if own in path else [own, *path])}
