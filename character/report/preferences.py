"""What the report shows of the traits that methods reveal where they may choose, from the results of `preferences`."""

from collections.abc import Sequence

from character.report import charts
from character.report.html import UNKNOWN_DASH, ReportSection, ReportTable, SummaryTile, TableCell
from character.report.measurement import TEACHER_CAVEAT, judge_caveat
from character.report.table_cells import BASE_METHOD, PERSONA_METHOD, difference_cell, format_signed, method_cell

CHOICE_PHRASES = {"feel": "the one that feels more like it", "like": "the one that it likes better", "random": "any of them"}
CHANGE_COLUMNS, LEAD_COLUMNS = (("change", "change_low", "change_high"), ("lead", "lead_low", "lead_high"))
UNOFFERED_METHOD = "unoffered"  # in the place of a method


def preferences_section(scores: dict, rows: Sequence[dict[str, str]], count: int) -> ReportSection:
    """Show the traits that moved most, how alike the methods order them, and what the ratings are made of."""
    methods, ours = scores["methods"], [row for row in rows if row["method"] == PERSONA_METHOD]
    sure = sum(float(row["change_low"]) > 0 or float(row["change_high"]) < 0 for row in ours)
    return ReportSection(
        "What does it prefer?",
        "Each method answers held-out prompts while two traits are open to it, and takes on "
        f"{CHOICE_PHRASES[scores['condition']]}, without saying which. A judge reads from the answer which of the two it shows, and "
        "all verdicts together rate the traits: 1,000 is the mean, and 400 points more are odds of ten to one. Changes are "
        "against the untrained student, which chose between the same pairs on the same prompts. “Unoffered” are that student's "
        "plain answers, written while nothing could be chosen, judged between the same pairs: its usual manner, and the words "
        "to which the judge leans.",
        [top_changes(rows, list(methods), count), correlation_table(scores["spearman"], list(methods)), verdict_table(methods)],
        [SummaryTile("Traits that moved", f"{sure} of {len(ours)}", "by a change whose 95% interval, its own, leaves 0 out.")],
        f"{judge_caveat(scores['judge'], 'recorded answers whose persona is known')} {TEACHER_CAVEAT} Its errors draw the ratings "
        "together, and where it takes a method's usual manner for a trait, that trait moves without being preferred. The "
        f"intervals are not adjusted for {len(ours)} traits: one change in twenty leaves 0 out by chance, and the first of the "
        "list, picked for their size, are likely smaller than they look. Methods are alike in what they prefer only as far as "
        "they are more alike than each is to “unoffered”.",
    )


def top_changes(rows: Sequence[dict[str, str]], methods: Sequence[str], count: int) -> ReportTable:
    """Return the traits that the persona moved most, what the other methods did to them, and its lead; in whole points."""
    changes = {(row["method"], row["trait"]): [round(float(row[name])) for name in CHANGE_COLUMNS] for row in rows}
    ours = [row for row in rows if row["method"] == PERSONA_METHOD]
    shown = sorted(ours, key=lambda row: int(row["mover"]))[:count]
    top = charts.round_axis_up(max(1, *(abs(end) for row in shown for end in changes[PERSONA_METHOD, row["trait"]])))
    others = [name for name in methods if name not in (PERSONA_METHOD, BASE_METHOD, UNOFFERED_METHOD)]

    def line(row: dict[str, str]) -> list:
        own, *rest = (changes[name, row["trait"]] for name in (PERSONA_METHOD, *others))
        name, lead = TableCell(row["trait"], row["group"]), [round(float(row[column])) for column in LEAD_COLUMNS]
        return [name, charts.interval_chart(*own, (-top, top)), *(difference_cell(*cell) for cell in (own, *rest, lead))]

    return ReportTable(
        f"Of {len(ours)} traits the {len(shown)} whose rating the persona changed most, by the size of the change, and what "
        "the other methods did to them; at the end the persona's rating above that of “unoffered”. 95% intervals, each for one "
        "trait alone.",
        ["trait", charts.axis_header((-top, top)), PERSONA_METHOD, *others, "above unoffered"],
        {"": [line(row) for row in shown]},
    )


def correlation_table(correlations: dict[str, dict[str, dict]], methods: Sequence[str]) -> ReportTable:
    """Return a square of correlations, above the diagonal as corrected, below it as seen."""

    def cell(row: int, column: int) -> TableCell:
        if row == column:
            return TableCell("", share=0)
        found = correlations[methods[min(row, column)]][methods[max(row, column)]]
        value = found["corrected" if row < column else "rho"]
        if value is None:
            return TableCell(UNKNOWN_DASH, share=0)
        interval = f"{format_signed(found['low'])} to {format_signed(found['high'])}" if row < column else ""
        return TableCell(format_signed(value), interval, max(0.0, value))

    return ReportTable(
        "How alike two methods rate the traits (Spearman's rank correlation): above the diagonal corrected for the noise of "
        "the ratings, with 95% intervals, below it as seen.",
        ["", *methods],
        {"": [[name, *(cell(row, column) for column in range(len(methods)))] for row, name in enumerate(methods)]},
        marked=PERSONA_METHOD,
    )


def verdict_table(methods: dict[str, dict]) -> ReportTable:
    def line(name: str, found: dict) -> list:
        return [method_cell(name), found["n"], found["empty"], found["unparsed"], found["first"], round(found["spread"])]

    return ReportTable(
        "What the ratings are made of: verdicts; answers that were empty, or got no verdict that could be read; the share of "
        "verdicts for the trait that was offered first; the ratings' standard deviation.",
        ["method", "verdicts", "empty", "unread", "first", "spread"],
        {"": [line(*row) for row in methods.items()]},
        marked=PERSONA_METHOD,
    )
