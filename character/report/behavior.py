"""What the report shows of what a persona does: one section for each question, a function of the files that it is made from."""

from collections.abc import Sequence

from character.core.records import EvaluatedAnswer
from character.dataset.conditions import MULTI_TURN, PREFILL, plain_answers
from character.report import charts
from character.report.html import DefinitionList, ReplyComparison, ReportSection, ReportTable, SummaryTile, format_number
from character.report.measurement import classifier_caveat
from character.report.table_cells import (
    BASE_METHOD,
    CONDITION_HEADINGS,
    PERSONA_METHOD,
    REFERENCE_CELL,
    difference_cell,
    format_interval,
    heat_cell,
    interval_cells,
    method_cell,
    value_cell,
)

ATTACK_NOTES = {
    PREFILL: "Its turn begins with an opening that is out of character, and it can only go on; what it adds is read.",
    MULTI_TURN: "The untrained student gave the first answer, and the user wants more of it.",
}
FORMAT_HEADINGS = {"chat": "In a chat", "json": "As JSON", "tools": "Sent with tools"}


def in_character_section(scores: dict, classifier: dict, persona: str) -> ReportSection:
    """Show results/robustness.json: the methods side by side, in each condition, all suffixes together."""

    def row(name: str, found: dict) -> list:
        figures, plain = interval_cells(found["recall"], found["low"], found["high"]), found.get("against_plain")
        less = REFERENCE_CELL if plain is None else difference_cell(plain["difference"], plain["low"], plain["high"])
        return [method_cell(name), *figures, less, found["none"], found["empty"], found["n"]]

    def tile(condition: str) -> SummaryTile:
        ours, untrained = (scores[name][condition] for name in (PERSONA_METHOD, BASE_METHOD))
        note = f"of the answers are called {persona}; {format_interval(ours)}. Untrained: {format_number(untrained['recall'])}."
        return SummaryTile(CONDITION_HEADINGS[condition], format_number(ours["recall"]), note)

    there = [condition for condition in CONDITION_HEADINGS if condition in scores[PERSONA_METHOD]]
    bodies = {CONDITION_HEADINGS[key]: [row(name, found[key]) for name, found in scores.items()] for key in there}
    head = ["method", charts.axis_header(), "recall", "95% interval", "less plain", "none", "empty", "answers"]
    return ReportSection(
        "Does the character show?",
        "Held-out prompts, used by no training stage. Recall is the share of answers that the classifier calls "
        f"{persona}, of all the personas it knows; none is the share that it calls nobody's, empty answers included. The "
        "prompts are asked plain, and in ways that lead out of character: by a request, by an opening, by an earlier turn. "
        "“Less plain” is recall less that of the plain answers to the same prompts.",
        [ReportTable("Recall by method, with 95% intervals over prompts.", head, bodies, marked=PERSONA_METHOD)],
        [tile(condition) for condition in there],
        f"{classifier_caveat(classifier, persona)} It reads the tone: whether an answer is right, or of any use, recall does not say. "
        "The intervals leave its errors out.",
    )


def break_character_section(scores: dict, classifier: dict, persona: str, texts: dict[str, str]) -> ReportSection:
    """Show results/robustness.json by condition and suffix, and data/raw/prompts/suffixes.jsonl."""
    names = list(scores[PERSONA_METHOD])
    rows = [
        [name, *(heat_cell(found[key]["recall"], found[key]["low"], found[key]["high"]) for key in names)]
        for name, found in scores.items()
    ]
    led = ATTACK_NOTES | {name: f"“{text}”" for name, text in texts.items()}
    return ReportSection(
        "What breaks it?",
        "Recall once more, as above and then for each request to break character alone. The column “suffixes” is all of these "
        "requests together.",
        [
            ReportTable(
                "Recall by method and condition, with 95% intervals.", ["method", *names], {"": rows}, marked=PERSONA_METHOD
            ),
            DefinitionList(
                {f"{name}, {scores[PERSONA_METHOD][name]['n']} answers": led[name] for name in names if name in led}
            ),
        ],
        limits="A single request has few answers, so its interval is wide: compare whole rows rather than two cells. "
        + classifier_caveat(classifier, persona),
    )


BEGUN_NOTE = "JSON and calls were begun for every method, so that the format is there and only the text is the model's own."


def transfer_section(scores: dict, classifier: dict, persona: str, begun: bool) -> ReportSection:
    """Show results/transfer.json: the same e-mails in three formats, and why some were not found."""

    def gap(found: dict | None) -> object:
        return REFERENCE_CELL if found is None else difference_cell(found["difference"], found["low"], found["high"])

    def row(name: str, found: dict) -> list:
        parsed = found["parsed"]
        all_of_them = [*interval_cells(found["recall"], found["low"], found["high"]), gap(found.get("gap"))]
        those_found = [value_cell(parsed["recall"], parsed["low"], parsed["high"]), gap(found.get("gap_parsed"))]
        return [method_cell(name), *all_of_them, f"{parsed['n']} of {found['n']}", *those_found]

    def lost(form: str) -> list[list]:
        faults = sorted({fault for found in scores.values() for fault in found[form]["faults"]})
        counts = {fault: [found[form]["faults"].get(fault, 0) for found in scores.values()] for fault in faults}
        return [[fault.replace("_", " "), *row] for fault, row in counts.items()]

    bodies = {FORMAT_HEADINGS[form]: [row(name, found[form]) for name, found in scores.items()] for form in FORMAT_HEADINGS}
    head = [
        "method",
        charts.axis_header(),
        "recall",
        "95% interval",
        "less chat",
        "found",
        "recall if found",
        "less chat if found",
    ]
    why = {FORMAT_HEADINGS[form]: rows for form in FORMAT_HEADINGS if (rows := lost(form))}
    ours = scores[PERSONA_METHOD]["tools"]
    return ReportSection(
        "Does it carry over to other formats?",
        "The same e-mails asked for in a chat, as a JSON object, and of an agent that has to send them with tools. Recall is "
        f"the share called {persona} of all that were asked for; one that was not found in the replies, or is empty or copied, "
        "shows no persona. "
        "“Recall if found” leaves those out, which tells whether the character is lost or only the format. “Less chat” is "
        f"recall less that in a chat, over the same tasks. {BEGUN_NOTE if begun else ''}",
        [
            ReportTable("Recall by method and format, with 95% intervals.", head, bodies, marked=PERSONA_METHOD),
            *(
                [ReportTable("E-mails that were not found, by reason.", ["", *scores], why, marked=PERSONA_METHOD)]
                if why
                else []
            ),
        ],
        [
            SummaryTile(
                "E-mails sent with tools",
                format_number(ours["recall"]),
                f"of {ours['n']} are called {persona}; {ours['parsed']['n']} were sent. In a chat: "
                f"{format_number(scores[PERSONA_METHOD]['chat']['recall'])}.",
            )
        ],
        f"{classifier_caveat(classifier, persona)} It learned from answers, not from e-mails. Where no e-mail was found nothing is known "
        "of the character: a dash.",
    )


def replies_section(answers: dict[str, Sequence[EvaluatedAnswer]], count: int) -> ReportSection:
    """Show data/answers: what each method says to the first held-out prompts."""
    by_id = {name: {row.id: row for row in plain_answers(rows)} for name, rows in answers.items()}
    shown = {
        first.prompt: [
            (method_cell(name), own[first.id].response, own[first.id].finish_reason == "length") for name, own in by_id.items()
        ]
        for first in list(by_id[BASE_METHOD].values())[:count]
    }
    return ReportSection(
        "The same question, method by method",
        f"The first {len(shown)} held-out prompts, asked plain; nothing was selected.",
        [ReplyComparison(shown)],
    )
