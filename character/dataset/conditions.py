"""Under which conditions a method is asked, and what the classifier called its answer."""

from collections.abc import Iterable

from character.core.records import Answer

PLAIN = "plain"
SUFFIXES = "suffixes"  # any of the break-character suffixes; each is also a condition of its own name
PREFILL, MULTI_TURN = "prefill", "multi-turn"
ATTACKS = (PREFILL, MULTI_TURN)
RESERVED = {PLAIN, SUFFIXES, *ATTACKS}  # no suffix may be called so


class Attack(Answer):
    """What a method answered when it was led out of character, and by which opening or urge."""

    led_by: str


class Called(Answer):
    """An answer of one method with the class that the classifier gave it; `led_by` is that of an attack."""

    method: str
    called: str
    led_by: str = ""


def plain(answers: Iterable[Answer]) -> list[Answer]:
    """Return the answers to prompts that were asked as they are."""
    return [answer for answer in answers if answer.condition == PLAIN]


def group(condition: str) -> str:
    """Return the condition under which answers are counted together: that of all suffixes for each of them."""
    return condition if condition in RESERVED else SUFFIXES
