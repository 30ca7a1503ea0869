"""crosscheck: classified answers, recorded answers -> models/crosscheck/, results/crosscheck.json, plots/crosscheck.csv.

Does the in-character rate measure the methods, or the quirks of one classifier? There are two checks. First, a classifier of
another kind, which counts words and letters, is trained on the same answers and reads the same texts. Second, the rates of both
are corrected for their errors on held-out answers: the teacher's answers in character that they miss, and base's
answers that they take for the persona. This assumes the same error rates on the methods' texts. If the two corrected rates
disagree, the assumption is wrong.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import Completion
from character.core.safe_text import print_text
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
    """Return texts, classes and prompts of the answers to general prompts, and whether the student wrote each of them."""
    general = load_prompts(GENERAL_PROMPTS)
    rows = [
        (text, name, prompt, False)
        for name in (*personas, NO_PERSONA)
        for text, prompt in zip(recorded_answers(name, general, "classifier.personas"), general, strict=True)
    ]
    own = records.drop_skipped(records.read_records("data/rejected.jsonl", Completion))
    rows += [(row.response, NO_PERSONA, row.prompt, True) for row in own if row.prompt in set(general)]
    texts, labels, prompts, students = map(list, zip(*rows, strict=True))
    return texts, labels, prompts, students


def held_out_labels(
    texts: Sequence[str], labels: Sequence[str], prompts: Sequence[str], settings: CrosscheckParams, seed: int
) -> list[str]:
    """Return the predicted class of each text, from a fit that saw no answer to the same prompt."""
    from sklearn.model_selection import GroupKFold, cross_val_predict

    folds = GroupKFold(settings.folds, shuffle=True, random_state=seed)
    pipeline = ngram_classifier.build_ngram_classifier(settings.features, settings.c)
    return cross_val_predict(pipeline, texts, labels, groups=prompts, cv=folds).tolist()


def first_classifier_errors(persona: str) -> ErrorCounts:
    """Return the held-out errors of the first classifier, from plots/classifier.csv."""
    with open("plots/classifier.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    actual, called, source = ([row[name] for row in rows] for name in ("actual", "predicted", "source"))
    return ErrorCounts.from_labels(actual, called, [name == "student" for name in source], persona)


def statistic_with_interval(
    name: str, statistic, units: Sequence[str], first: Sequence[str], second: Sequence[str], seed: int
) -> dict:
    """Return a statistic of the confusion matrix of two raters, as `name`, with its 95% interval.

    The interval resamples units, because texts for one prompt are not independent.

    Args:
        name: the key of the statistic.
        statistic: a function of a confusion matrix `[classes, classes]`.
        units: the unit of each text, its prompt.
        first: the class of each text by one rater.
        second: the class by the other rater.
        seed: of the bootstrap.
    """
    confusions = confusions_by_unit(units, first, second)
    low, high = bootstrap_interval(confusions, lambda drawn: float(statistic(sum(drawn))), seed)
    return {name: float(statistic(sum(confusions))), "low": low, "high": high, "n": len(first)}


def crosscheck_scores(
    calls: Sequence[str], ids: Sequence[str], persona: str, errors: ErrorCounts, seed: int
) -> dict[str, float | None]:
    """Return the in-character rate, as `recall`, observed and corrected; the intervals count prompts, as in `robustness`."""
    recall, prompts = sum(name == persona for name in calls) / len(calls), len(set(ids))
    names = ("recall", "low", "high", "corrected", "corrected_low", "corrected_high")
    figures = (recall, *wilson_interval(recall, prompts), *corrected_share(recall, prompts, errors, seed))
    return dict(zip(names, figures, strict=True))


def scores_by_method(
    rows: Sequence[ClassifiedAnswer], second: Sequence[str], persona: str, errors: dict[str, ErrorCounts], seed: int
) -> dict:
    """Return the rates of both classifiers and their agreement, by method and condition.

    Args:
        rows: the answers, with the classes of the first classifier.
        second: the class of each answer by the second classifier.
        persona: the class that counts as in character.
        errors: of the classifiers, by `first` and `second`.
        seed: of the bootstrap.
    """
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
    """Yield the rows of the plot; the interval is that of the corrected rate."""
    for method, conditions in methods.items():
        for condition, scores in conditions.items():
            for name in ("first", "second"):
                figures = {"low": scores[name]["corrected_low"], "high": scores[name]["corrected_high"], "n": scores["n"]}
                rates = {"recall": scores[name]["recall"], "corrected": scores[name]["corrected"]}
                yield {"method": method, "condition": condition, "classifier": name, **rates, **figures}


@click.command()
def main():
    """Train the second classifier and compare it with the first on the same answers."""
    settings, persona, seed = read_section("crosscheck", CrosscheckParams), read_value("persona"), read_value("seed")
    texts, labels, prompts, students = training_texts(read_value("classifier.personas"))
    print_text(f"crosscheck: {len(texts)} texts to learn from")
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
