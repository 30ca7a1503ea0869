"""What the calls of a classifier are worth: shares corrected for its errors, and agreement with another classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

CORRECTION_DRAWS = 4000  # of the bootstrap


@dataclass(frozen=True)
class ErrorCounts:
    """What a classifier did with texts that it did not see: of `shown` texts of the persona it called `caught` the persona's,
    of `clean` texts of the untrained student `taken`."""

    caught: int
    shown: int
    taken: int
    clean: int

    @classmethod
    def from_labels(cls, actual: Sequence[str], called: Sequence[str], students: Sequence[bool], persona: str) -> "ErrorCounts":
        """Count; `students` are the texts that the untrained student wrote, which show no persona."""
        shown = [name == persona for truth, name in zip(actual, called, strict=True) if truth == persona]
        clean = [name == persona for own, name in zip(students, called, strict=True) if own]
        return cls(sum(shown), len(shown), sum(clean), len(clean))


def corrected_share(share: float, n: int, errors: ErrorCounts, seed: int) -> tuple[float | None, float, float]:
    """Return the share of `n` texts that have the persona where `share` of them are called so, with its 95% interval.

    The confusion matrix of persona and none, inverted, within [0, 1] (Rogan and Gladen 1978, American Journal of Epidemiology
    107, 71); unknown where the classifier does no better than chance, or was not tried. The interval is a parametric bootstrap
    over the texts and over both error rates. Each rate is drawn with half a case more on either side (Jeffreys), because plain
    resampling takes for impossible what was not seen. A draw no better than chance tells nothing, and widens the interval on
    both sides. An interval that shrinks to one end says that fewer (or more) were called so than by the classifier's errors
    alone.
    """
    import numpy

    generator = numpy.random.default_rng(seed)
    counts = [(share * n, n), (errors.caught, errors.shown), (errors.taken, errors.clean)]
    apparent, caught, taken = (generator.beta(hits + 0.5, of - hits + 0.5, CORRECTION_DRAWS) for hits, of in counts)
    useful = caught > taken
    shares = ((apparent - taken) / numpy.where(useful, caught - taken, 1)).clip(0, 1)
    low = numpy.quantile(numpy.where(useful, shares, 0), 0.025)
    high = numpy.quantile(numpy.where(useful, shares, 1), 0.975)
    if not errors.shown or not errors.clean:
        return None, float(low), float(high)
    found, wrong = errors.caught / errors.shown, errors.taken / errors.clean
    point = min(1.0, max(0.0, (share - wrong) / (found - wrong))) if found > wrong else None
    return point, float(low), float(high)


def confusions_by_unit(units: Sequence[str], first: Sequence[str], second: Sequence[str]) -> "list[numpy.ndarray]":
    """Return for each unit (a prompt, say) how often each pair of classes was given to its texts `[classes, classes]`."""
    import numpy

    classes = {name: index for index, name in enumerate(sorted({*first, *second}))}
    found = {unit: numpy.zeros((len(classes), len(classes))) for unit in units}
    for unit, one, other in zip(units, first, second, strict=True):
        found[unit][classes[one], classes[other]] += 1
    return list(found.values())


def cohen_kappa(confusion: "numpy.ndarray") -> float:
    """Return Cohen's kappa (1960): how much more often two raters agree than by chance, 1 where they give one class alone."""
    shares = confusion / confusion.sum()
    chance = float(shares.sum(0) @ shares.sum(1))
    return (float(shares.trace()) - chance) / (1 - chance) if chance < 1 else 1.0
