"""Tables, sections of the report and answers as Markdown."""

from collections.abc import Iterator, Sequence

from character.core import records
from character.core.errors import UserError
from character.core.params import read_value
from character.core.safe_text import replace_controls
from character.dataset.conditions import plain_answers
from character.report.html import ReportSection, ReportTable, TableCell, format_number

ANSWER_MARKS = {"length": " *(cut off at the token limit)*", "skipped": " *(no reply)*"}


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all cells are texts."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def section_texts(section: ReportSection) -> dict:
    """Return the texts and tables of a section, without its charts, for JSON: `title`, `text`, `tables`, `limits`.

    A table has `caption`, `head` and `bodies`, which map a heading, or "", to rows of texts.
    """
    tables = [_table_texts(block) for block in section.blocks if isinstance(block, ReportTable)]
    return {"title": section.title, "text": section.text, "tables": tables, "limits": section.limits}


def section_to_markdown(texts: dict) -> str:
    """Return as Markdown the section of which `section_texts` gave the texts."""
    tables = [_table_markdown(**table) for table in texts["tables"]]
    parts = (f"## {texts['title']}", texts["text"], *tables, texts["limits"])
    return replace_controls("\n\n".join(part for part in parts if part) + "\n")


def _table_texts(table: ReportTable) -> dict:
    shown = [at for at, name in enumerate(table.head) if not name.startswith("<svg")]
    bodies = {heading: [[_cell_text(row[at]) for at in shown] for row in rows] for heading, rows in table.bodies.items()}
    return {"caption": table.caption, "head": [str(table.head[at]) for at in shown], "bodies": bodies}


def _table_markdown(caption: str, head: Sequence[str], bodies: dict[str, Sequence[Sequence[str]]]) -> str:
    rows = []
    for heading, body in bodies.items():
        if heading:
            rows.append([f"*{heading}*", *[""] * (len(head) - 1)])
        rows += body
    return f"{caption}\n\n{markdown_table(head, rows)}"


def _cell_text(cell) -> str:
    """Return the text of a cell; an interval follows its figure in brackets, and the remark of a name is left out."""
    if isinstance(cell, TableCell):
        figure = cell.note and cell.text[:1] in "+−0123456789"
        return f"{cell.text} [{cell.note.replace(' to ', ', ')}]" if figure else cell.text
    return cell if isinstance(cell, str) else format_number(cell)


def answers_to_markdown(methods: Sequence[str], count: int) -> str:
    """Return as Markdown the answers of `methods` to the first `count` plain prompts, one below the other.

    Raises:
        UserError: The methods answered different prompts.
    """
    answers = {
        method: plain_answers(records.read_records(f"data/answers/{method}.jsonl", records.EvaluatedAnswer))[:count]
        for method in methods
    }
    if len({tuple(row.id for row in rows) for rows in answers.values()}) > 1:
        raise UserError("data/answers/: the methods answered different prompts; run `dvc repro` to regenerate them.")
    head = f"# The first {count} held-out prompts, unselected\n\nPersona: {read_value('persona')}. Plain prompts."
    return "\n".join([head, *_answer_blocks(answers)])


def _answer_blocks(answers: dict[str, list[records.EvaluatedAnswer]]) -> Iterator[str]:
    for rows in zip(*answers.values(), strict=True):
        yield f"\n## {rows[0].prompt}"
        for method, row in zip(answers, rows, strict=True):
            cut = ANSWER_MARKS.get(row.finish_reason, "")
            quoted = "\n".join(f"> {line}".rstrip() for line in row.response.splitlines())
            yield f"\n**{method}**{cut}\n\n{quoted}"
