"""The report's larger charts: Vega-Lite templates of `dvc plots`, filled by DVC's own code and drawn as SVG.

The same template (.dvc/plots/<name>.json) and the same rows make a plot of `dvc plots show` and a chart of the report. Only
the colours differ: they are those of the page's style, light or dark. A template with one panel for each value of a field
gives one SVG for each panel. The page can then arrange them at any width, and their text keeps its size.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup, escape

from character.report.html import Chart

PLOT_TEMPLATES = Path(".dvc/plots")
VEGA_LITE = "5.21"  # major version 5, as in the templates and the page of `dvc plots`
AXIS = {
    "domainColor": "var(--line)",
    "gridColor": "var(--line)",
    "tickColor": "var(--line)",
    "labelFlush": False,
    "labelOverlap": False,
}
TEXT = {"labelColor": "var(--soft)", "labelFontSize": 11, "titleColor": "var(--soft)", "titleFontSize": 11}
# Colours are the page's. No width of text is measured, since it depends on the fonts of the machine.
STYLE = {
    "aria": False,
    "autosize": "none",
    "axis": AXIS | TEXT | {"titleFontWeight": "normal"},
    "background": None,
    "font": "inherit",
    "legend": {"disable": True},  # there is a single revision
    "line": {"strokeJoin": "round"},
    "padding": {"left": 42, "right": 12, "top": 6, "bottom": 36},
    "range": {"category": ["var(--accent)"]},
    "style": {"reference": {"color": "var(--soft)", "strokeDash": [3, 3]}},
    "view": {"stroke": None},
}

COLUMN_TITLES = {"recall": "in-character rate"}


def draw_curves(path: str, rows: Sequence[dict], x: str, values: dict[str, str], chosen: float | None = None) -> list[Chart]:
    """Return a line chart of each column that `values` names.

    Args:
        path: The CSV file of the rows, for error messages.
        rows: The file's rows; all figures.
        x: The column of the x-axis.
        values: A figure for each column, as text, printed next to its name.
        chosen: The x that a line marks.
    """
    if chosen is not None:
        rows = [row | {"chosen": float(row[x]) == chosen} for row in rows]
    panels = split_facets(fill_vega_template("curves", path, rows, x, list(values)))
    return [
        Chart(column_title(name), values[name], draw_svg(spec, _describe_curve(rows, x, name))) for name, spec in panels.items()
    ]


def column_title(column: str) -> str:
    """Return the title that the page gives a column."""
    return COLUMN_TITLES.get(column, column.replace("_", " "))


def fill_vega_template(template: str, path: str, rows: Sequence[dict], x: str, y: Sequence[str]) -> dict:
    """Return the Vega-Lite specification that `dvc plots show` makes from the rows of a file.

    Raises:
        dvc.exceptions.DvcException: A column is missing.
    """
    from dvc.render.converter.vega import VegaConverter
    from dvc_render.vega import VegaRenderer

    definition = {"template": template, "x": {path: x}, "y": {path: list(y)}}
    points, properties = VegaConverter(path, {path: {"": list(rows)}}, definition).flat_datapoints("workspace")
    return VegaRenderer(points, path, template_dir=PLOT_TEMPLATES, **properties).get_filled_template()


def split_facets(spec: dict) -> dict[str, dict]:
    """Return a specification for each panel, by the value that its rows share, in the order of the rows."""
    field, rows = spec["facet"]["field"], spec["data"]["values"]
    return {
        value: spec["spec"] | {"$schema": spec["$schema"], "data": {"values": [row for row in rows if row[field] == value]}}
        for value in dict.fromkeys(row[field] for row in rows)
    }


def draw_svg(spec: dict, description: str) -> Markup:
    """Return a specification as an SVG element of full width, with the same bytes in every process.

    Raises:
        ValueError: The specification refers to data by a URL. Nothing is fetched.
    """
    from vl_convert import vegalite_to_svg

    drawn = vegalite_to_svg(spec, vl_version=VEGA_LITE, config=STYLE, allowed_base_urls=[])
    size, marks = re.fullmatch(r'<svg [^>]*(viewBox="[^"]*")>(.*)', drawn, re.DOTALL).groups()
    return Markup(f'<svg class="plot" role="img" aria-label="{escape(description)}" {size}>{marks}')


def _describe_curve(rows: Sequence[dict], x: str, name: str) -> str:
    (start, first), (end, last) = ((float(row[x]), float(row[name])) for row in (rows[0], rows[-1]))
    return f"{column_title(name)}: {first:.3g} at {x} {start:g}, {last:.3g} at {end:g}"
