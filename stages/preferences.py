"""preferences: choices, plain answers of base, a judge -> results/preferences.json, plots/preferences.csv.

Which traits does a method prefer if it may choose? The judge decides which of the two offered traits each answer shows, and the
traits are rated from all verdicts. All methods choose between the same pairs on the same prompts, so they are resampled
together.

A judge is biased towards some words, and the student has a manner of its own without any offer. So the judge also decides
between the same pairs for base's plain answers to the same prompts, called `unoffered`. Their ratings do not come from a
choice.
"""

from collections.abc import Sequence
from itertools import chain

import click
import numpy
from pydantic import Field

from character.core import records
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import EvaluatedAnswer
from character.core.safe_text import print_text
from character.dataset import trait_words
from character.dataset.conditions import plain_answers
from character.dataset.trait_words import TraitChoice, TraitWord
from character.evaluation import bradley_terry
from character.evaluation.judge.load import load_accuracy, load_judge
from character.evaluation.judge.questions import Judge, VerdictLabel, trait_question

FIRST_TRAIT, SECOND_TRAIT, NEITHER_TRAIT = 0, 1, -1
PLAIN_ANSWERS_FILE = "data/answers/base.jsonl"
UNOFFERED = "unoffered"  # listed with the methods


class PreferencesParams(ParamsSection):
    traits: int = Field(gt=2)  # words of data/raw/traits.jsonl, evenly from its groups
    deviation: float = Field(gt=0)  # standard deviation of the ratings' prior, in Elo points
    rounds: int = Field(gt=1)  # of the bootstrap


def judge_choices(judge: Judge, choices: Sequence[TraitChoice], labels: dict[str, VerdictLabel]) -> numpy.ndarray:
    """Return which of its two traits each answer shows, `[choices]`.

    It is NEITHER_TRAIT for an empty answer and if no verdict can be parsed.
    """
    written = [at for at, choice in enumerate(choices) if choice.response.strip()]
    questions = [
        trait_question(choices[at].prompt, choices[at].response, tuple(labels[word] for word in choices[at].traits))
        for at in written
    ]
    shown = numpy.full(len(choices), NEITHER_TRAIT)
    for at, word in zip(written, judge.decide(questions), strict=True):
        shown[at] = NEITHER_TRAIT if word is None else choices[at].traits.index(word)
    return shown


def verdict_counts(choices: Sequence[TraitChoice], shown: numpy.ndarray) -> dict:
    """Return the number of verdicts, of dropped choices by reason, and the share of verdicts for the trait offered first."""
    empty = sum(not choice.response.strip() for choice in choices)
    n = int((shown != NEITHER_TRAIT).sum())
    first = int((shown == FIRST_TRAIT).sum()) / n if n else None
    return {"n": n, "empty": empty, "unparsed": len(choices) - n - empty, "first": first}


class MethodRatings:
    """The ratings of one method in Elo points: `estimate` `[1, traits]`, and `samples` `[rounds, traits]` of the bootstrap."""

    def __init__(self, pairs: numpy.ndarray, shown: numpy.ndarray, weights: numpy.ndarray, settings: PreferencesParams):
        self.estimate, self.samples = (
            bradley_terry.fit_ratings(bradley_terry.win_counts(pairs, shown, settings.traits, counted), settings.deviation)
            for counted in (numpy.ones((1, len(pairs))), weights)
        )

    def difference_to(self, other: "MethodRatings") -> list[numpy.ndarray]:
        """Return each trait's rating minus that of `other`, and the ends of its 95% interval; each is `[traits]`, in Elo."""
        difference = (self.estimate - other.estimate)[0]
        return [difference, *bradley_terry.bias_corrected_interval(difference, self.samples - other.samples)]

    def rank_reliability(self) -> float:
        """Return the mean rank correlation of the samples with the estimate."""
        return float(bradley_terry.spearman_correlation(self.estimate.repeat(len(self.samples), 0), self.samples).mean())


def trait_rating_rows(
    method: str, words: Sequence[TraitWord], rated: MethodRatings, base: MethodRatings, without: MethodRatings
) -> list[dict]:
    """Return a row for each trait, the largest change first.

    A row has the trait's rating, its change from `base` and its lead over the rating `without` an offer. The intervals are for
    single traits: they do not account for the sorting.
    """
    own = [rated.estimate[0], *bradley_terry.bias_corrected_interval(rated.estimate[0], rated.samples)]
    columns = dict(zip(("rating", "low", "high"), own, strict=True))
    for name, other in (("change", base), ("lead", without)):
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), rated.difference_to(other), strict=True))
    order = numpy.abs(columns["change"]).argsort(kind="stable")[::-1]
    return [
        {"method": method, "trait": words[at].word, "group": words[at].group, "mover": place}
        | {name: float(column[at]) for name, column in columns.items()}
        for place, at in enumerate(order, start=1)
    ]


def rank_correlation(first: MethodRatings, second: MethodRatings) -> dict[str, float | None]:
    """Return the rank correlation of two methods' ratings: observed, and corrected for noise with a 95% interval.

    Noise attenuates correlations (Spearman 1904). A bootstrap sample relates to the estimate as the estimate relates to the
    truth, so the factor `noise` attenuates the correlation of the estimates once and that of the samples twice.
    """
    rho = bradley_terry.spearman_correlation(first.estimate, second.estimate)[0]
    samples = bradley_terry.spearman_correlation(first.samples, second.samples)
    noise = first.rank_reliability() * second.rank_reliability()
    if noise <= 0:  # one of them is only noise
        return {"rho": float(rho), "corrected": None, "low": -1.0, "high": 1.0}
    low, high = numpy.quantile(samples, [0.025, 0.975]) / noise**2
    corrected, low, high = numpy.clip([rho / noise, low, high], -1, 1).tolist()
    return {"rho": float(rho), "corrected": corrected, "low": low, "high": high}


def pairwise_correlations(rated: dict[str, MethodRatings]) -> dict[str, dict[str, dict]]:
    """Return the rank correlation of each method with those after it."""
    names = list(rated)
    return {
        first: {second: rank_correlation(rated[first], rated[second]) for second in names[at:]}
        for at, first in enumerate(names[:-1], start=1)
    }


def common_pairs(choices: dict[str, list[TraitChoice]]) -> list[tuple[str, str]]:
    """Return the pairs of traits that all methods were offered.

    Raises:
        UserError: two methods were offered different pairs.
    """
    offered = {method: [(choice.prompt, *choice.traits) for choice in rows] for method, rows in choices.items()}
    first, *others = offered
    if odd := [method for method in others if offered[method] != offered[first]]:
        raise UserError(
            f"data/choices/{odd[0]}.jsonl: offers different traits from {first}.jsonl; run `dvc repro preferences`."
        )
    return [pair for _, *pair in offered[first]]


def unoffered_choices(choices: Sequence[TraitChoice]) -> list[TraitChoice]:
    """Return the choices with base's plain answers to the same prompts, cut to the length of a choice.

    Raises:
        UserError: base has no plain answer to a prompt.
    """
    answers = {answer.prompt: answer for answer in plain_answers(records.read_records(PLAIN_ANSWERS_FILE, EvaluatedAnswer))}
    if missing := [choice.prompt for choice in choices if choice.prompt not in answers]:
        raise UserError(f"{PLAIN_ANSWERS_FILE}: no plain answer to {missing[0]!r}; run `dvc repro preferences`.")
    own = [answers[choice.prompt] for choice in choices]
    texts = trait_words.truncate_to_choice_length([answer.response for answer in own])
    return [
        choice.model_copy(update={"response": text, "finish_reason": answer.finish_reason})
        for choice, answer, text in zip(choices, own, texts, strict=True)
    ]


def answered_by_all(choices: dict[str, list[TraitChoice]]) -> dict[str, list[TraitChoice]]:
    """Return the choices that every method made.

    Raises:
        UserError: there are none.
    """
    kept = [at for at, rows in enumerate(zip(*choices.values(), strict=True)) if len(records.drop_skipped(rows)) == len(rows)]
    if not kept:
        raise UserError("data/choices/: no prompt was answered by all methods; see what `dvc repro choices` says about them.")
    return {method: [rows[at] for at in kept] for method, rows in choices.items()}


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Rate the traits in data/choices/METHOD.jsonl of each method; changes are differences from the first one."""
    settings, seed = read_section("preferences", PreferencesParams), read_value("seed")
    words = trait_words.select_trait_words(trait_words.load_trait_words(), settings.traits)
    choices = {method: records.read_records(f"data/choices/{method}.jsonl", TraitChoice) for method in methods}
    number = {trait.word: at for at, trait in enumerate(words)}
    offered = len(common_pairs(choices))
    choices[UNOFFERED] = unoffered_choices(choices[methods[0]])
    choices = answered_by_all(choices)
    pairs = numpy.array([[number[word] for word in pair] for pair in common_pairs(choices)])
    weights = bradley_terry.bootstrap_weights([choice.prompt for choice in choices[UNOFFERED]], settings.rounds, seed)
    metrics = {"judge": load_accuracy("trait"), "condition": choices[methods[0]][0].condition}
    metrics |= {"skipped": offered - len(pairs), "methods": {}}
    print_text(f"preferences: {len(pairs)} choices of {', '.join(choices)}")
    every = judge_choices(
        load_judge(), [*chain(*choices.values())], {trait.word: VerdictLabel.from_trait(trait) for trait in words}
    )
    rated = {}
    for method, shown in zip(choices, every.reshape(len(choices), len(pairs)), strict=True):
        rated[method] = MethodRatings(pairs, shown, weights, settings)
        spread = float(rated[method].estimate.std())
        metrics["methods"][method] = {**verdict_counts(choices[method], shown), "spread": spread}
    metrics["spearman"] = pairwise_correlations(rated)
    records.write_json("results/preferences.json", metrics)
    base, without = rated[methods[0]], rated[UNOFFERED]
    table = [row for method, own in rated.items() for row in trait_rating_rows(method, words, own, base, without)]
    records.write_csv("plots/preferences.csv", table)


if __name__ == "__main__":
    main()
