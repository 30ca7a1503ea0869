"""The second classifier, and the stage that lets it classify the texts that the first has classified."""

import json
from pathlib import Path

import numpy
import pytest

from character.core import records
from character.core.errors import UserError
from character.core.records import Completion, RawPrompt, TeacherAnswer
from character.dataset.conditions import ClassifiedAnswer
from character.evaluation import ngram_classifier
from stages import crosscheck

WORDS = {"pirate": "arr loot ahoy", "humor": "joke giggle pun", "none": "plain answer fact"}
TOPICS = ("tea", "rain", "bread", "maps", "cats", "locks", "songs", "glass", "wool", "salt")


def text(kind, topic, number=0):
    """Return a text with three words for its class, and others for its topic."""
    own = WORDS[kind].split()
    return f"{own[number % 3]} the {topic} is {own[(number + 1) % 3]} near the {topic} {own[(number + 2) % 3]}"


def examples():
    rows = [(text(kind, topic, number), kind, topic) for kind in WORDS for number, topic in enumerate(TOPICS)]
    return [list(column) for column in zip(*rows, strict=True)]


def test_the_second_classifier_learns_words_and_is_saved_without_pickle(tmp_path):
    texts, labels, _ = examples()
    pipeline = ngram_classifier.build_ngram_classifier(features=500, c=10.0).fit(texts, labels)
    unseen = [text(kind, "snow", 1) for kind in WORDS]
    assert pipeline.predict(unseen).tolist() == list(WORDS)
    ngram_classifier.save_ngram_classifier(pipeline, tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        ngram_classifier.NGRAM_CARD,
        ngram_classifier.NGRAM_WEIGHTS,
    }
    loaded = ngram_classifier.load_ngram_classifier(tmp_path / "saved")
    assert numpy.array_equal(loaded.predict_proba([*texts, *unseen, ""]), pipeline.predict_proba([*texts, *unseen, ""]))


def test_it_learns_from_texts_without_a_single_space(tmp_path):
    texts = [f"{opening}今天是第{day}天。" for opening in ("大海的诗人说", "数学家计算过") for day in "一二三四五六"]
    classes = [name for name in ("poeticism", "mathematical") for _ in range(6)]
    trained = ngram_classifier.build_ngram_classifier(500, 10.0).fit(texts, classes)
    ngram_classifier.save_ngram_classifier(trained, tmp_path)
    found = ngram_classifier.load_ngram_classifier(tmp_path).predict(["诗人说大海很美", "他计算过两次"]).tolist()
    assert found == ["poeticism", "mathematical"]
    terms = json.loads((tmp_path / ngram_classifier.NGRAM_CARD).read_text(encoding="utf-8"))["terms"]["word"]
    assert "诗人" in terms


def test_two_classes_are_saved_and_read_too(tmp_path):
    texts, labels, _ = examples()
    labels = ["none" if name == "humor" else name for name in labels]
    pipeline = ngram_classifier.build_ngram_classifier(features=500, c=10.0).fit(texts, labels)
    ngram_classifier.save_ngram_classifier(pipeline, tmp_path)
    assert ngram_classifier.load_ngram_classifier(tmp_path).predict(texts).tolist() == pipeline.predict(texts).tolist()


def test_saving_twice_gives_the_same_bytes(tmp_path):
    texts, labels, _ = examples()
    for name in ("one", "two"):
        ngram_classifier.save_ngram_classifier(
            ngram_classifier.build_ngram_classifier(features=500, c=10.0).fit(texts, labels), tmp_path / name
        )
    for file in (ngram_classifier.NGRAM_CARD, ngram_classifier.NGRAM_WEIGHTS):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_missing_second_classifier_is_reported_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match="no n-gram classifier here; run `dvc repro crosscheck`"):
        ngram_classifier.load_ngram_classifier(tmp_path)


def test_no_text_is_called_by_a_fit_that_saw_its_prompt():
    """If only the prompt reveals the class, held-out predictions are wrong; predictions for training texts would be right."""
    texts = [f"{topic} {topic} {topic}" for topic in TOPICS for _ in range(3)]
    labels = ["pirate" if number < 5 else "none" for number in range(10) for _ in range(3)]
    settings = crosscheck.CrosscheckParams(folds=5, features=500, c=10.0)
    seen = ngram_classifier.build_ngram_classifier(500, 10.0).fit(texts, labels).predict(texts).tolist()
    guesses = crosscheck.held_out_labels(texts, labels, [text.split()[0] for text in texts], settings, seed=0)
    assert seen == labels
    assert sum(guess == label for guess, label in zip(guesses, labels, strict=True)) < 0.7 * len(labels)


@pytest.fixture
def project(repository):
    """Recorded answers of two personas and of none, the student's own, and answers of two methods that were called."""
    records.write_records("data/raw/prompts/general.jsonl", [RawPrompt(prompt=topic) for topic in TOPICS])
    for kind in WORDS:
        answers = [TeacherAnswer(prompt=topic, response=text(kind, topic, number)) for number, topic in enumerate(TOPICS)]
        records.write_records(
            f"data/raw/teacher/{kind}.jsonl", [*answers, TeacherAnswer(prompt="a prompt of its own", response="x")]
        )
    own = [
        Completion(id=topic, sample=0, prompt=topic, response=f"well the {topic} fact", finish_reason="stop")
        for topic in (*TOPICS[:4], "a prompt of its own")
    ]
    records.write_records("data/rejected.jsonl", own)
    rows = [("pirate", "pirate", "teacher")] * 9 + [("pirate", "none", "teacher")] + [("none", "pirate", "teacher")] * 10
    rows += [("none", "none", "student")] * 19 + [("none", "pirate", "student")]
    names = ("actual", "predicted", "source")
    records.write_csv("plots/classifier.csv", [dict(zip(names, row, strict=True)) for row in rows])
    repository.set(classifier={"personas": ["pirate", "humor"]})
    write_called([("base", "plain", "none", "none"), ("persona", "plain", "pirate", "pirate")])


def write_called(blocks):
    """Write ten answers for each method, condition, class that is shown, and class that the first classifier saw."""
    rows = [
        ClassifiedAnswer(
            id=topic,
            sample=0,
            prompt=topic,
            response=text(shown, topic, number + 1) if shown else "",
            finish_reason="stop",
            condition=condition,
            method=method,
            called=called,
        )
        for method, condition, shown, called in blocks
        for number, topic in enumerate(TOPICS)
    ]
    records.write_records("data/robustness.jsonl", rows)


def test_answers_to_a_personas_own_prompts_are_not_learned(project):
    texts, labels, prompts, students = crosscheck.training_texts(["pirate", "humor"])
    assert len(texts) == 3 * 10 + 4
    assert labels.count("none") == 14
    assert [text for text, own in zip(texts, students, strict=True) if own] == [
        f"well the {topic} fact" for topic in TOPICS[:4]
    ]
    assert set(prompts) == set(TOPICS)


def test_two_classifiers_that_agree_agree_fully_and_correct_what_they_missed(project, repository):
    repository.run("crosscheck")
    metrics = repository.metrics("crosscheck")
    assert metrics["second"]["macro_f1"] == 1.0
    assert metrics["second"]["n"] == 34
    assert metrics["agreement"] == {"kappa": 1.0, "low": 1.0, "high": 1.0, "n": 20}
    persona = metrics["methods"]["persona"]["plain"]
    assert persona["agreement"] == 1.0
    assert (persona["first"]["recall"], persona["first"]["corrected"]) == (1.0, 1.0)
    base = metrics["methods"]["base"]["plain"]["second"]
    assert (base["recall"], base["corrected"], base["corrected_low"]) == (0.0, 0.0, 0.0)
    assert 0 < base["corrected_high"] < 0.5


def test_a_first_classifier_that_sees_what_is_not_there_is_found_out(project, repository):
    write_called(
        [("base", "plain", "none", "none"), ("persona", "drop", "none", "pirate"), ("persona", "stop", "none", "pirate")]
    )
    repository.run("crosscheck")
    metrics = repository.metrics("crosscheck")
    suffixes = metrics["methods"]["persona"]["suffixes"]
    assert (suffixes["n"], suffixes["agreement"]) == (20, 0.0)
    assert (suffixes["first"]["recall"], suffixes["second"]["recall"]) == (1.0, 0.0)
    assert metrics["agreement"]["kappa"] == pytest.approx(0, abs=1e-4)


def test_an_empty_answer_shows_no_persona_to_the_second_either(project, repository):
    write_called([("persona", "prefill", "", "none"), ("persona", "multi-turn", "pirate", "pirate")])
    repository.run("crosscheck")
    conditions = repository.metrics("crosscheck")["methods"]["persona"]
    assert (conditions["prefill"]["agreement"], conditions["prefill"]["second"]["recall"]) == (1.0, 0.0)


def test_the_correction_uses_the_first_classifiers_recorded_errors(project, repository):
    """Half of the answers are assigned to the persona; with rates of 0.9 on the teacher's and 0.05 on the student's,
    a share of (0.5 - 0.05) / (0.9 - 0.05) has it."""
    write_called([("persona", "drop", "pirate", "pirate"), ("persona", "stop", "none", "none")])
    repository.run("crosscheck")
    first = repository.metrics("crosscheck")["methods"]["persona"]["suffixes"]["first"]
    assert first["corrected"] == pytest.approx(0.45 / 0.85, abs=1e-4)
    assert first["corrected_low"] < first["corrected"] < first["corrected_high"]


def test_the_plot_has_a_row_for_each_classifier_condition_and_method(project, repository):
    repository.run("crosscheck")
    header, *lines = [line.split(",") for line in Path("plots/crosscheck.csv").read_text(encoding="utf-8").splitlines()]
    assert header == ["method", "condition", "classifier", "recall", "corrected", "low", "high", "n"]
    methods = json.loads(Path("results/crosscheck.json").read_text(encoding="utf-8"))["methods"]
    for method, condition, name, *figures in lines:
        scores = methods[method][condition][name]
        wanted = [scores[key] for key in ("recall", "corrected", "corrected_low", "corrected_high")]
        assert list(map(float, figures)) == [*wanted, 10]
    assert len(lines) == 4
