"""How far a classifier can be trusted: rates corrected for its errors, and its agreement with another classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

CORRECTION_DRAWS = 4000  # of the bootstrap


@dataclass(frozen=True)
class ErrorCounts:
    """The errors of a classifier on held-out texts, for one persona.

    The positives are texts of the persona, the negatives texts of base.
    """

    true_positives: int
    positives: int
    false_positives: int
    negatives: int

    @classmethod
    def from_labels(cls, actual: Sequence[str], called: Sequence[str], students: Sequence[bool], persona: str) -> "ErrorCounts":
        """Count the errors from one label of each text.

        Args:
            actual: the true classes.
            called: the predicted classes.
            students: whether base wrote the text, which then shows no persona.
            persona: the class whose errors are counted.
        """
        positives = [name == persona for truth, name in zip(actual, called, strict=True) if truth == persona]
        negatives = [name == persona for own, name in zip(students, called, strict=True) if own]
        return cls(sum(positives), len(positives), sum(negatives), len(negatives))


def corrected_share(share: float, n: int, errors: ErrorCounts, seed: int) -> tuple[float | None, float, float]:
    """Correct the share of texts that a classifier assigns to the persona for the classifier's errors.

    The estimate inverts the confusion matrix of persona and none and is clipped to [0, 1] (Rogan and Gladen 1978, American
    Journal of Epidemiology 107, 71). The interval is a parametric bootstrap over the texts and over both error rates. Each rate
    is drawn with half a case added on either side (Jeffreys), because plain resampling gives zero probability to what was not
    seen. A draw no better than chance carries no information and widens the interval on both sides. An interval that shrinks to
    one end means that fewer (or more) texts were assigned to the persona than the classifier's errors explain.

    Args:
        share: the share of the texts that the classifier assigns to the persona.
        n: the number of texts.
        errors: the classifier's errors on held-out texts.
        seed: of the bootstrap.

    Returns:
        The corrected share, and the ends of its 95% interval. The share is None if the classifier is no better than chance or
        was not tested.
    """
    import numpy

    generator = numpy.random.default_rng(seed)
    counts = [(share * n, n), (errors.true_positives, errors.positives), (errors.false_positives, errors.negatives)]
    apparent, hit_rate, false_rate = (generator.beta(hits + 0.5, of - hits + 0.5, CORRECTION_DRAWS) for hits, of in counts)
    useful = hit_rate > false_rate
    shares = ((apparent - false_rate) / numpy.where(useful, hit_rate - false_rate, 1)).clip(0, 1)
    low = numpy.quantile(numpy.where(useful, shares, 0), 0.025)
    high = numpy.quantile(numpy.where(useful, shares, 1), 0.975)
    if not errors.positives or not errors.negatives:
        return None, float(low), float(high)
    hit_rate, false_rate = errors.true_positives / errors.positives, errors.false_positives / errors.negatives
    point = min(1.0, max(0.0, (share - false_rate) / (hit_rate - false_rate))) if hit_rate > false_rate else None
    return point, float(low), float(high)


def confusions_by_unit(units: Sequence[str], first: Sequence[str], second: Sequence[str]) -> "list[numpy.ndarray]":
    """Return a confusion matrix `[classes, classes]` for each unit, such as a prompt.

    Args:
        units: the unit of each text.
        first: the class of each text by one rater, the rows of a matrix.
        second: the class by the other rater, the columns.
    """
    import numpy

    classes = {name: index for index, name in enumerate(sorted({*first, *second}))}
    tables = {unit: numpy.zeros((len(classes), len(classes))) for unit in units}
    for unit, one, other in zip(units, first, second, strict=True):
        tables[unit][classes[one], classes[other]] += 1
    return list(tables.values())


def cohen_kappa(confusion: "numpy.ndarray") -> float:
    """Return Cohen's kappa (1960), the agreement of two raters beyond chance; 1 if both give every text the same class."""
    shares = confusion / confusion.sum()
    chance = float(shares.sum(0) @ shares.sum(1))
    return (float(shares.trace()) - chance) / (1 - chance) if chance < 1 else 1.0
