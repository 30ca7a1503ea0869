"""Ratings from pairwise comparisons: Bradley-Terry on an Elo scale, with bootstrap intervals.

The probability that i is preferred to j is 1 / (1 + 10 ** ((rating j - rating i) / 400)). All comparisons are fitted together,
unlike in sequential Elo updates, whose ratings depend on the order. Ratings have mean 1000 and are maximum a posteriori
estimates under a normal prior around that mean, so a trait that was always preferred keeps a finite rating. choix fits the same
model (`opt_pairwise` with alpha = 1 / (2 deviation ** 2) in logits; a test compares them), one data set at a time; this module
fits thousands of bootstrap samples together.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from character.evaluation.intervals import Z_95

if TYPE_CHECKING:
    from numpy import ndarray

ELO_PER_LOGIT = 400 / math.log(10)
MEAN_RATING = 1000
MAX_NEWTON_STEPS = 100  # about ten are needed


def win_counts(pairs: "ndarray", preferred: "ndarray", size: int, weights: "ndarray") -> "ndarray":
    """Return how often i was preferred to j, `[tables, size, size]`.

    Args:
        pairs: `[comparisons, 2]`, the indices of the two that were compared.
        preferred: `[comparisons]`, the preferred column of `pairs` (0 or 1), or -1 if there is no result.
        size: the number of things that are rated.
        weights: `[tables, comparisons]`, how often each comparison counts in each table.
    """
    import numpy

    winner = numpy.where(preferred == 0, *pairs.T)
    loser = pairs.sum(1) - winner
    cell = numpy.where(preferred < 0, size * size, winner * size + loser)  # an extra cell for comparisons without a result
    counts = [numpy.bincount(cell, weight, size * size + 1)[:-1] for weight in weights]
    return numpy.reshape(counts, (-1, size, size))


def bootstrap_weights(units: Sequence[str], rounds: int, seed: int) -> "ndarray":
    """Return how often each comparison counts in each bootstrap sample, `[rounds, comparisons]`.

    Whole units are drawn with replacement, because comparisons of one unit (a prompt) are not independent. `units` names the
    unit of each comparison.
    """
    import numpy

    names, places = numpy.unique(units, return_inverse=True)
    return numpy.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), rounds)[:, places]


def fit_ratings(wins: "ndarray", deviation: float) -> "ndarray":
    """Fit ratings by Newton's method.

    Args:
        wins: `[tables, size, size]`, how often i was preferred to j.
        deviation: the standard deviation of the prior, in Elo points.

    Returns:
        Ratings in Elo points, `[tables, size]`.

    Raises:
        ArithmeticError: the fit did not converge.
    """
    import numpy

    games, won = wins + wins.swapaxes(1, 2), wins.sum(2)
    precision = (ELO_PER_LOGIT / deviation) ** 2
    logits, diagonal = numpy.zeros(won.shape), numpy.eye(wins.shape[1])
    for _ in range(MAX_NEWTON_STEPS):
        chance = 1 / (1 + numpy.exp(logits[:, None, :] - logits[:, :, None]))
        gradient = won - (games * chance).sum(2) - precision * logits
        weight = games * chance * (1 - chance)
        curvature = diagonal * (weight.sum(2) + precision)[:, :, None] - weight
        step = numpy.linalg.solve(curvature, gradient[..., None])[..., 0]
        logits += step
        if numpy.abs(step).max() < 1e-6:
            return MEAN_RATING + ELO_PER_LOGIT * logits
    raise ArithmeticError(f"Bradley-Terry did not converge within {MAX_NEWTON_STEPS} steps")


def bias_corrected_interval(estimate: "ndarray", samples: "ndarray") -> tuple["ndarray", "ndarray"]:
    """Return the ends of the 95% bias-corrected percentile interval (Efron 1981) of each column.

    The plain percentile interval covers too little: a fit to a bootstrap sample overshoots the estimate in the same way as the
    estimate overshoots the truth. The correction uses the share of samples below the estimate.

    Args:
        estimate: `[columns]`.
        samples: `[samples, columns]`.
    """
    import numpy
    from scipy.special import ndtr, ndtri

    rounds = len(samples)
    below = ((samples < estimate).mean(0) + (samples <= estimate).mean(0)) / 2
    bias = ndtri(below.clip(1 / rounds, 1 - 1 / rounds))
    shares = ndtr(2 * bias + numpy.array([[-Z_95], [Z_95]]))
    low, high = numpy.take_along_axis(numpy.sort(samples, 0), (shares * (rounds - 1)).round().astype(int), 0)
    return low, high


def spearman_correlation(first: "ndarray", second: "ndarray") -> "ndarray":
    """Return the rank correlation of the rows of two tables `[tables, size]`; 0 if all ranks in one of the rows are tied."""
    import numpy
    from scipy.stats import rankdata

    # Ratings that differ only by the error of the fit count as equal.
    ranks = [rankdata(table.round(4), axis=1) - (table.shape[1] + 1) / 2 for table in (first, second)]
    norm = numpy.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))
    return numpy.divide((ranks[0] * ranks[1]).sum(1), norm, out=numpy.zeros(len(norm)), where=norm > 0)
