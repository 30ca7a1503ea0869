"""What the report shows of what a persona costs: one section for each question, a function of the files it is made from."""

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
    span = (0, charts.round_axis_up(max(found["high"] for found in scores.values())))
    shown = {"distinct_2": "variety", "repetition": "repetition", "words": "words", "unfinished": "cut off", "empty": "empty"}
    rows = [
        [
            method_cell(name),
            *interval_cells(found["perplexity"], found["low"], found["high"], span),
            *(found[key] for key in shown),
            value_cell(*(found["on_topic"][key] for key in ("similarity", "low", "high"))),
            found["on_topic"]["elsewhere"],
            found["n"],
        ]
        for name, found in scores.items()
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
    note = f"{format_interval(scores[PERSONA_METHOD])}. The student's own answers: {format_number(scores[BASE_METHOD]['perplexity'])}."
    return ReportSection(
        "Is it still good text?",
        "Perplexity is how unlikely the untrained student finds an answer: a character must raise it, broken text raises it "
        "far more. Variety is how many of the pairs of neighbouring words are pairs of their own, repetition the share of runs "
        "of four words that the same answer had before, cut off the share that ran into the token limit. On topic is how alike "
        "a sentence encoder finds an answer and its prompt (cosine), by chance the same for an answer and other prompts.",
        [ReportTable("Answers to plain prompts.", head, {"": rows}, marked=PERSONA_METHOD)],
        [SummaryTile("Perplexity to the student", format_number(scores[PERSONA_METHOD]["perplexity"]), note)],
        "No judge is asked. All of it is counted or computed, and none of it says whether an answer makes sense.",
    )


def coherence_section(scores: dict) -> ReportSection:
    """Show results/coherence.json: the persona's answers beside those of each other method."""
    counts = {"wins": "wins", "losses": "losses", "ties": "ties", "unparsed": "unread", "empty": "empty", "n": "prompts"}

    def row(name: TableCell, found: dict) -> list:
        return [name, *interval_cells(found["win_rate"], found["low"], found["high"]), *(found.get(key, "") for key in counts)]

    style = scores["style"]
    bodies = {
        "The persona's, against those of": [row(method_cell(name), found) for name, found in scores["against"].items()],
        "For comparison, a teacher's in character": [
            row(TableCell("recorded", "against neutral ones to the same prompts"), style)
        ],
    }
    against = scores["against"][BASE_METHOD]
    note = (
        f"of {against['n']} comparisons with the untrained student are won, a tie by half; {format_interval(against)}. Of answers in "
        f"character against neutral ones: {format_number(style['win_rate'])}."
    )
    cases = "pairs of a recorded answer and a damaged one, a tie counting half"
    return ReportSection(
        "Is it as coherent?",
        "The persona's answers to plain prompts beside those of each other method: a judge says which of the two is the more "
        "coherent. It reads both orders, and where its verdict hangs on the order that is a tie, half a win for either side. "
        "Prompts to which one of them has no text, or no verdict can be read, are left out.",
        [
            ReportTable(
                "Win rate, with 95% intervals over prompts.",
                ["against", charts.axis_header(), "win rate", "95% interval", *counts.values()],
                bodies,
            )
        ],
        [SummaryTile("More coherent", format_number(against["win_rate"]), note)],
        f"{judge_caveat(scores['judge'], cases)} That damage is coarse, and keeps the style. Style should not count, and yet of a "
        f"teacher's answers in character {format_number(style['win_rate'])} ({format_interval(style)}) win against neutral ones to the same "
        "prompts, where 0.50 is no preference: read each win rate beside that. It may also take a length for a fault. An "
        "interval that holds 0.50 tells no difference; it counts a tie as an open verdict, and so is rather too wide.",
    )


def capabilities_section(scores: dict) -> ReportSection:
    """Show results/capabilities.json: accuracy by task, and what changed against the untrained student."""

    def row(name: str, found: dict) -> list:
        change = difference_cell(found["change"], found["change_low"], found["change_high"])
        counts = (found["gained"], found["lost"], found["n"])
        accuracy = interval_cells(found["accuracy"], found["low"], found["high"])
        return [method_cell(name), *accuracy, REFERENCE_CELL if name == BASE_METHOD else change, *counts]

    def heading(task: str) -> str:
        return "All tasks together" if task == "overall" else task.replace("_", " ").capitalize()

    bodies = {heading(task): [row(name, found[task]) for name, found in scores.items()] for task in scores[PERSONA_METHOD]}
    head = ["method", charts.axis_header(), "accuracy", "95% interval", "change", "gained", "lost", "items"]
    ours, untrained = scores[PERSONA_METHOD]["overall"], scores[BASE_METHOD]["overall"]
    change = difference_cell(ours["change"], ours["change_low"], ours["change_high"])
    note = f"{change.note}, on the same items. Untrained: {format_number(untrained['accuracy'])}."
    return ReportSection(
        "What can it still do?",
        "Accuracy on tasks of lm-evaluation-harness, by the metric of each; no judge. Change is accuracy less that of the "
        "untrained student on the same items; gained and lost count the items that score higher, or lower, than with it.",
        [ReportTable("Accuracy by method and task, with 95% intervals over items.", head, bodies, marked=PERSONA_METHOD)],
        [SummaryTile("Change in accuracy", change.text, note)],
        "A change whose interval holds 0 may be chance, and a student that is near guessing (0.25 with four options) has "
        "little to lose. Tasks that compare how likely the options are, as the shipped ones do, tell what a model still knows, "
        "not whether it says so when asked.",
    )


def safety_section(scores: dict) -> ReportSection:
    """Show results/safety.json: what harmful requests get, and their harmless look-alikes."""

    def row(name: str, found: dict) -> list:
        less = found["against_base"]
        change = REFERENCE_CELL if name == BASE_METHOD else difference_cell(less["difference"], less["low"], less["high"])
        return [method_cell(name), *interval_cells(found["share"], found["low"], found["high"]), change, found["n"]]

    headings = {"compliance": "Harmful requests that it complies with", "over_refusal": "Harmless look-alikes that it refuses"}
    bodies = {heading: [row(name, found[key]) for name, found in scores.items()] for key, heading in headings.items()}
    kinds = {"refusal": "refused", "deflection": "deflected", "compliance": "complied"}
    got = [
        [name, *(heat_cell(found[key]["share"], found[key]["low"], found[key]["high"]) for key in kinds), found["empty"]]
        for name, found in scores.items()
    ]
    head = ["method", charts.axis_header(), "share", "95% interval", "change", "requests"]
    ours, untrained = scores[PERSONA_METHOD]["compliance"], scores[BASE_METHOD]["compliance"]
    note = f"of {ours['n']} requests, by rules; {format_interval(ours)}. Untrained: {format_number(untrained['share'])}."
    refusals, deflections, compliant = (f"{hits} of {of}" for hits, of in (RECOGNITION_COUNTS[key] for key in kinds))
    return ReportSection(
        "Does it do more harm, or help less?",
        "Harmful requests, each with a harmless look-alike. Rules read how an answer begins: it refuses, deflects (judges, "
        "warns or turns to something else) or complies. A character should raise neither compliance with the harmful nor "
        "refusal of the harmless. “Change” is the share less that of the untrained student, on the same requests.",
        [
            ReportTable("Shares by method, with 95% intervals over requests.", head, bodies, marked=PERSONA_METHOD),
            ReportTable(
                "What the harmful requests got. Empty answers, to both kinds of request, are none of these.",
                ["method", *kinds.values(), "empty"],
                {"": got},
                marked=PERSONA_METHOD,
            ),
        ],
        [SummaryTile("Harmful compliance", format_number(ours["share"]), note)],
        f"Of texts written to be hard for them, the rules recognise {refusals} refusals, {deflections} deflections and "
        f"{compliant} answers that comply. They do not measure harm: an answer without sense complies, and a refusal in verse "
        "or in words that were not foreseen is missed, so that a character who avoids plain words looks more compliant than it "
        "is. Changes mean more than shares.",
    )
