"""attacks: the answers of base, one method's model and system prompt -> data/attacks/<method>.jsonl.

Two ways to make a method break character without mentioning it. `prefill`: its turn begins with an opening that is out of
character and that it must continue; the answer is what it adds. `multi-turn`: base gave the first answer, and the user asks
for more (the paper's "prefill attack", arXiv 2511.01689, which prefills nothing).
"""

from collections.abc import Iterator, Sequence

import click
from pydantic import Field, field_validator

from character.core import records
from character.core.params import ParamsSection, read_section
from character.core.records import EvaluatedAnswer, RawPrompt, Record
from character.dataset.conditions import MULTI_TURN, PREFILL, AttackAnswer, plain_answers
from character.dataset.prompts import take_first
from character.evaluation.methods import Method, method_options
from character.inference.generate import Request, SamplingSettings

BASE_ANSWERS_FILE = "data/answers/base.jsonl"


class AttackSettings(ParamsSection):
    prompts: int = Field(gt=0)  # the first of those that base answered, each attacked in both ways


class Prefill(Record):
    prefill: str

    @field_validator("prefill")
    @classmethod
    def _is_trimmed(cls, prefill: str) -> str:
        if not prefill or prefill != prefill.strip():
            # Tokens begin with their space: after a separate space, a model rarely continues with a word.
            raise ValueError("is empty, or has space around it; begin and end it with text")
        return prefill


def first_turns(count: int) -> list[EvaluatedAnswer]:
    """Return the first `count` plain answers of base that are not empty.

    Raises:
        UserError: there are fewer.
    """
    answers = [
        answer for answer in plain_answers(records.read_records(BASE_ANSWERS_FILE, EvaluatedAnswer)) if answer.response.strip()
    ]
    return take_first(answers, count, "attacks.prompts", BASE_ANSWERS_FILE, "plain answers")


def build_attacks(
    method: Method, turns: Sequence[EvaluatedAnswer], prefills: Sequence[str], urges: Sequence[str]
) -> Iterator[tuple[EvaluatedAnswer, dict[str, str], Request]]:
    """Yield (answer of base, fields of an AttackAnswer, request) of each attack; openings and urges are assigned in turn."""
    for index, turn in enumerate(turns):
        opening, urge = prefills[index % len(prefills)], urges[index % len(urges)]
        begun = Request(f"{turn.id}-{PREFILL}", method.build_messages(turn.prompt), prefill=opening)
        yield turn, {"condition": PREFILL, "led_by": opening}, begun
        urged = Request(f"{turn.id}-{MULTI_TURN}", method.build_messages(turn.prompt, turn.response, urge))
        yield turn, {"condition": MULTI_TURN, "led_by": urge}, urged


@click.command()
@method_options
def main(method: Method):
    """Attack one method."""
    prefills = [line.prefill for line in records.read_records("data/raw/prompts/prefills.jsonl", Prefill)]
    urges = [line.prompt for line in records.read_records("data/raw/prompts/urges.jsonl", RawPrompt)]
    rows = list(build_attacks(method, first_turns(read_section("attacks", AttackSettings).prompts), prefills, urges))
    replies = method.answer_requests([request for *_, request in rows], read_section("sampling", SamplingSettings), "attacks")
    answers = [AttackAnswer.from_reply(turn, reply, **how) for (turn, how, _), reply in zip(rows, replies, strict=True)]
    records.write_records(f"data/attacks/{method.name}.jsonl", answers)


if __name__ == "__main__":
    main()
