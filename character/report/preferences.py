"""Section of the report on the traits that methods reveal when they may choose, from the results of `preferences`."""

from collections.abc import Sequence

from character.report import charts
from character.report.html import UNKNOWN_DASH, ReportSection, ReportTable, SummaryTile, TableCell
from character.report.measurement import TEACHER_CAVEAT, judge_caveat
from character.report.table_cells import BASE_METHOD, PERSONA_METHOD, difference_cell, format_signed, method_cell

CHOICE_PHRASES = {"feel": "the one that feels more like it", "like": "the one that it likes better", "random": "any of them"}
CHANGE_COLUMNS, LEAD_COLUMNS = (("change", "change_low", "change_high"), ("lead", "lead_low", "lead_high"))
UNOFFERED_METHOD = "unoffered"  # listed like a method


def preferences_section(scores: dict, rows: Sequence[dict[str, str]], count: int) -> ReportSection:
    """Show the traits that moved most, the rank correlation of the methods, and the counts of verdicts.

    Args:
        scores: results/preferences.json.
        rows: The rows of plots/preferences.csv, one for each method and trait.
        count: How many traits to show.
    """
    methods, ours = scores["methods"], [row for row in rows if row["method"] == PERSONA_METHOD]
    significant = sum(float(row["change_low"]) > 0 or float(row["change_high"]) < 0 for row in ours)
    return ReportSection(
        "What does it prefer?",
        "Each method answers held-out prompts with a choice of two traits, and takes on "
        f"{CHOICE_PHRASES[scores['condition']]}, without saying which. A judge decides which of the two the answer shows, and "
        "all verdicts together give the ratings of the traits (Elo): 1,000 is the mean, and a lead of 400 points means odds of "
        "ten to one. Changes are relative to base, which chose between the same pairs on the same prompts. “Unoffered” are "
        "plain answers of base, written without any choice and judged between the same pairs: they show its usual manner, and "
        "the words that the judge favours.",
        [top_changes(rows, list(methods), count), correlation_table(scores["spearman"], list(methods)), verdict_table(methods)],
        [SummaryTile("Traits that moved", f"{significant} of {len(ours)}", "by a change whose own 95% interval excludes 0.")],
        f"{judge_caveat(scores['judge'], 'recorded answers whose persona is known')} {TEACHER_CAVEAT} Its errors pull the "
        "ratings together, and where it mistakes a method's usual manner for a trait, that trait moves without being "
        f"preferred. The intervals are not adjusted for {len(ours)} traits: one change in twenty excludes 0 by chance, and the "
        "largest changes, selected by their size, are probably overestimated. Two methods share preferences only to the extent "
        "that they are more alike than each is to “unoffered”.",
    )


def top_changes(rows: Sequence[dict[str, str]], methods: Sequence[str], count: int) -> ReportTable:
    """Return the traits that the persona moved most, their changes by the other methods, and its lead; in whole points."""
    changes = {(row["method"], row["trait"]): [round(float(row[name])) for name in CHANGE_COLUMNS] for row in rows}
    ours = [row for row in rows if row["method"] == PERSONA_METHOD]
    shown = sorted(ours, key=lambda row: int(row["mover"]))[:count]
    top = charts.round_axis_up(max(1, *(abs(end) for row in shown for end in changes[PERSONA_METHOD, row["trait"]])))
    others = [name for name in methods if name not in (PERSONA_METHOD, BASE_METHOD, UNOFFERED_METHOD)]

    def trait_row(row: dict[str, str]) -> list:
        own, *rest = (changes[name, row["trait"]] for name in (PERSONA_METHOD, *others))
        name, lead = TableCell(row["trait"], row["group"]), [round(float(row[column])) for column in LEAD_COLUMNS]
        return [name, charts.interval_chart(*own, (-top, top)), *(difference_cell(*cell) for cell in (own, *rest, lead))]

    return ReportTable(
        f"Of {len(ours)} traits, the {len(shown)} whose rating the persona changed most, by the size of the change, with their "
        "changes by the other methods; at the end, the persona's rating minus that of “unoffered”. 95% intervals, each for a "
        "single trait.",
        ["trait", charts.axis_header((-top, top)), PERSONA_METHOD, *others, "minus unoffered"],
        {"": [trait_row(row) for row in shown]},
    )


def correlation_table(correlations: dict[str, dict[str, dict]], methods: Sequence[str]) -> ReportTable:
    """Return a square of correlations: corrected above the diagonal, as observed below it."""

    def rho_cell(row: int, column: int) -> TableCell:
        if row == column:
            return TableCell("", share=0)
        pair = correlations[methods[min(row, column)]][methods[max(row, column)]]
        value = pair["corrected" if row < column else "rho"]
        if value is None:
            return TableCell(UNKNOWN_DASH, share=0)
        interval = f"{format_signed(pair['low'])} to {format_signed(pair['high'])}" if row < column else ""
        return TableCell(format_signed(value), interval, max(0.0, value))

    return ReportTable(
        "How alike two methods rate the traits (Spearman's rank correlation): above the diagonal, corrected for the noise of "
        "the ratings, with 95% intervals; below it, as observed.",
        ["", *methods],
        {"": [[name, *(rho_cell(row, column) for column in range(len(methods)))] for row, name in enumerate(methods)]},
        marked=PERSONA_METHOD,
    )


def verdict_table(methods: dict[str, dict]) -> ReportTable:
    def method_row(name: str, count: dict) -> list:
        return [method_cell(name), count["n"], count["empty"], count["unparsed"], count["first"], round(count["spread"])]

    return ReportTable(
        "What the ratings are based on: verdicts; answers that were empty or whose verdict could not be read; the share of "
        "verdicts for the trait that was offered first; the standard deviation of the ratings.",
        ["method", "verdicts", "empty", "unread", "first", "spread"],
        {"": [method_row(*row) for row in methods.items()]},
        marked=PERSONA_METHOD,
    )
