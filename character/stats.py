"""Intervals."""

import math
from collections.abc import Callable, Sequence

Z = 1.959964  # two-sided 95%


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share seen in `n` independent trials (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    centre = share + Z * Z / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + Z * Z / n)), min(1.0, (centre + half) / (1 + Z * Z / n))


def bootstrap(units: Sequence, statistic: Callable[[list], float], seed: int, rounds: int = 1000) -> tuple[float, float]:
    """Return the 95% percentile interval of `statistic` over samples of `units`, drawn with replacement (Efron 1979)."""
    import numpy

    generator = numpy.random.default_rng(seed)
    draws = generator.integers(len(units), size=(rounds, len(units)))
    low, high = numpy.quantile([statistic([units[index] for index in drawn]) for drawn in draws], [0.025, 0.975])
    return float(low), float(high)
