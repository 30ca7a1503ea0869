"""An HTML page made of sections: the parts of a section, and how they are rendered to a single self-contained file.

The template escapes every text, and control characters are replaced; only the charts are markup. The page has no script, no
external link and no date, and the same sections give the same bytes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from markupsafe import Markup

from character.core.safe_text import replace_controls

PAGE_TEMPLATE = Path(__file__).with_name("page.html")
UNKNOWN_DASH = "–"
STRONG_SHARE = 0.66  # from this share on, a cell is so strongly coloured that its text needs the other colour


@dataclass(frozen=True)
class TableCell:
    """A cell of a table, with a remark below its text; a `share` from 0 to 1 colours it."""

    text: str
    note: str = ""
    share: float | None = None

    @property
    def is_strong(self) -> bool:
        return self.share is not None and self.share >= STRONG_SHARE


@dataclass(frozen=True)
class ReportTable:
    """A table. `bodies` maps the heading of a group of rows, or "", to these rows; the first cell of a row names it.

    Cells are texts, numbers (None: unknown), charts or `TableCell`s.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str | Markup]
    bodies: dict[str, Sequence[Sequence]]
    marked: str = ""  # the row and the column of this name are highlighted
    narrow: bool = False  # upright heads over columns as wide as their numbers


@dataclass(frozen=True)
class Chart:
    """A chart with its name and a figure above it."""

    name: str
    value: str
    svg: Markup


@dataclass(frozen=True)
class ChartGrid:
    """Charts in as many columns as fit the width of the page."""

    kind: ClassVar[str] = "chart_grid"
    caption: str
    charts: Sequence[Chart]


@dataclass(frozen=True)
class DefinitionList:
    """Names, each with a text about it."""

    kind: ClassVar[str] = "facts"
    facts: dict[str, str]


@dataclass(frozen=True)
class NumberedList:
    """A numbered list."""

    kind: ClassVar[str] = "points"
    points: Sequence[str]


@dataclass(frozen=True)
class ReplyComparison:
    """Each prompt with the replies to it: the method, the text, and whether it was cut off."""

    kind: ClassVar[str] = "replies"
    prompts: dict[str, Sequence[tuple[TableCell, str, bool]]]


@dataclass(frozen=True)
class SummaryTile:
    """One figure for the top of the page."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class ReportSection:
    title: str
    text: str
    blocks: Sequence
    tiles: Sequence[SummaryTile] = field(default=())
    limits: str = ""  # what the figures do not show, and how reliable the classifier or judge behind them is

    @property
    def anchor_id(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def format_number(value: float | None) -> str:
    """Return an integer with separators, another number with two decimals below 100 and none above it, None as a dash."""
    if value is None:
        return UNKNOWN_DASH
    return f"{value:,}" if isinstance(value, int) else f"{round(value, 2) + 0:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def render_page(**page) -> str:
    """Return the HTML page of `title`, `lede`, `facts`, and `parts`, which map a heading to its sections."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = format_number
    return replace_controls(environment.from_string(PAGE_TEMPLATE.read_text(encoding="utf-8")).render(page)) + "\n"
