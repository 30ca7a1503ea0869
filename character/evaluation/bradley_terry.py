"""Ratings from comparisons of two: Bradley-Terry on an Elo scale, with bootstrap intervals.

The chance that i is preferred to j is 1 / (1 + 10 ** ((rating j - rating i) / 400)). All comparisons count at once, unlike in a
sequential Elo pass, whose ratings hang on the order. Ratings have mean 1000 and are the most probable ones where each, before
any comparison, is normally distributed around that mean: so one that was always preferred stays finite. choix fits the same
(`opt_pairwise` with alpha = 1 / (2 deviation ** 2) in logits; a test compares them), one data set at a time; here thousands of
bootstrap samples are fitted together.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from character.evaluation.intervals import Z_95

if TYPE_CHECKING:
    from numpy import ndarray

ELO_PER_LOGIT = 400 / math.log(10)  # points of a logit
MEAN_RATING = 1000
MAX_NEWTON_STEPS = 100  # of Newton's method; some ten are needed


def win_counts(pairs: "ndarray", preferred: "ndarray", size: int, weights: "ndarray") -> "ndarray":
    """Return how often i was preferred to j, `[tables, size, size]`.

    Args:
        pairs: `[comparisons, 2]`, who was compared.
        preferred: for each comparison 0 or 1, the column of `pairs`, or -1 where it has no result.
        weights: `[tables, comparisons]`, how often each comparison counts.
    """
    import numpy

    winner = numpy.where(preferred == 0, *pairs.T)
    loser = pairs.sum(1) - winner
    cell = numpy.where(preferred < 0, size * size, winner * size + loser)  # one cell more, for those without a result
    counts = [numpy.bincount(cell, weight, size * size + 1)[:-1] for weight in weights]
    return numpy.reshape(counts, (-1, size, size))


def bootstrap_weights(units: Sequence[str], rounds: int, seed: int) -> "ndarray":
    """Return how often each comparison counts in each bootstrap sample, `[rounds, comparisons]`.

    Drawn with replacement are the `units` to which the comparisons belong, since those of one unit (a prompt) go together.
    """
    import numpy

    names, places = numpy.unique(units, return_inverse=True)
    return numpy.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), rounds)[:, places]


def fit_ratings(wins: "ndarray", deviation: float) -> "ndarray":
    """Return ratings `[tables, size]` of tables `[tables, size, size]`; `deviation` is that of the prior, in Elo."""
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
    raise ArithmeticError(f"Bradley-Terry did not settle within {MAX_NEWTON_STEPS} steps")


def bias_corrected_interval(estimate: "ndarray", samples: "ndarray") -> tuple["ndarray", "ndarray"]:
    """Return the ends of the 95% bias-corrected percentile interval (Efron 1981) of each column.

    The plain percentile interval covers too little: a fit to a bootstrap sample overshoots the estimate as that one overshoots
    the truth. The correction looks at the share of `samples` `[samples, columns]` below the `estimate`.
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
    """Return the rank correlation of the rows of two tables `[tables, size]`; 0 where one of them has no order at all."""
    import numpy
    from scipy.stats import rankdata

    # Ratings that differ by the error of the fit alone are equal.
    ranks = [rankdata(table.round(4), axis=1) - (table.shape[1] + 1) / 2 for table in (first, second)]
    norm = numpy.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))
    return numpy.divide((ranks[0] * ranks[1]).sum(1), norm, out=numpy.zeros(len(norm)), where=norm > 0)
