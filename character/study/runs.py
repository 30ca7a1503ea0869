"""The study: every persona made and evaluated with the same params, each run an experiment of DVC.

A run happens in a copy of the project that DVC makes, and leaves the workspace as it is. It is finished once it is an
experiment of the checked-out commit, named after its persona, its seed and the other params. So a study that was interrupted
goes on with the runs that are missing, and an interrupted run with its stages, from DVC's run cache, and with its replies,
from the sample cache.
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
from character.publish.commands import run_command as command
from character.study import recipes

PER_RUN_ENTRIES = ("persona", "seed", "runtime")  # entries of params.yaml that are not what all runs of a study share
STUDY_STAGES = ("robustness", "preferences", "coherence", "capabilities")  # with all that they need; what is compared


@dataclass(frozen=True, order=True)
class StudyRun:
    """One persona with one seed; `digest` is that of all other params."""

    persona: str
    seed: int
    digest: str

    @property
    def experiment_name(self) -> str:
        """Return the name of its experiment."""
        return f"{self.persona}-{self.seed}-{self.digest}"

    @property
    def experiment_command(self) -> list[str]:
        """Return what does it in a project, as an experiment."""
        changes = ["--set-param", f"persona={self.persona}", "--set-param", f"seed={self.seed}"]
        return ["dvc", "exp", "run", "--name", self.experiment_name, *changes, *STUDY_STAGES]


def plan_runs(personas: Sequence[str], seeds: Sequence[int] = ()) -> list[StudyRun]:
    """Return the runs of a study: `personas` (none: all that the classifier knows) with the seed of params.yaml, and the
    persona of params.yaml with more `seeds`.

    Raises:
        UserError: a persona is not known to the classifier, which could not say whether it shows.
    """
    known, selected, seed = params.read_value("classifier.personas"), params.read_value("persona"), params.read_value("seed")
    if unknown := [persona for persona in personas if persona not in known]:
        raise UserError(f"{unknown[0]!r} is none of classifier.personas in params.yaml ({', '.join(known)}); correct it.")
    shared = shared_params_digest()
    more = [StudyRun(selected, other, shared) for other in dict.fromkeys(seeds) if other != seed]
    return [*(StudyRun(persona, seed, shared) for persona in dict.fromkeys(personas or known)), *more]


def parse_seeds(text: str) -> list[int]:
    """Return seeds that are written as `1,2`."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--seeds is {text!r}; write it as 1,2.") from None


def shared_params_digest() -> str:
    """Return a short hash of the params that all runs of a study share."""
    entries = recipes.safe_yaml().load(params.PARAMS_FILE)
    shared = {name: entry for name, entry in entries.items() if name not in PER_RUN_ENTRIES}
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:8]


def finished_experiments() -> dict[str, str]:
    """Return the commits of the experiments of the checked-out commit, by their names."""
    head = command("git", "rev-parse", "HEAD").strip()
    listed = command("git", "for-each-ref", "--format=%(refname) %(objectname)", f"refs/exps/{head[:2]}/{head[2:]}/")
    return {ref.rpartition("/")[2]: commit for ref, commit in (line.split() for line in listed.splitlines())}


def execute_run(run: StudyRun, folder: Path = Path()) -> None:
    """Do one run in the project that lies in `folder`, and show what DVC prints.

    Raises:
        UserError: a stage failed; what was finished before is kept.
    """
    done = subprocess.run([*run.experiment_command, "--temp"], cwd=folder, env=dvc_environment())
    if done.returncode:
        raise UserError(f"the run of {run.persona} with seed {run.seed} failed, see above; mend it, then run the study again.")


def dvc_environment() -> dict[str, str]:
    """Return the environment of DVC, whose stages call `python`: that on PATH where this one is on it, otherwise this one."""
    own, path = str(Path(sys.executable).parent), os.environ["PATH"].split(os.pathsep)
    return os.environ | {"PATH": os.pathsep.join(path if own in path else [own, *path])}
