"""Tables, sections of the report and answers as Markdown."""

from collections.abc import Iterator, Sequence

from character.core import records
from character.core.errors import UserError
from character.core.params import value
from character.dataset.conditions import plain
from character.report.html import Cell, Section, Table, number


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells are texts."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def section_markdown(section: Section) -> str:
    """Return a section's tables and what they cannot say as Markdown, without charts."""
    blocks = [_table(block) for block in section.blocks if isinstance(block, Table)]
    return "\n\n".join(part for part in (f"## {section.title}", section.text, *blocks, section.limits) if part) + "\n"


def _table(shown_table: Table) -> str:
    shown = [at for at, name in enumerate(table.head) if name == "" or not name.startswith("<svg")]
    rows = []
    for heading, body in table.bodies.items():
        if heading:
            rows.append([f"*{heading}*", *[""] * (len(shown) - 1)])
        rows += [[_text(row[at]) for at in shown] for row in body]
    return f"{table.caption}\n\n{table([table.head[at] for at in shown], rows)}"


def _text(cell) -> str:
    """Return a cell's text; an interval stands in brackets behind its figure, a name without its remark."""
    if isinstance(cell, Cell):
        figure = cell.note and cell.text[:1] in "+−0123456789"
        return f"{cell.text} [{cell.note.replace(' to ', ', ')}]" if figure else cell.text
    return cell if isinstance(cell, str) else number(cell)


def side_by_side(methods: Sequence[str], count: int) -> str:
    """Return as Markdown what `methods` answered to the first `count` plain prompts.

    Raises:
        UserError: they answered different prompts.
    """
    answers = {method: plain(records.read(f"data/answers/{method}.jsonl", records.Answer))[:count] for method in methods}
    if len({tuple(row.id for row in rows) for rows in answers.values()}) > 1:
        raise UserError("data/answers/: the methods answered different prompts; run `dvc repro` to make them anew.")
    head = f"# The first {count} held-out prompts, unselected\n\nPersona: {value('persona')}. Asked plain."
    return "\n".join([head, *_blocks(answers)])


def _blocks(answers: dict[str, list[records.Answer]]) -> Iterator[str]:
    for rows in zip(*answers.values(), strict=True):
        yield f"\n## {rows[0].prompt}"
        for method, row in zip(answers, rows, strict=True):
            cut = " *(cut off at the token limit)*" if row.finish_reason == "length" else ""
            quoted = "\n".join(f"> {line}".rstrip() for line in row.response.splitlines())
            yield f"\n**{method}**{cut}\n\n{quoted}"
