"""Intervals."""

import math

Z = 1.959964  # two-sided 95%


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share seen in `n` independent trials (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    centre = share + Z * Z / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + Z * Z / n)), min(1.0, (centre + half) / (1 + Z * Z / n))
