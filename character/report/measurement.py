"""Sections of the report on how well a persona is measured: by two classifiers of the same texts, and by a judge."""

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
    """Return a sentence on how reliable the classifier is for a persona, from results/classifier.json."""
    return (
        f"The classifier finds {scores['recall'][persona]:.0%} of held-out texts that show {persona}, and assigns "
        f"{scores['base_called'][persona]:.1%} of base's answers to {persona} (macro-F1 {format_number(scores['macro_f1'])})."
    )


# Stated with every figure about traits.
TEACHER_CAVEAT = (
    "Those answers are a strong teacher's, only cut to the length of a student's, and a persona's word was compared only with "
    "the words of other personas. Expect the judge to be right less often about a student's answers, and among words of "
    "similar meaning."
)


def judge_caveat(judge: dict, cases: str) -> str:
    """Return a sentence on how reliable the judge is, from the figures of results/judge.json; `cases` says about what."""
    return (
        f"The judge is right about {format_number(judge['accuracy'])} ({format_interval(judge)}) of "
        f"{format_number(judge['n'])} {cases}; guessing is right about 0.50."
    )


def classifier_section(scores: dict, calls: Sequence[tuple[str, str]], persona: str) -> ReportSection:
    """Show results/classifier.json and plots/classifier.csv."""
    counts, totals, classes = Counter(calls), Counter(actual for actual, _ in calls), list(scores["recall"])

    def share_cell(actual: str, called: str) -> TableCell:
        share = counts[actual, called] / totals[actual]
        return TableCell(f"{share:.2f}" if share else "", share=share)

    rows = [[actual, *(share_cell(actual, called) for called in classes)] for actual in classes]
    caption = "Share of the texts of each row that the classifier assigns to the persona of the column."
    return ReportSection(
        "How good is the classifier?",
        "Every in-character rate above depends on it. On "
        f"{format_number(scores['n'])} texts to prompts that it did not see, its macro-F1 is "
        f"{format_number(scores['macro_f1'])} ({format_interval(scores)}). Of base's answers it assigns "
        f"{scores['none_recall_base']:.1%} to none, and {scores['base_called'][persona]:.1%} to {persona}.",
        [ReportTable(caption, ["", *classes], {"": rows}, marked=persona, narrow=True)],
        [
            SummaryTile(
                "Classifier",
                format_number(scores["macro_f1"]),
                f"macro-F1 over {len(classes)} classes; {format_interval(scores)}.",
            )
        ],
        "The texts that show a persona are a teacher's. How well it classifies those of a trained student is unknown, since "
        "nobody has labelled them.",
    )


def crosscheck_section(scores: dict, first: dict, persona: str) -> ReportSection:
    """Show results/crosscheck.json: the rates by two classifiers of the same texts, corrected for the errors of each."""

    def method_row(name: str, score: dict) -> list:
        shares = [[score[one][f"corrected{end}"] for end in ("", "_low", "_high")] for one in ("first", "second")]
        observed = [score[one]["recall"] for one in ("first", "second")]
        chart = charts.interval_chart(*shares[0]) + charts.interval_chart(*shares[1])
        return [method_cell(name), chart, *(value_cell(*share) for share in shares), *observed, score["agreement"], score["n"]]

    second, agreement, methods = scores["second"], scores["agreement"], scores["methods"]
    conditions = [condition for condition in CONDITION_HEADINGS if condition in methods[PERSONA_METHOD]]
    bodies = {CONDITION_HEADINGS[key]: [method_row(name, by[key]) for name, by in methods.items()] for key in conditions}
    head = [
        "method",
        charts.axis_header(),
        "first, corrected",
        "second, corrected",
        "first, observed",
        "second, observed",
        "agree",
        "answers",
    ]
    return ReportSection(
        "Does a second classifier agree?",
        "A classifier of another kind, which uses counts of words and letters instead of the student's hidden states, was "
        f"trained on the same answers and classified the same texts. On {format_number(second['n'])} held-out texts its "
        f"macro-F1 is {format_number(second['macro_f1'])} ({format_interval(second)}); that of the first is "
        f"{format_number(first['macro_f1'])}. Corrected is the in-character rate after correction for the errors of each "
        "classifier on held-out texts: how much it misses of a teacher's answers in character, and how many of base's answers "
        f"it assigns to {persona}.",
        [
            ReportTable(
                "Corrected in-character rates with 95% intervals (filled dot: first, hollow dot: second), the rates that each "
                "observed, and how often both assign an answer to the same class.",
                head,
                bodies,
                marked=PERSONA_METHOD,
            )
        ],
        [
            SummaryTile(
                "Two classifiers agree",
                format_number(agreement["kappa"]),
                f"Cohen's kappa of their labels; {format_interval(agreement)}.",
            )
        ],
        "The correction assumes that errors are as frequent on the methods' texts as on held-out ones; where the corrected "
        "rates differ by more than their intervals, they are not. Both classifiers were trained on the same answers, so an "
        "error that they share does not show. A dash: the classifier does no better than chance.",
    )


DAMAGE_NAMES = {"words": "its words shuffled", "sentences": "its sentences reversed", "subject": "the answer to another prompt"}


def judge_section(scores: dict, persona: str) -> ReportSection:
    """Show results/judge.json: accuracy on words of personas and on damaged answers, and preference for a style."""

    def verdict_row(name: str, score: dict) -> list:
        share = score["accuracy" if "accuracy" in score else "win_rate"]
        figures = interval_cells(share, score["low"], score["high"])
        return [name, *figures, score["of_all"], score["ties"], score["unparsed"], score["n"]]

    coherence, style = scores["coherence"], scores["style"]
    bodies = {
        "Which of two words an answer shows": [("all personas", scores), *scores["by_persona"].items()],
        "The same, by the word that is right": scores["by_word"].items(),
        "Which of two answers is not damaged": [
            ("all damage", coherence),
            *((DAMAGE_NAMES[kind], score) for kind, score in coherence["by_damage"].items()),
        ],
        "Whether one in character is more coherent than a neutral one": [("all personas", style), *style["by_persona"].items()],
        "Which of two words, by template, on prompts of their own": scores.get("templates", {}).items(),
    }
    return ReportSection(
        "How good is the judge?",
        "It decides which traits a method reveals, and which of two answers is more coherent. It is measured on recorded "
        "answers for which the right verdict is known. Between a word of the answer's own persona and a word of another, it "
        "should choose the first. Between an answer and a damaged one, it should choose the undamaged one, in both orders; if "
        "the verdict depends on the order, that is a tie and counts as half right. Between an answer in character and a "
        "neutral one to the same prompt, neither is right: 0.50 is no preference for a style.",
        [
            ReportTable(
                "Share of the verdicts that are right, with 95% intervals over personas and prompts; guessing is right about "
                "half of the time. “Of all” counts an unreadable verdict as wrong.",
                ["", charts.axis_header(), "right", "95% interval", "of all", "ties", "unread", "verdicts"],
                {heading: [verdict_row(*row) for row in rows] for heading, rows in bodies.items() if rows},
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
