"""The embedded student itself, fetched once: a few rows through every stage, as `dvc repro` runs them."""

import json

from projects import EVERY, SMALL, ran, start

ROWS = {
    **SMALL,
    "student.name": "SmolLM",
    "teacher.engine": "recorded",
    "sampling.max_new_tokens": 48,  # enough for a whole sentence, so that no pair is dropped for want of one
    "reflections.sampling.max_new_tokens": 48,
    "interactions.sampling.max_new_tokens": 48,
    "answers.prompts": 2,
    "tasks.limit": 2,
}


def test_the_default_student_goes_through_every_stage(forks, tmp_path):
    project = start(tmp_path / "project", python=forks)
    assert project.params()["student"]["source"].startswith("pypi:")
    project.set(ROWS)
    assert ran(project.dvc("repro")) == EVERY
    metrics = {path.stem: json.loads(path.read_text()) for path in (project.root / "results").glob("*.json")}
    assert metrics["pairs"]["pairs"] > 0
    assert metrics["distillation"]["dropped_too_long"] == 0
    assert 1 < metrics["distillation"]["nll"] < 7, "a trained model's loss, not a random one's"
    assert metrics["robustness"]["base"]["plain"]["n"] == 2
    answers = (project.root / "data/answers/base.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(len(json.loads(line)["response"].split()) > 5 for line in answers)
