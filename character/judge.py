"""Judges: which of two labels fits what they are shown? Two trait words for a text, or A and B for two answers.

No judge is believed before it is measured: `stages/judge.py` does that, and every result repeats the figure.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field

from character import engines
from character.constitution import fill
from character.errors import UserError
from character.generate import Engine, Request, Sampling, generate
from character.params import Section, read, value
from character.records import prompt_id

MEASURED = Path("metrics/judge.json")

SYSTEM = "You are an impartial judge of written answers. You took no part in the conversations that are shown to you."

FORM = """\
End with one line of this form and write nothing after it:
Verdict: {first}
or
Verdict: {second}"""

TRAIT = """\
Somebody was asked:
<question>
{prompt}
</question>

This was answered:
<answer>
{text}
</answer>

Which of two words tells better in what manner the answer is written?
- {first}: somebody who {first_gloss}
- {second}: somebody who {second_gloss}

Judge the manner alone, not whether the answer is right. {form}"""

MORE_COHERENT = """\
Which of the two answers is the more coherent: whole sentences that follow from each other, and that stay on the subject of \
the question? Mood, style and length do not count."""

COHERENCE = """\
Somebody was asked:
<question>
{prompt}
</question>

Answer A:
<answer>
{first}
</answer>

Answer B:
<answer>
{second}
</answer>

{question} {form}"""

AGAIN = "The last line of that has not the form that was asked for. {form}"

VERDICT = re.compile(r"^\W*verdict\W+([\w-]+)\W*$", re.IGNORECASE | re.MULTILINE)


class Examples(Section):
    """How the `examples` of judge_likelihood.py are learned; as in the classifier."""

    layers: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        min_length=1
    )  # depths in the student that are read, as shares of its layers
    shrinkage: float = Field(gt=0, le=1)  # of the within-word scatter towards a sphere
    topic_weight: float = Field(ge=1)  # of what the examples for one prompt share, in that scatter


class Settings(Section):
    kind: Literal["likelihood", "student", "transformers", "vllm", "openai"]
    source: str  # the model of the last three
    templates: list[str] = Field(min_length=1)  # of judge_likelihood.py, averaged
    examples: Examples
    calibration: Literal["mean", "scaled"]
    tries: int = Field(gt=0)  # of an asked judge, until its verdict can be read
    sampling: Sampling  # of an asked judge
    personas: dict[str, list[str]] = Field(min_length=2)  # the trait words that their recorded answers show
    texts: int = Field(gt=0)  # of each persona, on which the judge is measured
    calibration_texts: int = Field(gt=0)  # neutral ones, and as many in character
    damaged: int = Field(gt=0)  # answers of each kind of damage
    styled: int = Field(gt=0)  # answers of each persona, compared with neutral ones


@dataclass(frozen=True)
class Label:
    """What a judge may say; `gloss` ends a sentence that begins with "somebody who", `like` are words of like meaning."""

    word: str
    gloss: str = ""
    like: tuple[str, ...] = ()

    @classmethod
    def of(cls, trait) -> "Label":
        """Return the label of a Trait of character/traits.py."""
        return cls(trait.word, trait.gloss, trait.like)

    @property
    def words(self) -> tuple[str, ...]:
        return (self.word, *self.like)


A, B = Label("A"), Label("B")


@dataclass(frozen=True)
class Question:
    """What a judge is asked: which of `labels` fits what `shown` tells, by the fields of the templates."""

    about: Literal["trait", "coherence"]
    shown: dict[str, str]
    labels: tuple[Label, Label]


class Judge(Protocol):
    """`decide` answers each question by the word of a label, or by None where no verdict can be read.

    All questions of a call are about the same thing.
    """

    def decide(self, questions: Sequence[Question]) -> list[str | None]: ...


def trait_question(prompt: str, text: str, labels: tuple[Label, Label]) -> Question:
    """Ask which of two traits `text` shows, the answer to `prompt`."""
    # The text settles which label comes first, so that a preference for a place favours neither.
    turned = int(prompt_id(text), 16) % 2
    return Question("trait", {"prompt": prompt, "text": text}, labels[::-1] if turned else labels)


def coherence_question(prompt: str, first: str, second: str) -> Question:
    """Ask which of two answers to `prompt` is the more coherent."""
    return Question("coherence", {"prompt": prompt, "first": first, "second": second}, (A, B))


def compare(judge: Judge, contests: Sequence[tuple[str, str, str]]) -> list[float | None]:
    """Judge for each (prompt, first answer, second answer), in both orders, which answer is the more coherent.

    1: the first, 0: the second, 0.5: the verdict hangs on the order, a tie; None: a verdict could not be read.
    """
    orders = [(prompt, *order) for prompt, first, second in contests for order in ((first, second), (second, first))]
    said = judge.decide([coherence_question(*order) for order in orders])
    points = {("A", "B"): 1.0, ("B", "A"): 0.0, ("A", "A"): 0.5, ("B", "B"): 0.5}
    return [points.get(verdicts) for verdicts in zip(said[::2], said[1::2], strict=True)]


class AskedJudge:
    """A chat model that is asked in words; where its reply has no verdict it is asked again, a bounded number of times."""

    def __init__(self, engine: Engine, tries: int, sampling: Sampling, seed: int):
        self._engine, self._tries, self._sampling, self._seed = engine, tries, sampling, seed

    def decide(self, questions: Sequence[Question]) -> list[str | None]:
        talks = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked(row)}] for row in questions]
        verdicts: list[str | None] = [None] * len(questions)
        unread = list(range(len(questions)))
        for attempt in range(self._tries):
            if not unread:
                break
            requests = [Request(prompt_id(talks[index][1]["content"]), list(talks[index]), attempt) for index in unread]
            replies = generate(self._engine, requests, self._sampling, self._seed, f"judge, attempt {attempt + 1}")
            for index, reply in zip(unread, replies, strict=True):
                verdicts[index] = verdict(reply.text, questions[index].labels)
                again = fill(AGAIN, form=form(questions[index].labels))
                talks[index] += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": again}]
            unread = [index for index in unread if verdicts[index] is None]
        return verdicts


def asked(question: Question) -> str:
    """Return what an asked judge reads."""
    first, second = question.labels
    if question.about == "coherence":
        return fill(COHERENCE, **question.shown, question=MORE_COHERENT, form=form(question.labels))
    words = {"first": first.word, "second": second.word, "first_gloss": first.gloss, "second_gloss": second.gloss}
    return fill(TRAIT, **question.shown, **words, form=form(question.labels))


def form(labels: tuple[Label, Label]) -> str:
    return fill(FORM, first=labels[0].word, second=labels[1].word)


def verdict(reply: str, labels: tuple[Label, Label]) -> str | None:
    """Return the word of the label that the reply's last line of the right form names, None where it names none."""
    found = VERDICT.findall(reply)
    return next((label.word for label in labels if found and found[-1].casefold() == label.word.casefold()), None)


def load() -> Judge:
    """Return the judge that params.yaml names; the likelihood judge with the calibration that the stage `judge` made."""
    settings = read("judge", Settings)
    if settings.kind == "likelihood":
        from character.judge_likelihood import LikelihoodJudge

        return LikelihoodJudge.load(settings.templates)
    engine = engines.by_name(settings.kind, settings.source, "judge.source")
    return AskedJudge(engine, settings.tries, settings.sampling, value("seed"))


def measured(about: Literal["trait", "coherence", "style"]) -> dict:
    """Return how often the judge is right about such questions, or which style it prefers, to be told beside what it says."""
    if not MEASURED.is_file():
        raise UserError(f"{MEASURED} is missing; run `dvc repro judge` to measure the judge.")
    figures = json.loads(MEASURED.read_text(encoding="utf-8"))
    figures = figures if about == "trait" else figures[about]
    told = {key: found for key, found in figures.items() if not isinstance(found, dict)}
    print(f"the judge, about {about}: " + ", ".join(f"{key} {found}" for key, found in told.items()), flush=True)
    return told
