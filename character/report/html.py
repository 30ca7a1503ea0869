"""One HTML page made of sections: what a section consists of, and how it becomes a file that needs no other.

The template escapes every text; only the charts are markup. It holds no script, no address of another place, and no date:
the same sections make the same bytes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from markupsafe import Markup

PAGE_TEMPLATE = Path(__file__).with_name("page.html")
UNKNOWN_DASH = "–"
STRONG_SHARE = 0.66  # from this share on, a coloured cell is so strong that its text is set in the other colour


@dataclass(frozen=True)
class TableCell:
    """A table's cell with a remark below its text; a `share` from 0 to 1 colours it."""

    text: str
    note: str = ""
    share: float | None = None

    @property
    def is_strong(self) -> bool:
        return self.share is not None and self.share >= STRONG_SHARE


@dataclass(frozen=True)
class ReportTable:
    """`bodies` maps the heading of some rows, or "", to these rows. The first cell of a row names it.

    Cells are texts, numbers (None: unknown), charts or Cells.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str | Markup]
    bodies: dict[str, Sequence[Sequence]]
    marked: str = ""  # the row and the column of this name stand out
    narrow: bool = False  # upright heads over columns as wide as their numbers


@dataclass(frozen=True)
class Chart:
    """A drawn chart under its name and a figure."""

    name: str
    value: str
    svg: Markup


@dataclass(frozen=True)
class ChartGrid:
    """Charts in as many columns as the page is wide enough for."""

    kind: ClassVar[str] = "chart_grid"
    caption: str
    charts: Sequence[Chart]


@dataclass(frozen=True)
class DefinitionList:
    """Names and what is told of each."""

    kind: ClassVar[str] = "facts"
    facts: dict[str, str]


@dataclass(frozen=True)
class NumberedList:
    """A numbered list."""

    kind: ClassVar[str] = "points"
    points: Sequence[str]


@dataclass(frozen=True)
class ReplyComparison:
    """Each prompt with the replies to it: by whom, what, and whether it was cut off."""

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
    limits: str = ""  # what the figures cannot say, and how good is what they rest on

    @property
    def anchor_id(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def format_number(value: float | None) -> str:
    """Return a count with separators, anything else with as many digits as one reads, what is unknown as a dash."""
    if value is None:
        return UNKNOWN_DASH
    return f"{value:,}" if isinstance(value, int) else f"{round(value, 2) + 0:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def render_page(**page) -> str:
    """Return the page: `title`, `lede`, `facts`, and `parts`, which map a heading to its sections."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = format_number
    return environment.from_string(PAGE_TEMPLATE.read_text(encoding="utf-8")).render(page) + "\n"
