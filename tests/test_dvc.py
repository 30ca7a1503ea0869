"""What DVC reruns, and what it does not."""

import csv
import io
import json
import re

import pytest
import yaml
from forks import Forks
from projects import ANSWERED, ANSWERED_BY, EVERY, MERGED, NONE, OF_NO_PERSONA, Project, environment, ran

from stages.code import strip_source


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


def comment_in_a_module_of_all_stages(project):
    project.append("character/core/errors.py", "\n\n# A remark.\n")


def docstring_of_a_stage(project):
    project.replace("stages/pairs.py", '"""pairs: ', '"""pairs, in other words: ')


def edit_code(project, file: str) -> None:
    """Add a line of code, and write what each stage runs: only then does DVC see whom it concerns."""
    project.append(file, "EDITED = True\n")
    assert ran(project.dvc("repro", "code")) == {"code"}


def code_of_several_stages(project):
    edit_code(project, "character/dataset/filters.py")


def code_imported_within_a_function(project):
    edit_code(project, "character/training/trainers.py")


def code_of_an_instrument(project):
    edit_code(project, "character/evaluation/classifier.py")


def code_of_one_stage(project):
    project.append("stages/pairs.py", "EDITED = True\n")


# What reads texts with a classifier of hidden states, or speaks of its classes: no training, and no method's answers.
READS_TEXTS = {"classifier", "judge", "steering", "robustness", "crosscheck", "transfer", "preferences", "coherence"}

# REAL runs the stages. DRY only names those whose own deps have changed, not those that new outputs would set off.
DRY, REAL = ("repro", "--dry"), ("repro",)

RUNS_AFTER = [
    (nothing, DRY, NONE),
    (comment_in_the_constitution, DRY, NONE),
    (trait_of_another_persona, DRY, NONE),
    (all_of_runtime, DRY, NONE),
    (trait, REAL, EVERY - OF_NO_PERSONA - {"selection", "rejected"}),
    (persona, REAL, EVERY - OF_NO_PERSONA),
    (introspection_learning_rate, REAL, {"introspection"} | MERGED),
    (merge_weight, REAL, MERGED),
    (comment_in_a_module_of_all_stages, REAL, {"code"}),
    (docstring_of_a_stage, REAL, {"code"}),
    (
        code_of_several_stages,
        DRY,
        {"prompts", "chosen", "pairs", "transcripts", "transfer"} | {f"mails@{name}" for name in ANSWERED_BY},
    ),
    (code_imported_within_a_function, DRY, {"distillation", "introspection"}),
    (code_of_an_instrument, DRY, READS_TEXTS),
    (code_of_one_stage, REAL, {"code", "pairs"}),
]


@pytest.mark.parametrize(("change", "how", "stages"), RUNS_AFTER, ids=lambda value: getattr(value, "__name__", ""))
def test_only_the_stages_run_that_a_change_concerns(project, change, how, stages):
    change(project)
    # What steers a tiny model best may be no vector at all, for two personas alike, and both may be right in the same tasks.
    alike = ANSWERED_BY["steered"] | {"capabilities"} if how == REAL else NONE
    assert ran(project.dvc(*how)) | alike == stages | alike
    if change is persona:  # and the way back
        project.set({"persona": "poeticism"})
        assert ran(project.dvc("repro")) == NONE


NO_DATA = ("params.yaml", "dvc.yaml", ".cache/", ".dvc/tmp", ".git", "character/", "stages/")
UNUSED_HERE = {  # by the small project: its teacher is a model, and no model writes more prompts for it
    ("chosen", "data/raw/teacher"),
    ("prompts", "data/selection.txt"),  # only a reason to wait: the persona exists
    ("prompts", "models/student"),
}


# Only files that Python opens are seen, not those that compiled libraries read (weights, tokenizers): each model's directory
# has some of both.
def opened_by_stage(project) -> dict[str, dict[str, set[str]]]:
    """Return what each stage opened in its first run, to read ("r") and to write ("w"), by the stage's name in dvc.lock."""
    opened: dict[str, dict[str, set[str]]] = {}
    for line in project.opened_files.read_text(encoding="utf-8").splitlines():
        (module, *arguments), mode, path = json.loads(line)
        method = f"@{arguments[arguments.index('--method') + 1]}" if "--method" in arguments else ""
        opened.setdefault(module.removeprefix("stages.") + method, {"r": set(), "w": set()})[mode].add(path)
    return opened


def without(paths, *places: str) -> set[str]:
    """Return the paths that are none of the places, and lie in none of them."""
    return {path for path in paths if not any(f"{path}/".startswith(f"{place.rstrip('/')}/") for place in places)}


def imported_files(opened: set[str]) -> set[str]:
    """Return the modules among opened files, which are often opened as they were compiled."""
    compiled = re.compile(r"(.*)__pycache__/(\w+)\.[\w-]+\.pyc")
    names = {compiled.sub(r"\1\2.py", path) for path in opened if path.startswith(("character/", "stages/"))}
    return {name for name in names if name.endswith(".py")}


def reached_files(project, stage: str) -> set[str]:
    """Return the modules in code/<stage>.txt, and those that have no code, which are not there."""
    if stage == "code":  # which reads them all
        return {path.relative_to(project.root).as_posix() for path in project.root.rglob("*.py")}
    code = (project.root / "code" / f"{stage.partition('@')[0]}.txt").read_text(encoding="utf-8")
    empty = {path for path in project.root.rglob("__init__.py") if not strip_source(path.read_text(encoding="utf-8"))}
    return set(re.findall(r"^# (\S+\.py)$", code, re.MULTILINE)) | {path.relative_to(project.root).as_posix() for path in empty}


def test_a_stage_opens_the_files_that_it_lists_and_no_others(project):
    lock = yaml.safe_load((project.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    opened = opened_by_stage(project)
    assert opened.keys() == lock.keys()
    unlisted, idle, unreached = set(), set(), set()
    for stage, files in opened.items():
        deps, outs = ([entry["path"] for entry in lock[stage].get(kind, ())] for kind in ("deps", "outs"))
        templates = {path for path in files["r"] if path.endswith((".html", ".j2"))}
        followed = lock[stage].get("params", ())  # a constitution, by its keys
        read = without(without(files["r"], *NO_DATA) | templates, *deps, *outs, *followed)
        written = {path for path in without(files["w"], *NO_DATA, *outs) if (project.root / path).exists()}
        unlisted |= {(stage, path) for path in read | written}
        data = [dep for dep in deps if stage != "code" and not dep.startswith("code/")]
        idle |= {(stage, dep) for dep in data if without(files["r"], dep) == files["r"]}
        unreached |= {(stage, module) for module in imported_files(files["r"]) - reached_files(project, stage)}
    assert unlisted == set(), "opened, not listed"
    assert idle == UNUSED_HERE, "listed, not opened"
    assert unreached == set(), "imported, not among the code that the stage depends on"


def test_an_experiment_with_another_persona_is_compared_with_the_committed_one(project):
    project.dvc("exp", "run", "--set-param", "persona=loving", "--name", "affectionate")
    changes = json.loads(project.dvc("metrics", "diff", "--json"))
    assert {"old", "new", "diff"} <= changes["metrics/summary.json"]["perplexity.persona"].keys()
    rows = csv.DictReader(io.StringIO(project.dvc("exp", "show", "--csv")))
    personas = {row["Experiment"] or row["rev"]: row["persona"] for row in rows}
    assert {"workspace": "loving", "main": "poeticism", "affectionate": "loving"}.items() <= personas.items()
    assert ran(project.dvc("exp", "run", "--set-param", "persona=poeticism")) == NONE


@pytest.mark.parametrize("name", ["nosuch", "../poeticism", "Loving"])
def test_an_unknown_persona_ends_in_the_names_of_those_that_exist_and_costs_no_output(project, name):
    outputs = {path: path.stat().st_mtime_ns for folder in ("data", "models") for path in (project.root / folder).rglob("*.*")}
    said = project.dvc("exp", "run", "--set-param", f"persona={name}", fails=True)
    assert f"Error: params.yaml: persona is '{name}', but constitutions/ has goodness, humor, impulsiveness, loving," in said
    left = {path: path.stat().st_mtime_ns for path in outputs if path.exists()}
    assert outputs.items() - left.items() == {(path := project.root / "data/selection.txt", outputs[path])}


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
