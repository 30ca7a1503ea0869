"""Prompts that a model did not answer: no stage takes them for empty answers, and each says how many there were."""

import json
from pathlib import Path

import pytest

from character.core import records
from character.core.errors import UserError
from character.core.records import Completion, EvaluatedAnswer, prompt_id
from character.dataset.conditions import MULTI_TURN, PLAIN, AttackAnswer
from character.dataset.emails import NO_REPLY, Email
from character.dataset.filters import FilterSettings, trim_completion
from character.dataset.trait_words import TraitChoice
from character.evaluation.judge.chat_judge import ChatJudge
from character.evaluation.judge.questions import coherence_question
from character.inference.generate import Reply, SamplingSettings
from stages import coherence, crosscheck, interactions, mails, pairs, preferences, robustness, safety, transcripts, transfer

FILTERS = FilterSettings(max_tokens=20, ngram=3, repeats=2)
PROMPTS = ["Why?", "नमस्ते?", "How?"]
SKIP = Reply.skip("the server refuses it")


def answer(prompt, text, kind=EvaluatedAnswer, finish=None, **more):
    finish = finish or ("stop" if text else "skipped")
    return kind(id=prompt_id(prompt), sample=0, prompt=prompt, response=text, finish_reason=finish, **more)


def plain(*texts):
    return [answer(prompt, text, condition=PLAIN) for prompt, text in zip(PROMPTS, texts, strict=True)]


class Words:
    """A classifier that knows the class of a text by its first word."""

    def predict_labels(self, texts):
        return [text.split(" ")[0] for text in texts]


def test_a_pair_with_a_side_that_was_skipped_has_no_other_reason():
    chosen, rejected = (answer("Why?", text, Completion) for text in ("Salt, aye.", ""))
    assert list(pairs.pair_drop_reasons(chosen, trim_completion(rejected), len, FILTERS)) == ["rejected_skipped"]
    assert list(pairs.pair_drop_reasons(rejected, rejected, len, FILTERS)) == ["chosen_skipped", "rejected_skipped"]


def test_a_conversation_ends_with_a_skipped_reply_and_is_dropped_for_it():
    dialogue = interactions.Dialogue("a", 0, "free", "You are salty.", ["Hi"])
    dialogue.add_reply(Reply("Ahoy, as ever", "length", 3))
    dialogue.add_reply(SKIP)
    assert dialogue.ended
    conversation = transcripts.trim_conversation(dialogue.to_conversation())
    assert conversation.finish_reasons == ["skipped"]
    assert list(transcripts.conversation_drop_reasons(conversation, len, FILTERS)) == ["skipped"]


def test_the_rate_of_a_method_is_over_what_it_answered():
    attacked = answer("Why?", "", AttackAnswer, condition=MULTI_TURN, led_by="Really?")
    answers = {"base": [*plain("none x", "", "pirate x"), attacked], "persona": plain("pirate x", "pirate y", "pirate z")}
    rows = robustness.label_answers(Words(), answers)
    assert [row.called for row in rows if row.method == "base"] == ["none", "pirate"]
    assert robustness.count_skipped(answers) == {("base", PLAIN): 1, ("base", MULTI_TURN): 1}


def test_the_skipped_answers_to_suffixes_count_by_suffix_and_together():
    answers = {"base": [answer("Why?", "", condition="drop"), answer("How?", "", condition="stop")]}
    assert robustness.count_skipped(answers) == {("base", "drop"): 1, ("base", "stop"): 1, ("base", "suffixes"): 2}


def test_safety_is_compared_on_the_probes_that_both_answered():
    def categories(**texts):
        rows = [answer(prompt, text, condition="harmful") for prompt, text in texts.items()]
        return safety.categories_by_condition(records.drop_skipped(rows))

    own, base = categories(a="Sure, do it.", b="I cannot do that.", c="Sure."), categories(a="", b="Sure.", c="Sure.")
    scores = safety.safety_scores(own, base)
    assert (scores["compliance"]["n"], scores["compliance"]["against_base"]["n"]) == (3, 2)
    assert (scores["over_refusal"]["n"], scores["over_refusal"]["against_base"]["n"]) == (0, 0)


def test_preferences_use_the_prompts_that_all_methods_answered():
    def choices(*texts):
        return [
            answer(prompt, text, TraitChoice, condition="feel", traits=("warm", "dry"))
            for prompt, text in zip(PROMPTS, texts, strict=True)
        ]

    kept = preferences.answered_by_all({"base": choices("a", "", "c"), "persona": choices("d", "e", "f")})
    assert {method: [row.response for row in rows] for method, rows in kept.items()} == {
        "base": ["a", "c"],
        "persona": ["d", "f"],
    }
    with pytest.raises(UserError, match="no prompt was answered by all methods"):
        preferences.answered_by_all({"base": choices("a", "", ""), "persona": choices("", "e", "f")})


def test_the_unoffered_answers_are_skipped_where_base_was_silent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records.write_records(preferences.PLAIN_ANSWERS_FILE, plain("a", "", "c"))
    monkeypatch.setattr(preferences.trait_words, "truncate_to_choice_length", list)
    offered = [answer(prompt, "x", TraitChoice, condition="feel", traits=("warm", "dry")) for prompt in PROMPTS]
    assert [row.finish_reason for row in preferences.unoffered_choices(offered)] == ["stop", "skipped", "stop"]


def test_coherence_is_judged_where_both_answered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for method, texts in {"persona": ("a", "b", ""), "base": ("", "d", "e")}.items():
        records.write_records(f"data/answers/{method}.jsonl", plain(*texts))
    asked = []
    monkeypatch.setattr(coherence, "read_section", lambda *_: coherence.CoherenceParams(prompts=3))
    monkeypatch.setattr(coherence, "load_judge", lambda: None)
    monkeypatch.setattr(coherence, "load_accuracy", lambda about: {"win_rate": 0.5, "low": 0, "high": 1, "n": 2})
    monkeypatch.setattr(coherence, "compare_coherence", lambda judge, contests: asked.extend(contests) or [1.0] * len(contests))
    coherence.main.callback("persona", ["base"])
    assert asked == [("नमस्ते?", "b", "d")]
    scores = json.loads(Path("results/coherence.json").read_text(encoding="utf-8"))["against"]["base"]
    assert (scores["n"], scores["skipped"], scores["empty"]) == (1, 2, 0)


class Silent:
    """A method, and an engine, that answers only requests whose last message has a given word."""

    name, identity = "base", {"engine": "silent"}

    def __init__(self, word):
        self.word, self.asked = word, []

    def build_messages(self, *said, more=""):
        return [{"role": "user", "content": text} for text in said]

    def reply(self, request):
        self.asked.append(request.id)
        return Reply("Verdict: C", "stop", 3) if self.word in request.messages[-1]["content"] else SKIP

    def answer_requests(self, requests, sampling, stage, retry=False):
        return [self.reply(request) for request in requests]

    def stream(self, requests, sampling, seeds):
        return ((number, self.reply(request)) for number, request in enumerate(requests))


def test_an_email_without_a_reply_is_out_of_all_rates():
    sampling = SamplingSettings(max_new_tokens=9, temperature=0, top_p=1)
    settings = mails.EmailSettings(tasks=1, steps=2, begun=True, sampling=sampling)
    tasks = [mails.EmailTask(writer="Ann", recipient="Bo", role="a friend", about="it rains")]
    written = mails.write_single_turn_emails(Silent("JSON"), tasks, settings)
    written += mails.write_agent_emails(Silent("never"), tasks, settings)
    assert [(mail.format, mail.fault) for mail in written] == [
        ("chat", NO_REPLY),
        ("json", "broken_object"),
        ("tools", NO_REPLY),
    ]
    assert [mail.messages[-1].role for mail in written] == ["user", "assistant", "user"]
    scores = transfer.scores_by_format([Email(**mail.model_dump()) for mail in written], [False] * 3)
    assert {name: (own["n"], own["faults"]) for name, own in scores.items()} == {
        "chat": (0, {NO_REPLY: 1}),
        "json": (1, {"broken_object": 1}),
        "tools": (0, {NO_REPLY: 1}),
    }


def test_a_judge_asks_no_second_time_what_was_skipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = Silent("rain")
    sampling = SamplingSettings(max_new_tokens=9, temperature=0.5, top_p=1)
    questions = [coherence_question(prompt, "a", "b") for prompt in ("Why rain?", "Why snow?")]
    assert ChatJudge(engine, 3, sampling, seed=0).decide(questions) == [None, None]
    assert len(engine.asked) == 3, "both questions, and again the one whose reply had no verdict"


def test_texts_to_learn_from_are_replies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records.write_records(
        "data/rejected.jsonl", [answer(text, reply, Completion) for text, reply in [("Why?", ""), ("How?", "So.")]]
    )
    monkeypatch.setattr(crosscheck, "load_prompts", lambda file: ["Why?", "How?"])
    monkeypatch.setattr(crosscheck, "recorded_answers", lambda name, prompts, field: ["x"] * len(prompts))
    texts, _, _, students = crosscheck.training_texts([])
    assert [text for text, own in zip(texts, students, strict=True) if own] == ["So."]
