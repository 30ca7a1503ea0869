"""robustness: answers, classifier -> metrics/robustness.json, plots/robustness.csv.

How often does the classifier call an answer the selected persona's, by method, asked plain and asked to break character?
"""

from collections.abc import Sequence
from pathlib import Path

import click

from character import classify, records
from character.params import value
from character.records import Answer
from character.stats import wilson

ALL = "suffixes"  # the answers with any suffix together


def scored(answers: Sequence[Answer], called: Sequence[str], persona: str) -> dict[str, float | int]:
    """Return recall with its 95% interval, and the share called `none`.

    Answers to the same prompt are no independent trials: the interval counts prompts, not answers, which errs on the wide side.
    """
    n = len(answers)
    recall = sum(name == persona for name in called) / n
    low, high = wilson(recall, len({answer.id for answer in answers}))
    return {"recall": recall, "low": low, "high": high, "none": sum(name == classify.NONE for name in called) / n, "n": n}


def by_condition(answers: Sequence[Answer], called: Sequence[str], persona: str) -> dict[str, dict]:
    """Return the scores of each condition, and those of all suffixes together."""
    names = list(dict.fromkeys(answer.condition for answer in answers))
    groups = {name: {name} for name in names if name == "plain"}
    if suffixes := set(names) - {"plain"}:
        groups[ALL] = suffixes
        groups |= {name: {name} for name in names if name in suffixes}
    scores = {}
    for name, members in groups.items():
        rows = [(answer, label) for answer, label in zip(answers, called, strict=True) if answer.condition in members]
        scores[name] = scored(*zip(*rows, strict=True), persona)
    return scores


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Score data/answers/METHOD.jsonl of each method."""
    persona = value("persona")
    classifier = classify.load(Path("models/classifier"))
    classifier.known(persona)
    metrics = {}
    for method in methods:
        answers = records.read(f"data/answers/{method}.jsonl", Answer)
        print(f"robustness: {len(answers)} answers of {method}", flush=True)
        called = classifier.call([answer.response for answer in answers])
        metrics[method] = by_condition(answers, called, persona)
    records.write_json("metrics/robustness.json", metrics)
    rows = [
        {"method": method, "condition": condition, **scores}
        for method, conditions in metrics.items()
        for condition, scores in conditions.items()
    ]
    records.write_csv("plots/robustness.csv", rows)


if __name__ == "__main__":
    main()
