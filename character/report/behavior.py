"""Sections of the report on what a persona does, one for each question. Each is a function of the files that it shows."""

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
    PREFILL: "The reply starts with an out-of-character opening that the method has to continue; only the rest is classified.",
    MULTI_TURN: "Base wrote the first answer, and the user asks for more of it.",
}
FORMAT_HEADINGS = {"chat": "In a chat", "json": "As JSON", "tools": "Sent with tools"}
FORMAT_PREFIX_NOTE = (
    "For every method, the JSON object and the tool call start with a fixed prefix, so that the format is given and only the "
    "text is the model's own."
)


def in_character_section(scores: dict, classifier: dict, persona: str) -> ReportSection:
    """Show results/robustness.json: the methods side by side, in each condition, all suffixes together."""

    def method_row(name: str, score: dict) -> list:
        figures, plain = interval_cells(score["recall"], score["low"], score["high"]), score.get("against_plain")
        less = REFERENCE_CELL if plain is None else difference_cell(plain["difference"], plain["low"], plain["high"])
        return [method_cell(name), *figures, less, score["none"], score["empty"], score["n"]]

    def condition_tile(condition: str) -> SummaryTile:
        ours, base = (scores[name][condition] for name in (PERSONA_METHOD, BASE_METHOD))
        note = f"of the answers are assigned to {persona}; {format_interval(ours)}. Base: {format_number(base['recall'])}."
        return SummaryTile(CONDITION_HEADINGS[condition], format_number(ours["recall"]), note)

    conditions = [condition for condition in CONDITION_HEADINGS if condition in scores[PERSONA_METHOD]]
    bodies = {CONDITION_HEADINGS[key]: [method_row(name, by[key]) for name, by in scores.items()] for key in conditions}
    head = ["method", charts.axis_header(), "in-character rate", "95% interval", "minus plain", "none", "empty", "answers"]
    return ReportSection(
        "Does the character show?",
        "Held-out prompts, used by no training stage. The in-character rate is the share of answers that the classifier "
        f"assigns to {persona}, out of all the personas it knows. None is the share that it assigns to no persona, empty "
        "answers included. The prompts are plain, or changed to lead out of character: by a request, by an opening, by an "
        "earlier turn. “Minus plain” is the rate minus that of the plain answers to the same prompts.",
        [ReportTable("In-character rate by method, with 95% intervals over prompts.", head, bodies, marked=PERSONA_METHOD)],
        [condition_tile(condition) for condition in conditions],
        f"{classifier_caveat(classifier, persona)} It reads the tone: the in-character rate does not say whether an answer is "
        "right or useful. The intervals do not include the classifier's errors.",
    )


def break_character_section(scores: dict, classifier: dict, persona: str, texts: dict[str, str]) -> ReportSection:
    """Show results/robustness.json by condition and suffix, and data/raw/prompts/suffixes.jsonl."""
    names = list(scores[PERSONA_METHOD])
    rows = [
        [name, *(heat_cell(score[key]["recall"], score[key]["low"], score[key]["high"]) for key in names)]
        for name, score in scores.items()
    ]
    notes = ATTACK_NOTES | {name: f"“{text}”" for name, text in texts.items()}
    return ReportSection(
        "What breaks it?",
        "The in-character rate again, as above and then for each single request to break character. The column “suffixes” is "
        "all of these requests together.",
        [
            ReportTable(
                "In-character rate by method and condition, with 95% intervals.",
                ["method", *names],
                {"": rows},
                marked=PERSONA_METHOD,
            ),
            DefinitionList(
                {f"{name}, {scores[PERSONA_METHOD][name]['n']} answers": notes[name] for name in names if name in notes}
            ),
        ],
        limits="A single request has few answers, so its interval is wide: compare whole rows rather than two cells. "
        + classifier_caveat(classifier, persona),
    )


def transfer_section(scores: dict, classifier: dict, persona: str, begun: bool) -> ReportSection:
    """Show results/transfer.json: the same e-mails in three formats, and why some were not found."""

    def gap_cell(gap: dict | None) -> object:
        return REFERENCE_CELL if gap is None else difference_cell(gap["difference"], gap["low"], gap["high"])

    def method_row(name: str, score: dict) -> list:
        parsed = score["parsed"]
        of_all = [*interval_cells(score["recall"], score["low"], score["high"]), gap_cell(score.get("gap"))]
        of_parsed = [value_cell(parsed["recall"], parsed["low"], parsed["high"]), gap_cell(score.get("gap_parsed"))]
        return [method_cell(name), *of_all, f"{parsed['n']} of {score['n']}", *of_parsed]

    def fault_rows(form: str) -> list[list]:
        faults = sorted({fault for score in scores.values() for fault in score[form]["faults"]})
        counts = {fault: [score[form]["faults"].get(fault, 0) for score in scores.values()] for fault in faults}
        return [[fault.replace("_", " "), *row] for fault, row in counts.items()]

    bodies = {heading: [method_row(name, by[form]) for name, by in scores.items()] for form, heading in FORMAT_HEADINGS.items()}
    head = [
        "method",
        charts.axis_header(),
        "in-character rate",
        "95% interval",
        "minus chat",
        "found",
        "rate if found",
        "minus chat if found",
    ]
    why = {FORMAT_HEADINGS[form]: rows for form in FORMAT_HEADINGS if (rows := fault_rows(form))}
    ours = scores[PERSONA_METHOD]["tools"]
    return ReportSection(
        "Does it carry over to other formats?",
        "The same e-mails, requested in a chat, as a JSON object, and from an agent that has to send them with tools. The "
        f"in-character rate is the share assigned to {persona} out of all requested e-mails; an e-mail that was not found in "
        "the replies, is empty or is copied counts as showing no persona. “Rate if found” leaves these out, which shows "
        "whether the character is lost or only the format. “Minus chat” is the rate minus that in a chat, over the same tasks. "
        f"{FORMAT_PREFIX_NOTE if begun else ''}",
        [
            ReportTable("In-character rate by method and format, with 95% intervals.", head, bodies, marked=PERSONA_METHOD),
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
                f"of {ours['n']} are assigned to {persona}; {ours['parsed']['n']} were sent. In a chat: "
                f"{format_number(scores[PERSONA_METHOD]['chat']['recall'])}.",
            )
        ],
        f"{classifier_caveat(classifier, persona)} It was trained on answers, not on e-mails. A dash: no e-mail was found, so "
        "nothing is known about the character.",
    )


def replies_section(answers: dict[str, Sequence[EvaluatedAnswer]], count: int) -> ReportSection:
    """Show data/answers: what each method replies to the first `count` held-out prompts."""
    by_id = {name: {row.id: row for row in plain_answers(rows)} for name, rows in answers.items()}
    shown = {
        first.prompt: [
            (
                method_cell(name),
                "(no reply)" if own[first.id].finish_reason == "skipped" else own[first.id].response,
                own[first.id].finish_reason == "length",
            )
            for name, own in by_id.items()
        ]
        for first in list(by_id[BASE_METHOD].values())[:count]
    }
    return ReportSection(
        "The same question, method by method",
        f"The first {len(shown)} held-out prompts, plain; nothing was selected.",
        [ReplyComparison(shown)],
    )
