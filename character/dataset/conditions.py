"""Under which conditions a method is asked, and what the classifier called its answer."""

from collections.abc import Iterable

from character.core.records import EvaluatedAnswer

PLAIN = "plain"
SUFFIXES = "suffixes"  # any of the break-character suffixes; each is also a condition of its own name
PREFILL, MULTI_TURN = "prefill", "multi-turn"
ATTACK_CONDITIONS = (PREFILL, MULTI_TURN)
RESERVED_CONDITIONS = {PLAIN, SUFFIXES, *ATTACK_CONDITIONS}  # no suffix may be called so


class AttackAnswer(EvaluatedAnswer):
    """What a method answered when it was led out of character, and by which opening or urge."""

    led_by: str


class ClassifiedAnswer(EvaluatedAnswer):
    """An answer of one method with the class that the classifier gave it; `led_by` is that of an attack."""

    method: str
    called: str
    led_by: str = ""


def plain_answers(answers: Iterable[EvaluatedAnswer]) -> list[EvaluatedAnswer]:
    """Return the answers to prompts that were asked as they are."""
    return [answer for answer in answers if answer.condition == PLAIN]


def condition_group(condition: str) -> str:
    """Return the condition under which answers are counted together: that of all suffixes for each of them."""
    return condition if condition in RESERVED_CONDITIONS else SUFFIXES
