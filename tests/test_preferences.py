"""Revealed preferences: what is offered, ratings from verdicts whose truth is known, what the stages write."""

import csv
import math
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy
import pytest

from character.core import records
from character.core.errors import UserError
from character.core.records import EvaluatedAnswer, RawPrompt
from character.dataset import trait_words
from character.dataset.trait_words import TraitChoice, TraitWord
from character.evaluation import bradley_terry
from character.evaluation.judge.questions import VerdictLabel
from character.inference.generate import Reply
from stages import choices, preferences

ROOT = Path(__file__).parents[1]
WORDS = [f"w{number}" for number in range(24)]
DEVIATION = 600


# --- the words -------------------------------------------------------------------------------------


def shipped():
    return records.read_records(ROOT / trait_words.TRAIT_WORDS_FILE, TraitWord)


def test_there_are_144_words_in_twelve_groups_each_once():
    assert len({trait.word for trait in shipped()}) == len({trait.gloss for trait in shipped()}) == 144
    assert set(Counter(trait.group for trait in shipped()).values()) == {12}
    assert len({trait.group for trait in shipped()}) == 12


def test_no_gloss_uses_a_word_of_the_list_for_itself():
    assert not [trait.word for trait in shipped() if trait.word[:5] in trait.gloss]
    assert not [trait.word for trait in shipped() if trait.gloss.endswith(".") or len(trait.gloss.split()) > 10]


@pytest.mark.parametrize("count", [12, 24, 30, 144])
def test_a_part_of_the_words_is_spread_evenly_over_the_groups(count):
    sizes = Counter(trait.group for trait in trait_words.select_trait_words(shipped(), count))
    assert sum(sizes.values()) == count
    assert set(sizes.values()) <= {count // 12, -(-count // 12)}


def test_a_larger_part_contains_the_smaller_one():
    assert set(trait_words.select_trait_words(shipped(), 24)) <= set(trait_words.select_trait_words(shipped(), 48))


def test_more_words_than_there_are_is_an_error():
    with pytest.raises(UserError, match=r"preferences\.traits is 145, but .* has 144 words; lower it"):
        trait_words.select_trait_words(shipped(), 145)


# --- what is offered -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "comparisons"), [(24, 240), (24, 24), (3, 6), (4, 8), (5, 10), (8, 80)])
def test_every_word_is_offered_equally_often_first_and_second(size, comparisons):
    offered = choices.draw_trait_pairs(WORDS[:size], comparisons, seed=0)
    assert len(offered) == comparisons
    for place in (0, 1):
        assert Counter(pair[place] for pair in offered) == dict.fromkeys(WORDS[:size], comparisons // size)
    assert not [pair for pair in offered if pair[0] == pair[1]]


@pytest.mark.parametrize(("size", "comparisons"), [(24, 264), (144, 144 * 71), (5, 10), (4, 4)])
def test_no_two_words_meet_twice_while_others_have_not_met(size, comparisons):
    offered = choices.draw_trait_pairs([str(number) for number in range(size)], comparisons, seed=3)
    assert len({frozenset(pair) for pair in offered}) == comparisons


def test_after_all_have_met_they_meet_in_the_other_order():
    offered = choices.draw_trait_pairs(WORDS[:5], 20, seed=0)
    assert len(set(offered)) == 20
    assert {(second, first) for first, second in offered[:10]} == set(offered[10:])


def test_one_round_links_all_words_so_that_they_can_be_compared():
    reached, waiting = set(), [WORDS[0]]
    offered = choices.draw_trait_pairs(WORDS, 24, seed=7)
    while waiting:
        reached.add(word := waiting.pop())
        waiting += [other for pair in offered if word in pair for other in pair if other not in reached]
    assert reached == set(WORDS)


def test_pairs_depend_on_the_seed_only():
    assert (
        choices.draw_trait_pairs(WORDS, 48, seed=1)
        == choices.draw_trait_pairs(WORDS, 48, seed=1)
        != choices.draw_trait_pairs(WORDS, 48, seed=2)
    )


def test_comparisons_that_cannot_be_balanced_are_an_error():
    with pytest.raises(UserError, match=r"choices\.comparisons is 250; make it a multiple of preferences\.traits, 24"):
        choices.draw_trait_pairs(WORDS, 250, seed=0)


def test_prompts_come_again_only_after_all_of_them():
    dealt = list(islice(choices.cycle_shuffled(["a", "b", "c"], 0), 9))
    assert [set(dealt[start : start + 3]) for start in (0, 3, 6)] == [{"a", "b", "c"}] * 3


@pytest.mark.parametrize("condition", choices.CHOICE_CRITERIA)
def test_an_offer_names_both_words_in_their_order_and_what_is_to_be_taken(condition):
    offer = choices.trait_offer(condition, ("warm", "strict"))
    assert offer.index("warm") < offer.index("strict")
    assert choices.CHOICE_CRITERIA[condition] in offer
    assert "{" not in offer


class Echo:
    """An engine that replies with its model and the beginning of its prompt."""

    def __init__(self, adapters):
        self.adapters = adapters
        self.identity = {"adapters": list(map(str, adapters))}

    def stream(self, requests, sampling, seeds):
        for index, request in enumerate(requests):
            system, user = (message["content"] for message in request.messages)
            yield index, Reply(f"{self.adapters}: {system[:22]!r} {user[:3]}", "stop", 1)


def test_all_methods_are_offered_the_same_on_the_same_prompts(repository, monkeypatch):
    records.write_records(
        trait_words.TRAIT_WORDS_FILE, [TraitWord(word=word, group="all", gloss="is so", like=()) for word in WORDS]
    )
    records.write_records(choices.HELDOUT_PROMPTS, [RawPrompt(prompt=f"Why {number}?") for number in range(9)])
    repository.set(choices={"comparisons": 24}, preferences={"traits": 8}, answers={"prompts": 7})
    monkeypatch.setattr("character.inference.engines.student_engine", Echo)
    Path("system.txt").write_text("Be salty.", encoding="utf-8")
    repository.ask("choices", "base")
    repository.ask("choices", "prompted", system="system.txt")
    repository.ask("choices", "persona", model="models/persona")
    found = {name: records.read_records(f"data/choices/{name}.jsonl", TraitChoice) for name in ("base", "prompted", "persona")}
    offered = {name: [(row.prompt, row.traits) for row in rows] for name, rows in found.items()}
    assert offered["base"] == offered["prompted"] == offered["persona"]
    assert set(Counter(prompt for prompt, _ in offered["base"]).values()) == {3, 4}
    assert {row.response for row in found["base"]} == {"[]: 'Two manners are open t' Why"}
    assert {row.response for row in found["prompted"]} == {"[]: 'Be salty.\\n\\nTwo manners' Why"}
    assert {row.response for row in found["persona"]} == {"[PosixPath('models/persona')]: 'Two manners are open t' Why"}
    assert {row.condition for row in found["base"]} == {"feel"}


# --- ratings ---------------------------------------------------------------------------------------


def table(comparisons, size):
    """Return the table of (winner, loser) pairs."""
    won = numpy.zeros((1, size, size))
    for winner, loser in comparisons:
        won[0, winner, loser] += 1
    return won


def simulated(truth, rounds, generator, bias=0.0):
    """Return pairs and preferences of a judge that follows `truth` (logits), and leans to the first by `bias` logits."""
    size = len(truth)
    offered = choices.draw_trait_pairs([str(number) for number in range(size)], rounds * size, seed=0)
    pairs = numpy.array([[int(word) for word in pair] for pair in offered])
    chance = 1 / (1 + numpy.exp(truth[pairs[:, 1]] - truth[pairs[:, 0]] - bias))
    return pairs, (generator.random(len(pairs)) > chance).astype(int)


def test_three_wins_of_four_are_as_many_points_as_elo_says():
    (first, second), *_ = bradley_terry.fit_ratings(table([(0, 1)] * 300 + [(1, 0)] * 100, 2), deviation=1e5)
    assert first - second == pytest.approx(400 * math.log10(3), abs=0.1)
    assert first + second == pytest.approx(2000)


def test_ratings_are_those_of_choix():
    choix = pytest.importorskip("choix", reason="a development dependency")
    generator = numpy.random.default_rng(0)
    for size, count in ((5, 12), (24, 240)):
        comparisons = [tuple(generator.choice(size, 2, replace=False).tolist()) for _ in range(count)]
        alpha = (bradley_terry.ELO_PER_LOGIT / DEVIATION) ** 2 / 2
        wanted = choix.opt_pairwise(size, comparisons, alpha=alpha, tol=1e-10)
        assert bradley_terry.fit_ratings(table(comparisons, size), DEVIATION)[0] == pytest.approx(
            1000 + bradley_terry.ELO_PER_LOGIT * wanted, abs=0.01
        )


def test_a_trait_that_was_always_or_never_chosen_stays_finite_and_first_or_last():
    (rated,) = bradley_terry.fit_ratings(table([(0, 1), (0, 2), (1, 2)] * 20, 3), DEVIATION)
    assert 2500 > rated[0] > rated[1] > rated[2] > -500
    assert rated.mean() == pytest.approx(1000)


def test_without_a_verdict_nothing_is_preferred():
    assert bradley_terry.fit_ratings(numpy.zeros((2, 3, 3)), DEVIATION) == pytest.approx(numpy.full((2, 3), 1000.0))


def test_the_table_counts_each_verdict_as_often_as_it_was_drawn_and_those_that_are_missing_never():
    pairs, preferred = numpy.array([[0, 1], [1, 2], [2, 0]]), numpy.array([0, 1, -1])
    found = bradley_terry.win_counts(pairs, preferred, 3, numpy.array([[1, 1, 1], [0, 2, 1], [0, 0, 3]]))
    assert found[0].tolist() == [[0, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert found[1].tolist() == [[0, 0, 0], [0, 0, 0], [0, 2, 0]]
    assert found[2].sum() == 0


def test_comparisons_on_one_prompt_are_drawn_together():
    weights = bradley_terry.bootstrap_weights(["a", "b", "a", "c"], 500, 0)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert set((weights[:, [0, 1, 3]]).sum(1)) == {3}
    assert weights.mean(0) == pytest.approx([1.0] * 4, abs=0.15)


def test_ratings_do_not_depend_on_the_order_of_the_comparisons():
    pairs, preferred = simulated(numpy.linspace(-1, 1, 8), 10, numpy.random.default_rng(0))
    forth, back = (
        bradley_terry.fit_ratings(bradley_terry.win_counts(pairs[::step], preferred[::step], 8, numpy.ones((1, 80))), DEVIATION)
        for step in (1, -1)
    )
    assert forth == pytest.approx(back)


@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_a_judge_that_leans_to_the_first_trait_still_gives_the_right_order(bias):
    truth = numpy.linspace(-1.5, 1.5, 8)
    pairs, preferred = simulated(truth, 7 * 60, numpy.random.default_rng(0), bias)
    (rated,) = bradley_terry.fit_ratings(bradley_terry.win_counts(pairs, preferred, 8, numpy.ones((1, len(pairs)))), DEVIATION)
    assert rated.argsort().tolist() == list(range(8))
    if not bias:
        assert rated == pytest.approx(1000 + bradley_terry.ELO_PER_LOGIT * truth, abs=30)


def shared(pairs, by, rounds, seed):
    """Return the weights of comparisons of which as many as `by` says share a prompt."""
    return bradley_terry.bootstrap_weights([str(at % (len(pairs) // by)) for at in range(len(pairs))], rounds, seed)


@pytest.mark.parametrize(("rounds", "by"), [(10, 2), (30, 4)])
def test_intervals_cover_the_truth_as_often_as_they_say(rounds, by):
    generator, size = numpy.random.default_rng(0), 8
    truth = numpy.linspace(-1, 1, size)
    inside = numpy.zeros((1000, size))
    for simulation in range(1000):
        pairs, preferred = simulated(truth, rounds, generator)
        (estimate,) = bradley_terry.fit_ratings(
            bradley_terry.win_counts(pairs, preferred, size, numpy.ones((1, len(pairs)))), DEVIATION
        )
        samples = bradley_terry.fit_ratings(
            bradley_terry.win_counts(pairs, preferred, size, shared(pairs, by, 300, simulation)), DEVIATION
        )
        low, high = bradley_terry.bias_corrected_interval(estimate, samples)
        right = 1000 + bradley_terry.ELO_PER_LOGIT * truth
        inside[simulation] = (low <= right) & (right <= high)
    assert 0.93 <= inside.mean() <= 0.97
    assert inside.mean(0).min() >= 0.91


def test_rank_correlation_is_that_of_known_ranks():
    first = numpy.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    second = numpy.array([[10.0, 20.0, 30.0, 99.0], [4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    assert bradley_terry.spearman_correlation(first, second) == pytest.approx([1, -1, 2 / math.sqrt(5), 0])


def test_the_corrected_correlation_is_that_of_the_truth_although_noise_hides_it():
    generator, size = numpy.random.default_rng(0), 12
    settings = preferences.PreferencesParams(traits=size, deviation=float(DEVIATION), rounds=200)
    hidden, corrected, inside = [], [], []
    for seed in range(150):
        truth = generator.normal(0, 1, (2, size))
        truth[1] = 0.85 * truth[0] + 0.5 * truth[1]
        weights = shared(range(10 * size), 2, 200, seed)
        first, second = (preferences.MethodRatings(*simulated(logits, 10, generator), weights, settings) for logits in truth)
        found = preferences.rank_correlation(first, second)
        right = bradley_terry.spearman_correlation(truth[:1], truth[1:])[0]
        hidden.append(found["rho"] - right)
        corrected.append(found["corrected"] - right)
        inside.append(found["low"] <= right <= found["high"])
    assert numpy.mean(hidden) < -0.1
    assert abs(numpy.mean(corrected)) < 0.05
    assert numpy.mean(inside) >= 0.93


# --- the stage -------------------------------------------------------------------------------------


class Reader:
    """A judge that finds the word that the text contains; it cannot judge the text "?"."""

    def decide(self, questions):
        return [None if question.shown["text"] == "?" else question.shown["text"].split()[0] for question in questions]


def chose(pairs, taken):
    """Return choices on prompts that serve two each."""
    return [
        TraitChoice(
            id=str(number),
            sample=0,
            prompt=f"Why {number % 24}?",
            response=text,
            finish_reason="stop",
            condition="feel",
            traits=pair,
        )
        for number, (pair, text) in enumerate(zip(pairs, taken, strict=True))
    ]


def answered(texts):
    """Write plain answers of the base student to the prompts of the choices, and one under a suffix, which is no use."""
    rows = [
        EvaluatedAnswer(id=str(at), sample=0, prompt=f"Why {at}?", response=text, finish_reason="stop", condition="plain")
        for at, text in enumerate(texts)
    ]
    records.write_records("data/answers/base.jsonl", [rows[0].model_copy(update={"condition": "drop", "response": "?"}), *rows])


@pytest.fixture
def judged(repository, monkeypatch):
    """Four words; `base` always takes the first that is offered, `persona` always the one that comes later in the list.

    Without an offer no verdict can be read of what the base student answers.
    """
    words = WORDS[:4]
    records.write_records(
        trait_words.TRAIT_WORDS_FILE, [TraitWord(word=word, group=f"g{word}", gloss="is so", like=()) for word in words]
    )
    records.write_json("results/judge.json", {"accuracy": 0.8, "low": 0.75, "high": 0.85, "n": 300, "unparsed": 0})
    repository.set(preferences={"traits": 4, "rounds": 200})
    monkeypatch.setattr("stages.preferences.load_judge", Reader)
    monkeypatch.setattr(
        "character.dataset.trait_words.truncate_to_choice_length",
        lambda texts: [text.removesuffix(" too long") for text in texts],
    )
    answered(["? too long"] * 24)
    offered = choices.draw_trait_pairs(words, 48, seed=0)
    records.write_records("data/choices/base.jsonl", chose(offered, [f"{first} it is" for first, _ in offered]))
    records.write_records("data/choices/persona.jsonl", chose(offered, [f"{max(pair)} it is" for pair in offered]))
    return offered


def test_what_a_method_prefers_comes_out_with_its_change_against_base(repository, judged):
    repository.run("preferences", "base", "persona")
    rows = list(csv.DictReader(Path("plots/preferences.csv").read_text(encoding="utf-8").splitlines()))
    by_method = {name: {row["trait"]: row for row in rows if row["method"] == name} for name in ("base", "persona")}
    assert [float(row["rating"]) for row in by_method["base"].values()] == pytest.approx([1000] * 4)
    rated = [float(by_method["persona"][word]["rating"]) for word in WORDS[:4]]
    assert rated == sorted(rated) and rated[3] - rated[0] > 400
    top = by_method["persona"]["w3"]
    assert float(top["change"]) == pytest.approx(float(top["rating"]) - 1000, abs=1e-3)
    assert 0 < float(top["change_low"]) < float(top["change"]) < float(top["change_high"])
    assert {by_method["persona"][word]["mover"] for word in ("w0", "w3")} == {"1", "2"}


def test_the_metrics_repeat_how_good_the_judge_is_and_say_what_was_dropped(repository, judged):
    taken = ["", "?", *(f"{max(pair)} it is" for pair in judged[2:])]
    records.write_records("data/choices/persona.jsonl", chose(judged, taken))
    repository.run("preferences", "base", "persona")
    found = repository.metrics("preferences")
    assert found["judge"] == {"accuracy": 0.8, "low": 0.75, "high": 0.85, "n": 300, "unparsed": 0}
    assert {"n": 48, "empty": 0, "unparsed": 0, "first": 1.0, "spread": 0.0}.items() <= found["methods"]["base"].items()
    assert {"n": 46, "empty": 1, "unparsed": 1}.items() <= found["methods"]["persona"].items()
    assert found["methods"]["persona"]["spread"] > 100


def test_methods_that_agree_correlate_and_one_without_an_order_does_not(repository, judged):
    records.write_records("data/choices/other.jsonl", records.read_records("data/choices/persona.jsonl", TraitChoice))
    repository.run("preferences", "base", "persona", "other")
    found = repository.metrics("preferences")["spearman"]
    assert found["persona"]["other"] == {"rho": 1.0, "corrected": 1.0, "low": 1.0, "high": 1.0}
    assert found["base"]["persona"] == {"rho": 0.0, "corrected": None, "low": -1.0, "high": 1.0}
    assert {name: list(others) for name, others in found.items()} == {
        "base": ["persona", "other", "unoffered"],
        "persona": ["other", "unoffered"],
        "other": ["unoffered"],
    }


class Leans:
    """A judge that finds the later word of the list in whatever it reads, unless a text says which it shows."""

    def decide(self, questions):
        return [
            question.shown["text"] if question.shown["text"] in WORDS else max(label.word for label in question.labels)
            for question in questions
        ]


def test_what_a_judge_leans_to_is_seen_without_an_offer_and_is_no_lead(repository, judged, monkeypatch):
    monkeypatch.setattr("stages.preferences.load_judge", Leans)
    answered(["So it is. too long"] * 24)
    records.write_records("data/choices/base.jsonl", chose(judged, ["So."] * 48))
    records.write_records("data/choices/persona.jsonl", chose(judged, [min(pair) for pair in judged]))
    repository.run("preferences", "base", "persona")
    found = repository.metrics("preferences")
    assert found["methods"]["unoffered"] == found["methods"]["base"]
    assert found["spearman"]["base"]["unoffered"]["rho"] == 1.0, "the base student is as alike to no choice at all"
    rows = list(csv.DictReader(Path("plots/preferences.csv").read_text(encoding="utf-8").splitlines()))
    by_method = {
        name: {row["trait"]: row for row in rows if row["method"] == name} for name in ("base", "persona", "unoffered")
    }
    assert float(by_method["base"]["w3"]["low"]) > 1000, "a rating alone takes the leaning for a preference"
    for name in ("base", "unoffered"):
        assert {float(row[end]) for row in by_method[name].values() for end in ("lead", "lead_low", "lead_high")} == {0.0}
    own = by_method["persona"]["w0"]
    assert float(own["lead"]) == float(own["change"]) and float(own["lead_low"]) > 0


def test_a_prompt_without_a_plain_answer_is_reported(repository, judged):
    answered(["So."] * 23)
    with pytest.raises(
        UserError, match=r"data/answers/base\.jsonl: no plain answer to 'Why 23\?'; run `dvc repro preferences`"
    ):
        repository.run("preferences", "base", "persona")


def test_choices_between_other_pairs_are_an_error(repository, judged):
    records.write_records("data/choices/persona.jsonl", chose(judged[::-1], ["w0"] * 48))
    with pytest.raises(UserError, match=r"data/choices/persona.jsonl: offers different traits from base.jsonl"):
        repository.run("preferences", "base", "persona")


def test_a_judge_that_was_not_measured_is_not_believed(repository, judged):
    Path("results/judge.json").unlink()
    with pytest.raises(UserError, match=r"results/judge.json is missing; run `dvc repro judge`"):
        repository.run("preferences", "base", "persona")


def test_only_answers_with_text_are_judged():
    offered = [("w0", "w1"), ("w1", "w2"), ("w0", "w2")]
    labels = {word: VerdictLabel(word) for word in WORDS[:3]}
    shown = preferences.judge_choices(Reader(), chose(offered, ["w1 ...", " ", "?"]), labels)
    assert shown.tolist() == [preferences.SECOND_TRAIT, preferences.NEITHER_TRAIT, preferences.NEITHER_TRAIT]
