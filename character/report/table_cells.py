"""Cells of the report's tables: a method, a figure with its interval, a difference.

An unknown figure is a dash, never 0.
"""

from character.dataset.conditions import MULTI_TURN, PLAIN, PREFILL, SUFFIXES
from character.report import charts
from character.report.html import UNKNOWN_DASH, TableCell, format_number

METHOD_NOTES = {
    "base": "the student before training",
    "prompted": "its traits in a system prompt",
    "steered": "a control vector added to its hidden states",
    "distilled": "trained on preference pairs",
    "persona": "both adapters, merged",
    "unoffered": "base, without a choice of traits",
}
CONDITION_HEADINGS = {
    PLAIN: "Plain prompts",
    SUFFIXES: "Requests to break character",
    PREFILL: "Prefilled out of character",
    MULTI_TURN: "After an answer by base",
}
PERSONA_METHOD, BASE_METHOD = "persona", "base"
REFERENCE_CELL = TableCell("", "reference")  # in place of the difference of a reference from itself


def method_cell(name: str) -> TableCell:
    return TableCell(name, METHOD_NOTES.get(name, ""))


def format_interval(estimate: dict) -> str:
    """Return the interval of an estimate, its `low` and `high`, as text."""
    return f"{format_number(estimate['low'])} to {format_number(estimate['high'])}"


def interval_cells(value: float | None, low: float, high: float, span: charts.AxisSpan = charts.SHARE_SPAN) -> list:
    """Return three cells: the chart of a figure, the figure, and its interval."""
    interval = UNKNOWN_DASH if value is None else format_interval({"low": low, "high": high})
    return [charts.interval_chart(value, low, high, span), value, interval]


def value_cell(value: float | None, low: float, high: float) -> TableCell:
    """Return a figure with its interval below it."""
    return (
        TableCell(UNKNOWN_DASH)
        if value is None
        else TableCell(format_number(value), format_interval({"low": low, "high": high}))
    )


def difference_cell(value: float | None, low: float, high: float) -> TableCell:
    """Return a difference, with its sign, and its interval below it."""
    return (
        TableCell(UNKNOWN_DASH)
        if value is None
        else TableCell(format_signed(value), f"{format_signed(low)} to {format_signed(high)}")
    )


def format_signed(value: float) -> str:
    return ("−" if round(value, 2) < 0 else "+") + format_number(abs(value))


def heat_cell(share: float, low: float, high: float) -> TableCell:
    """Return a cell of a heat map."""
    return TableCell(format_number(share), f"{format_number(low)}–{format_number(high)}", share)
