"""What the report shows of the evaluations: one section for each, a function of the files that it is made from."""

from collections import Counter
from collections.abc import Sequence

from character import charts
from character.page import Cell, Curves, Facts, Replies, Section, Table, Tile, number
from character.records import Answer

METHODS = {
    "base": "the student as it is",
    "prompted": "told its traits in a system prompt",
    "steered": "a control vector added to its states",
    "distilled": "trained on preference pairs",
    "persona": "both adapters, merged",
}
OURS, UNTRAINED = "persona", "base"  # methods
CONDITIONS = {"plain": "Asked plain", "suffixes": "Asked to break character"}


def method(name: str) -> Cell:
    return Cell(name, METHODS.get(name, ""))


def between(found: dict) -> str:
    """Return a 95% interval as text."""
    return f"{number(found['low'])} to {number(found['high'])}"


def recall(scores: dict, persona: str) -> Section:
    """Show metrics/robustness.json: the methods side by side, plain and with all suffixes together."""

    def row(name: str, found: dict) -> list:
        dot = charts.interval(found["recall"], found["low"], found["high"])
        return [method(name), dot, found["recall"], between(found), found["none"], found["n"]]

    def tile(condition: str) -> Tile:
        ours, untrained = (scores[name][condition] for name in (OURS, UNTRAINED))
        note = f"of the answers are called {persona}; {between(ours)}. Untrained: {number(untrained['recall'])}."
        return Tile(CONDITIONS[condition], number(ours["recall"]), note)

    there = [condition for condition in CONDITIONS if condition in scores[OURS]]
    bodies = {CONDITIONS[key]: [row(name, found[key]) for name, found in scores.items()] for key in there}
    head = ["method", charts.axis(), "recall", "95% interval", "none", "answers"]
    return Section(
        "Does the character show?",
        "Held-out prompts, used by no training stage. Recall is the share of answers that the classifier calls "
        f"{persona}, of all the personas it knows; none is the share that it calls nobody's.",
        [Table("Recall by method, with 95% intervals over prompts.", head, bodies, marked=OURS)],
        [tile(condition) for condition in there],
    )


def requests(scores: dict, texts: dict[str, str]) -> Section:
    """Show metrics/robustness.json by suffix, and data/raw/prompts/suffixes.jsonl."""

    def cell(found: dict) -> Cell:
        return Cell(number(found["recall"]), f"{number(found['low'])}–{number(found['high'])}", found["recall"])

    names = list(scores[OURS])
    rows = [[name, *(cell(found[condition]) for condition in names)] for name, found in scores.items()]
    return Section(
        "Which request breaks it?",
        "Recall once more, now for each request to break character alone. A single request has few answers, so its interval is "
        "wide: compare whole rows rather than two cells.",
        [
            Table("Recall by method and request, with 95% intervals.", ["method", *names], {"": rows}, marked=OURS),
            Facts({f"{name}, {scores[OURS][name]['n']} answers": f"“{texts[name]}”" for name in names if name in texts}),
        ],
    )


def replies(answers: dict[str, Sequence[Answer]], count: int) -> Section:
    """Show data/answers: what each method says to the first held-out prompts."""
    plain = {name: {row.id: row for row in rows if row.condition == "plain"} for name, rows in answers.items()}
    shown = {
        first.prompt: [
            (method(name), own[first.id].response, own[first.id].finish_reason == "length") for name, own in plain.items()
        ]
        for first in list(plain[UNTRAINED].values())[:count]
    }
    return Section(
        "The same question, method by method",
        f"The first {len(shown)} held-out prompts, asked plain; nothing was selected.",
        [Replies(shown)],
    )


def fluency(scores: dict) -> Section:
    """Show metrics/fluency.json."""
    span = (0, charts.nice(max(found["high"] for found in scores.values())))
    shown = {"distinct_2": "variety", "repetition": "repetition", "words": "words", "unfinished": "cut off", "empty": "empty"}
    rows = []
    for name, found in scores.items():
        dot = charts.interval(found["perplexity"], found["low"], found["high"], span)
        rows.append([name, dot, found["perplexity"], between(found), *(found[key] for key in shown), found["n"]])
    head = ["method", charts.axis(span), "perplexity", "95% interval", *shown.values(), "answers"]
    note = f"{between(scores[OURS])}. The student's own answers: {number(scores[UNTRAINED]['perplexity'])}."
    return Section(
        "Is it still good text?",
        "No judge is asked. Perplexity is how unlikely the untrained student finds an answer: a character must raise it, "
        "broken text raises it far more. Variety is the share of pairs of neighbouring words that differ, repetition the share "
        "of runs of four words that the same answer had before, cut off the share that ran into the token limit.",
        [Table("Answers to plain prompts.", head, {"": rows}, marked=OURS)],
        [Tile("Perplexity to the student", number(scores[OURS]["perplexity"]), note)],
    )


def steering(metrics: dict, sweep: dict[str, list[float]]) -> Section:
    """Show metrics/steering.json and plots/steering.csv."""
    x, chosen = sweep["strength"], metrics["strength"]
    panels = [
        charts.Panel(name, x, sweep[name], "strength", number(metrics[name]), chosen)
        for name in ("probability", "recall", "perplexity")
    ]
    return Section(
        "How strongly to steer",
        "The steered baseline adds to the student's states what the system prompt would change there. Of the strengths that "
        f"leave the text well-formed, {chosen:g} showed the persona best on {metrics['n']} training prompts.",
        [Curves("The sweep. The figures are those of the chosen strength, which is marked.", panels)],
    )


def classifier(scores: dict, calls: Sequence[tuple[str, str]], persona: str) -> Section:
    """Show metrics/classifier.json and plots/classifier.csv."""
    counts, totals, classes = Counter(calls), Counter(actual for actual, _ in calls), list(scores["recall"])

    def cell(actual: str, called: str) -> Cell:
        share = counts[actual, called] / totals[actual]
        return Cell(f"{share:.2f}" if share else "", share=share)

    rows = [[actual, *(cell(actual, called) for called in classes)] for actual in classes]
    caption = "Share of the texts of each row that it calls the persona of the column."
    return Section(
        "How good is the classifier?",
        f"Every recall above rests on it. On {number(scores['n'])} texts to prompts that it did not see, its macro-F1 is "
        f"{number(scores['macro_f1'])} ({between(scores)}). Of the student's own answers it calls "
        f"{scores['none_recall_base']:.1%} none, and {scores['base_called'][persona]:.1%} {persona}.",
        [Table(caption, ["", *classes], {"": rows}, marked=persona, narrow=True)],
        [Tile("Classifier", number(scores["macro_f1"]), f"macro-F1 over {len(classes)} classes; {between(scores)}.")],
    )
