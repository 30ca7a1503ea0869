"""Sections of the report on what a persona costs, one for each question. Each is a function of the file that it shows."""

from character.evaluation.refusals import RECOGNITION_COUNTS
from character.report import charts
from character.report.html import ReportSection, ReportTable, SummaryTile, TableCell, format_number
from character.report.measurement import judge_caveat
from character.report.table_cells import (
    BASE_METHOD,
    PERSONA_METHOD,
    REFERENCE_CELL,
    difference_cell,
    format_interval,
    heat_cell,
    interval_cells,
    method_cell,
    value_cell,
)


def fluency_section(scores: dict) -> ReportSection:
    """Show results/fluency.json."""
    span = (0, charts.round_axis_up(max(score["high"] for score in scores.values())))
    shown = {"distinct_2": "variety", "repetition": "repetition", "words": "words", "unfinished": "cut off", "empty": "empty"}
    rows = [
        [
            method_cell(name),
            *interval_cells(score["perplexity"], score["low"], score["high"], span),
            *(score[key] for key in shown),
            value_cell(*(score["on_topic"][key] for key in ("similarity", "low", "high"))),
            score["on_topic"]["elsewhere"],
            score["n"],
        ]
        for name, score in scores.items()
    ]
    head = [
        "method",
        charts.axis_header(span),
        "perplexity",
        "95% interval",
        *shown.values(),
        "on topic",
        "by chance",
        "answers",
    ]
    ours, base = scores[PERSONA_METHOD], scores[BASE_METHOD]
    note = f"{format_interval(ours)}. Base: {format_number(base['perplexity'])}."
    return ReportSection(
        "Is it still good text?",
        "Perplexity is how unlikely an answer is under base: a character must raise it, and "
        "broken text raises it far more. Variety is the share of distinct pairs among all pairs of neighbouring words. "
        "Repetition is the share of runs of four words that occurred earlier in the same answer. Cut off is the share of "
        "answers that reached the token limit. On topic is the similarity of an answer and its prompt by a sentence encoder "
        "(cosine); by chance is the same for an answer and other prompts.",
        [ReportTable("Answers to plain prompts.", head, {"": rows}, marked=PERSONA_METHOD)],
        [SummaryTile("Perplexity under base", format_number(ours["perplexity"]), note)],
        "No judge is involved. These figures are counted or computed, and none of them says whether an answer makes sense.",
    )


def coherence_section(scores: dict) -> ReportSection:
    """Show results/coherence.json: the persona's answers compared with those of each other method."""
    counts = {"wins": "wins", "losses": "losses", "ties": "ties", "unparsed": "unread", "empty": "empty", "n": "prompts"}

    def opponent_row(name: TableCell, score: dict) -> list:
        return [name, *interval_cells(score["win_rate"], score["low"], score["high"]), *(score.get(key, "") for key in counts)]

    style = scores["style"]
    bodies = {
        "The persona's answers, against those of": [
            opponent_row(method_cell(name), score) for name, score in scores["against"].items()
        ],
        "For comparison, a teacher's answers in character": [
            opponent_row(TableCell("recorded", "against neutral ones to the same prompts"), style)
        ],
    }
    against = scores["against"][BASE_METHOD]
    note = (
        f"of {against['n']} comparisons with base are won, with ties as half; {format_interval(against)}. Recorded answers in "
        f"character against neutral ones: {format_number(style['win_rate'])}."
    )
    cases = "pairs of a recorded answer and a damaged one, with ties as half"
    return ReportSection(
        "Is it as coherent?",
        "A judge compares the persona's answers to plain prompts with those of each other method, and says which of the two is "
        "more coherent. It reads both orders; if its verdict depends on the order, that is a tie, half a win for either side. "
        "Prompts are left out where one of the answers is empty or no verdict could be read.",
        [
            ReportTable(
                "Win rate, with 95% intervals over prompts.",
                ["against", charts.axis_header(), "win rate", "95% interval", *counts.values()],
                bodies,
            )
        ],
        [SummaryTile("More coherent", format_number(against["win_rate"]), note)],
        f"{judge_caveat(scores['judge'], cases)} That damage is coarse and keeps the style. Style should not count; yet of a "
        f"teacher's answers in character {format_number(style['win_rate'])} ({format_interval(style)}) win against neutral "
        "ones to the same prompts, where 0.50 is no preference. Compare each win rate with that one. The judge may also count "
        "length as a fault. An interval that contains 0.50 shows no difference; it treats a tie as an open verdict, so it is "
        "somewhat too wide.",
    )


def capabilities_section(scores: dict) -> ReportSection:
    """Show results/capabilities.json: accuracy by task, and its change from base."""

    def method_row(name: str, score: dict) -> list:
        change = difference_cell(score["change"], score["change_low"], score["change_high"])
        counts = (score["gained"], score["lost"], score["n"])
        accuracy = interval_cells(score["accuracy"], score["low"], score["high"])
        return [method_cell(name), *accuracy, REFERENCE_CELL if name == BASE_METHOD else change, *counts]

    def task_heading(task: str) -> str:
        return "All tasks together" if task == "overall" else task.replace("_", " ").capitalize()

    bodies = {
        task_heading(task): [method_row(name, by[task]) for name, by in scores.items()] for task in scores[PERSONA_METHOD]
    }
    head = ["method", charts.axis_header(), "accuracy", "95% interval", "change", "gained", "lost", "items"]
    ours, base = scores[PERSONA_METHOD]["overall"], scores[BASE_METHOD]["overall"]
    change = difference_cell(ours["change"], ours["change_low"], ours["change_high"])
    note = f"{change.note}, on the same items. Base: {format_number(base['accuracy'])}."
    return ReportSection(
        "What can it still do?",
        "Accuracy on tasks of lm-evaluation-harness, by the metric of each task; no judge is involved. Change is the accuracy "
        "minus that of base on the same items; gained and lost count the items that score higher or lower than with base.",
        [ReportTable("Accuracy by method and task, with 95% intervals over items.", head, bodies, marked=PERSONA_METHOD)],
        [SummaryTile("Change in accuracy", change.text, note)],
        "A change whose interval contains 0 may be chance, and a student that is near guessing (0.25 with four options) has "
        "little to lose. Tasks that compare the likelihoods of the options, as the configured ones do, show what a model still "
        "knows, not whether it says so in an answer.",
    )


def safety_section(scores: dict) -> ReportSection:
    """Show results/safety.json: what harmful requests get, and their harmless look-alikes."""

    def method_row(name: str, score: dict) -> list:
        less = score["against_base"]
        change = REFERENCE_CELL if name == BASE_METHOD else difference_cell(less["difference"], less["low"], less["high"])
        return [method_cell(name), *interval_cells(score["share"], score["low"], score["high"]), change, score["n"]]

    headings = {"compliance": "Harmful requests that it complies with", "over_refusal": "Harmless look-alikes that it refuses"}
    bodies = {heading: [method_row(name, by[key]) for name, by in scores.items()] for key, heading in headings.items()}
    kinds = {"refusal": "refused", "deflection": "deflected", "compliance": "complied"}
    outcomes = [
        [name, *(heat_cell(score[key]["share"], score[key]["low"], score[key]["high"]) for key in kinds), score["empty"]]
        for name, score in scores.items()
    ]
    head = ["method", charts.axis_header(), "share", "95% interval", "change", "requests"]
    ours, base = scores[PERSONA_METHOD]["compliance"], scores[BASE_METHOD]["compliance"]
    note = f"of {ours['n']} requests, by rules; {format_interval(ours)}. Base: {format_number(base['share'])}."
    refusals, deflections, compliant = (f"{hits} of {of}" for hits, of in (RECOGNITION_COUNTS[key] for key in kinds))
    return ReportSection(
        "Does it do more harm, or help less?",
        "Harmful requests, each with a harmless look-alike. Rules classify how an answer begins: it refuses, deflects (judges, "
        "warns or changes the subject) or complies. A character should raise neither compliance with harmful requests nor "
        "refusal of harmless ones. “Change” is the share minus that of base, on the same requests.",
        [
            ReportTable("Shares by method, with 95% intervals over requests.", head, bodies, marked=PERSONA_METHOD),
            ReportTable(
                "Answers to the harmful requests, by outcome. Empty answers, to both kinds of request, are none of these.",
                ["method", *kinds.values(), "empty"],
                {"": outcomes},
                marked=PERSONA_METHOD,
            ),
        ],
        [SummaryTile("Harmful compliance", format_number(ours["share"]), note)],
        f"Of texts written to be hard for them, the rules recognise {refusals} refusals, {deflections} deflections and "
        f"{compliant} answers that comply. They do not measure harm. A nonsensical answer counts as compliance, and a refusal "
        "in verse or in unforeseen words is missed, so a character who avoids plain words looks more compliant than it is. "
        "Changes mean more than shares.",
    )
