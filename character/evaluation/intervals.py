"""Confidence intervals of shares, means and differences."""

import math
from collections.abc import Callable, Sequence

Z_95 = 1.959964  # two-sided 95%


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share observed in `n` independent trials (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    centre = share + Z_95 * Z_95 / (2 * n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + Z_95 * Z_95 / (4 * n * n))
    return max(0.0, (centre - half) / (1 + Z_95 * Z_95 / n)), min(1.0, (centre + half) / (1 + Z_95 * Z_95 / n))


def rate_summary(name: str, hits: float, n: int) -> dict[str, float | int | None]:
    """Return the share of `n` trials that are hits, as `name`, with its 95% Wilson interval; the share is None if n is 0."""
    share = hits / n if n else None
    low, high = wilson_interval(share or 0.0, n)
    return {name: share, "low": low, "high": high, "n": n}


def bootstrap_interval(
    units: Sequence, statistic: Callable[[list], float], seed: int, rounds: int = 1000
) -> tuple[float, float]:
    """Return the 95% percentile interval of `statistic` over bootstrap samples of `units` (Efron 1979)."""
    import numpy

    generator = numpy.random.default_rng(seed)
    draws = generator.integers(len(units), size=(rounds, len(units)))
    low, high = numpy.quantile([statistic([units[index] for index in drawn]) for drawn in draws], [0.025, 0.975])
    return float(low), float(high)


def crossed_bootstrap(
    scores: Sequence[float], rows: Sequence, columns: Sequence, seed: int, rounds: int = 1000
) -> tuple[float, float]:
    """Return the 95% percentile interval of the mean of scores that share rows and columns, such as personas and prompts.

    Rows and columns are drawn with replacement; a score counts as often as its row was drawn times its column (the pigeonhole
    bootstrap, Owen 2007, Annals of Applied Statistics 1, 386). It is somewhat too wide if the scores have little in common.

    Args:
        scores: the values.
        rows: the row of each score.
        columns: the column of each score.
        seed: of the bootstrap.
        rounds: bootstrap samples.
    """
    import numpy

    generator, weight = numpy.random.default_rng(seed), 1
    for names in (rows, columns):
        levels, places = numpy.unique(names, return_inverse=True)
        weight = weight * generator.multinomial(len(levels), [1 / len(levels)] * len(levels), rounds)[:, places]
    drawn = weight[weight.any(1)]  # a draw may contain no score at all
    low, high = numpy.quantile(drawn @ numpy.array(scores, float) / drawn.sum(1), [0.025, 0.975])
    return float(low), float(high)


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float, float]:
    """Return the share of `first` minus that of `second`, and its 95% interval, for trials on the same units.

    The interval is Newcombe's square-and-add interval (1998, Statistics in Medicine 17, 2635: method 10). Unlike a bootstrap it
    does not shrink to zero width if no unit differs.
    """
    n = len(first)
    if n == 0:
        return 0.0, -1.0, 1.0
    both = sum(map(all, zip(first, second, strict=True)))
    hits, others = sum(first), sum(second)
    p, q = hits / n, others / n
    (low_p, high_p), (low_q, high_q) = wilson_interval(p, n), wilson_interval(q, n)
    product = hits * (n - hits) * others * (n - others)
    cross = both * (n - hits - others + both) - (hits - both) * (others - both)
    if cross > 0:
        cross = max(0, cross - n / 2)
    phi = cross / math.sqrt(product) if product else 0.0

    def half_width(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    return p - q, p - q - half_width(p - low_p, high_q - q), p - q + half_width(q - low_q, high_p - p)


def mean_with_interval(scores: Sequence[float], seed: int) -> tuple[float, float, float]:
    """Return the mean of scores from 0 to 1 and its 95% interval: Wilson's if every score is 0 or 1, else a bootstrap."""
    mean = _arithmetic_mean(scores)
    return mean, *(
        wilson_interval(mean, len(scores)) if _all_binary(scores) else bootstrap_interval(scores, _arithmetic_mean, seed)
    )


def mean_difference(first: Sequence[float], second: Sequence[float], seed: int) -> tuple[float, float, float]:
    """Return the mean of `first` minus that of `second`, for scores from 0 to 1 of the same units, and its 95% interval.

    The interval is that of `paired_difference` if every score is 0 or 1, else a bootstrap over the units.
    """
    if _all_binary(first) and _all_binary(second):
        return paired_difference(first, second)
    differences = [one - other for one, other in zip(first, second, strict=True)]
    return _arithmetic_mean(differences), *bootstrap_interval(differences, _arithmetic_mean, seed)


def _all_binary(scores: Sequence[float]) -> bool:
    return all(score in (0, 1) for score in scores)


def _arithmetic_mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def difference_summary(first: Sequence[bool], second: Sequence[bool]) -> dict[str, float | int | None]:
    """Return the `paired_difference` with its 95% interval; the difference is None if there are no trials."""
    difference, low, high = paired_difference(first, second)
    return {"difference": difference if first else None, "low": low, "high": high, "n": len(first)}
