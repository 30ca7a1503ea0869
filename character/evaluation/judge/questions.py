"""The questions of a judge: which of two labels fits? Two trait words for a text, or A and B for two answers.

A judge is measured before it is used: `stages/judge.py` does that, and every result repeats the judge's accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from character.core.records import prompt_id

JUDGE_SYSTEM_PROMPT = (
    "You are an impartial judge of written answers. You took no part in the conversations that are shown to you."
)

COHERENCE_CRITERION = """\
Which of the two answers is the more coherent: whole sentences that follow from each other, and that stay on the subject of \
the question? Mood, style and length do not count."""


@dataclass(frozen=True)
class VerdictLabel:
    """A label that a judge may choose. `gloss` completes a sentence that begins with "somebody who"; `like` are synonyms."""

    word: str
    gloss: str = ""
    like: tuple[str, ...] = ()

    @classmethod
    def from_trait(cls, trait) -> "VerdictLabel":
        """Return the label of a TraitWord of character/dataset/trait_words.py."""
        return cls(trait.word, trait.gloss, trait.like)

    @property
    def all_words(self) -> tuple[str, ...]:
        return (self.word, *self.like)


LABEL_A, LABEL_B = VerdictLabel("A"), VerdictLabel("B")


@dataclass(frozen=True)
class JudgeQuestion:
    """Which of `labels` fits what is shown? `shown` holds texts by the names of the templates' fields."""

    about: Literal["trait", "coherence"]
    shown: dict[str, str]
    labels: tuple[VerdictLabel, VerdictLabel]


class Judge(Protocol):
    """`decide` returns for each question the word of a label, or None if no verdict can be parsed.

    All questions of a call must have the same `about`.
    """

    def decide(self, questions: Sequence[JudgeQuestion]) -> list[str | None]: ...


def trait_question(prompt: str, text: str, labels: tuple[VerdictLabel, VerdictLabel]) -> JudgeQuestion:
    """Ask which of two traits `text` shows, the answer to `prompt`."""
    # The order of the labels depends on the text, so a judge that prefers a position favours neither label.
    turned = int(prompt_id(text), 16) % 2
    return JudgeQuestion("trait", {"prompt": prompt, "text": text}, labels[::-1] if turned else labels)


def coherence_question(prompt: str, first: str, second: str) -> JudgeQuestion:
    """Ask which of two answers to `prompt` is the more coherent."""
    return JudgeQuestion("coherence", {"prompt": prompt, "first": first, "second": second}, (LABEL_A, LABEL_B))


def compare_coherence(judge: Judge, contests: Sequence[tuple[str, str, str]]) -> list[float | None]:
    """Judge for each (prompt, first answer, second answer), in both orders, which answer is more coherent.

    Returns:
        For each contest 1 if it is the first answer, 0 if it is the second, 0.5 (a tie) if the verdict depends on the order,
        and None if a verdict could not be parsed.
    """
    orders = [(prompt, *order) for prompt, first, second in contests for order in ((first, second), (second, first))]
    words = judge.decide([coherence_question(*order) for order in orders])
    points = {("A", "B"): 1.0, ("B", "A"): 0.0, ("A", "A"): 0.5, ("B", "B"): 0.5}
    return [points.get(verdicts) for verdicts in zip(words[::2], words[1::2], strict=True)]
