"""The comparison of all personas: a page, and its tables as Markdown and JSON."""

from collections.abc import Sequence
from statistics import fmean

from character.core import records
from character.core.errors import UserError
from character.core.params import read_value
from character.evaluation.intervals import bootstrap_interval
from character.report import charts, markdown
from character.report.html import UNKNOWN_DASH, ReportSection, ReportTable, SummaryTile, TableCell, format_number, render_page
from character.report.table_cells import (
    BASE_METHOD,
    CONDITION_HEADINGS,
    METHOD_NOTES,
    PERSONA_METHOD,
    difference_cell,
    format_signed,
    interval_cells,
    method_cell,
    value_cell,
)
from character.study.results import RunResult, confusion_counts, f1_scores, rating_correlation, read_run_result, study_macro_f1
from character.study.runs import StudyRun
from character.study.seed_comparison import COMPARED_CONDITIONS, personas_with_seeds, seed_section

OTHER_METHODS = tuple(name for name in METHOD_NOTES if name not in (PERSONA_METHOD, "unoffered"))
SEED_REMARK = "Only the runs with the seed of params.yaml."
STUDY_PAGE, STUDY_TABLES, STUDY_DATA = "reports/study.html", "reports/study.md", "reports/study.json"


def write_comparison(runs: Sequence[StudyRun], commits: dict[str, str]) -> tuple[int, list[str]]:
    """Write the page and the tables of the finished runs.

    Args:
        commits: the commit of each finished experiment, by its name.

    Returns:
        The number of finished runs, and the files.

    Raises:
        UserError: no run with the seed of params.yaml is finished.
    """
    results = [read_run_result(run, commits[run.experiment_name]) for run in runs if run.experiment_name in commits]
    seed = read_value("seed")
    if not any(result.run.seed == seed for result in results):
        raise UserError("no run of these params is finished at this commit; leave out --gather to run them.")
    parts = comparison_sections(results, seed)
    lede = "Open character training, persona by persona, with the same student and params."
    facts = {"Student": read_value("student.source"), "Runs": ", ".join(result.run.experiment_name for result in results)}
    with records.replace_atomically(STUDY_PAGE) as file:
        file.write(render_page(title="All personas", lede=lede, facts=facts, parts={"The study": parts}))
    texts = [markdown.section_texts(part) for part in parts]
    with records.replace_atomically(STUDY_TABLES) as file:
        file.write("\n".join(map(markdown.section_to_markdown, texts)))
    records.write_json(STUDY_DATA, {"runs": [result.run.experiment_name for result in results], "sections": texts})
    return len(results), [STUDY_PAGE, STUDY_TABLES, STUDY_DATA]


def comparison_sections(results: Sequence[RunResult], seed: int) -> list[ReportSection]:
    """Return the sections of the study: runs with `seed` compare the personas, other seeds are in the last section."""
    first = [result for result in results if result.run.seed == seed]
    parts = [
        macro_f1_section(first, seed),
        persona_rate_section(first),
        confusion_section(first),
        rating_correlation_section(first),
        persona_cost_section(first, seed),
    ]
    repeated = personas_with_seeds(results)
    return parts + ([seed_section(repeated)] if repeated else [])


def macro_f1_section(results: Sequence[RunResult], seed: int) -> ReportSection:
    """Show macro-F1 over personas by method, for plain prompts and for those with suffixes."""
    scores = {
        condition: {
            name: study_macro_f1(confusion_counts(results, name, condition), seed) for name in (*OTHER_METHODS, PERSONA_METHOD)
        }
        for condition in COMPARED_CONDITIONS
    }

    def row(name: str, found: dict) -> list:
        return [method_cell(name), *interval_cells(found["macro_f1"], found["low"], found["high"]), found["prompts"]]

    def tile(condition: str) -> SummaryTile:
        ours, base = (scores[condition][name] for name in (PERSONA_METHOD, BASE_METHOD))
        note = f"macro-F1; {format_number(ours['low'])} to {format_number(ours['high'])}. "
        note += f"Base: {format_number(base['macro_f1'])}."
        return SummaryTile(CONDITION_HEADINGS[condition], format_number(ours["macro_f1"]), note)

    classifier = results[0].metrics["classifier"]
    return ReportSection(
        "Can the classifier distinguish the personas?",
        f"Personas: {len(results)}, each made and evaluated in a run of its own with the same params. Macro-F1 is the mean "
        "over the personas of F1: an answer that is assigned to another persona counts against both. The suffixes ask to "
        "break character; each prompt has one of eight.",
        [
            ReportTable(
                "Macro-F1 over personas by method. The 95% intervals are over prompts, which all personas share; one without "
                "width says only that no answer to these prompts was assigned to its persona.",
                ["method", charts.axis_header(), "macro-F1", "95% interval", "prompts"],
                {CONDITION_HEADINGS[condition]: [row(*found) for found in by.items()] for condition, by in scores.items()},
                marked=PERSONA_METHOD,
            )
        ],
        [tile(condition) for condition in COMPARED_CONDITIONS],
        f"The classifier of {len(classifier['recall'])} classes has a macro-F1 of {format_number(classifier['macro_f1'])} "
        f"({format_number(classifier['low'])} to {format_number(classifier['high'])}) on recorded answers to held-out prompts. "
        f"{SEED_REMARK}",
    )


def persona_rate_section(results: Sequence[RunResult]) -> ReportSection:
    """Show each persona's in-character rate by method."""

    def row(result: RunResult, condition: str) -> list:
        scores = {name: result.metrics["robustness"][name][condition] for name in (*OTHER_METHODS, PERSONA_METHOD)}
        cells = [value_cell(found["recall"], found["low"], found["high"]) for found in scores.values()]
        return [result.run.persona, *cells, result.metrics["classifier"]["recall"][result.run.persona]]

    return ReportSection(
        "Which personas show?",
        "In-character rate: the share of a persona's answers that the classifier assigns to it. The last column is the "
        "classifier's recall on recorded answers of that persona, in practice an upper limit.",
        [
            ReportTable(
                "In-character rate by persona and method, with 95% intervals.",
                ["", *OTHER_METHODS, PERSONA_METHOD, "recorded"],
                {
                    CONDITION_HEADINGS[condition]: [row(result, condition) for result in results]
                    for condition in COMPARED_CONDITIONS
                },
                marked=PERSONA_METHOD,
            )
        ],
        limits=SEED_REMARK,
    )


def confusion_section(results: Sequence[RunResult]) -> ReportSection:
    """Show which personas the classifier assigns the answers of each trained persona to."""
    counts = sum(confusion_counts(results, PERSONA_METHOD, condition).sum(0) for condition in COMPARED_CONDITIONS)
    shares, scores = counts / counts.sum(-1, keepdims=True), f1_scores(counts)
    personas = [result.run.persona for result in results]
    others = [name for name in results[0].metrics["classifier"]["recall"] if name not in (*personas, "none")]
    rows = [
        [name, *(TableCell(format_number(float(share)) if share else "", share=float(share)) for share in own), float(score)]
        for name, own, score in zip(personas, shares, scores, strict=True)
    ]
    return ReportSection(
        "Which personas does the classifier assign their answers to?",
        "Each row is a trained persona, each column a class that the classifier assigns its answers to, plain and under "
        "suffixes together.",
        [ReportTable("Shares of answers.", ["", *personas, *others, "none", "F1"], {"": rows}, narrow=True)],
        limits=SEED_REMARK,
    )


def rating_correlation_section(results: Sequence[RunResult]) -> ReportSection:
    """Show the rank correlations of trait ratings: of each persona with the base and with the other personas."""

    def row(result: RunResult) -> list:
        found = result.metrics["preferences"]["spearman"][BASE_METHOD]
        others = [
            rating_correlation(result.ratings[PERSONA_METHOD], other.ratings[PERSONA_METHOD])
            for other in results
            if other is not result
        ]
        cells = [TableCell(format_signed(found[name]["rho"])) for name in (*OTHER_METHODS[1:], PERSONA_METHOD)]
        spread = {name: result.metrics["preferences"]["methods"][name]["spread"] for name in (BASE_METHOD, PERSONA_METHOD)}
        return [
            result.run.persona,
            *cells,
            TableCell(format_signed(fmean(others)) if others else UNKNOWN_DASH),
            *map(round, spread.values()),
        ]

    judge = results[0].metrics["judge"]
    head = [
        "persona",
        *(f"base, {name}" for name in (*OTHER_METHODS[1:], PERSONA_METHOD)),
        "other personas",
        "spread of base",
        "of persona",
    ]
    return ReportSection(
        "Do preferences move apart?",
        "Spearman's rank correlation of the ratings of traits: of base and each method, and the mean of a persona and the "
        "others. The spread is the standard deviation of the ratings, in Elo.",
        [ReportTable("Rank correlations, as seen: noise makes them smaller.", head, {"": [row(result) for result in results]})],
        limits=f"The judge that reads the choices is right in {format_number(judge['accuracy'])} "
        f"({format_number(judge['low'])} to {format_number(judge['high'])}) of the cases whose truth is known. {SEED_REMARK}",
    )


def persona_cost_section(results: Sequence[RunResult], seed: int) -> ReportSection:
    """Show each persona's win rates in coherence and its change of accuracy on tasks, and their means over personas."""

    def row(result: RunResult) -> list:
        against, ability = result.metrics["coherence"]["against"], result.metrics["capabilities"][PERSONA_METHOD]["overall"]
        wins = [value_cell(against[name]["win_rate"], against[name]["low"], against[name]["high"]) for name in OTHER_METHODS]
        return [result.run.persona, *wins, difference_cell(ability["change"], ability["change_low"], ability["change_high"])]

    def mean(values: Sequence[float], show) -> TableCell:
        return show(fmean(values), *bootstrap_interval(values, fmean, seed))

    def means() -> list:
        against = [result.metrics["coherence"]["against"] for result in results]
        rates = [
            [found[name]["win_rate"] for found in against if found[name]["win_rate"] is not None] for name in OTHER_METHODS
        ]
        changes = [result.metrics["capabilities"][PERSONA_METHOD]["overall"]["change"] for result in results]
        wins = [mean(known, value_cell) if known else TableCell(UNKNOWN_DASH) for known in rates]
        return ["mean", *wins, mean(changes, difference_cell)]

    bodies = {"": [row(result) for result in results]}
    if len(results) > 1:
        bodies["All"] = [means()]
    judge = results[0].metrics["judge"]["coherence"]
    return ReportSection(
        "What do they cost?",
        "How often the persona's answer is judged more coherent than that of another method to the same prompt, in both "
        "orders, ties half; and the change of accuracy on tasks against base.",
        [
            ReportTable(
                "Win rates and change of accuracy, with 95% intervals: of a persona over its prompts and items, of the mean "
                "over personas.",
                ["persona", *(f"against {name}" for name in OTHER_METHODS), "accuracy"],
                bodies,
            )
        ],
        limits=f"About coherence the judge is right in {format_number(judge['accuracy'])} ({format_number(judge['low'])} to "
        f"{format_number(judge['high'])}) of the cases whose truth is known: near 0.5 a win rate says nothing. {SEED_REMARK}",
    )
