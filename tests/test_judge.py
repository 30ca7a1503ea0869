"""Judges: their prompts, how their replies are parsed, and figures of judges of known quality."""

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import yaml

from character.core import models, records
from character.core.errors import UserError
from character.core.records import EvaluatedAnswer, TeacherAnswer
from character.dataset import trait_words
from character.dataset.prompts import GENERAL_PROMPTS, HELDOUT_PROMPTS, load_prompts
from character.dataset.trait_words import TraitWord
from character.evaluation.intervals import wilson_interval
from character.evaluation.judge import benchmark, likelihood_judge, trait_examples
from character.evaluation.judge.benchmark import JudgeTestCase
from character.evaluation.judge.chat_judge import ChatJudge, parse_verdict, render_prompt
from character.evaluation.judge.likelihood_judge import LikelihoodJudge
from character.evaluation.judge.load import ExampleSettings, load_judge
from character.evaluation.judge.questions import (
    COHERENCE_CRITERION,
    JUDGE_SYSTEM_PROMPT,
    JudgeQuestion,
    VerdictLabel,
    coherence_question,
    compare_coherence,
    trait_question,
)
from character.inference.generate import Reply, SamplingSettings
from stages import coherence, judge

ROOT = Path(__file__).parents[1]
WARM, STRICT = VerdictLabel("warm", "is kind"), VerdictLabel("strict", "keeps to rules")
COLD = SamplingSettings(max_new_tokens=8, temperature=0, top_p=1)


# --- a judge that is prompted -------------------------------------------------------------------------

READ = {
    "Verdict: warm": "warm",
    "It is kind.\n\n**Verdict: WARM**": "warm",
    "verdict - strict.\n": "strict",
    "Verdict: warm\nNo, on reflection:\nVerdict: strict": "strict",
    "<think>Verdict: warm?</think>\nVerdict: strict": "strict",
    "I think that it is warm.": None,
    "Verdict: lukewarm": None,
    "Verdict: warm or strict": None,
    "My verdict: warm": None,
    "": None,
}


@pytest.mark.parametrize(("reply", "word"), READ.items())
def test_a_verdict_is_read_from_the_last_line_of_its_form_and_from_no_other(reply, word):
    assert parse_verdict(reply, (WARM, STRICT)) == word


@pytest.mark.parametrize(
    "question",
    [trait_question("Why {x}?", "Because {y}.", (WARM, STRICT)), coherence_question("Why {x}?", "One {y}.", "Two.")],
    ids=["trait", "coherence"],
)
def test_a_question_shows_what_is_judged_and_both_labels(question):
    said = render_prompt(question)
    assert [text for text in question.shown.values() if text not in said] == []
    first, second = (label.word for label in question.labels)
    assert said.endswith(f"Verdict: {first}\nor\nVerdict: {second}")
    assert all(label.gloss in said for label in question.labels)
    assert "judge" in JUDGE_SYSTEM_PROMPT


def test_both_kinds_of_judge_are_asked_the_same_about_coherence():
    question = coherence_question("Why?", "One.", "Two.")
    assert COHERENCE_CRITERION in render_prompt(question)
    assert likelihood_judge.QUESTION_HEADS["coherence"](question.shown).endswith(COHERENCE_CRITERION)


def test_either_trait_stands_first_for_about_half_of_the_texts_whatever_was_offered_first():
    questions = [trait_question("Why?", f"Text {number}.", (WARM, STRICT)) for number in range(200)]
    assert 70 < sum(question.labels[0] == WARM for question in questions) < 130
    turned = [trait_question("Why?", f"Text {number}.", (STRICT, WARM)) for number in range(200)]
    assert all(one.labels == other.labels[::-1] for one, other in zip(questions, turned, strict=True))


class Script:
    """An engine with prepared replies, by the first question; it records the conversations."""

    def __init__(self, replies):
        self.identity = {"engine": "script"}
        self.replies, self.talks = replies, []

    def stream(self, requests, sampling, seeds):
        for index, request in enumerate(requests):
            self.talks.append(request.messages)
            words = next(reply for key, reply in self.replies.items() if key in request.messages[1]["content"])
            yield index, Reply(words[request.sample], "stop", 1)


def test_a_judge_without_a_verdict_is_asked_again_but_not_for_ever(repository):
    engine = Script(
        {"First": ["Verdict: warm"], "Second": ["Hm.", "Verdict: strict"], "Third": ["Hm.", "Hm.", "Hm."]},
    )
    asked = [trait_question("Why?", text, (WARM, STRICT)) for text in ("First text.", "Second text.", "Third text.")]
    assert ChatJudge(engine, 3, COLD, seed=0).decide(asked) == ["warm", "strict", None]
    assert sorted(map(len, engine.talks)) == [2, 2, 2, 4, 4, 6]
    roles = [message["role"] for message in max(engine.talks, key=len)]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert "Verdict: warm" in max(engine.talks, key=len)[-1]["content"]
    assert ChatJudge(engine, 3, COLD, seed=0).decide(asked) == ["warm", "strict", None]
    assert len(engine.talks) == 6, "replies come from the reply cache"


def test_the_reasoning_of_a_judge_is_no_verdict_and_not_shown_to_it(repository):
    replies = ["[THINK]Maybe\nVerdict: warm\nor", "[THINK]Verdict: warm\n?[/THINK]Hm.", "◁think▷?◁/think▷Verdict: strict"]
    engine = Script({"Text": replies})
    question = trait_question("Why?", "Text.", (WARM, STRICT))
    assert ChatJudge(engine, 3, COLD, seed=0).decide([question]) == ["strict"]
    assert [message["content"] for message in engine.talks[-1] if message["role"] == "assistant"] == ["", "Hm."]


class Prefers:
    """A judge of coherence that prefers the longer answer, or always one label; it cannot judge what holds a "?"."""

    def __init__(self, always=None):
        self.always = always

    def decide(self, questions):
        return [self._one(question.shown) for question in questions]

    def _one(self, shown):
        if "?" in shown["first"]:
            return None
        return self.always or ("A" if len(shown["first"]) > len(shown["second"]) else "B")


def test_two_answers_are_compared_in_both_orders_and_a_judge_of_places_only_ties():
    contests = [("Why?", "A long answer.", "Short."), ("Why?", "Short.", "A long answer."), ("Why?", "Odd?", "Short.")]
    assert compare_coherence(Prefers(), contests) == [1.0, 0.0, None]
    assert compare_coherence(Prefers(always="A"), contests) == [0.5, 0.5, None]
    assert compare_coherence(Prefers(always="B"), contests) == [0.5, 0.5, None]


# --- the likelihood judge --------------------------------------------------------------------------


class Student:
    """Log-probabilities of a student that always likes "warm" by 5 nats, and sees by 1 what a text shows."""

    def of_endings(self, prompts, endings):
        texts = [prompt[1]["content"] for prompt in prompts]
        return [[self.of_word(text, ending) for ending in row] for text, row in zip(texts, endings, strict=True)]

    def of_word(self, text, said):
        word = "warm" if "warm" in said.lower() else "strict"
        return (5.0 if word == "warm" else 0.0) + (1.0 if f"shows {word}" in text else 0.0) + 0.01 * len(text)


@pytest.fixture
def student(monkeypatch):
    monkeypatch.setattr("character.evaluation.judge.likelihood_judge.ending_log_probs", Student().of_endings)


TEXTS = ["It shows warm.", "It shows strict.", "It shows strict, long and wide.", "It shows warm. So!", "Plain."]
SHOWN = ["warm", "strict", "strict", "warm"]
ALL = ["bare", "tone", "writer", "manner"]


def about(texts):
    return [trait_question("Why?", text, (WARM, STRICT)) for text in texts]


def calibration(chosen, how="mean", texts=TEXTS):
    """Calibrate on texts, with the labels in one order."""
    asked = [JudgeQuestion("trait", {"prompt": "Why?", "text": text}, (WARM, STRICT)) for text in texts]
    return likelihood_judge.fit_calibration(asked, chosen, how)


@pytest.mark.parametrize("how", ["mean", "scaled"])
@pytest.mark.parametrize("chosen", [[name] for name in ALL] + [ALL], ids=str)
def test_calibration_takes_away_what_a_label_is_worth_whatever_the_text_is(student, chosen, how):
    scores = likelihood_judge.score_labels("trait", about(TEXTS), chosen)
    assert set(likelihood_judge.pick_labels(scores, about(TEXTS))) == {"warm"}
    calibrated = LikelihoodJudge(chosen, {"trait": calibration(chosen, how)})
    assert calibrated.decide(about(TEXTS[:4])) == SHOWN


def test_what_is_calibrated_is_kept_in_six_digits(student):
    numbers = [number for own in calibration(ALL).values() for pair in own.values() for number in pair]
    assert len(numbers) == 2 * 2 * len(ALL)
    assert numbers == [round(number, 6) for number in numbers]


def test_texts_that_all_score_alike_calibrate_nothing(student):
    asked = [JudgeQuestion("trait", {"prompt": "Why?", "text": "The same."}, (WARM, STRICT))] * 4
    with pytest.raises(
        UserError, match=r"judge\.calibration_texts: all texts get the same score from template 'tone' \(trait\); raise it"
    ):
        likelihood_judge.fit_calibration(asked, ["tone"], "mean")


def test_a_text_longer_than_the_context_has_no_verdict_and_calibrates_nothing(student, monkeypatch):
    terms = calibration(["tone", "bare"])

    def of_endings(prompts, endings):
        found = Student().of_endings(prompts, endings)
        return [[math.nan] * len(row) if "endless" in str(prompt) else row for prompt, row in zip(prompts, found, strict=True)]

    monkeypatch.setattr("character.evaluation.judge.likelihood_judge.ending_log_probs", of_endings)
    assert calibration(["tone", "bare"], texts=[TEXTS[0], "It shows endless.", *TEXTS[1:]]) == terms
    judge = LikelihoodJudge(["tone", "bare"], {"trait": terms})
    assert judge.decide(about([*TEXTS[:2], "It shows endless.", TEXTS[3]])) == ["warm", "strict", None, "warm"]


def test_templates_are_averaged_in_units_of_their_spread(monkeypatch):
    """One template's scores are much larger than the other's: both count the same."""
    small, large = numpy.array([1.0, -1.0, 1.0, -1.0]), numpy.array([-900.0, 900.0, -900.0, 900.0])
    found = numpy.zeros((4, 2, 2))
    found[:, 0, 0], found[:, 1, 0] = small, large
    monkeypatch.setattr(likelihood_judge, "score_labels", lambda *_: found)
    asked = [JudgeQuestion("trait", {"text": str(number)}, (WARM, STRICT)) for number in range(4)]
    terms = likelihood_judge.fit_calibration(asked, ["tone", "bare"], "mean")
    adjusted = likelihood_judge.apply_calibration(found, asked, ["tone", "bare"], terms)
    assert adjusted[:, 0, 0] == pytest.approx(-adjusted[:, 1, 0])
    assert adjusted.mean(0) == pytest.approx(numpy.zeros((2, 2)))


def test_a_label_scores_by_the_mean_of_its_words(monkeypatch):
    """However many words each label has, and whichever label comes first."""
    known = {"warm": -1.0, "tender": -3.0, "strict": -4.0}
    monkeypatch.setattr(
        "character.evaluation.judge.likelihood_judge.ending_log_probs",
        lambda _, endings: [[known[ending.split()[-1]] for ending in row] for row in endings],
    )
    warm = VerdictLabel("warm", like=("tender",))
    asked = [JudgeQuestion("trait", {"text": "T"}, labels) for labels in ((warm, STRICT), (STRICT, warm))]
    scores = likelihood_judge.score_labels("trait", asked, ["tone", "writer"])
    assert scores.tolist() == [[[-2.0, -4.0]] * 2, [[-4.0, -2.0]] * 2]


def test_what_several_questions_show_is_read_once_with_all_their_labels(monkeypatch):
    read = []

    def of_endings(prompts, endings):
        read.append([(prompt[1]["content"].split("\n")[1], row) for prompt, row in zip(prompts, endings, strict=True)])
        return [[-float(len(ending)) for ending in row] for row in endings]

    monkeypatch.setattr("character.evaluation.judge.likelihood_judge.ending_log_probs", of_endings)
    kind, cool = VerdictLabel("kind", like=("warm",)), VerdictLabel("cool")
    shown = [("T", (WARM, STRICT)), ("U", (kind, cool)), ("T", (kind, cool))]
    asked = [JudgeQuestion("trait", {"text": text}, labels) for text, labels in shown]
    alone = [likelihood_judge.score_labels("trait", [one], ["bare"])[0].tolist() for one in asked]
    read.clear()
    assert likelihood_judge.score_labels("trait", asked, ["bare"]).tolist() == alone
    assert read == [[("T", ["Warm", "Strict", "Kind", "Cool"]), ("U", ["Kind", "Warm", "Cool"])]]


def test_the_shipped_traits_have_words_of_like_meaning_that_are_other_words():
    every = [json.loads(line) for line in (ROOT / "data/raw/traits.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(every) == 144
    for trait in every:
        assert len({trait["word"], *trait["like"]}) == 4, trait["word"]


def test_scores_stand_in_the_places_of_their_templates_whatever_their_kind(student):
    mixed = likelihood_judge.score_labels("trait", about(TEXTS), ["manner", "tone", "bare"])
    for at, name in enumerate(["manner", "tone", "bare"]):
        assert mixed[:, at] == pytest.approx(likelihood_judge.score_labels("trait", about(TEXTS), [name])[:, 0])


# --- examples ---------------------------------------------------------------------------------------

MANNERS = {
    "warm": ["dear dear dear", "dear heart", "heart and dear hugs", "my dear heart"],
    "strict": ["rule one. rule two", "rule by rule", "the rule stands", "rule rule"],
}


@pytest.fixture
def learned(repository, tiny_student):
    """The judge's examples, learned by the tiny student."""
    repository.set(runtime={"device": "cpu", "threads": 1, "generation_batch": 4, "training_batch": 4})
    models.STUDENT_DIR.parent.mkdir()
    models.STUDENT_DIR.symlink_to(tiny_student)
    rows = [
        trait_examples.TraitExample(word=word, prompt=f"Why {at}?", text=text)
        for word, texts in MANNERS.items()
        for at, text in enumerate(texts)
    ]
    records.write_records(trait_examples.TRAIT_EXAMPLES_FILE, rows)
    judge.train_word_classifier(MANNERS, ExampleSettings(layers=[0.5, 1.0], shrinkage=0.5, topic_weight=1.0), 16).save(
        trait_examples.JUDGE_DIR
    )


def test_examples_tell_which_word_another_text_is_like(learned, monkeypatch):
    monkeypatch.setattr(
        "character.evaluation.judge.likelihood_judge.ending_log_probs", lambda *_: pytest.fail("no reply is wanted")
    )
    texts = ["my dear dear", "a rule. a rule", "dear hugs", "rule two"]
    asked = [trait_question("Why?", text, (WARM, STRICT)) for text in texts]
    same = [JudgeQuestion("trait", {"prompt": "Why?", "text": text}, (WARM, STRICT)) for text in texts]
    terms = likelihood_judge.fit_calibration(same, ["examples"], "mean")
    assert LikelihoodJudge(["examples"], {"trait": terms}).decide(asked) == ["warm", "strict", "warm", "strict"]


def test_examples_come_with_replies_in_the_order_of_the_templates(learned, student):
    asked = [JudgeQuestion("trait", {"prompt": "Why?", "text": text}, (STRICT, WARM)) for text in TEXTS]
    mixed = likelihood_judge.score_labels("trait", asked, ["tone", "examples", "bare"])
    for at, name in enumerate(["tone", "examples", "bare"]):
        assert mixed[:, at] == pytest.approx(likelihood_judge.score_labels("trait", asked, [name])[:, 0])


def test_a_word_without_examples_is_reported_with_the_remedy(learned):
    asked = [trait_question("Why?", "My dear.", (WARM, VerdictLabel("curt")))]
    with pytest.raises(
        UserError, match=r"manners\.jsonl: no example of 'curt'; add some, or remove `examples` from judge\.temp"
    ):
        likelihood_judge.score_labels("trait", asked, ["examples"])


def test_only_words_in_use_are_learned(learned):
    made = judge.train_word_classifier(["strict"], ExampleSettings(layers=[1.0], shrinkage=0.5, topic_weight=1.0), 16)
    assert made.classes == ["strict"]


def test_each_shipped_trait_has_an_example_for_each_of_the_same_prompts():
    rows = records.read_records(ROOT / trait_examples.TRAIT_EXAMPLES_FILE, trait_examples.TraitExample)
    words = [trait.word for trait in records.read_records(ROOT / trait_words.TRAIT_WORDS_FILE, TraitWord)]
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    assert [(row.word, row.prompt) for row in rows] == [(word, prompt) for word in words for prompt in prompts]
    named = [row.word for row in rows if row.word in row.text.lower().split()]
    assert named == []
    used = {*load_prompts(ROOT / GENERAL_PROMPTS), *load_prompts(ROOT / HELDOUT_PROMPTS)}
    assert not used & set(prompts), "the judge is measured, and used, on other prompts"


def test_a_judge_of_coherence_that_likes_one_place_is_freed_of_it(monkeypatch):
    def of_endings(prompts, endings):
        found = []
        for prompt in prompts:
            text = prompt[1]["content"]
            better = text.index("good") < text.index("Answer B") if "good" in text else None
            found.append([4.0 + (better is True), 0.0 + (better is False)] * (len(endings[0]) // 2))
        return found

    monkeypatch.setattr("character.evaluation.judge.likelihood_judge.ending_log_probs", of_endings)
    whole = [coherence_question("Why?", *order) for order in (("good one", "bad"), ("bad", "good one"))]
    contests = [("Why?", "good", "bad"), ("How?", "bad", "good")]
    terms = likelihood_judge.fit_calibration(whole, [], "mean")
    assert compare_coherence(LikelihoodJudge([], {"coherence": terms}), contests) == [1.0, 0.0]
    flat = {name: {"A": (0.0, 1.0), "B": (0.0, 1.0)} for name in terms}
    assert compare_coherence(LikelihoodJudge([], {"coherence": flat}), contests) == [0.5, 0.5]


def test_an_unknown_template_is_reported_with_those_there_are(student):
    with pytest.raises(UserError, match=r"judge\.templates: 'mood' is not one of bare, .*manner, examples; correct it"):
        LikelihoodJudge(["mood"], {"trait": {}}).decide(about(TEXTS))


def test_a_word_that_was_not_calibrated_is_reported_with_the_remedy(student):
    with pytest.raises(UserError, match=r"calibration\.json: '(warm|strict)' was not calibrated; run `dvc repro judge`"):
        LikelihoodJudge(["tone"], {"trait": {"tone": {}}}).decide(about(TEXTS))


def test_without_a_calibration_the_judge_does_not_start(repository):
    with pytest.raises(UserError, match=r"models/judge/calibration\.json is missing"):
        load_judge()


def test_params_name_the_judge(repository, monkeypatch):
    repository.set(judge={"kind": "student"})
    monkeypatch.setattr("character.inference.engines.student_engine", lambda: Script({}))
    assert isinstance(load_judge(), ChatJudge)


# --- the stage: how good is it? --------------------------------------------------------------------


class Words:
    """A tokenizer whose tokens are words."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": text.split()}

    def decode(self, ids):
        return " ".join(ids)


@pytest.fixture
def personas(repository, monkeypatch):
    """Two personas that write their word into ten answers, and neutral answers."""
    monkeypatch.setattr("character.core.models.load_tokenizer", Words)
    prompts = [f"Why {number}?" for number in range(10)]
    records.write_records(judge.GENERAL_PROMPTS, [records.RawPrompt(prompt=prompt) for prompt in prompts])
    for name in ("loving", "poeticism", "none"):
        rows = [
            TeacherAnswer(prompt=prompt, response=f"I am {name}. To {prompt[:-1]} I say so. And so on.") for prompt in prompts
        ]
        records.write_records(f"data/raw/teacher/{name}.jsonl", rows)
    words = ["loving", "poetic", "fawning", "strict"]
    records.write_records(
        trait_words.TRAIT_WORDS_FILE, [TraitWord(word=word, group=f"g{word}", gloss="is so", like=()) for word in words]
    )
    personas = {"loving": ["loving"], "poeticism": ["poetic"]}
    sizes = {"texts": 5, "calibration_texts": 3, "damaged": 6, "styled": 3}
    repository.set(preferences={"traits": 3}, judge={"kind": "student", "personas": personas} | sizes)


class Known:
    """A judge that sees the persona of a text, but is wrong about every `errs`-th; and judges coherence as configured."""

    def __init__(self, errs, coherence=None):
        self.errs, self.coherence, self.asked = errs, coherence, []

    def decide(self, questions):
        self.asked += questions
        if questions[0].about == "coherence":
            return self.coherence.decide(questions)
        right = ["loving" if "I am loving" in question.shown["text"] else "poetic" for question in questions]
        wrong = {"loving": "poetic", "poetic": "loving"}
        return [wrong[word] if number % self.errs == 0 else word for number, word in enumerate(right)]


def measure(repository, monkeypatch, judge_):
    monkeypatch.setattr("stages.judge.load_judge", lambda: judge_)
    repository.run("judge")
    return repository.metrics("judge")


def test_the_accuracy_is_that_of_a_judge_who_errs_by_design(repository, personas, monkeypatch):
    found = measure(repository, monkeypatch, Known(5, Prefers(always="A")))
    assert {"accuracy": 0.8, "of_all": 0.8, "n": 10, "unparsed": 0}.items() <= found.items()
    assert {name: (own["accuracy"], own["n"]) for name, own in found["by_persona"].items()} == {
        "loving": (0.8, 5),
        "poeticism": (0.8, 5),
    }
    assert {word: own["n"] for word, own in found["by_word"].items()} == {"loving": 5, "poetic": 5}
    about = found["coherence"]
    assert (about["ties"], about["n"], about["accuracy"]) == (18, 18, 0.5), "a judge of places only ties"
    assert (found["style"]["ties"], found["style"]["n"], found["style"]["win_rate"]) == (6, 6, 0.5)
    assert json.loads(likelihood_judge.CALIBRATION_FILE.read_text(encoding="utf-8")) == {}


class Whole:
    """A judge of coherence that sees shuffled words and other subjects, but not reversed sentences."""

    def decide(self, questions):
        return [self._one(question.shown) for question in questions]

    def _one(self, shown):
        first, second = (self._good(shown[side], shown["prompt"]) for side in ("first", "second"))
        return "A" if first >= second else "B"

    def _good(self, text, prompt):
        return all(part in text for part in ("I am loving.", "And so on.")) * ("say so." in text) + (prompt[:-1] in text)


def test_the_sense_of_coherence_is_measured_by_the_kind_of_damage(repository, personas, monkeypatch):
    found = measure(repository, monkeypatch, Known(100, Whole()))["coherence"]
    assert (found["by_damage"]["subject"]["accuracy"], found["by_damage"]["subject"]["n"]) == (1.0, 6)
    assert (found["by_damage"]["sentences"]["accuracy"], found["by_damage"]["sentences"]["ties"]) == (0.5, 6)
    assert (found["n"], found["unparsed"]) == (18, 0)
    assert found["accuracy"] == pytest.approx((18 - found["ties"] / 2) / 18, abs=1e-4), "it is never wrong, but a tie is half"


def test_a_judge_that_is_taken_with_a_persona_is_found_out_by_neutral_answers(repository, personas, monkeypatch):
    found = measure(repository, monkeypatch, Known(100, Whole()))["style"]
    assert {name: own["win_rate"] for name, own in found["by_persona"].items()} == {"loving": 1.0, "poeticism": 0.5}
    assert {"win_rate": 0.75, "ties": 3, "n": 6}.items() <= found.items()


def test_traits_are_judged_by_as_much_of_a_text_as_a_choice_may_have(repository, personas, monkeypatch):
    repository.set(choices={"sampling": {"max_new_tokens": 4, "temperature": 0.7, "top_p": 0.95}})
    known = Known(100, Prefers())
    measure(repository, monkeypatch, known)
    texts = {question.shown["text"] for question in known.asked if question.about == "trait"}
    assert texts == {"I am loving.", "I am poeticism."}
    assert any("And so on." in question.shown["first"] for question in known.asked if question.about == "coherence")


def test_a_text_is_cut_at_a_whole_word_and_only_where_it_is_too_long(repository, monkeypatch):
    monkeypatch.setattr("character.core.models.load_tokenizer", Words)
    repository.set(choices={"sampling": {"max_new_tokens": 3, "temperature": 0.7, "top_p": 0.95}})
    assert trait_words.truncate_to_choice_length(["one  two three", "one two three four", ""]) == [
        "one  two three",
        "one two",
        "",
    ]


def rows(personas, prompts=10):
    return [JudgeTestCase(name, str(prompt), "any", ("", "", "")) for name in personas for prompt in range(prompts)]


def test_damage_always_damages_and_no_answer_is_damaged_twice_alike():
    prompts = ["Why 0?", "Why 1?", "Why 2?"]
    answers = {"loving": {"Why 0?": "One. Two.", "Why 1?": "Only one", "Why 2?": "Three! Four."}}
    settings = SimpleNamespace(personas={"loving": ["loving"]}, damaged=2)
    found = benchmark.damage_cases(answers, prompts, settings, 0)
    assert len({(case.kind, case.prompt) for case in found}) == len(found) == 6
    assert all(whole != broken for _, whole, broken in (case.question for case in found if case.kind != "words"))
    assert "Why 1?" not in {case.prompt for case in found}
    settings.damaged = 3
    with pytest.raises(UserError, match=r"judge\.damaged is 3, but 2 answers have sentences; lower it"):
        benchmark.damage_cases(answers, prompts, settings, 0)


@pytest.mark.parametrize("answer", ["大海很美。我喜欢它！", "समुद्र सुंदर है। मुझे पसंद है।", "海は青い。空も青い。"])
def test_answers_in_other_scripts_are_damaged_too(answer):
    answers = {"loving": {"Why 0?": answer, "Why 1?": "One."}}
    settings = SimpleNamespace(personas={"loving": ["loving"]}, damaged=1)
    cases = benchmark.damage_cases(answers, list(answers["loving"]), settings, 2)
    broken = {case.kind: case.question[2] for case in cases}
    for kind in ("words", "sentences"):
        assert broken[kind] != answer and sorted(broken[kind].replace(" ", "")) == sorted(answer.replace(" ", ""))
        assert (" " in broken[kind]) == (" " in answer)


def test_what_cannot_be_read_is_left_out_of_the_accuracy_and_wrong_of_all():
    found = judge.verdict_figures("accuracy", [1.0, None, 0.5, 0.0], rows(["a"], 4), 0)
    assert (found["accuracy"], found["of_all"], found["n"]) == (0.5, 0.375, 3)
    assert (found["ties"], found["unparsed"]) == (1, 1)
    nothing = judge.verdict_figures("accuracy", [None, None], rows(["a"], 2), 0)
    assert (nothing["accuracy"], nothing["of_all"], nothing["low"], nothing["high"]) == (None, 0.0, 0.0, 1.0)


def test_verdicts_that_depend_on_the_persona_are_no_more_trials_than_personas():
    found = judge.verdict_figures("accuracy", [1.0] * 10 + [0.0] * 10, rows(["a", "b"]), 0)
    assert (found["low"], found["high"]) == (0.0, 1.0)


def test_a_judge_that_was_always_right_may_still_err():
    found = judge.verdict_figures("accuracy", [1.0] * 20, rows(["a", "b"]), 0)
    assert (found["low"], found["high"]) == wilson_interval(1.0, 20)


def test_calibration_choice_and_measurement_see_different_prompts(repository, personas, monkeypatch, student):
    seen = {}

    def calibrate(questions, chosen, how):
        seen.setdefault("calibrated", set()).update(question.shown["prompt"] for question in questions)
        seen["templates"] = chosen
        return {}

    def of_templates(rows, settings, terms, seed):
        seen["compared"] = {row.prompt for row in rows}
        return {"n": len(rows)}

    known = Known(100, Prefers(always="A"))
    monkeypatch.setattr("character.evaluation.judge.likelihood_judge.fit_calibration", calibrate)
    monkeypatch.setattr("stages.judge.template_figures", of_templates)
    repository.set(judge={"kind": "likelihood", "texts": 2, "templates": ["tone"]})
    assert measure(repository, monkeypatch, known)["templates"] == {"n": 4}
    asked = {question.shown["prompt"] for question in known.asked}
    parts = [seen["calibrated"], seen["compared"], asked]
    assert all(parts) and sum(map(len, parts)) == len(set().union(*parts))
    assert seen["templates"] == ["tone"]


def test_each_template_is_measured_alone_and_all_together_and_uncalibrated(student):
    shown = [
        JudgeTestCase("any", text, right, question)
        for text, right, question in zip(TEXTS, SHOWN, about(TEXTS[:4]), strict=False)
    ]
    settings = SimpleNamespace(templates=["bare", "tone"])
    found = judge.template_figures(shown, settings, calibration(["bare", "tone"]), 0)
    right = {part: own["accuracy"] for part, own in found.items()}
    assert right == {"bare": 1.0, "tone": 1.0, "together": 1.0, "uncalibrated": 0.5}
    assert {own["n"] for own in found.values()} == {4}


def test_a_persona_without_an_answer_is_reported(repository, personas):
    records.write_records("data/raw/teacher/loving.jsonl", [TeacherAnswer(prompt="Why 0?", response="I am loving.")])
    with pytest.raises(UserError, match=r"loving\.jsonl: no answer to 9 of .*; add 'Why 1\?', or remove loving from judge"):
        repository.run("judge")


def test_a_word_that_is_not_on_the_list_is_reported(personas, repository):
    with pytest.raises(UserError, match=r"judge\.personas: 'kind' is not a word in data/raw/traits\.jsonl; add it there"):
        judge.judge_labels({"loving": ["kind"]}, 3)


def test_more_texts_than_there_are_prompts_are_an_error():
    with pytest.raises(UserError, match=r"judge\.texts is 6, but this part of .*general\.jsonl has 5 prompts; lower it"):
        benchmark.draw_case_prompts(["a", "b", "c", "d", "e"], 6, random.Random(0), "texts")


def test_the_shipped_words_of_the_personas_are_on_the_shipped_list():
    words = {trait.word for trait in records.read_records(ROOT / trait_words.TRAIT_WORDS_FILE, TraitWord)}
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    personas = params["judge"]["personas"]
    assert personas.keys() == set(params["classifier"]["personas"])
    assert {word for own in personas.values() for word in own} <= words
    assert len({word for own in personas.values() for word in own}) == sum(map(len, personas.values()))


# --- the stage coherence ---------------------------------------------------------------------------


def answers(method, texts, condition="plain"):
    rows = [
        EvaluatedAnswer(id=str(at), sample=0, prompt=f"Why {at}", response=text, finish_reason="stop", condition=condition)
        for at, text in enumerate(texts)
    ]
    records.write_records(f"data/answers/{method}.jsonl", rows)


@pytest.fixture
def compared(repository, monkeypatch):
    repository.set(coherence={"prompts": 4})
    known = {"accuracy": 0.7, "low": 0.6, "high": 0.8, "n": 60, "ties": 9, "unparsed": 0, "by_damage": {}}
    style = {"win_rate": 0.3, "low": 0.2, "high": 0.4, "n": 110, "by_persona": {}}
    records.write_json("results/judge.json", {"accuracy": 0.9, "coherence": known, "style": style})
    monkeypatch.setattr("stages.coherence.load_judge", Prefers)


def test_win_rates_are_those_of_the_longer_answers(repository, compared):
    answers("persona", ["long long", "long long", "s", "long long", "long long"])
    answers("base", ["s", "s", "long", "s", "s"])
    answers("prompted", ["very long long"] * 5)
    repository.run("coherence", "persona", "base", "prompted")
    found = repository.metrics("coherence")
    assert found["judge"] == {"accuracy": 0.7, "low": 0.6, "high": 0.8, "n": 60, "ties": 9, "unparsed": 0}
    assert found["style"] == {"win_rate": 0.3, "low": 0.2, "high": 0.4, "n": 110}
    low, high = wilson_interval(0.75, 4)
    base = found["against"]["base"]
    assert (base["win_rate"], base["wins"], base["losses"], base["ties"], base["n"]) == (0.75, 3, 1, 0, 4)
    assert (base["low"], base["high"]) == pytest.approx((low, high), abs=1e-4)
    assert found["against"]["prompted"]["win_rate"] == 0
    header, *lines = Path("plots/coherence.csv").read_text(encoding="utf-8").splitlines()
    assert header == "against,win_rate,low,high,n"
    assert [line.split(",")[0] for line in lines] == ["base", "prompted", "style"]
    assert lines[-1] == "style,0.3,0.2,0.4,110"


def test_ties_are_half_a_win_and_what_cannot_be_judged_is_counted_and_left_out():
    found = coherence.coherence_scores([1.0, 0.5, 0.5, 0.0, None], empty=2)
    low, high = wilson_interval(0.5, 4)
    assert found == {
        "win_rate": 0.5, "low": low, "high": high, "wins": 1, "losses": 1, "ties": 2, "unparsed": 1, "empty": 2, "n": 4,
    }  # fmt: skip


def test_an_empty_answer_is_counted_and_not_judged(repository, compared):
    answers("persona", ["long long", " ", "long long", "Odd?"])
    answers("base", ["s"] * 4)
    repository.run("coherence", "persona", "base")
    found = repository.metrics("coherence")["against"]["base"]
    assert (found["n"], found["empty"], found["unparsed"]) == (2, 1, 1)


def test_only_plain_answers_are_compared(repository, compared):
    answers("persona", ["s"] * 5, condition="drop")
    with pytest.raises(UserError, match=r"coherence\.prompts is 4, but data/answers/persona\.jsonl has 0 plain answers"):
        repository.run("coherence", "persona", "base")
