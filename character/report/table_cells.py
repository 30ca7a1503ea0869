"""What the tables of the report share: how a method, a figure with its interval and a difference are told.

A figure that is unknown is a dash, never 0.
"""

from character.dataset.conditions import MULTI_TURN, PLAIN, PREFILL, SUFFIXES
from character.report import charts
from character.report.html import UNKNOWN, Cell, number

METHODS = {
    "base": "the student as it is",
    "prompted": "told its traits in a system prompt",
    "steered": "a control vector added to its states",
    "distilled": "trained on preference pairs",
    "persona": "both adapters, merged",
    "unoffered": "the student as it is, no trait on offer",
}
CONDITIONS = {
    PLAIN: "Asked plain",
    SUFFIXES: "Asked to break character",
    PREFILL: "Begun out of character",
    MULTI_TURN: "After a turn not its own",
}
OURS, UNTRAINED = "persona", "base"  # methods
REFERENCE = Cell("", "reference")  # the difference of what the others are compared with


def method(name: str) -> Cell:
    return Cell(name, METHODS.get(name, ""))


def between(found: dict) -> str:
    """Return a 95% interval as text."""
    return f"{number(found['low'])} to {number(found['high'])}"


def measured(value: float | None, low: float, high: float, span: charts.Span = charts.SHARES) -> list:
    """Return three cells: the chart of a figure, the figure, its interval."""
    interval = UNKNOWN if value is None else between({"low": low, "high": high})
    return [charts.interval(value, low, high, span), value, interval]


def told(value: float | None, low: float, high: float) -> Cell:
    """Return a figure with its interval below it."""
    return Cell(UNKNOWN) if value is None else Cell(number(value), between({"low": low, "high": high}))


def difference(value: float | None, low: float, high: float) -> Cell:
    """Return a difference, with its sign, and its interval below it."""
    return Cell(UNKNOWN) if value is None else Cell(signed(value), f"{signed(low)} to {signed(high)}")


def signed(value: float) -> str:
    return ("−" if round(value, 2) < 0 else "+") + number(abs(value))


def shaded(share: float, low: float, high: float) -> Cell:
    """Return a cell of a heat map."""
    return Cell(number(share), f"{number(low)}–{number(high)}", share)
