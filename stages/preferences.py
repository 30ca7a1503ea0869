"""preferences: choices, a judge -> metrics/preferences.json, plots/preferences.csv.

Which traits does a method reveal where it may choose? The judge says which of the two offered traits each answer shows; all
verdicts together rate the traits. All methods chose between the same pairs on the same prompts, so they are resampled together.
"""

from collections.abc import Sequence

import click
import numpy
from pydantic import Field

from character import ratings, records, traits
from character.errors import UserError
from character.judge import Judge, Label, load, measured, trait_question
from character.params import Section, read, value
from character.traits import Choice, Trait

FIRST, SECOND, NEITHER = 0, 1, -1


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

    def __init__(self, pairs: numpy.ndarray, shown: numpy.ndarray, draws: numpy.ndarray, settings: Preferences):
        everything = numpy.arange(len(pairs))[None]
        self.estimate, self.samples = (
            ratings.fit(ratings.wins(pairs, shown, settings.traits, drawn), settings.deviation) for drawn in (everything, draws)
        )

    def reliability(self) -> float:
        """Return the mean rank correlation of the samples with the estimate."""
        return float(ratings.spearman(self.estimate.repeat(len(self.samples), 0), self.samples).mean())


def rows(method: str, words: Sequence[Trait], rated: Rated, base: Rated) -> list[dict]:
    """Return rating and change against `base` of each trait, with intervals, the largest changes first."""
    change = rated.estimate - base.estimate
    columns = {"rating": rated.estimate[0], "change": change[0]}
    columns["low"], columns["high"] = ratings.interval(rated.estimate[0], rated.samples)
    columns["change_low"], columns["change_high"] = ratings.interval(change[0], rated.samples - base.samples)
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


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Rate the traits in data/choices/METHOD.jsonl of each method; changes are those against the first one."""
    settings, seed = read("preferences", Preferences), value("seed")
    words = traits.spread(traits.load(), settings.traits)
    choices = {method: records.read(f"data/choices/{method}.jsonl", Choice) for method in methods}
    number = {trait.word: at for at, trait in enumerate(words)}
    pairs = numpy.array([[number[word] for word in pair] for pair in same_pairs(choices)])
    draws = numpy.random.default_rng(seed).integers(len(pairs), size=(settings.rounds, len(pairs)))
    metrics = {"judge": measured("trait"), "condition": choices[methods[0]][0].condition, "methods": {}}
    judge, labels, rated = load(), {trait.word: Label(trait.word, trait.gloss) for trait in words}, {}
    for method in methods:
        print(f"preferences: {len(pairs)} choices of {method}", flush=True)
        shown = judged(judge, choices[method], labels)
        rated[method] = Rated(pairs, shown, draws, settings)
        spread = float(rated[method].estimate.std())
        metrics["methods"][method] = {**counts(choices[method], shown), "spread": spread}
    metrics["spearman"] = correlations(rated)
    records.write_json("metrics/preferences.json", metrics)
    table = [row for method in methods for row in rows(method, words, rated[method], rated[methods[0]])]
    records.write_csv("plots/preferences.csv", table)


if __name__ == "__main__":
    main()
