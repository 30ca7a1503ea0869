"""Results of the runs of a study, read from their experiments, and scores over all personas."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from character.core import records
from character.dataset.conditions import ClassifiedAnswer, condition_group
from character.evaluation.classifier import NO_PERSONA
from character.study.runs import StudyRun

if TYPE_CHECKING:
    import numpy

RUN_METRICS = ("capabilities", "classifier", "coherence", "judge", "pairs", "preferences", "robustness", "transcripts")
F1_BOOTSTRAP_ROUNDS = 1000


@dataclass(frozen=True)
class RunResult:
    """One run: its metrics by stage, its classified answers, and the trait ratings of each method, in Elo."""

    run: StudyRun
    metrics: dict[str, dict]
    calls: list[ClassifiedAnswer]
    ratings: dict[str, dict[str, float]]


def read_run_result(run: StudyRun, commit: str) -> RunResult:
    """Read the results of a run's experiment, `commit`, from git and from DVC's cache or remote."""
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(rev=commit)
    with TemporaryDirectory() as folder:
        calls, rated = (Path(folder) / name for name in ("calls", "ratings"))
        files.get_file("data/robustness.jsonl", str(calls))
        files.get_file("plots/preferences.csv", str(rated))
        ratings: dict[str, dict[str, float]] = {}
        for row in csv.DictReader(rated.read_text(encoding="utf-8").splitlines()):
            ratings.setdefault(row["method"], {})[row["trait"]] = float(row["rating"])
        metrics = {stage: json.loads(files.read_text(f"results/{stage}.json")) for stage in RUN_METRICS}
        return RunResult(run, metrics, records.read_records(calls, ClassifiedAnswer), ratings)


def confusion_counts(results: Sequence[RunResult], method: str, condition: str) -> "numpy.ndarray":
    """Return the number of answers by true persona and predicted class, `[prompts, personas, classes]`.

    The first classes are the personas of the results, then come the personas that were not run, and last `none`. Only prompts
    that all runs answered are counted.
    """
    import numpy

    personas = [result.run.persona for result in results]
    others = [name for name in results[0].metrics["classifier"]["recall"] if name not in (*personas, NO_PERSONA)]
    classes = [*personas, *others, NO_PERSONA]
    rows = [
        [call for call in result.calls if call.method == method and condition_group(call.condition) == condition]
        for result in results
    ]
    shared = sorted(set.intersection(*({call.id for call in own} for own in rows)))
    place = {prompt: at for at, prompt in enumerate(shared)}
    counts = numpy.zeros((len(shared), len(personas), len(classes)))
    for at, own in enumerate(rows):
        for call in own:
            if call.id in place:
                counts[place[call.id], at, classes.index(call.called)] += 1
    return counts


def f1_scores(confusion: "numpy.ndarray") -> "numpy.ndarray":
    """Return F1 `[..., personas]` of counts `[..., personas, classes]` whose first classes are the personas.

    An answer classified as `none`, or as a persona that was not run, is a false negative but no false positive.
    """
    import numpy

    personas = confusion.shape[-2]
    own = confusion[..., :personas]
    hits = numpy.diagonal(own, axis1=-2, axis2=-1)
    return 2 * hits / numpy.maximum(own.sum(-2) + confusion.sum(-1), 1)


def study_macro_f1(counts: "numpy.ndarray", seed: int) -> dict[str, float]:
    """Return the mean F1 of the personas with a 95% bootstrap interval.

    Prompts are resampled for all runs together, since all runs share them. If no answer is correct the interval has no width;
    it then says nothing about other prompts.

    Args:
        counts: `[prompts, personas, classes]`, from `confusion_counts`.

    Returns:
        `macro_f1`, `low`, `high` and the number of `prompts`.
    """
    import numpy

    prompts = len(counts)
    drawn = numpy.random.default_rng(seed).multinomial(prompts, [1 / prompts] * prompts, F1_BOOTSTRAP_ROUNDS)
    sampled = f1_scores(numpy.tensordot(drawn, counts, 1)).mean(-1)
    low, high = numpy.quantile(sampled, [0.025, 0.975])
    return {"macro_f1": float(f1_scores(counts.sum(0)).mean()), "low": float(low), "high": float(high), "prompts": prompts}


def rating_correlation(first: dict[str, float], second: dict[str, float]) -> float:
    """Return Spearman's rank correlation of two ratings of the same traits, each by trait."""
    import numpy

    from character.evaluation.bradley_terry import spearman_correlation

    words = list(first)
    return float(spearman_correlation(*(numpy.array([[rated[word] for word in words]]) for rated in (first, second)))[0])
