"""robustness: answers, attacks, classifier -> metrics/robustness.json, plots/robustness.csv, data/robustness.jsonl.

How often does the classifier call an answer the selected persona's, by method: asked plain, asked to break character, led out
of it by an opening that is not its own or by an earlier answer? data/robustness.jsonl holds what each answer was called.
"""

from collections.abc import Sequence

import click

from character import classify, records
from character.conditions import ATTACKS, PLAIN, SUFFIXES, Called, group
from character.params import value
from character.records import Answer
from character.stats import wilson


def scored(rows: Sequence[Called], persona: str) -> dict[str, float | int]:
    """Return recall with its 95% interval, and the shares that are called `none` and that are empty.

    Answers to the same prompt are no independent trials: the interval counts prompts, not answers, which errs on the wide side.
    """
    n = len(rows)
    recall = sum(row.called == persona for row in rows) / n
    low, high = wilson(recall, len({row.id for row in rows}))
    none = sum(row.called == classify.NONE for row in rows) / n
    empty = sum(not row.response.strip() for row in rows) / n
    return {"recall": recall, "low": low, "high": high, "none": none, "empty": empty, "n": n}


def by_condition(rows: Sequence[Called], persona: str) -> dict[str, dict]:
    """Return the scores of each condition, and those of all suffixes together."""
    groups = {name: [row for row in rows if group(row.condition) == name] for name in (PLAIN, SUFFIXES, *ATTACKS)}
    for row in groups[SUFFIXES]:
        groups.setdefault(row.condition, []).append(row)
    return {name: scored(members, persona) for name, members in groups.items() if members}


def call(classifier: classify.Classifier, method: str, answers: Sequence[Answer]) -> list[Called]:
    """Return the answers with what they are called; one without a word shows no persona."""
    names = classifier.call([answer.response for answer in answers])
    return [
        Called(**answer.model_dump(), method=method, called=name if answer.response.strip() else classify.NONE)
        for answer, name in zip(answers, names, strict=True)
    ]


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Score data/answers/METHOD.jsonl and data/attacks/METHOD.jsonl of each method."""
    persona = value("persona")
    classifier = classify.knowing(persona)
    metrics, rows = {}, []
    for method in methods:
        answers = [row for folder in ("answers", "attacks") for row in records.read(f"data/{folder}/{method}.jsonl", Answer)]
        print(f"robustness: {len(answers)} answers of {method}", flush=True)
        called = call(classifier, method, answers)
        metrics[method] = by_condition(called, persona)
        rows += called
    records.write("data/robustness.jsonl", rows)
    records.write_json("metrics/robustness.json", metrics)
    lines = [
        {"method": method, "condition": condition, **scores}
        for method, conditions in metrics.items()
        for condition, scores in conditions.items()
    ]
    records.write_csv("plots/robustness.csv", lines)


if __name__ == "__main__":
    main()
