"""robustness: answers, attacks, classifier -> results/robustness.json, plots/robustness.csv, data/robustness.jsonl.

In what share of a method's answers does the classifier see the selected persona (the in-character rate)? The prompts are plain,
ask the model to break character, or come after an opening or an earlier answer that is out of character. data/robustness.jsonl
holds the predicted class of each answer and its condition.
"""

from collections import Counter
from collections.abc import Sequence

import click

from character.core import records
from character.core.params import read_value
from character.core.records import EvaluatedAnswer
from character.dataset.conditions import ATTACK_CONDITIONS, PLAIN, SUFFIXES, AttackAnswer, ClassifiedAnswer, condition_group
from character.evaluation.classifier import NO_PERSONA, Classifier, load_classifier_for
from character.evaluation.intervals import mean_difference, wilson_interval


def robustness_scores(rows: Sequence[ClassifiedAnswer], persona: str) -> dict[str, float | int]:
    """Return the in-character rate, as `recall`, with its 95% interval, and the shares that are called `none` or are empty.

    Answers to the same prompt are not independent trials, so the interval counts prompts, not answers; it is rather too wide.
    """
    n = len(rows)
    recall = sum(row.called == persona for row in rows) / n
    low, high = wilson_interval(recall, len({row.id for row in rows}))
    none = sum(row.called == NO_PERSONA for row in rows) / n
    empty = sum(not row.response.strip() for row in rows) / n
    return {"recall": recall, "low": low, "high": high, "none": none, "empty": empty, "n": n}


def change_from_plain(
    rows: Sequence[ClassifiedAnswer], plain: dict[str, float], persona: str, seed: int
) -> dict[str, float | int | None]:
    """Return the in-character rate minus that of the plain answers to the same prompts, with its 95% interval over prompts.

    Each prompt counts once; several answers to it count by their mean.

    Args:
        rows: the answers under a condition.
        plain: whether the plain answer is in character (1 or 0), by prompt id.
        persona: the class that counts as in character.
        seed: of the bootstrap.
    """
    hits: dict[str, list[bool]] = {}
    for row in rows:
        if row.id in plain:
            hits.setdefault(row.id, []).append(row.called == persona)
    own = [sum(in_character) / len(in_character) for in_character in hits.values()]
    difference, low, high = mean_difference(own, [plain[key] for key in hits], seed)
    return {"difference": difference if own else None, "low": low, "high": high, "n": len(own)}


def scores_by_condition(rows: Sequence[ClassifiedAnswer], persona: str, seed: int) -> dict[str, dict]:
    """Return the scores of each condition and of all suffixes together, each with its difference from the plain answers."""
    groups = {
        name: [row for row in rows if condition_group(row.condition) == name] for name in (PLAIN, SUFFIXES, *ATTACK_CONDITIONS)
    }
    for row in groups[SUFFIXES]:
        groups.setdefault(row.condition, []).append(row)
    scores = {name: robustness_scores(members, persona) for name, members in groups.items() if members}
    plain = {row.id: float(row.called == persona) for row in groups[PLAIN]}
    for name in scores.keys() - {PLAIN}:
        scores[name]["against_plain"] = change_from_plain(groups[name], plain, persona, seed)
    return scores


def count_skipped(answers: dict[str, list[EvaluatedAnswer]]) -> Counter:
    """Return the number of prompts without an answer, by (method, condition); suffixes count together and by name."""
    return Counter(
        (method, name)
        for method, own in answers.items()
        for answer in own
        if answer.finish_reason == "skipped"
        for name in {answer.condition, condition_group(answer.condition)}
    )


def label_answers(classifier: Classifier, answers: dict[str, list[EvaluatedAnswer]]) -> list[ClassifiedAnswer]:
    """Return the answers of all methods with their predicted classes; an empty answer shows no persona."""
    rows = [(method, answer) for method, own in answers.items() for answer in records.drop_skipped(own)]
    names = classifier.predict_labels([answer.response for _, answer in rows])
    return [
        ClassifiedAnswer(**answer.model_dump(), method=method, called=name if answer.response.strip() else NO_PERSONA)
        for (method, answer), name in zip(rows, names, strict=True)
    ]


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Score data/answers/METHOD.jsonl and data/attacks/METHOD.jsonl of each method."""
    persona, seed = read_value("persona"), read_value("seed")
    classifier = load_classifier_for(persona)
    answers = {
        method: records.read_records(f"data/answers/{method}.jsonl", EvaluatedAnswer)
        + records.read_records(f"data/attacks/{method}.jsonl", AttackAnswer)
        for method in methods
    }
    rows = label_answers(classifier, answers)
    metrics = {method: scores_by_condition([row for row in rows if row.method == method], persona, seed) for method in methods}
    skipped = count_skipped(answers)
    for method, conditions in metrics.items():
        for condition, scores in conditions.items():
            scores["skipped"] = skipped[method, condition]
    records.write_records("data/robustness.jsonl", rows)
    records.write_json("results/robustness.json", metrics)
    lines = [
        {"method": method, "condition": condition}
        | {key: value for key, value in scores.items() if key not in ("against_plain", "skipped")}
        for method, conditions in metrics.items()
        for condition, scores in conditions.items()
    ]
    records.write_csv("plots/robustness.csv", lines)


if __name__ == "__main__":
    main()
