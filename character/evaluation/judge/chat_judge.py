"""A judge that prompts a chat model and parses its verdict."""

import re
from collections.abc import Sequence

from character.core.records import prompt_id
from character.dataset.prompts import fill_template
from character.dataset.reasoning import strip_reasoning
from character.evaluation.judge.questions import COHERENCE_CRITERION, JUDGE_SYSTEM_PROMPT, JudgeQuestion, VerdictLabel
from character.inference.generate import Engine, Request, SamplingSettings, generate

VERDICT_FORMAT = """\
End with one line of this form and write nothing after it:
Verdict: {first}
or
Verdict: {second}"""

TRAIT_TEMPLATE = """\
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

COHERENCE_TEMPLATE = """\
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

RETRY_TEMPLATE = "The last line of that has not the form that was asked for. {form}"

VERDICT_PATTERN = re.compile(r"^\W*verdict\W+([\w-]+)\W*$", re.IGNORECASE | re.MULTILINE)


class ChatJudge:
    """Prompts a chat model; if a reply has no verdict it asks again, up to `tries` times in all.

    A question that the model does not answer has no verdict.
    """

    def __init__(self, engine: Engine, tries: int, sampling: SamplingSettings, seed: int):
        self._engine, self._tries, self._sampling, self._seed = engine, tries, sampling, seed

    def decide(self, questions: Sequence[JudgeQuestion]) -> list[str | None]:
        talks = [
            [{"role": "system", "content": JUDGE_SYSTEM_PROMPT}, {"role": "user", "content": render_prompt(row)}]
            for row in questions
        ]
        verdicts: list[str | None] = [None] * len(questions)
        unread = list(range(len(questions)))
        for attempt in range(self._tries):
            if not unread:
                break
            requests = [Request(prompt_id(talks[index][1]["content"]), list(talks[index]), attempt) for index in unread]
            label = f"judge, attempt {attempt + 1}"
            replies = generate(self._engine, requests, self._sampling, self._seed, label, retry=attempt > 0)
            for index, reply in zip(unread, replies, strict=True):
                text = strip_reasoning(reply.text, thinking=False)
                verdicts[index] = parse_verdict(text, questions[index].labels)
                again = fill_template(RETRY_TEMPLATE, form=answer_format(questions[index].labels))
                talks[index] += [{"role": "assistant", "content": text}, {"role": "user", "content": again}]
            answered = [index for index, reply in zip(unread, replies, strict=True) if not reply.skipped]
            unread = [index for index in answered if verdicts[index] is None]
        return verdicts


def render_prompt(question: JudgeQuestion) -> str:
    """Return the prompt of a chat judge."""
    first, second = question.labels
    if question.about == "coherence":
        return fill_template(
            COHERENCE_TEMPLATE, **question.shown, question=COHERENCE_CRITERION, form=answer_format(question.labels)
        )
    words = {"first": first.word, "second": second.word, "first_gloss": first.gloss, "second_gloss": second.gloss}
    return fill_template(TRAIT_TEMPLATE, **question.shown, **words, form=answer_format(question.labels))


def answer_format(labels: tuple[VerdictLabel, VerdictLabel]) -> str:
    return fill_template(VERDICT_FORMAT, first=labels[0].word, second=labels[1].word)


def parse_verdict(reply: str, labels: tuple[VerdictLabel, VerdictLabel]) -> str | None:
    """Return the word of the label in the last verdict line of a reply, or None if there is none."""
    found = VERDICT_PATTERN.findall(reply)
    return next((label.word for label in labels if found and found[-1].casefold() == label.word.casefold()), None)
