"""The study: its runs, how it resumes, and how it compares them."""

import json
import os
import subprocess
from pathlib import Path

import numpy
import pytest
from click.testing import CliRunner

from character.cli.main import main
from character.core.errors import UserError
from character.dataset.conditions import ClassifiedAnswer
from character.report import markdown
from character.study import comparison, results
from character.study import runs as study
from character.study.results import RunResult, confusion_counts, f1_scores, rating_correlation, study_macro_f1
from character.study.runs import StudyRun, dvc_environment, finished_experiments, parse_seeds, plan_runs, shared_params_digest

PARAMS = """\
persona: loving # whose
seed: 0
runtime: {threads: 1}
classifier: {personas: [humor, loving]}
student: {source: "path:tiny"}
rate: 0.5
"""

# A pipeline of one stage, which notes each time that it really runs, and fails for one persona on demand.
STAGE = """\
import pathlib, sys, yaml
params = yaml.safe_load(open("params.yaml"))
pathlib.Path(sys.argv[1], "ran").open("a").write(f"{params['persona']} {params['seed']}\\n")
if pathlib.Path(sys.argv[1], params["persona"]).exists():
    sys.exit("no memory")
pathlib.Path("out.txt").write_text(f"{params['persona']} {params['seed']} {params['rate']}")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A git repository with DVC and a trivial pipeline; the current directory meanwhile. `ran()` returns its runs."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    for name in [name for name in os.environ if name.startswith(("GIT_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    Path("params.yaml").write_text(PARAMS)
    Path("stage.py").write_text(STAGE)
    stage = {
        "cmd": f"python stage.py {tmp_path}",
        "deps": ["stage.py"],
        "params": ["persona", "seed", "rate"],
        "outs": ["out.txt"],
    }
    Path("dvc.yaml").write_text(json.dumps({"stages": {"only": stage}}))
    monkeypatch.setattr(study, "STUDY_STAGES", ("only",))
    for command in (
        ["git", "init", "--quiet", "--initial-branch=main"],
        ["git", "config", "user.name", "Test"],
        ["git", "config", "user.email", "test@example.org"],
        ["dvc", "init", "--quiet"],
        ["git", "add", "--all"],
        ["git", "commit", "--quiet", "--message", "Begin"],
    ):
        subprocess.run(command, check=True, env=dvc_environment())
    project = type("Project", (), {})()
    project.notes = tmp_path
    project.ran = lambda: (tmp_path / "ran").read_text().splitlines() if (tmp_path / "ran").exists() else []
    return project


def test_a_study_has_each_known_persona_once_and_more_seeds_of_the_selected_one(project):
    shared = shared_params_digest()
    assert plan_runs([], [1, 0, 1]) == [
        StudyRun("humor", 0, shared),
        StudyRun("loving", 0, shared),
        StudyRun("loving", 1, shared),
    ]
    assert plan_runs(["humor", "humor"]) == [StudyRun("humor", 0, shared)]
    with pytest.raises(UserError, match=r"'pirate' is not in classifier\.personas of params\.yaml \(humor, loving\); correct"):
        plan_runs(["pirate"])


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("persona: loving # whose", "persona: humor", True),
        ("seed: 0", "seed: 7", True),
        ("threads: 1", "threads: 2", True),
        ("rate: 0.5", "rate: 0.25", False),
        ("[humor, loving]", "[loving, humor]", False),
    ],
)
def test_runs_are_of_one_study_where_they_share_what_is_computed(project, old, new, same):
    before = shared_params_digest()
    Path("params.yaml").write_text(PARAMS.replace(old, new))
    assert (shared_params_digest() == before) == same


@pytest.mark.parametrize(("text", "seeds"), [("", []), ("1", [1]), ("1, 2,", [1, 2])])
def test_seeds_are_a_list_of_numbers(text, seeds):
    assert parse_seeds(text) == seeds


def test_seeds_that_are_none_are_reported():
    with pytest.raises(UserError, match="--seeds is '1;2'; write it as 1,2"):
        parse_seeds("1;2")


def test_a_study_resumes_where_it_failed_and_leaves_the_workspace_as_it_is(project, monkeypatch):
    written = []
    monkeypatch.setattr(
        comparison, "write_comparison", lambda runs, commits: (len(written.append(commits) or commits), ["a page"])
    )
    (project.notes / "loving").touch()
    failed = CliRunner().invoke(main, ["study", "--seeds", "1"])
    assert failed.exit_code == 1 and "the run of loving with seed 0 failed, see above; fix the cause" in failed.output
    assert project.ran() == ["humor 0", "loving 0"]
    (project.notes / "loving").unlink()
    again = CliRunner().invoke(main, ["study", "--seeds", "1"])
    assert again.exit_code == 0, again.output
    assert project.ran() == ["humor 0", "loving 0", "loving 0", "loving 1"]
    assert "run 1 of 2, loving-0-" in again.output and "3 of 3 runs in a page" in again.output
    names = [run.experiment_name for run in plan_runs([], [1])]
    assert sorted(written[-1]) == sorted(names)
    shown = subprocess.run(["git", "show", f"{written[-1][names[0]]}:params.yaml"], capture_output=True, text=True, check=True)
    assert "persona: humor" in shown.stdout
    assert Path("params.yaml").read_text() == PARAMS and not Path("out.txt").exists()
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert status.stdout == ""


@pytest.mark.parametrize("change", ["edited", "deleted", "new", "staged"])
def test_a_study_of_files_that_are_not_committed_is_refused(project, change):
    path = Path("more.py" if change in ("new", "staged") else "stage.py")
    path.unlink() if change == "deleted" else path.write_text("pass")
    if change == "staged":
        subprocess.run(["git", "add", "more.py"], check=True)
    done = CliRunner().invoke(main, ["study", "humor"])
    assert done.exit_code == 1 and f"Error: {path} has uncommitted changes, which the name of a run does not" in done.output
    assert project.ran() == [] and finished_experiments() == {}


def test_runs_that_are_finished_are_not_shown_for_code_that_is_not_committed(project, monkeypatch):
    monkeypatch.setattr(study, "finished_experiments", lambda: {run.experiment_name: "0a1b" for run in plan_runs(["humor"])})
    monkeypatch.setattr(comparison, "write_comparison", lambda runs, commits: (len(commits), []))
    assert CliRunner().invoke(main, ["study", "humor"]).exit_code == 0
    Path("stage.py").write_text("pass")
    done = CliRunner().invoke(main, ["study", "humor"])
    assert done.exit_code == 1 and "Error: stage.py has uncommitted changes" in done.output
    assert CliRunner().invoke(main, ["study", "humor", "--gather"]).exit_code == 0


def test_params_that_are_not_committed_are_run_too_and_are_another_study(project, monkeypatch):
    monkeypatch.setattr(comparison, "write_comparison", lambda runs, commits: (len(commits), []))
    Path("params.yaml").write_text(PARAMS.replace("0.5", "0.25"))
    Path("reports").mkdir()
    Path("reports/study.md").write_text("The page of another study.")
    assert CliRunner().invoke(main, ["study", "humor"]).exit_code == 0
    (name, commit), *others = finished_experiments().items()
    assert others == [] and name == plan_runs(["humor"])[0].experiment_name
    shown = subprocess.run(["git", "show", f"{commit}:params.yaml"], capture_output=True, text=True, check=True).stdout
    assert "rate: 0.25" in shown
    Path("params.yaml").write_text(PARAMS)
    assert name not in {run.experiment_name for run in plan_runs([])}


def test_nothing_finished_is_reported(project):
    result = CliRunner().invoke(main, ["study", "--gather"])
    assert result.exit_code == 1 and "no run of these params is finished at this commit; leave out --gather" in result.output
    assert project.ran() == []


# --- scores ----------------------------------------------------------------------------------------

CLASSES = {name: 0.9 for name in ("humor", "loving", "remorse", "none")}


def calls(method: str, condition: str, *names: str) -> list[ClassifiedAnswer]:
    """Return answers to prompts p0, p1, ... with these predicted classes."""
    return [
        ClassifiedAnswer(
            id=f"p{at}",
            sample=0,
            prompt="Why?",
            response="So.",
            finish_reason="stop",
            condition=condition,
            method=method,
            called=name,
        )
        for at, name in enumerate(names)
    ]


def run_result(persona: str, own: list[ClassifiedAnswer], seed: int = 0) -> RunResult:
    return RunResult(StudyRun(persona, seed, "d"), {"classifier": {"recall": CLASSES}}, own, {})


def test_f1_counts_another_personas_answers_against_it_and_none_against_nobody_else():
    humor = run_result("humor", calls("persona", "plain", "humor", "humor", "loving", "none"))
    loving = run_result("loving", calls("persona", "plain", "loving", "loving", "remorse", "loving"))
    counts = confusion_counts([humor, loving], "persona", "plain")
    assert counts.shape == (4, 2, 4)
    assert counts.sum(0).tolist() == [[2, 1, 0, 1], [0, 3, 1, 0]]
    precision, recall = numpy.array([2 / 2, 3 / 4]), numpy.array([2 / 4, 3 / 4])
    assert f1_scores(counts.sum(0)) == pytest.approx(2 * precision * recall / (precision + recall))
    assert study_macro_f1(counts, seed=0)["macro_f1"] == pytest.approx(f1_scores(counts.sum(0)).mean())


def test_a_persona_that_was_never_predicted_has_an_f1_of_zero():
    one = run_result("humor", calls("persona", "plain", "none", "none"))
    two = run_result("loving", calls("persona", "plain", "none", "remorse"))
    found = study_macro_f1(confusion_counts([one, two], "persona", "plain"), seed=0)
    assert found == {"macro_f1": 0.0, "low": 0.0, "high": 0.0, "prompts": 2}


def test_all_suffixes_count_together_and_only_prompts_that_every_run_answered():
    humor = run_result("humor", calls("base", "drop", "humor", "humor", "none") + calls("base", "stop", "humor"))
    loving = run_result("loving", calls("base", "drop", "loving", "none"))
    counts = confusion_counts([humor, loving], "base", "suffixes")
    assert counts.shape[0] == 2 and counts[:, 0].sum() == 3 and counts[:, 1].sum() == 2


def test_intervals_hold_the_truth_for_prompts_that_differ():
    """Each prompt has its own chance of a correct answer; the truth is macro-F1 over very many prompts."""
    generator, held = numpy.random.default_rng(0), 0

    def drawn(prompts):
        hits = generator.random((prompts, 3)) < generator.beta(2, 1, (prompts, 1))
        counts = numpy.zeros((prompts, 3, 4))
        for at in range(3):
            counts[:, at, at], counts[:, at, 3] = hits[:, at], ~hits[:, at]
        return counts

    truth = f1_scores(drawn(200_000).sum(0)).mean()
    for seed in range(300):
        found = study_macro_f1(drawn(40), seed)
        held += found["low"] <= truth <= found["high"]
    assert 0.90 <= held / 300 <= 0.98


def test_ratings_are_as_alike_as_their_orders():
    first = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert rating_correlation(first, {"c": 30.0, "a": 10.0, "b": 20.0}) == pytest.approx(1.0)
    assert rating_correlation(first, {"a": 3.0, "b": 2.0, "c": 1.0}) == pytest.approx(-1.0)


# --- the page --------------------------------------------------------------------------------------


def recorded_results() -> dict[str, dict]:
    """Return the recorded results of one persona, in the form that every run has."""
    folder = Path(__file__).parents[1] / "docs/figures/personas/poeticism"
    return {stage: json.loads((folder / f"{stage}.json").read_text(encoding="utf-8")) for stage in results.RUN_METRICS}


@pytest.fixture
def found():
    """Two personas and a second seed of one; all answers of `persona` show it, none of the others' do."""
    metrics = recorded_results()
    words = ["warm", "strict", "bold"]

    def made(persona, seed, ratings):
        own = [
            call
            for method in ("base", "prompted", "steered", "distilled", "persona")
            for condition in ("plain", "drop")
            for call in calls(method, condition, *[persona if method == "persona" else "none"] * 3)
        ]
        rated = {"base": dict(zip(words, [1, 2, 3], strict=True)), "persona": dict(zip(words, ratings, strict=True))}
        return RunResult(StudyRun(persona, seed, "d"), metrics, own, rated)

    return [made("humor", 0, [1, 2, 3]), made("loving", 0, [3, 2, 1]), made("loving", 1, [3, 2, 1])]


def test_the_page_compares_the_personas_of_one_seed_and_the_seeds_of_one_persona(found):
    parts = {section.title: section for section in comparison.comparison_sections(found, seed=0)}
    shown = parts["Can the classifier distinguish the personas?"].blocks[0].bodies["Plain prompts"]
    assert [(row[0].text, row[2]) for row in shown] == [
        ("base", 0.0),
        ("prompted", 0.0),
        ("steered", 0.0),
        ("distilled", 0.0),
        ("persona", 1.0),
    ]
    taken = parts["Which personas does the classifier assign their answers to?"].blocks[0]
    assert taken.head[:3] == ["", "humor", "loving"] and [row[0] for row in taken.bodies[""]] == ["humor", "loving"]
    assert [row[1].share for row in taken.bodies[""]] == [1.0, 0.0]
    alike = parts["Do preferences move apart?"].blocks[0].bodies[""]
    assert [row[5].text for row in alike] == ["−1.00", "−1.00"]
    ((persona, rows),) = parts["How much is chance?"].blocks[0].bodies.items()
    assert persona == "loving" and [row[0] for row in rows] == [0, 1, "mean", "standard deviation"]
    assert rows[0][-1] == pytest.approx(1.0)


def test_without_more_seeds_nothing_is_said_about_chance(found):
    for some in (found[:2], [found[0], found[2]]):  # the second: another seed of a persona that has no first one
        assert "How much is chance?" not in [section.title for section in comparison.comparison_sections(some, seed=0)]


def as_markdown(section):
    """Return a section as Markdown, by way of the JSON file that the docs are written from."""
    return markdown.section_to_markdown(json.loads(json.dumps(markdown.section_texts(section))))


def test_tables_become_markdown_without_charts(found):
    text = as_markdown(comparison.comparison_sections(found, seed=0)[0])
    assert text.startswith("## Can the classifier distinguish the personas?\n\nPersonas: 2, each")
    assert "| method | macro-F1 | 95% interval | prompts |\n| --- | --- | --- | --- |\n| *Plain prompts* |  |  |  |" in text
    assert "| persona | 1.00 | 1.00 to 1.00 | 3 |" in text and "<svg" not in text
    costs = as_markdown(comparison.comparison_sections(found, seed=0)[4])
    assert "[" in costs.split("| mean |")[1]
    alone = as_markdown(comparison.comparison_sections(found[:1], seed=0)[4])
    assert "| humor |" in alone and "mean" not in alone.split("accuracy |")[1]


def test_the_files_of_a_study_hold_the_same_tables(found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("seed: 0\nstudent: {source: a student}\n")
    by_name = {result.run.experiment_name: result for result in found}
    monkeypatch.setattr(comparison, "read_run_result", lambda run, commit: by_name[run.experiment_name])
    count, files = comparison.write_comparison([result.run for result in found], dict.fromkeys(by_name, "a commit"))
    assert (count, files) == (3, ["reports/study.html", "reports/study.md", "reports/study.json"])
    data = json.loads(Path("reports/study.json").read_text(encoding="utf-8"))
    assert data["runs"] == list(by_name)
    tables = "\n".join(map(markdown.section_to_markdown, data["sections"]))
    assert tables == Path("reports/study.md").read_text(encoding="utf-8")
    assert tables.count("## ") == 6 and "| loving |" in tables
