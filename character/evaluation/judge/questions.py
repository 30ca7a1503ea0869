"""What a judge is asked: which of two labels fits what is shown? Two trait words for a text, or A and B for two answers.

No judge is believed before it is measured: `stages/judge.py` does that, and every result repeats the figure.
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
    """What a judge may say; `gloss` ends a sentence that begins with "somebody who", `like` are words of like meaning."""

    word: str
    gloss: str = ""
    like: tuple[str, ...] = ()

    @classmethod
    def from_trait(cls, trait) -> "VerdictLabel":
        """Return the label of a Trait of character/dataset/trait_words.py."""
        return cls(trait.word, trait.gloss, trait.like)

    @property
    def all_words(self) -> tuple[str, ...]:
        return (self.word, *self.like)


LABEL_A, LABEL_B = VerdictLabel("A"), VerdictLabel("B")


@dataclass(frozen=True)
class JudgeQuestion:
    """What a judge is asked: which of `labels` fits what `shown` tells, by the fields of the templates."""

    about: Literal["trait", "coherence"]
    shown: dict[str, str]
    labels: tuple[VerdictLabel, VerdictLabel]


class Judge(Protocol):
    """`decide` answers each question by the word of a label, or by None where no verdict can be read.

    All questions of a call are about the same thing.
    """

    def decide(self, questions: Sequence[JudgeQuestion]) -> list[str | None]: ...


def trait_question(prompt: str, text: str, labels: tuple[VerdictLabel, VerdictLabel]) -> JudgeQuestion:
    """Ask which of two traits `text` shows, the answer to `prompt`."""
    # The text settles which label comes first, so that a preference for a place favours neither.
    turned = int(prompt_id(text), 16) % 2
    return JudgeQuestion("trait", {"prompt": prompt, "text": text}, labels[::-1] if turned else labels)


def coherence_question(prompt: str, first: str, second: str) -> JudgeQuestion:
    """Ask which of two answers to `prompt` is the more coherent."""
    return JudgeQuestion("coherence", {"prompt": prompt, "first": first, "second": second}, (LABEL_A, LABEL_B))


def compare_coherence(judge: Judge, contests: Sequence[tuple[str, str, str]]) -> list[float | None]:
    """Judge for each (prompt, first answer, second answer), in both orders, which answer is the more coherent.

    1: the first, 0: the second, 0.5: the verdict hangs on the order, a tie; None: a verdict could not be read.
    """
    orders = [(prompt, *order) for prompt, first, second in contests for order in ((first, second), (second, first))]
    said = judge.decide([coherence_question(*order) for order in orders])
    points = {("A", "B"): 1.0, ("B", "A"): 0.0, ("A", "A"): 0.5, ("B", "B"): 0.5}
    return [points.get(verdicts) for verdicts in zip(said[::2], said[1::2], strict=True)]
