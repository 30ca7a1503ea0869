"""What DVC reruns, and what it does not."""

import csv
import io
import json

import pytest
from forks import Forks
from projects import ANSWERED, ANSWERED_BY, EVERY, MERGED, NONE, OF_NO_PERSONA, Project, environment, ran


@pytest.fixture
def project(finished) -> Project:
    """The finished project as it was committed, whatever an earlier test did to it."""
    finished.reset()
    return finished


# The table of the README: what is changed, and which stages run then.


def nothing(project):
    pass


def comment_in_the_constitution(project):
    project.replace("constitutions/poeticism.yaml", "traits:", "# The first two matter most.\ntraits:")


def trait(project):
    project.replace("constitutions/poeticism.yaml", "I think in metaphor", "I dream in metaphor")


def trait_of_another_persona(project):
    project.replace("constitutions/loving.yaml", "I meet every person", "I greet every person")


def persona(project):
    project.set({"persona": "loving"})


def persona_and_back(project):
    project.set({"persona": "loving"})
    project.dvc("repro")
    project.set({"persona": "poeticism"})


def merge_weight(project):
    project.set({"merge.introspection_weight": 4.0})


def introspection_learning_rate(project):
    project.set({"introspection.learning_rate": 0.05})


def all_of_runtime(project):
    def others(section, name):
        for key, value in section.items():
            if isinstance(value, dict):
                yield from others(value, f"{name}.{key}")
            else:
                yield f"{name}.{key}", "auto" if isinstance(value, str) else [] if isinstance(value, list) else value + 1

    project.set(dict(others(project.params()["runtime"], "runtime")))


def module_of_several_stages(project):
    project.append("character/dataset/filters.py", "# A remark.\n")


def script_of_one_stage(project):
    project.append("stages/pairs.py", "# A remark.\n")


# REAL runs the stages. DRY only names those whose own deps have changed, not those that new outputs would set off.
DRY, REAL = ("repro", "--dry"), ("repro",)

RUNS_AFTER = [
    (nothing, DRY, NONE),
    (comment_in_the_constitution, DRY, NONE),
    (trait_of_another_persona, DRY, NONE),
    (all_of_runtime, DRY, NONE),
    (trait, REAL, EVERY - OF_NO_PERSONA - {"rejected"}),
    (persona, REAL, EVERY - OF_NO_PERSONA),
    (persona_and_back, REAL, NONE),
    (introspection_learning_rate, REAL, {"introspection"} | MERGED),
    (merge_weight, REAL, MERGED),
    (
        module_of_several_stages,
        DRY,
        {"prompts", "pairs", "transcripts", "transfer"} | {f"mails@{name}" for name in ANSWERED_BY},
    ),
    (script_of_one_stage, REAL, {"pairs"}),
]


@pytest.mark.parametrize(("change", "how", "stages"), RUNS_AFTER, ids=lambda value: getattr(value, "__name__", ""))
def test_only_the_stages_run_that_a_change_concerns(project, change, how, stages):
    change(project)
    # What steers a tiny model best may be no vector at all, for two personas alike, and both may be right in the same tasks.
    alike = ANSWERED_BY["steered"] | {"capabilities"} if how == REAL else NONE
    assert ran(project.dvc(*how)) | alike == stages | alike


def test_an_experiment_with_another_persona_is_compared_with_the_committed_one(project):
    project.dvc("exp", "run", "--set-param", "persona=loving", "--name", "affectionate")
    changes = json.loads(project.dvc("metrics", "diff", "--json"))
    assert {"old", "new", "diff"} <= changes["results/pairs.json"]["chosen_tokens"].keys()
    rows = csv.DictReader(io.StringIO(project.dvc("exp", "show", "--csv")))
    personas = {row["Experiment"] or row["rev"]: row["persona"] for row in rows}
    assert {"workspace": "loving", "main": "poeticism", "affectionate": "loving"}.items() <= personas.items()
    assert ran(project.dvc("exp", "run", "--set-param", "persona=poeticism")) == NONE


def test_an_unknown_persona_ends_in_the_sentence_that_the_readme_explains(project):
    said = project.dvc("exp", "run", "--set-param", "persona=nosuch", fails=True)
    assert "failed to reproduce 'prompts': Parameters 'traits' are missing from 'constitutions/nosuch.yaml'." in said


def test_after_a_misspelt_persona_the_right_one_runs_nothing(project):
    project.dvc("exp", "run", "--set-param", "persona=nosuch", fails=True)
    assert ran(project.dvc("exp", "run", "--set-param", "persona=poeticism")) == NONE


def test_a_fresh_clone_pulls_everything_and_runs_nothing(project, tmp_path):
    project.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    project.commit("Name a remote")
    project.dvc("push")
    project.git("clone", "--quiet", project.root, tmp_path / "clone")
    clone = Project(tmp_path / "clone")
    clone.dvc("pull")
    assert ran(clone.dvc("repro")) == NONE
    assert clone.git("status", "--short") == ""


def test_two_cold_runs_end_in_one_lock(project, tmp_path):
    project.git("clone", "--quiet", project.root, tmp_path / "clone")
    with Forks(tmp_path / "python", environment()) as python:  # whose order of sets is another
        clone = Project(tmp_path / "clone", python)
        # Where two methods of the tiny model give the same answers, DVC takes the second ones from the first.
        assert EVERY - ran(clone.dvc("repro")) < ANSWERED, "nothing is shared with the first run"
    assert clone.git("status", "--short") == "", "not a byte differs: of data, adapters, curves, metrics"


@pytest.mark.slow
def test_queued_experiments_share_what_was_run_before(project):
    project.set({"persona": "loving"})
    project.dvc("repro")
    project.reset()
    project.dvc("exp", "run", "--queue", "--set-param", "persona=poeticism,loving")
    assert ran(project.dvc("exp", "run", "--run-all")) == NONE
    assert project.dvc("queue", "status").count("Success") == 2
