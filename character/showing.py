"""Answers to read: what methods say to the same held-out prompts."""

from collections.abc import Iterator, Sequence

from character import records
from character.conditions import plain
from character.errors import UserError
from character.params import value


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
