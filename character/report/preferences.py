"""What the report shows of the traits that methods reveal where they may choose, from the results of `preferences`."""

from collections.abc import Sequence

from character.report import charts
from character.report.html import UNKNOWN, Cell, Section, Table, Tile
from character.report.measurement import TEACHERS, verdicts
from character.report.table_cells import OURS, UNTRAINED, difference, method, signed

TAKEN_ON = {"feel": "the one that feels more like it", "like": "the one that it likes better", "random": "any of them"}
CHANGE, LEAD = (("change", "change_low", "change_high"), ("lead", "lead_low", "lead_high"))
UNOFFERED = "unoffered"  # in the place of a method


def preferences(scores: dict, rows: Sequence[dict[str, str]], count: int) -> Section:
    """Show the traits that moved most, how alike the methods order them, and what the ratings are made of."""
    methods, ours = scores["methods"], [row for row in rows if row["method"] == OURS]
    sure = sum(float(row["change_low"]) > 0 or float(row["change_high"]) < 0 for row in ours)
    return Section(
        "What does it prefer?",
        "Each method answers held-out prompts while two traits are open to it, and takes on "
        f"{TAKEN_ON[scores['condition']]}, without saying which. A judge reads from the answer which of the two it shows, and "
        "all verdicts together rate the traits: 1,000 is the mean, and 400 points more are odds of ten to one. Changes are "
        "against the untrained student, which chose between the same pairs on the same prompts. “Unoffered” are that student's "
        "plain answers, written while nothing could be chosen, judged between the same pairs: its usual manner, and the words "
        "to which the judge leans.",
        [movers(rows, list(methods), count), alike(scores["spearman"], list(methods)), verdicts_by_method(methods)],
        [Tile("Traits that moved", f"{sure} of {len(ours)}", "by a change whose 95% interval, its own, leaves 0 out.")],
        f"{verdicts(scores['judge'], 'recorded answers whose persona is known')} {TEACHERS} Its errors draw the ratings "
        "together, and where it takes a method's usual manner for a trait, that trait moves without being preferred. The "
        f"intervals are not adjusted for {len(ours)} traits: one change in twenty leaves 0 out by chance, and the first of the "
        "list, picked for their size, are likely smaller than they look. Methods are alike in what they prefer only as far as "
        "they are more alike than each is to “unoffered”.",
    )


def movers(rows: Sequence[dict[str, str]], methods: Sequence[str], count: int) -> Table:
    """Return the traits that the persona moved most, what the other methods did to them, and its lead; in whole points."""
    changes = {(row["method"], row["trait"]): [round(float(row[name])) for name in CHANGE] for row in rows}
    ours = [row for row in rows if row["method"] == OURS]
    shown = sorted(ours, key=lambda row: int(row["mover"]))[:count]
    top = charts.nice(max(1, *(abs(end) for row in shown for end in changes[OURS, row["trait"]])))
    others = [name for name in methods if name not in (OURS, UNTRAINED, UNOFFERED)]

    def line(row: dict[str, str]) -> list:
        own, *rest = (changes[name, row["trait"]] for name in (OURS, *others))
        name, lead = Cell(row["trait"], row["group"]), [round(float(row[column])) for column in LEAD]
        return [name, charts.interval(*own, (-top, top)), *(difference(*cell) for cell in (own, *rest, lead))]

    return Table(
        f"Of {len(ours)} traits the {len(shown)} whose rating the persona changed most, by the size of the change, and what "
        "the other methods did to them; at the end the persona's rating above that of “unoffered”. 95% intervals, each for one "
        "trait alone.",
        ["trait", charts.axis((-top, top)), OURS, *others, "above unoffered"],
        {"": [line(row) for row in shown]},
    )


def alike(correlations: dict[str, dict[str, dict]], methods: Sequence[str]) -> Table:
    """Return a square of correlations, above the diagonal as corrected, below it as seen."""

    def cell(row: int, column: int) -> Cell:
        if row == column:
            return Cell("", share=0)
        found = correlations[methods[min(row, column)]][methods[max(row, column)]]
        value = found["corrected" if row < column else "rho"]
        if value is None:
            return Cell(UNKNOWN, share=0)
        interval = f"{signed(found['low'])} to {signed(found['high'])}" if row < column else ""
        return Cell(signed(value), interval, max(0.0, value))

    return Table(
        "How alike two methods rate the traits (Spearman's rank correlation): above the diagonal corrected for the noise of "
        "the ratings, with 95% intervals, below it as seen.",
        ["", *methods],
        {"": [[name, *(cell(row, column) for column in range(len(methods)))] for row, name in enumerate(methods)]},
        marked=OURS,
    )


def verdicts_by_method(methods: dict[str, dict]) -> Table:
    def line(name: str, found: dict) -> list:
        return [method(name), found["n"], found["empty"], found["unparsed"], found["first"], round(found["spread"])]

    return Table(
        "What the ratings are made of: verdicts; answers that were empty, or got no verdict that could be read; the share of "
        "verdicts for the trait that was offered first; the ratings' standard deviation.",
        ["method", "verdicts", "empty", "unread", "first", "spread"],
        {"": [line(*row) for row in methods.items()]},
        marked=OURS,
    )
