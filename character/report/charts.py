"""Marks inside the cells of a table: a dot with its interval, the axis above a column of them, a bar.

A page has hundreds of them, each of a few elements and as wide as its column, which only the browser knows. A Vega-Lite plot
has a fixed size, and a script or several kilobytes each. The marks are therefore inline SVG in percentages of the cell, which
fills any width without distortion. Colours and sizes of text are those of the page's style. Larger charts are drawn by
`character.report.plots`.
"""

import math

from markupsafe import Markup

MARGIN_PERCENT = 4  # of the width, on both sides; without it a dot at an end would be cut off
AxisSpan = tuple[float, float]  # the values at the left and right end of an axis
SHARE_SPAN: AxisSpan = (0, 1)


def round_axis_up(top: float) -> float:
    """Return the next round number that is not below `top`, for the end of an axis."""
    power = 10.0 ** math.floor(math.log10(top))
    return next(step * power for step in (1, 2, 3, 4, 6, 8, 10) if step * power >= top)


def interval_chart(value: float | None, low: float, high: float, span: AxisSpan = SHARE_SPAN) -> Markup:
    """Return a dot with its interval. It is hidden from screen readers, since the next cells have the figures.

    An unknown figure has no dot and no interval, since its interval would be the whole axis.
    """
    if value is None:
        return Markup(f'<svg class="interval" aria-hidden="true">{_grid_lines(span, 0)}</svg>')
    left, dot, right = (_horizontal_position(number, span) for number in (low, value, high))
    return Markup(
        f'<svg class="interval" aria-hidden="true">{_grid_lines(span, 0)}'
        f'<line class="range" x1="{left}%" x2="{right}%" y1="50%" y2="50%"/><circle cx="{dot}%" cy="50%" r="4.5"/></svg>'
    )


def axis_header(span: AxisSpan = SHARE_SPAN) -> Markup:
    """Return the head of a column of intervals: the axis, with numbers at its ends and in the middle."""
    numbers = "".join(
        f'<text x="{_horizontal_position(tick, span)}%" y="55%">{tick:g}</text>' for tick in _axis_ticks(span)
    ).replace(">-", ">−")
    return Markup(f'<svg class="axis" aria-hidden="true">{numbers}{_grid_lines(span, 75)}</svg>')


def bar_chart(share: float) -> Markup:
    """Return a bar over a share (0 to 1) of the width."""
    return Markup(f'<svg class="bar" aria-hidden="true"><rect width="{100 * share:.1f}%" height="100%" rx="2"/></svg>')


def _axis_ticks(span: AxisSpan) -> tuple[float, float, float]:
    return span[0], (span[0] + span[1]) / 2, span[1]


def _grid_lines(span: AxisSpan, top: int) -> str:
    places = (_horizontal_position(tick, span) for tick in _axis_ticks(span))
    return "".join(f'<line class="grid" x1="{place}%" x2="{place}%" y1="{top}%" y2="100%"/>' for place in places)


def _horizontal_position(value: float, span: AxisSpan) -> str:
    share = (value - span[0]) / (span[1] - span[0])
    return f"{MARGIN_PERCENT + (100 - 2 * MARGIN_PERCENT) * share:.2f}"
