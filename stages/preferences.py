"""preferences: choices, the base student's plain answers, a judge -> results/preferences.json, plots/preferences.csv.

Which traits does a method reveal where it may choose? The judge says which of the two offered traits each answer shows; all
verdicts together rate the traits. All methods chose between the same pairs on the same prompts, so they are resampled together.

A judge leans to some words whatever it reads, and a student has a manner without any offer. So the base student's plain answers
to the same prompts are judged between the same pairs, as `unoffered`: what is rated there was not chosen.
"""

from collections.abc import Sequence
from itertools import chain

import click
import numpy
from pydantic import Field

from character.core import records
from character.core.errors import UserError
from character.core.params import Section, read, value
from character.core.records import Answer
from character.dataset import trait_words as traits
from character.dataset.conditions import plain
from character.dataset.trait_words import Choice, Trait
from character.evaluation import bradley_terry as ratings
from character.evaluation.judge.load import load_accuracy, load_judge
from character.evaluation.judge.questions import Judge, Label, trait_question

FIRST, SECOND, NEITHER = 0, 1, -1
BASE = "data/answers/base.jsonl"
UNOFFERED = "unoffered"  # in the place of a method


class Preferences(Section):
    traits: int = Field(gt=2)  # of the words of data/raw/traits.jsonl, evenly from its groups
    deviation: float = Field(gt=0)  # of the ratings before any comparison, in Elo
    rounds: int = Field(gt=1)  # of the bootstrap


def judged(judge: Judge, choices: Sequence[Choice], labels: dict[str, Label]) -> numpy.ndarray:
    """Return which of its two traits each answer shows; NEITHER where it is empty or no verdict can be read."""
    written = [at for at, choice in enumerate(choices) if choice.response.strip()]
    questions = [
        trait_question(choices[at].prompt, choices[at].response, tuple(labels[word] for word in choices[at].traits))
        for at in written
    ]
    shown = numpy.full(len(choices), NEITHER)
    for at, word in zip(written, judge.decide(questions), strict=True):
        shown[at] = NEITHER if word is None else choices[at].traits.index(word)
    return shown


def counts(choices: Sequence[Choice], shown: numpy.ndarray) -> dict:
    """Return how many verdicts there are, what was dropped and why, and the share of the trait that was offered first."""
    empty = sum(not choice.response.strip() for choice in choices)
    n = int((shown != NEITHER).sum())
    first = int((shown == FIRST).sum()) / n if n else None
    return {"n": n, "empty": empty, "unparsed": len(choices) - n - empty, "first": first}


class Rated:
    """The ratings of one method: `estimate` `[1, traits]`, and `samples` `[rounds, traits]` of the bootstrap."""

    def __init__(self, pairs: numpy.ndarray, shown: numpy.ndarray, weights: numpy.ndarray, settings: Preferences):
        self.estimate, self.samples = (
            ratings.fit(ratings.wins(pairs, shown, settings.traits, counted), settings.deviation)
            for counted in (numpy.ones((1, len(pairs))), weights)
        )

    def less(self, other: "Rated") -> list[numpy.ndarray]:
        """Return the difference of each trait's rating to that of the other, and the ends of its 95% interval."""
        difference = (self.estimate - other.estimate)[0]
        return [difference, *ratings.interval(difference, self.samples - other.samples)]

    def reliability(self) -> float:
        """Return the mean rank correlation of the samples with the estimate."""
        return float(ratings.spearman(self.estimate.repeat(len(self.samples), 0), self.samples).mean())


def rows(method: str, words: Sequence[Trait], rated: Rated, base: Rated, without: Rated) -> list[dict]:
    """Return each trait's rating, its change against `base` and its lead on that `without` an offer, by the size of the change.

    The intervals are those of one trait each, and know nothing of the order.
    """
    own = [rated.estimate[0], *ratings.interval(rated.estimate[0], rated.samples)]
    columns = dict(zip(("rating", "low", "high"), own, strict=True))
    for name, other in (("change", base), ("lead", without)):
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), rated.less(other), strict=True))
    order = numpy.abs(columns["change"]).argsort(kind="stable")[::-1]
    return [
        {"method": method, "trait": words[at].word, "group": words[at].group, "mover": place}
        | {name: float(column[at]) for name, column in columns.items()}
        for place, at in enumerate(order, start=1)
    ]


def correlation(first: Rated, second: Rated) -> dict[str, float | None]:
    """Return the rank correlation of two methods' ratings: as it is, and corrected for their noise, with a 95% interval.

    Noise makes orders look less alike than they are (Spearman 1904). A bootstrap sample is to the estimate as that is to the
    truth: `noise` is what it does to the correlation of the estimates once, and to that of the samples twice.
    """
    rho = ratings.spearman(first.estimate, second.estimate)[0]
    samples = ratings.spearman(first.samples, second.samples)
    noise = first.reliability() * second.reliability()
    if noise <= 0:  # one of them is all noise
        return {"rho": float(rho), "corrected": None, "low": -1.0, "high": 1.0}
    low, high = numpy.quantile(samples, [0.025, 0.975]) / noise**2
    corrected, low, high = numpy.clip([rho / noise, low, high], -1, 1).tolist()
    return {"rho": float(rho), "corrected": corrected, "low": low, "high": high}


def correlations(rated: dict[str, Rated]) -> dict[str, dict[str, dict]]:
    """Return the rank correlation of each method with those after it."""
    names = list(rated)
    return {
        first: {second: correlation(rated[first], rated[second]) for second in names[at:]}
        for at, first in enumerate(names[:-1], start=1)
    }


def same_pairs(choices: dict[str, list[Choice]]) -> list[tuple[str, str]]:
    """Return what all methods were offered."""
    offered = {method: [(choice.prompt, *choice.traits) for choice in rows] for method, rows in choices.items()}
    first, *others = offered
    if odd := [method for method in others if offered[method] != offered[first]]:
        raise UserError(f"data/choices/{odd[0]}.jsonl: offers other traits than {first}.jsonl; run `dvc repro preferences`.")
    return [pair for _, *pair in offered[first]]


def unoffered(choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices with the base student's plain answers to their prompts, as long as a choice may be."""
    answers = {answer.prompt: answer.response for answer in plain(records.read(BASE, Answer))}
    if missing := [choice.prompt for choice in choices if choice.prompt not in answers]:
        raise UserError(f"{BASE}: no plain answer to {missing[0]!r}; run `dvc repro preferences`.")
    texts = traits.shortened([answers[choice.prompt] for choice in choices])
    return [choice.model_copy(update={"response": text}) for choice, text in zip(choices, texts, strict=True)]


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Rate the traits in data/choices/METHOD.jsonl of each method; changes are those against the first one."""
    settings, seed = read("preferences", Preferences), value("seed")
    words = traits.spread(traits.load(), settings.traits)
    choices = {method: records.read(f"data/choices/{method}.jsonl", Choice) for method in methods}
    number = {trait.word: at for at, trait in enumerate(words)}
    pairs = numpy.array([[number[word] for word in pair] for pair in same_pairs(choices)])
    choices[UNOFFERED] = unoffered(choices[methods[0]])
    weights = ratings.drawn([choice.prompt for choice in choices[UNOFFERED]], settings.rounds, seed)
    metrics = {"judge": load_accuracy("trait"), "condition": choices[methods[0]][0].condition, "methods": {}}
    print(f"preferences: {len(pairs)} choices of {', '.join(choices)}", flush=True)
    every = judged(load_judge(), [*chain(*choices.values())], {trait.word: Label.of(trait) for trait in words})
    rated = {}
    for method, shown in zip(choices, every.reshape(len(choices), len(pairs)), strict=True):
        rated[method] = Rated(pairs, shown, weights, settings)
        spread = float(rated[method].estimate.std())
        metrics["methods"][method] = {**counts(choices[method], shown), "spread": spread}
    metrics["spearman"] = correlations(rated)
    records.write_json("results/preferences.json", metrics)
    base, without = rated[methods[0]], rated[UNOFFERED]
    table = [row for method, own in rated.items() for row in rows(method, words, own, base, without)]
    records.write_csv("plots/preferences.csv", table)


if __name__ == "__main__":
    main()
