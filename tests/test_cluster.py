"""The study on a Ray cluster: two machines that share a git origin and a bucket, of which one is lost in the middle."""

from collections import Counter

import pytest
import yaml
from projects import Project, environment, ran, start, talkative

from character.core.errors import UserError
from character.study import ray_cluster
from character.study.runs import execute_run, finished_experiments, plan_runs

pytestmark = pytest.mark.cluster

PERSONAS = ["goodness", "humor", "loving", "poeticism"]

# In front of the `python` that forks: notes what it runs.
NOTING = """\
#!/bin/sh
echo "$2" >> {log}
exec {python}/python "$@"
"""


@pytest.fixture
def origin(tiny_student, forks, bucket, tmp_path, monkeypatch) -> Project:
    """A small project of four personas, never run, with its origin and an empty bucket; the current directory meanwhile."""
    noting = tmp_path / "noting"
    noting.mkdir()
    (noting / "python").write_text(NOTING.format(log=tmp_path / "ran", python=forks))
    (noting / "python").chmod(0o755)
    for name, text in environment(noting).items():
        monkeypatch.setenv(name, text)
    project = start(tmp_path / "project", talkative(tiny_student, tmp_path / "student"), python=noting)
    project.set({"classifier.personas": PERSONAS})
    project.dvc("remote", "add", "--default", "store", f"s3://store/{tmp_path.name}")
    project.dvc("remote", "modify", "store", "endpointurl", bucket)
    project.commit("Name a remote")
    project.git("clone", "--quiet", "--bare", project.root, tmp_path / "origin.git")
    project.git("remote", "add", "origin", f"file://{tmp_path}/origin.git")
    project.git("fetch", "--quiet", "origin")
    monkeypatch.chdir(project.root)
    return project


@pytest.fixture
def machines(tmp_path):
    """A Ray cluster of a head without work and two machines of one task each, on this machine; returns it with the two."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    workers = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made, workers
    made.shutdown()


def made(project: Project, commits: dict[str, str]) -> dict[str, dict[str, list]]:
    """Return the hashes of all that each experiment made, by stage, from its dvc.lock."""
    locks = {name: yaml.safe_load(project.git("show", f"{commit}:dvc.lock")) for name, commit in commits.items()}
    return {name: {stage: entry["outs"] for stage, entry in lock["stages"].items()} for name, lock in locks.items()}


def test_a_study_survives_the_loss_of_a_machine_and_finds_what_a_serial_one_finds(origin, machines, tmp_path):
    whole, workers = machines
    runs, log = plan_runs(PERSONAS), tmp_path / "ran"
    source = ray_cluster.pushed_source("origin")
    done = []
    for run, _, _ in ray_cluster.execute_on_cluster(
        runs, source, ray_cluster.ClusterOptions(whole.address, folder=str(tmp_path / "there"))
    ):
        done.append(run)
        if len(done) == 1:
            whole.remove_node(workers[0], allow_graceful=False)
    assert sorted(done) == sorted(runs)
    counts = Counter(log.read_text().split())
    assert [counts[f"stages.{name}"] for name in ray_cluster.SHARED_STAGES] == [1, 1, 1]
    assert counts["stages.distillation"] >= len(runs)
    ray_cluster.fetch_experiments("origin")
    apart = made(origin, finished_experiments())
    assert sorted(apart) == sorted(run.experiment_name for run in runs)
    for name in apart:
        origin.dvc("exp", "remove", name)
    for run in runs:
        execute_run(run)
    assert made(origin, finished_experiments()) == apart
    assert ran(origin.dvc("repro", "--dry", "code")) == {"code"}, "the workspace was left as it is: nothing was run in it"


def test_what_other_machines_could_not_clone_is_reported(origin):
    (origin.root / "notes.txt").write_text("New.")
    origin.commit("Add notes")
    with pytest.raises(UserError, match=r"the commit [0-9a-f]{7} is not at origin; run `git push`"):
        ray_cluster.pushed_source("origin")
    origin.git("push", "--quiet", "origin", "main")
    origin.dvc("remote", "remove", "store")
    origin.commit("Name no remote")
    origin.git("push", "--quiet", "origin", "main")
    with pytest.raises(UserError, match=r"no remote in the committed \.dvc/config; run `dvc remote add --default"):
        ray_cluster.pushed_source("origin")
