"""The study on one page, and its tables as Markdown: all personas beside each other."""

from collections.abc import Sequence
from statistics import fmean, stdev

from character.core import records
from character.core.errors import UserError
from character.core.params import value
from character.dataset.conditions import PLAIN, SUFFIXES
from character.evaluation.intervals import bootstrap
from character.report import charts, markdown
from character.report.html import UNKNOWN, Cell, Section, Table, Tile, number, render
from character.report.table_cells import CONDITIONS, METHODS, OURS, UNTRAINED, difference, measured, method, signed, told
from character.study.results import Finding, confusions, f1, likeness, macro_f1, read
from character.study.runs import Run

OTHERS = tuple(name for name in METHODS if name not in (OURS, "unoffered"))
ASKED = (PLAIN, SUFFIXES)
SEEDED = "Only the runs with the seed of params.yaml."


PAGE, TABLES, DATA = "reports/study.html", "reports/study.md", "reports/study.json"


def write(runs: Sequence[Run], commits: dict[str, str]) -> tuple[int, list[str]]:
    """Write page and tables about the runs whose experiments are among `commits`; return how many they are, and the files.

    Raises:
        UserError: none of the runs with the seed of params.yaml is finished.
    """
    found = [read(run, commits[run.name]) for run in runs if run.name in commits]
    seed = value("seed")
    if not any(finding.run.seed == seed for finding in found):
        raise UserError("no run of these params is finished at this commit; leave out --gather to run them.")
    parts = sections(found, seed)
    lede = "Open character training, persona by persona, with the same student and params."
    facts = {"Student": value("student.source"), "Runs": ", ".join(finding.run.name for finding in found)}
    with records.replacing(PAGE) as file:
        file.write(render(title="All personas", lede=lede, facts=facts, parts={"The study": parts}))
    texts = [markdown.section_texts(part) for part in parts]
    with records.replacing(TABLES) as file:
        file.write("\n".join(map(markdown.section_markdown, texts)))
    records.write_json(DATA, {"runs": [finding.run.name for finding in found], "sections": texts})
    return len(found), [PAGE, TABLES, DATA]


def sections(findings: Sequence[Finding], seed: int) -> list[Section]:
    """Return the study's sections; those of one seed compare personas, the others come in the last."""
    first = [finding for finding in findings if finding.run.seed == seed]
    parts = [recognised(first, seed), by_persona(first), called(first), preferred(first), costs(first, seed)]
    repeated = several(findings)
    return parts + ([seeds(repeated)] if repeated else [])


def recognised(findings: Sequence[Finding], seed: int) -> Section:
    """Show macro-F1 over personas by method, asked plain and under suffixes."""
    scores = {
        condition: {name: macro_f1(confusions(findings, name, condition), seed) for name in (*OTHERS, OURS)}
        for condition in ASKED
    }

    def row(name: str, found: dict) -> list:
        return [method(name), *measured(found["macro_f1"], found["low"], found["high"]), found["prompts"]]

    def tile(condition: str) -> Tile:
        ours, untrained = (scores[condition][name] for name in (OURS, UNTRAINED))
        note = f"macro-F1; {number(ours['low'])} to {number(ours['high'])}. Untrained: {number(untrained['macro_f1'])}."
        return Tile(CONDITIONS[condition], number(ours["macro_f1"]), note)

    classifier = findings[0].metrics["classifier"]
    return Section(
        "Can the personas be told apart?",
        f"Personas: {len(findings)}, each made and evaluated in a run of its own with the same params. Macro-F1 is the mean "
        "over the personas of F1: an answer that is called another persona's counts against both. The suffixes ask to break "
        "character; each prompt has one of eight.",
        [
            Table(
                "Macro-F1 over personas by method. The 95% intervals are over prompts, which all personas share; one without "
                "width says only that no answer to these prompts was a hit.",
                ["method", charts.axis(), "macro-F1", "95% interval", "prompts"],
                {CONDITIONS[condition]: [row(*found) for found in by.items()] for condition, by in scores.items()},
                marked=OURS,
            )
        ],
        [tile(condition) for condition in ASKED],
        f"The classifier of {len(classifier['recall'])} classes has a macro-F1 of {number(classifier['macro_f1'])} "
        f"({number(classifier['low'])} to {number(classifier['high'])}) on recorded answers to held-out prompts. {SEEDED}",
    )


def by_persona(findings: Sequence[Finding]) -> Section:
    """Show each persona's recall by method."""

    def row(finding: Finding, condition: str) -> list:
        scores = {name: finding.metrics["robustness"][name][condition] for name in (*OTHERS, OURS)}
        cells = [told(found["recall"], found["low"], found["high"]) for found in scores.values()]
        return [finding.run.persona, *cells, finding.metrics["classifier"]["recall"][finding.run.persona]]

    return Section(
        "Which personas show?",
        "Recall: the share of a persona's answers that the classifier calls by its name. The last column is its recall on "
        "recorded answers of that persona, which no training can well exceed.",
        [
            Table(
                "Recall by persona and method, with 95% intervals.",
                ["", *OTHERS, OURS, "recorded"],
                {CONDITIONS[condition]: [row(finding, condition) for finding in findings] for condition in ASKED},
                marked=OURS,
            )
        ],
        limits=SEEDED,
    )


def called(findings: Sequence[Finding]) -> Section:
    """Show what the answers of each trained persona are called."""
    counts = sum(confusions(findings, OURS, condition).sum(0) for condition in ASKED)
    shares, scores = counts / counts.sum(-1, keepdims=True), f1(counts)
    personas = [finding.run.persona for finding in findings]
    others = [name for name in findings[0].metrics["classifier"]["recall"] if name not in (*personas, "none")]
    rows = [
        [name, *(Cell(number(float(share)) if share else "", share=float(share)) for share in own), float(score)]
        for name, own, score in zip(personas, shares, scores, strict=True)
    ]
    return Section(
        "What are they taken for?",
        "Each row is a trained persona, each column what the classifier calls its answers, plain and under suffixes together.",
        [Table("Shares of answers.", ["", *personas, *others, "none", "F1"], {"": rows}, narrow=True)],
        limits=SEEDED,
    )


def preferred(findings: Sequence[Finding]) -> Section:
    """Show how alike the trait ratings are: of each persona and the untrained student, and of the personas."""

    def row(finding: Finding) -> list:
        found = finding.metrics["preferences"]["spearman"][UNTRAINED]
        others = [likeness(finding.ratings[OURS], other.ratings[OURS]) for other in findings if other is not finding]
        cells = [Cell(signed(found[name]["rho"])) for name in (*OTHERS[1:], OURS)]
        spread = {name: finding.metrics["preferences"]["methods"][name]["spread"] for name in (UNTRAINED, OURS)}
        return [finding.run.persona, *cells, Cell(signed(fmean(others)) if others else UNKNOWN), *map(round, spread.values())]

    judge = findings[0].metrics["judge"]
    head = ["persona", *(f"base, {name}" for name in (*OTHERS[1:], OURS)), "other personas", "spread of base", "of persona"]
    return Section(
        "Do preferences move apart?",
        "Spearman's rank correlation of the ratings of traits: of the untrained student and each method, and the mean of a "
        "persona and the others. The spread is the standard deviation of the ratings, in Elo.",
        [Table("Rank correlations, as seen: noise makes them smaller.", head, {"": [row(found) for found in findings]})],
        limits=f"The judge that reads the choices is right in {number(judge['accuracy'])} ({number(judge['low'])} to "
        f"{number(judge['high'])}) of the cases whose truth is known. {SEEDED}",
    )


def costs(findings: Sequence[Finding], seed: int) -> Section:
    """Show each persona's win rates in coherence, and its change of accuracy on tasks; and the means over personas."""

    def row(finding: Finding) -> list:
        against, ability = finding.metrics["coherence"]["against"], finding.metrics["capabilities"][OURS]["overall"]
        wins = [told(against[name]["win_rate"], against[name]["low"], against[name]["high"]) for name in OTHERS]
        return [finding.run.persona, *wins, difference(ability["change"], ability["change_low"], ability["change_high"])]

    def mean(values: Sequence[float], show) -> Cell:
        return show(fmean(values), *bootstrap(values, fmean, seed))

    def means() -> list:
        against = [finding.metrics["coherence"]["against"] for finding in findings]
        rates = [[found[name]["win_rate"] for found in against if found[name]["win_rate"] is not None] for name in OTHERS]
        changes = [finding.metrics["capabilities"][OURS]["overall"]["change"] for finding in findings]
        wins = [mean(known, told) if known else Cell(UNKNOWN) for known in rates]
        return ["mean", *wins, mean(changes, difference)]

    bodies = {"": [row(finding) for finding in findings]}
    if len(findings) > 1:
        bodies["All"] = [means()]
    judge = findings[0].metrics["judge"]["coherence"]
    return Section(
        "What do they cost?",
        "How often the persona's answer is called the more coherent than that of another method to the same prompt, both "
        "orders judged, ties half; and the change of accuracy on tasks against the untrained student.",
        [
            Table(
                "Win rates and change of accuracy, with 95% intervals: of a persona over its prompts and items, of the mean "
                "over personas.",
                ["persona", *(f"against {name}" for name in OTHERS), "accuracy"],
                bodies,
            )
        ],
        limits=f"About coherence the judge is right in {number(judge['accuracy'])} ({number(judge['low'])} to "
        f"{number(judge['high'])}) of the cases whose truth is known: near 0.5 a win rate says nothing. {SEEDED}",
    )


def several(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Return the findings of the personas that have more than one."""
    by_persona: dict[str, list[Finding]] = {}
    for finding in findings:
        by_persona.setdefault(finding.run.persona, []).append(finding)
    return {persona: own for persona, own in by_persona.items() if len(own) > 1}


def seeds(repeated: dict[str, list[Finding]]) -> Section:
    """Show what other seeds make of the personas that were run with several."""
    bodies = {persona: _of_seeds(own) for persona, own in repeated.items()}
    return Section(
        "How much is chance?",
        "The same persona and params with other seeds, which draw everything anew: replies, orders, adapters, the classifier.",
        [
            Table(
                "Recall of the persona and of the distilled student, by seed; the mean rank correlation of its trait ratings "
                "with those of the other seeds.",
                _SEED_HEAD,
                bodies,
            )
        ],
    )


_SEED_HEAD = [
    "seed",
    "plain",
    "suffixes",
    "distilled, plain",
    "distilled, suffixes",
    "change of accuracy",
    "likeness of ratings",
]


def _of_seeds(findings: Sequence[Finding]) -> list[list]:
    rows = []
    for finding in findings:
        scores = finding.metrics["robustness"]
        recall = [scores[name][condition]["recall"] for name in (OURS, "distilled") for condition in ASKED]
        others = [likeness(finding.ratings[OURS], other.ratings[OURS]) for other in findings if other is not finding]
        rows.append([finding.run.seed, *recall, finding.metrics["capabilities"][OURS]["overall"]["change"], fmean(others)])
    columns = list(zip(*(row[1:] for row in rows), strict=True))
    return [*rows, ["mean", *map(fmean, columns)], ["standard deviation", *map(stdev, columns)]]
