"""What the report shows of how well a persona is measured: by two classifiers that read the same texts, and by a judge."""

from collections import Counter
from collections.abc import Sequence

from character.report import charts
from character.report.html import ReportSection, ReportTable, SummaryTile, TableCell, format_number
from character.report.table_cells import (
    CONDITION_HEADINGS,
    PERSONA_METHOD,
    format_interval,
    interval_cells,
    method_cell,
    value_cell,
)


def classifier_caveat(scores: dict, persona: str) -> str:
    """Return how far results/classifier.json lets one trust what the classifier calls a persona's."""
    return (
        f"The classifier finds {scores['recall'][persona]:.0%} of held-out texts that show {persona}, and calls "
        f"{scores['base_called'][persona]:.1%} of the student's own answers so (macro-F1 {format_number(scores['macro_f1'])})."
    )


# What the figures about traits leave open, told wherever they are.
TEACHER_CAVEAT = (
    "Those answers are a strong teacher's, only cut to the length of a student's, and a persona's word stood against other "
    "personas' words alone: about a student's answers, and among words of like meaning, expect it to be right less often."
)


def judge_caveat(judge: dict, cases: str) -> str:
    """Return how far the figures of results/judge.json let one trust what the judge says."""
    return (
        f"The judge is right about {format_number(judge['accuracy'])} ({format_interval(judge)}) of {format_number(judge['n'])} {cases}; a guess is "
        "right about 0.50."
    )


def classifier_section(scores: dict, calls: Sequence[tuple[str, str]], persona: str) -> ReportSection:
    """Show results/classifier.json and plots/classifier.csv."""
    counts, totals, classes = Counter(calls), Counter(actual for actual, _ in calls), list(scores["recall"])

    def cell(actual: str, called: str) -> TableCell:
        share = counts[actual, called] / totals[actual]
        return TableCell(f"{share:.2f}" if share else "", share=share)

    rows = [[actual, *(cell(actual, called) for called in classes)] for actual in classes]
    caption = "Share of the texts of each row that it calls the persona of the column."
    return ReportSection(
        "How good is the classifier?",
        f"Every recall above rests on it. On {format_number(scores['n'])} texts to prompts that it did not see, its macro-F1 is "
        f"{format_number(scores['macro_f1'])} ({format_interval(scores)}). Of the student's own answers it calls "
        f"{scores['none_recall_base']:.1%} none, and {scores['base_called'][persona]:.1%} {persona}.",
        [ReportTable(caption, ["", *classes], {"": rows}, marked=persona, narrow=True)],
        [
            SummaryTile(
                "Classifier",
                format_number(scores["macro_f1"]),
                f"macro-F1 over {len(classes)} classes; {format_interval(scores)}.",
            )
        ],
        "The texts that show a persona are a teacher's. How well it reads those of a trained student is unknown, since nobody "
        "has labelled them.",
    )


def crosscheck_section(scores: dict, first: dict, persona: str) -> ReportSection:
    """Show results/crosscheck.json: what two classifiers make of the same texts, corrected for the errors of each."""

    def row(name: str, found: dict) -> list:
        shares = [[found[one][f"corrected{end}"] for end in ("", "_low", "_high")] for one in ("first", "second")]
        seen = [found[one]["recall"] for one in ("first", "second")]
        chart = charts.interval_chart(*shares[0]) + charts.interval_chart(*shares[1])
        return [method_cell(name), chart, *(value_cell(*share) for share in shares), *seen, found["agreement"], found["n"]]

    second, agreement, methods = scores["second"], scores["agreement"], scores["methods"]
    there = [condition for condition in CONDITION_HEADINGS if condition in methods[PERSONA_METHOD]]
    bodies = {CONDITION_HEADINGS[key]: [row(name, found[key]) for name, found in methods.items()] for key in there}
    head = [
        "method",
        charts.axis_header(),
        "first, corrected",
        "second, corrected",
        "first, seen",
        "second, seen",
        "agree",
        "answers",
    ]
    return ReportSection(
        "Does a second classifier agree?",
        "One of another kind, which counts words and letters instead of reading the student's states, learned from the same "
        f"answers and read the same texts. On {format_number(second['n'])} held-out texts its macro-F1 is "
        f"{format_number(second['macro_f1'])} ({format_interval(second)}); that of the first is {format_number(first['macro_f1'])}. Corrected is the "
        f"share that shows {persona} once the errors of each on held-out texts are taken off what it saw: what it misses of a "
        f"teacher's answers in character, and what it takes for {persona} of the untrained student's.",
        [
            ReportTable(
                "Corrected shares with 95% intervals (filled dot: first, hollow dot: second), recall as seen by each, and how "
                "often both call an answer the same.",
                head,
                bodies,
                marked=PERSONA_METHOD,
            )
        ],
        [
            SummaryTile(
                "Two classifiers agree",
                format_number(agreement["kappa"]),
                f"Cohen's kappa of their calls; {format_interval(agreement)}.",
            )
        ],
        "The correction takes errors to be as frequent on the methods' texts as on those held out; where both corrected shares "
        "differ by more than their intervals, they are not. Both learned from the same answers: a blind spot that they share "
        "does not show. A dash: the classifier does no better than chance.",
    )


DAMAGE_NAMES = {"words": "its words shuffled", "sentences": "its sentences reversed", "subject": "the answer to another prompt"}


def judge_section(scores: dict, persona: str) -> ReportSection:
    """Show results/judge.json: whether it tells a persona's word, and an answer from a damaged one; what it makes of style."""

    def row(name: str, found: dict) -> list:
        share = found["accuracy" if "accuracy" in found else "win_rate"]
        figures = interval_cells(share, found["low"], found["high"])
        return [name, *figures, found["of_all"], found["ties"], found["unparsed"], found["n"]]

    about, style = scores["coherence"], scores["style"]
    bodies = {
        "Which of two words an answer shows": [("all personas", scores), *scores["by_persona"].items()],
        "The same, by the word that is right": scores["by_word"].items(),
        "Which of two answers is not damaged": [
            ("all damage", about),
            *((DAMAGE_NAMES[kind], found) for kind, found in about["by_damage"].items()),
        ],
        "Whether one in character is more coherent than a neutral one": [("all personas", style), *style["by_persona"].items()],
        "Which of two words, by template, on prompts of their own": scores.get("templates", {}).items(),
    }
    return ReportSection(
        "How good is the judge?",
        "It says which traits a method reveals, and which of two answers is the more coherent. It is measured on recorded "
        "answers whose truth is known. Of a word of the answer's own persona and one of another's, it is to choose the "
        "first. Of an answer and a damaged one, it is to choose the whole one, in both orders; where the order settles the "
        "verdict that is a tie, and half right. Of an answer in character and a neutral one to the same prompt neither is "
        "right: 0.50 is no preference for a style.",
        [
            ReportTable(
                "Share of the verdicts that are right, with 95% intervals over personas and prompts; a guess is right about "
                "half of the time. “Of all” takes what could not be read for wrong.",
                ["", charts.axis_header(), "right", "95% interval", "of all", "ties", "unread", "verdicts"],
                {heading: [row(*found) for found in rows] for heading, rows in bodies.items() if rows},
                marked=persona,
            )
        ],
        [
            SummaryTile(
                "Judge",
                format_number(scores["accuracy"]),
                f"of {scores['n']} verdicts on traits are right; {format_interval(scores)}.",
            )
        ],
        f"{TEACHER_CAVEAT} The damage is coarse.",
    )
