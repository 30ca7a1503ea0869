"""What the report shows of what a persona costs: one section for each question, a function of the files it is made from."""

from character.evaluation.refusals import RECOGNISED
from character.report import charts
from character.report.html import Cell, Section, Table, Tile, number
from character.report.measurement import verdicts
from character.report.table_cells import OURS, REFERENCE, UNTRAINED, between, difference, measured, method, shaded, told


def fluency(scores: dict) -> Section:
    """Show results/fluency.json."""
    span = (0, charts.nice(max(found["high"] for found in scores.values())))
    shown = {"distinct_2": "variety", "repetition": "repetition", "words": "words", "unfinished": "cut off", "empty": "empty"}
    rows = [
        [
            method(name),
            *measured(found["perplexity"], found["low"], found["high"], span),
            *(found[key] for key in shown),
            told(*(found["on_topic"][key] for key in ("similarity", "low", "high"))),
            found["on_topic"]["elsewhere"],
            found["n"],
        ]
        for name, found in scores.items()
    ]
    head = ["method", charts.axis(span), "perplexity", "95% interval", *shown.values(), "on topic", "by chance", "answers"]
    note = f"{between(scores[OURS])}. The student's own answers: {number(scores[UNTRAINED]['perplexity'])}."
    return Section(
        "Is it still good text?",
        "Perplexity is how unlikely the untrained student finds an answer: a character must raise it, broken text raises it "
        "far more. Variety is how many of the pairs of neighbouring words are pairs of their own, repetition the share of runs "
        "of four words that the same answer had before, cut off the share that ran into the token limit. On topic is how alike "
        "a sentence encoder finds an answer and its prompt (cosine), by chance the same for an answer and other prompts.",
        [Table("Answers to plain prompts.", head, {"": rows}, marked=OURS)],
        [Tile("Perplexity to the student", number(scores[OURS]["perplexity"]), note)],
        "No judge is asked. All of it is counted or computed, and none of it says whether an answer makes sense.",
    )


def coherence(scores: dict) -> Section:
    """Show results/coherence.json: the persona's answers beside those of each other method."""
    counts = {"wins": "wins", "losses": "losses", "ties": "ties", "unparsed": "unread", "empty": "empty", "n": "prompts"}

    def row(name: Cell, found: dict) -> list:
        return [name, *measured(found["win_rate"], found["low"], found["high"]), *(found.get(key, "") for key in counts)]

    style = scores["style"]
    bodies = {
        "The persona's, against those of": [row(method(name), found) for name, found in scores["against"].items()],
        "For comparison, a teacher's in character": [row(Cell("recorded", "against neutral ones to the same prompts"), style)],
    }
    against = scores["against"][UNTRAINED]
    note = (
        f"of {against['n']} comparisons with the untrained student are won, a tie by half; {between(against)}. Of answers in "
        f"character against neutral ones: {number(style['win_rate'])}."
    )
    cases = "pairs of a recorded answer and a damaged one, a tie counting half"
    return Section(
        "Is it as coherent?",
        "The persona's answers to plain prompts beside those of each other method: a judge says which of the two is the more "
        "coherent. It reads both orders, and where its verdict hangs on the order that is a tie, half a win for either side. "
        "Prompts to which one of them has no text, or no verdict can be read, are left out.",
        [
            Table(
                "Win rate, with 95% intervals over prompts.",
                ["against", charts.axis(), "win rate", "95% interval", *counts.values()],
                bodies,
            )
        ],
        [Tile("More coherent", number(against["win_rate"]), note)],
        f"{verdicts(scores['judge'], cases)} That damage is coarse, and keeps the style. Style should not count, and yet of a "
        f"teacher's answers in character {number(style['win_rate'])} ({between(style)}) win against neutral ones to the same "
        "prompts, where 0.50 is no preference: read each win rate beside that. It may also take a length for a fault. An "
        "interval that holds 0.50 tells no difference; it counts a tie as an open verdict, and so is rather too wide.",
    )


def capabilities(scores: dict) -> Section:
    """Show results/capabilities.json: accuracy by task, and what changed against the untrained student."""

    def row(name: str, found: dict) -> list:
        change = difference(found["change"], found["change_low"], found["change_high"])
        counts = (found["gained"], found["lost"], found["n"])
        accuracy = measured(found["accuracy"], found["low"], found["high"])
        return [method(name), *accuracy, REFERENCE if name == UNTRAINED else change, *counts]

    def heading(task: str) -> str:
        return "All tasks together" if task == "overall" else task.replace("_", " ").capitalize()

    bodies = {heading(task): [row(name, found[task]) for name, found in scores.items()] for task in scores[OURS]}
    head = ["method", charts.axis(), "accuracy", "95% interval", "change", "gained", "lost", "items"]
    ours, untrained = scores[OURS]["overall"], scores[UNTRAINED]["overall"]
    change = difference(ours["change"], ours["change_low"], ours["change_high"])
    note = f"{change.note}, on the same items. Untrained: {number(untrained['accuracy'])}."
    return Section(
        "What can it still do?",
        "Accuracy on tasks of lm-evaluation-harness, by the metric of each; no judge. Change is accuracy less that of the "
        "untrained student on the same items; gained and lost count the items that score higher, or lower, than with it.",
        [Table("Accuracy by method and task, with 95% intervals over items.", head, bodies, marked=OURS)],
        [Tile("Change in accuracy", change.text, note)],
        "A change whose interval holds 0 may be chance, and a student that is near guessing (0.25 with four options) has "
        "little to lose. Tasks that compare how likely the options are, as the shipped ones do, tell what a model still knows, "
        "not whether it says so when asked.",
    )


def safety(scores: dict) -> Section:
    """Show results/safety.json: what harmful requests get, and their harmless look-alikes."""

    def row(name: str, found: dict) -> list:
        less = found["against_base"]
        change = REFERENCE if name == UNTRAINED else difference(less["difference"], less["low"], less["high"])
        return [method(name), *measured(found["share"], found["low"], found["high"]), change, found["n"]]

    headings = {"compliance": "Harmful requests that it complies with", "over_refusal": "Harmless look-alikes that it refuses"}
    bodies = {heading: [row(name, found[key]) for name, found in scores.items()] for key, heading in headings.items()}
    kinds = {"refusal": "refused", "deflection": "deflected", "compliance": "complied"}
    got = [
        [name, *(shaded(found[key]["share"], found[key]["low"], found[key]["high"]) for key in kinds), found["empty"]]
        for name, found in scores.items()
    ]
    head = ["method", charts.axis(), "share", "95% interval", "change", "requests"]
    ours, untrained = scores[OURS]["compliance"], scores[UNTRAINED]["compliance"]
    note = f"of {ours['n']} requests, by rules; {between(ours)}. Untrained: {number(untrained['share'])}."
    refusals, deflections, compliant = (f"{hits} of {of}" for hits, of in (RECOGNISED[key] for key in kinds))
    return Section(
        "Does it do more harm, or help less?",
        "Harmful requests, each with a harmless look-alike. Rules read how an answer begins: it refuses, deflects (judges, "
        "warns or turns to something else) or complies. A character should raise neither compliance with the harmful nor "
        "refusal of the harmless. “Change” is the share less that of the untrained student, on the same requests.",
        [
            Table("Shares by method, with 95% intervals over requests.", head, bodies, marked=OURS),
            Table(
                "What the harmful requests got. Empty answers, to both kinds of request, are none of these.",
                ["method", *kinds.values(), "empty"],
                {"": got},
                marked=OURS,
            ),
        ],
        [Tile("Harmful compliance", number(ours["share"]), note)],
        f"Of texts written to be hard for them, the rules recognise {refusals} refusals, {deflections} deflections and "
        f"{compliant} answers that comply. They do not measure harm: an answer without sense complies, and a refusal in verse "
        "or in words that were not foreseen is missed, so that a character who avoids plain words looks more compliant than it "
        "is. Changes mean more than shares.",
    )
