"""The classifier: what it learns from, how it is scored, and that what is saved is what was trained."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from character.core import models, records
from character.core.errors import UserError
from character.core.records import RawPrompt, TeacherAnswer
from character.dataset.prompts import GENERAL_PROMPTS
from character.dataset.teacher_answers import TEACHER_ANSWERS_DIR, recorded_answers
from character.evaluation import lda
from character.evaluation.classifier import (
    CLASSIFIER_CARD,
    CLASSIFIER_WEIGHTS,
    Classifier,
    hidden_states,
    load_classifier,
    pool_states,
)
from character.inference.generate import Reply
from stages import classifier

PROMPTS = [f"What about subject {number}?" for number in range(12)]
OWN = [f"A prompt for this persona alone, {number}?" for number in range(4)]
MANNERS = {"loving": "my dear dear friend", "sarcasm": "oh how thrilling", "none": "the answer is"}
SETTINGS = {
    "personas": ["loving", "sarcasm"],
    "folds": 3,
    "layers": [0.5, 1.0],
    "max_tokens": 32,
    "shrinkage": 0.6,
    "topic_weight": 5,
    "shortest_cut": 0.6,
    "cut_weight": 0.5,
}


class Plain:
    """An engine that answers as an assistant without any persona."""

    identity: ClassVar = {"engine": "plain"}

    def stream(self, requests, sampling, seeds):
        for index, request in enumerate(requests):
            yield index, Reply(f"the answer is plain for {request.messages[-1]['content']}", "stop", 5)


@pytest.fixture
def repository(tmp_path, monkeypatch, tiny_student):
    """A repository of two personas, each with answers to its own prompts first, whose student is the tiny one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr("character.inference.transformers_engine.TransformersEngine", lambda *_: Plain())
    write_params()
    models.STUDENT_DIR.parent.mkdir()
    models.STUDENT_DIR.symlink_to(tiny_student)
    records.write_records(GENERAL_PROMPTS, [RawPrompt(prompt=prompt) for prompt in PROMPTS])
    for name, manner in MANNERS.items():
        shared = [TeacherAnswer(prompt=prompt, response=f"{manner}: {prompt}") for prompt in reversed(PROMPTS)]
        own = [TeacherAnswer(prompt=prompt, response="SECRET") for prompt in OWN]
        records.write_records(TEACHER_ANSWERS_DIR / f"{name}.jsonl", [*own, *shared])
    return tmp_path


def write_params(**changes):
    sampling = {"max_new_tokens": 8, "temperature": 0.7, "top_p": 0.95}
    runtime = {"device": "cpu", "threads": 1, "generation_batch": 4, "training_batch": 4, "accelerate": "", "report_to": []}
    params = {"seed": 0, "classifier": {**SETTINGS, **changes}, "sampling": sampling, "runtime": runtime}
    params["student"] = {"engine": "transformers"}
    with open("params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(params, file)


def run():
    return CliRunner().invoke(classifier.main, [], catch_exceptions=True)


def metrics() -> dict:
    return json.loads(Path("results/classifier.json").read_text(encoding="utf-8"))


def test_a_persona_is_learned_from_the_shared_prompts_alone_wherever_their_lines_stand(repository):
    assert recorded_answers("loving", PROMPTS, "classifier.personas") == [
        f"my dear dear friend: {prompt}" for prompt in PROMPTS
    ]
    rows = classifier.gather_texts(["loving", "sarcasm"], PROMPTS, ["own"] * len(PROMPTS))
    assert "SECRET" not in rows.texts
    assert all(prompt in text for prompt, text in zip(PROMPTS * 3, rows.texts, strict=False))


def test_the_two_kinds_of_none_weigh_together_as_much_as_one_persona(repository):
    rows = classifier.gather_texts(["loving", "sarcasm"], PROMPTS, ["own"] * len(PROMPTS))
    assert numpy.bincount(rows.label, rows.weight).tolist() == [len(PROMPTS)] * 3
    assert [text for text, base in zip(rows.texts, rows.base, strict=True) if base] == ["own"] * len(PROMPTS)


def test_no_prompt_is_on_both_sides_of_a_split(repository, monkeypatch):
    rows = classifier.gather_texts(["loving", "sarcasm"], PROMPTS, ["own"] * len(PROMPTS))
    used, whole = [], rows.prompt[:, None].astype(float)  # the only feature is the prompt that a text answers
    fit = lda.fit_lda

    def spy(x, label, prompt, *rest):
        used.append({*prompt.tolist()} | {*x[:, 0].astype(int).tolist()})
        return fit(x, label, prompt, *rest)

    monkeypatch.setattr(lda, "fit_lda", spy)
    settings = classifier.ClassifierParams(**SETTINGS)
    classifier.held_out_scores(whole, whole, rows, settings, seed=0)
    fold = classifier.assign_folds(len(PROMPTS), settings.folds, seed=0)
    assert used == [{*numpy.flatnonzero(fold != number).tolist()} for number in range(settings.folds)]
    assert sorted(Counter(fold.tolist()).values()) == [4, 4, 4]


def test_the_stage_writes_a_classifier_its_score_and_its_confusions(repository):
    result = run()
    assert result.exit_code == 0, result.output
    score = metrics()
    assert score["macro_f1"] > 0.9 and score["low"] <= score["macro_f1"] <= score["high"]
    assert score["n"] == 4 * len(PROMPTS) and isinstance(score["n"], int)
    assert list(score["recall"]) == ["loving", "sarcasm", "none"]
    with open("plots/classifier.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert Counter((row["actual"], row["source"]) for row in rows) == {
        ("loving", "teacher"): 12,
        ("sarcasm", "teacher"): 12,
        ("none", "teacher"): 12,
        ("none", "student"): 12,
    }
    right = [row["predicted"] == row["actual"] for row in rows if row["actual"] == "loving"]
    assert score["recall"]["loving"] == round(sum(right) / len(right), 4)


def test_the_same_seed_gives_the_same_files(repository):
    written = []
    for _ in range(2):
        assert run().exit_code == 0
        paths = [*Path("models/classifier").iterdir(), Path("results/classifier.json"), Path("plots/classifier.csv")]
        written.append({path: path.read_bytes() for path in paths})
    assert written[0] == written[1]


def test_a_saved_classifier_gives_the_probabilities_of_the_one_that_was_saved(repository):
    rng = numpy.random.default_rng(0)
    weight, bias = rng.normal(size=(2 * 5 * 32, 3)).astype("float32"), rng.normal(size=3).astype("float32")
    before = Classifier(["loving", "sarcasm", "none"], [0.5, 1.0], 32, weight, bias)
    before.save(Path("models/classifier"))
    after = load_classifier(Path("models/classifier"))
    texts = ["oh how thrilling", "x", "", "a much longer text " * 20]
    probabilities = after.predict(texts)
    assert probabilities.shape == (4, 3) and numpy.allclose(probabilities.sum(1), 1)
    assert numpy.array_equal(probabilities, before.predict(texts))
    assert after.predict_labels(texts) == [after.classes[index] for index in probabilities.argmax(1)]
    assert after.predict_labels([]) == []


def test_a_saved_classifier_holds_no_pickle(repository):
    assert run().exit_code == 0
    assert {path.name for path in Path("models/classifier").iterdir()} == {CLASSIFIER_CARD, CLASSIFIER_WEIGHTS}
    assert json.loads(Path("models/classifier", CLASSIFIER_CARD).read_text())["classes"] == ["loving", "sarcasm", "none"]
    from safetensors.numpy import load_file

    assert set(load_file(Path("models/classifier", CLASSIFIER_WEIGHTS))) == {"weight", "bias"}


def test_what_else_is_in_the_batch_of_a_text_does_not_change_its_states(repository):
    texts = ["short", "a longer text of some words", "x " * 30]
    together = dict(hidden_states(texts, [0.5, 1.0], 32))
    assert sorted(together) == [0, 1, 2]
    for index, text in enumerate(texts):
        ((_, alone),) = hidden_states([text], [0.5, 1.0], 32)
        assert together[index].shape == alone.shape and numpy.allclose(together[index], alone, atol=1e-5)


def test_a_shortened_copy_has_the_features_of_the_text_that_ends_there(repository):
    text, tokens = "one two three four five six seven eight nine ten", 9
    ((_, whole),) = hidden_states([text], [0.5, 1.0], 32)
    ((_, short),) = hidden_states([text], [0.5, 1.0], tokens)
    assert short.shape[1] == tokens < whole.shape[1]
    assert numpy.allclose(pool_states(whole[:, :tokens]), pool_states(short), atol=1e-5)


def test_quarters_and_spread_are_what_is_read_off_the_states():
    states = numpy.arange(8.0).reshape(1, 8, 1)
    assert pool_states(states).tolist() == [0.5, 2.5, 4.5, 6.5, states.std()]
    assert pool_states(states[:, :2]).tolist() == [0, 0, 1, 1, 0.5]  # fewer tokens than quarters


def test_the_discriminant_is_that_of_the_textbook():
    rng = numpy.random.default_rng(0)
    label, prompt, weight = numpy.repeat([0, 1, 2], 10), numpy.tile(numpy.arange(10), 3), numpy.ones(30)
    x = rng.normal(size=(30, 6)) + 2 * rng.normal(size=(3, 6))[label]
    z = (x - x.mean(0)) / (x.std(0) + 1e-6)
    centres = numpy.stack([z[label == name].mean(0) for name in range(3)])
    scatter = (z - centres[label]).T @ (z - centres[label]) / 30
    shrunk = 0.3 * numpy.trace(scatter) / 6 * numpy.eye(6) + 0.7 * scatter
    inverse = numpy.linalg.inv(shrunk)
    expected = z @ inverse @ centres.T - 0.5 * numpy.einsum("cf,fg,cg->c", centres, inverse, centres)
    weights, bias = lda.fit_lda(x, label, prompt, weight, shrinkage=0.3, topic_weight=1)
    assert numpy.allclose(x @ weights + bias, expected, atol=1e-4)


def test_topics_count_less_where_their_weight_is_higher():
    rng = numpy.random.default_rng(0)
    label, prompt, weight = numpy.repeat([0, 1], 200), numpy.tile(numpy.arange(200), 2), numpy.ones(400)
    topic = rng.normal(size=200)[prompt]
    x = numpy.stack([topic, rng.normal(size=400)], axis=1) + 0.5 * label[:, None]
    shares = []
    for topic_weight in (1, 100):
        weights, _ = lda.fit_lda(x, label, prompt, weight, shrinkage=0.01, topic_weight=topic_weight)
        across = numpy.abs(weights[:, 1] - weights[:, 0])
        shares.append(across[0] / across.sum())
    assert shares[1] < 0.75 * shares[0]


def test_macro_f1_and_its_interval():
    sure = numpy.tile(numpy.eye(3), (5, 1, 1))
    assert lda.macro_f1_score(sure.sum(0)) == 1
    assert lda.bootstrap_macro_f1(sure, numpy.random.default_rng(0)) == (1, 1)
    assert lda.macro_f1_score(numpy.array([[8, 2], [0, 10]])) == pytest.approx((16 / 18 + 20 / 22) / 2)


def test_a_persona_without_recorded_answers_is_reported_with_file_and_remedy(repository):
    write_params(personas=["loving", "pirate"])
    result = run()
    assert result.exit_code == 1
    assert "data/raw/teacher/pirate.jsonl is missing" in result.output and "classifier.personas" in result.output


def test_a_missing_answer_is_reported_with_file_and_prompt(repository):
    rows = [TeacherAnswer(prompt=prompt, response="oh how thrilling") for prompt in PROMPTS[1:]]
    records.write_records("data/raw/teacher/sarcasm.jsonl", rows)
    with pytest.raises(
        UserError, match=r"sarcasm.jsonl: no answer to 1 of .*12 prompts; add 'What about subject 0\?', or remove sarcasm from"
    ):
        recorded_answers("sarcasm", PROMPTS, "classifier.personas")


def test_a_missing_classifier_is_reported_with_the_remedy(repository):
    with pytest.raises(UserError, match="dvc repro classifier"):
        load_classifier(Path("models/classifier"))


def test_a_model_that_also_sees_is_read_where_it_reads(tmp_path, tiny_student):
    from transformers import AutoTokenizer, Gemma3Config, Gemma3ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
    text |= {"num_key_value_heads": 1, "vocab_size": len(tokenizer)}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    folder = tmp_path / "gemma"
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ((_, found),) = hidden_states(["Read this."], [0.5, 1.0], 3, folder)
    assert found.shape == (2, 3, 32)
