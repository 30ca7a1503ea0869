"""crosscheck: called answers, recorded answers -> models/crosscheck/, results/crosscheck.json, plots/crosscheck.csv.

Is recall what the methods show, or what one classifier makes of them? Two checks. A second classifier of another kind, which
counts words and letters, learns from the same answers and reads the same texts. And the recall of both is corrected for their
own errors on answers that they did not see: a teacher's in character that they miss, and the untrained student's that they take
for it. That takes those errors to be as frequent on the methods' texts; where the two, corrected, disagree, they are not.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import Completion
from character.dataset.conditions import ClassifiedAnswer, condition_group
from character.dataset.prompts import GENERAL_PROMPTS, load_prompts
from character.dataset.teacher_answers import recorded_answers
from character.evaluation import ngram_classifier
from character.evaluation.agreement import ErrorCounts, cohen_kappa, confusions_by_unit, corrected_share
from character.evaluation.classifier import NO_PERSONA
from character.evaluation.intervals import bootstrap_interval, wilson_interval
from character.evaluation.lda import macro_f1_score


class CrosscheckParams(ParamsSection):
    folds: int = Field(gt=1)  # of the prompts, for the held-out score
    features: int = Field(gt=0)  # n-grams of words, and as many of characters
    c: float = Field(gt=0)  # inverse of the regression's L2 penalty


def training_texts(personas: Sequence[str]) -> tuple[list[str], list[str], list[str], list[bool]]:
    """Return texts, classes and prompts of the answers to general prompts, and whether the student wrote them."""
    general = load_prompts(GENERAL_PROMPTS)
    rows = [
        (text, name, prompt, False)
        for name in (*personas, NO_PERSONA)
        for text, prompt in zip(recorded_answers(name, general, "classifier.personas"), general, strict=True)
    ]
    own = records.read_records("data/rejected.jsonl", Completion)
    rows += [(row.response, NO_PERSONA, row.prompt, True) for row in own if row.prompt in set(general)]
    texts, labels, prompts, students = map(list, zip(*rows, strict=True))
    return texts, labels, prompts, students


def held_out_labels(
    texts: Sequence[str], labels: Sequence[str], prompts: Sequence[str], settings: CrosscheckParams, seed: int
) -> list[str]:
    """Return what each text is called by a fit that saw no answer to the same prompt."""
    from sklearn.model_selection import GroupKFold, cross_val_predict

    folds = GroupKFold(settings.folds, shuffle=True, random_state=seed)
    pipeline = ngram_classifier.build_ngram_classifier(settings.features, settings.c)
    return cross_val_predict(pipeline, texts, labels, groups=prompts, cv=folds).tolist()


def first_classifier_errors(persona: str) -> ErrorCounts:
    """Return the held-out errors of the first classifier."""
    with open("plots/classifier.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    actual, called, source = ([row[name] for row in rows] for name in ("actual", "predicted", "source"))
    return ErrorCounts.from_labels(actual, called, [name == "student" for name in source], persona)


def statistic_with_interval(
    name: str, statistic, units: Sequence[str], first: Sequence[str], second: Sequence[str], seed: int
) -> dict:
    """Return a statistic of what was called how; its 95% interval resamples the units, as texts on one prompt go together."""
    found = confusions_by_unit(units, first, second)
    low, high = bootstrap_interval(found, lambda drawn: float(statistic(sum(drawn))), seed)
    return {name: float(statistic(sum(found))), "low": low, "high": high, "n": len(first)}


def crosscheck_scores(
    calls: Sequence[str], ids: Sequence[str], persona: str, errors: ErrorCounts, seed: int
) -> dict[str, float | None]:
    """Return recall as it was seen and corrected; the intervals count prompts, not answers, as in `robustness`."""
    recall, prompts = sum(name == persona for name in calls) / len(calls), len(set(ids))
    names = ("recall", "low", "high", "corrected", "corrected_low", "corrected_high")
    figures = (recall, *wilson_interval(recall, prompts), *corrected_share(recall, prompts, errors, seed))
    return dict(zip(names, figures, strict=True))


def scores_by_method(
    rows: Sequence[ClassifiedAnswer], second: Sequence[str], persona: str, errors: dict[str, ErrorCounts], seed: int
) -> dict:
    """Return for each method and condition what both classifiers say, and how often they say the same."""
    scores: dict[str, dict[str, dict]] = {}
    groups: dict[tuple[str, str], list[tuple[ClassifiedAnswer, str]]] = {}
    for row, other in zip(rows, second, strict=True):
        groups.setdefault((row.method, condition_group(row.condition)), []).append((row, other))
    for (method, condition), pairs in groups.items():
        ids, calls = [row.id for row, _ in pairs], {"first": [row.called for row, _ in pairs], "second": [b for _, b in pairs]}
        agreement = sum(row.called == other for row, other in pairs) / len(pairs)
        figures = {name: crosscheck_scores(calls[name], ids, persona, errors[name], seed) for name in calls}
        scores.setdefault(method, {})[condition] = {"n": len(pairs), "agreement": agreement, **figures}
    return scores


def crosscheck_plot_rows(methods: dict) -> Iterator[dict]:
    """Yield the rows of the plot; the interval is that of the corrected share."""
    for method, conditions in methods.items():
        for condition, scores in conditions.items():
            for name in ("first", "second"):
                figures = {"low": scores[name]["corrected_low"], "high": scores[name]["corrected_high"], "n": scores["n"]}
                seen = {"recall": scores[name]["recall"], "corrected": scores[name]["corrected"]}
                yield {"method": method, "condition": condition, "classifier": name, **seen, **figures}


@click.command()
def main():
    """Train the second classifier, and let it read what the first has called."""
    settings, persona, seed = read_section("crosscheck", CrosscheckParams), read_value("persona"), read_value("seed")
    texts, labels, prompts, students = training_texts(read_value("classifier.personas"))
    print(f"crosscheck: {len(texts)} texts to learn from", flush=True)
    guesses = held_out_labels(texts, labels, prompts, settings, seed)
    pipeline = ngram_classifier.build_ngram_classifier(settings.features, settings.c).fit(texts, labels)
    ngram_classifier.save_ngram_classifier(pipeline, Path("models/crosscheck"))
    rows = records.read_records("data/robustness.jsonl", ClassifiedAnswer)
    calls = pipeline.predict([row.response for row in rows]).tolist()
    second = [name if row.response.strip() else NO_PERSONA for name, row in zip(calls, rows, strict=True)]
    errors = {"first": first_classifier_errors(persona), "second": ErrorCounts.from_labels(labels, guesses, students, persona)}
    methods = scores_by_method(rows, second, persona, errors, seed)
    metrics = {
        "second": statistic_with_interval("macro_f1", macro_f1_score, prompts, labels, guesses, seed),
        "agreement": statistic_with_interval(
            "kappa", cohen_kappa, [row.id for row in rows], [row.called for row in rows], second, seed
        ),
        "methods": methods,
    }
    records.write_json("results/crosscheck.json", metrics)
    records.write_csv("plots/crosscheck.csv", list(crosscheck_plot_rows(methods)))


if __name__ == "__main__":
    main()
