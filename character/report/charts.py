"""Small charts as inline SVG: no script, no image, colours and sizes of text left to the page's style.

Lengths are percentages of the place that the style gives a chart, so that it fills any width and nothing in it is distorted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup, escape

MARGIN = 4  # per cent of the width on both sides, so that no dot at an end is cut off
Span = tuple[float, float]  # the values at the left and right end of an axis
SHARES: Span = (0, 1)


def nice(top: float) -> float:
    """Return the next round number that is not below `top`, for the end of an axis."""
    power = 10.0 ** math.floor(math.log10(top))
    return next(step * power for step in (1, 2, 3, 4, 6, 8, 10) if step * power >= top)


def interval(value: float | None, low: float, high: float, span: Span = SHARES) -> Markup:
    """Return a dot with its interval; whoever cannot see it reads the figures in the cells beside.

    What is unknown has no dot, and no interval either, which would say no more than that.
    """
    if value is None:
        return Markup(f'<svg class="interval" aria-hidden="true">{_grid(span, 0)}</svg>')
    left, dot, right = (_across(number, span) for number in (low, value, high))
    return Markup(
        f'<svg class="interval" aria-hidden="true">{_grid(span, 0)}'
        f'<line class="range" x1="{left}%" x2="{right}%" y1="50%" y2="50%"/><circle cx="{dot}%" cy="50%" r="4.5"/></svg>'
    )


def axis(span: Span = SHARES) -> Markup:
    """Return the head of a column of intervals: the numbers at the ends and in the middle."""
    numbers = "".join(f'<text x="{_across(tick, span)}%" y="55%">{tick:g}</text>' for tick in _ticks(span)).replace(">-", ">−")
    return Markup(f'<svg class="axis" aria-hidden="true">{numbers}{_grid(span, 75)}</svg>')


def bar(share: float) -> Markup:
    """Return a bar of a share of the width."""
    return Markup(f'<svg class="bar" aria-hidden="true"><rect width="{100 * share:.1f}%" height="100%" rx="2"/></svg>')


@dataclass(frozen=True)
class Panel:
    """One curve in a chart of its own, whose axes are labelled with the ends of the data."""

    kind: ClassVar[str] = "panel"
    name: str
    x: Sequence[float]
    y: Sequence[float]
    x_name: str
    value: str  # what is told of it beside its name
    mark: float | None = None  # an x to point out

    def svg(self) -> Markup:
        """Return the curve; it is stretched to its place, its lines are not."""
        x, y = _scaled(self.x), [100 - height for height in _scaled(self.y)]
        points = " ".join(f"{across:.2f},{down:.2f}" for across, down in zip(x, y, strict=True))
        mark = f'<path class="mark" d="M{x[self.x.index(self.mark)]:.2f} 0V100"/>' if self.mark is not None else ""
        told = escape(f"{self.name}: {self.y[0]:.3g} at {self.x_name} {self.x[0]:g}, {self.y[-1]:.3g} at {self.x[-1]:g}")
        return Markup(
            f'<svg class="curve" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{told}">'
            f'{mark}<polyline points="{points}"/></svg>'
        )


def _ticks(span: Span) -> tuple[float, float, float]:
    return span[0], (span[0] + span[1]) / 2, span[1]


def _grid(span: Span, top: int) -> str:
    places = (_across(tick, span) for tick in _ticks(span))
    return "".join(f'<line class="grid" x1="{place}%" x2="{place}%" y1="{top}%" y2="100%"/>' for place in places)


def _across(value: float, span: Span) -> str:
    share = (value - span[0]) / (span[1] - span[0])
    return f"{MARGIN + (100 - 2 * MARGIN) * share:.2f}"


def _scaled(values: Sequence[float]) -> list[float]:
    """Return the values as percentages of their range; all in the middle where they are equal."""
    low, high = min(values), max(values)
    return [100 * (value - low) / (high - low) if high > low else 50.0 for value in values]
