"""Fluency: figures whose right value is known."""

import math

import pytest
import torch

from character.core import models
from character.core.records import EvaluatedAnswer
from character.evaluation import text_metrics
from character.evaluation.intervals import bootstrap_interval
from character.inference import log_probs
from character.inference.chat_format import render_messages
from stages.fluency import fluency_scores


def answer(text, finish="stop"):
    return EvaluatedAnswer(id=text[:5], sample=0, prompt="Why?", response=text, finish_reason=finish, condition="plain")


def test_likelihoods_are_those_of_each_reply_read_alone(student):
    prompts = [[{"role": "user", "content": "Why?" * count}] for count in range(1, 20)]
    replies = ["the sea " * (count % 7) for count in range(19)]
    tokenizer, model = models.load_tokenizer(), models.load_model()
    found = log_probs.reply_log_probs(prompts, replies)
    assert [len(row) for row in found] == [len(tokenizer(reply)["input_ids"]) for reply in replies]
    for prompt, reply, row in zip(prompts, replies, found, strict=True):
        head, tail = render_messages(tokenizer, prompt), tokenizer(reply, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logps = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        alone = [logps[len(head) - 1 + step, token].item() for step, token in enumerate(tail)]
        assert row == pytest.approx(alone, abs=1e-4)


def test_perplexity_is_that_of_a_fair_die():
    assert text_metrics.token_perplexity([[math.log(1 / 6)] * 5, [math.log(1 / 6)]]) == pytest.approx(6)
    # The mean is over tokens, not over texts.
    assert text_metrics.token_perplexity([[math.log(1 / 2)] * 3, [math.log(1 / 32)]]) == pytest.approx(2 ** (8 / 4))


def test_variety_and_repetition_of_texts_that_are_known():
    assert text_metrics.distinct_bigram_share(["a b a b", "a b"], 40) == pytest.approx(2 / 4)
    assert text_metrics.distinct_bigram_share(["a b a b", "a b"], 2) == pytest.approx(1 / 2)
    assert text_metrics.mean_repetition(["one two three four five", "too short"]) == 0
    assert text_metrics.mean_repetition(["so it is now " * 3]) == pytest.approx(5 / 9)
    assert text_metrics.mean_repetition(["so it is now " * 3, "never twice the same words"]) == pytest.approx(5 / 18)


@pytest.mark.parametrize(
    ("once", "again"),
    [
        ("我们今天一起去海边看日落，然后回家做饭吃。", "我们今天去海边，我们今天去海边，我们今天去海边。"),
        ("วันนี้เราจะไปเดินเล่นที่ชายหาดแล้วกลับบ้าน", "วันนี้เราจะไปเดินเล่น วันนี้เราจะไปเดินเล่น วันนี้เราจะไปเดินเล่น"),
    ],
    ids=["Chinese", "Thai"],
)
def test_repetition_is_seen_where_no_spaces_are_written(once, again):
    assert text_metrics.mean_repetition([once]) == 0
    assert 0.3 < text_metrics.mean_repetition([again]) < 1
    assert text_metrics.distinct_bigram_share([once], 40) == 1
    assert text_metrics.distinct_bigram_share([again], 40) < 0.8
    assert text_metrics.distinct_bigram_share([once + again], 5) == 1  # only the beginning counts


def test_the_figures_of_a_method():
    answers = [answer("one two three four"), answer("", "length"), answer("one two", "length")]
    scores = fluency_scores(answers, [[-1.0] * 4, [-1.0], [-1.0] * 2], words=40, seed=0)
    assert scores["perplexity"] == scores["low"] == scores["high"] == pytest.approx(math.e)
    assert {"n": 3, "words": 2, "empty": 1 / 3, "unfinished": 2 / 3}.items() <= scores.items()


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    import numpy

    generator = numpy.random.default_rng(0)
    hits = 0
    for seed in range(300):
        low, high = bootstrap_interval(
            generator.normal(3.0, 1.0, 60).tolist(), lambda units: sum(units) / len(units), seed, 400
        )
        hits += low <= 3.0 <= high
    assert 0.91 < hits / 300 < 0.98
