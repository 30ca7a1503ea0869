"""The filters that format figures in the templates of the docs."""

from collections.abc import Sequence

from character.report.html import UNKNOWN_DASH
from character.report.markdown import section_to_markdown
from character.report.table_cells import PERSONA_METHOD


def _digits(figure: float | str | None, digits: int = 2) -> str:
    """Return a figure with this many decimals, never as −0; None is a dash."""
    return UNKNOWN_DASH if figure is None else f"{round(float(figure), digits) + 0:,.{digits}f}".replace("-", "−")


def _signed(figure: float | str | None, digits: int = 2) -> str:
    """Return a figure with its sign; None is a dash."""
    text = _digits(figure, digits)
    return text if figure is None or text.startswith("−") else f"+{text}"


def _percent(share: float | None, digits: int = 0) -> str:
    """Return a share in percent; None is a dash."""
    return UNKNOWN_DASH if share is None else f"{_digits(100 * share, digits)}%"


def _interval(estimate: dict, key: str, low: str = "low", high: str = "high", digits: int = 2) -> str:
    """Return an estimate with its interval, as `0.72 [0.55, 0.84]`."""
    figure, *ends = (_digits(estimate[name], digits) for name in (key, low, high))
    return UNKNOWN_DASH if estimate[key] is None else f"{figure} [{', '.join(ends)}]"


def _change(estimate: dict, key: str = "difference", low: str = "low", high: str = "high") -> str:
    """Return a difference with its interval, all with signs, as `−0.09 [−0.31, +0.14]`."""
    figure, *ends = (_signed(estimate[name]) for name in (key, low, high))
    return f"{figure} [{', '.join(ends)}]"


def _rating(estimate: dict, key: str) -> str:
    """Return a change of a rating, in Elo, with its interval, as `+274 [25, 521]`."""
    low, high = (_digits(estimate[f"{key}_{end}"], 0) for end in ("low", "high"))
    return f"{_signed(estimate[key], 0)} [{low}, {high}]"


def _trait(ratings: list[dict], word: str) -> dict:
    """Return the row of a trait in the persona's ratings."""
    return {row["trait"]: row for row in ratings if row["method"] == PERSONA_METHOD}[word]


def _table(sections: list[dict], title: str) -> dict:
    """Return the first table of the section with this title; see `markdown.section_texts`."""
    return {section["title"]: section["tables"][0] for section in sections}[title]


def _table_rows(sections: list[dict], title: str, heading: str) -> list[list[str]]:
    return _table(sections, title)["bodies"][heading]


def _table_cell(sections: list[dict], title: str, heading: str, row: str, column: str) -> str:
    """Return the text of one cell; `row` is the text of the row's first cell."""
    cells = {cells[0]: cells for cells in _table_rows(sections, title, heading)}[row]
    return dict(zip(_table(sections, title)["head"], cells, strict=True))[column]


def _table_figures(sections: list[dict], title: str, columns: Sequence[str], rows: Sequence[str] = ()) -> list[float]:
    """Return the figures in some columns without their intervals, of all rows or of the named ones."""
    table = _table(sections, title)
    selected = [cells for body in table["bodies"].values() for cells in body if not rows or cells[0] in rows]
    texts = [cells[table["head"].index(column)] for column in columns for cells in selected]
    return [_leading_figure(text) for text in texts]


def _leading_figure(text: str) -> float:
    """Return the figure at the beginning of a cell, such as 0.25 of `0.25 [0.12, 0.45]`."""
    return float(text.split()[0].replace("−", "-"))


def _ranked_rows(sections: list[dict], title: str, heading: str, column: str) -> list[str]:
    """Return the names of the rows under a heading, sorted by their figure in a column, lowest first."""
    names = [cells[0] for cells in _table_rows(sections, title, heading)]
    return sorted(names, key=lambda name: _leading_figure(_table_cell(sections, title, heading, name, column)))


def _table_range(sections: list[dict], title: str, columns: Sequence[str], rows: Sequence[str] = ()) -> str:
    """Return the lowest and the highest figure, as `0.83 to 1.00`."""
    figures = _table_figures(sections, title, columns, rows)
    return f"{_digits(min(figures))} to {_digits(max(figures))}"


def _claim(text: str, holds: bool) -> str:
    """Return a statement that the figures must support.

    Raises:
        TemplateRuntimeError: `holds` is false.
    """
    from jinja2 import TemplateRuntimeError

    if not holds:
        raise TemplateRuntimeError(f"“{text}” does not hold any more")
    return text


def _mark_ours(method: str) -> str:
    return f"**{method}**" if method == PERSONA_METHOD else method


FILTERS = {
    "digits": _digits,
    "signed": _signed,
    "percent": _percent,
    "interval": _interval,
    "change": _change,
    "rating": _rating,
    "trait": _trait,
    "ours": _mark_ours,
    "table_rows": _table_rows,
    "table_cell": _table_cell,
    "table_figures": _table_figures,
    "table_range": _table_range,
    "ranked_rows": _ranked_rows,
    "section_markdown": section_to_markdown,
    "claim": _claim,
}
