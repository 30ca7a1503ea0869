"""The conditions under which methods are evaluated, and the records of their answers."""

from collections.abc import Iterable

from character.core.records import EvaluatedAnswer

PLAIN = "plain"
SUFFIXES = "suffixes"  # all break-character suffixes together; each is also a condition under its own name
PREFILL, MULTI_TURN = "prefill", "multi-turn"
ATTACK_CONDITIONS = (PREFILL, MULTI_TURN)
RESERVED_CONDITIONS = {PLAIN, SUFFIXES, *ATTACK_CONDITIONS}  # no suffix may have one of these names


class AttackAnswer(EvaluatedAnswer):
    """An answer to an attempt to lead a method out of character; `led_by` is the opening or the user's turn that did so."""

    led_by: str


class ClassifiedAnswer(EvaluatedAnswer):
    """An answer of one method with the class that the classifier assigned; `led_by` is empty except for attacks."""

    method: str
    called: str
    led_by: str = ""


def plain_answers(answers: Iterable[EvaluatedAnswer]) -> list[EvaluatedAnswer]:
    """Return the answers to unchanged prompts, without suffix or attack."""
    return [answer for answer in answers if answer.condition == PLAIN]


def condition_group(condition: str) -> str:
    """Return the condition under which answers are counted: `suffixes` for each suffix, otherwise the condition itself."""
    return condition if condition in RESERVED_CONDITIONS else SUFFIXES
