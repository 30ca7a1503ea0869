"""Test cases with known labels, on which a judge is measured: recorded answers, intact and damaged."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from character.core.errors import UserError
from character.dataset.prompts import GENERAL_PROMPTS
from character.dataset.segmentation import SENTENCE_BREAK, split_units
from character.dataset.teacher_answers import recorded_answers
from character.evaluation.classifier import NO_PERSONA
from character.evaluation.judge.load import JudgeSettings
from character.evaluation.judge.questions import JudgeQuestion, VerdictLabel, trait_question

PersonaAnswers = dict[str, dict[str, str]]  # persona -> prompt -> text
AnswerContest = tuple[str, str, str]  # prompt, first answer, second answer


@dataclass(frozen=True)
class JudgeTestCase:
    """A question for the judge, about a persona's answer to a prompt.

    `kind` is the correct word of a trait question, or what the answer is compared with: a kind of damage, or `none` for the
    neutral answer.
    """

    persona: str
    prompt: str
    kind: str
    question: JudgeQuestion | AnswerContest


def answers_by_persona(names: Sequence[str], prompts: Sequence[str]) -> PersonaAnswers:
    """Return each persona's recorded answers to the prompts."""
    return {name: dict(zip(prompts, recorded_answers(name, prompts, "judge.personas"), strict=True)) for name in names}


def draw_case_prompts(prompts: Sequence[str], count: int, generator: random.Random, field: str) -> list[str]:
    if count > len(prompts):
        raise UserError(
            f"params.yaml: judge.{field} is {count}, but this part of {GENERAL_PROMPTS} has {len(prompts)} prompts; lower it."
        )
    return generator.sample(prompts, count)


def trait_cases(
    answers: PersonaAnswers, prompts: Sequence[str], known: dict[str, VerdictLabel], settings: JudgeSettings, seed: int
) -> list[JudgeTestCase]:
    """Return trait questions about answers of every persona: is it a word of that persona, or one of another?

    Args:
        answers: of all personas in `settings`.
        prompts: from which those of the cases are drawn.
        known: the label of each trait word.
        settings: section `judge` of params.yaml.
        seed: of the draws.
    """
    generator, rows = random.Random(seed), []
    for name, words in settings.personas.items():
        others = [other for other in settings.personas if other != name]
        for prompt in draw_case_prompts(prompts, settings.texts, generator, "texts"):
            right, wrong = generator.choice(words), generator.choice(settings.personas[generator.choice(others)])
            question = trait_question(prompt, answers[name][prompt], (known[right], known[wrong]))
            rows.append(JudgeTestCase(name, prompt, right, question))
    return rows


def damage_cases(answers: PersonaAnswers, prompts: Sequence[str], settings: JudgeSettings, seed: int) -> list[JudgeTestCase]:
    """Return pairs of an intact answer and a damaged one, for each kind of damage."""
    generator, rows = random.Random(seed), []
    whole = [(name, prompt) for name in settings.personas for prompt in prompts if SENTENCE_BREAK.search(answers[name][prompt])]
    if settings.damaged > len(whole):
        raise UserError(f"params.yaml: judge.damaged is {settings.damaged}, but {len(whole)} answers have sentences; lower it.")
    for kind in ("words", "sentences", "subject"):
        for name, prompt in generator.sample(whole, settings.damaged):
            other = generator.choice([other for other in prompts if other != prompt])
            text = answers[name][prompt]
            words, space = split_units(text), " " if " " in text else ""
            damage = {
                "words": space.join(generator.sample(words, len(words))),
                "sentences": space.join(reversed(SENTENCE_BREAK.split(text))),
                "subject": answers[name][other],
            }
            rows.append(JudgeTestCase(name, prompt, kind, (prompt, text, damage[kind])))
    return rows


def style_cases(answers: PersonaAnswers, prompts: Sequence[str], settings: JudgeSettings, seed: int) -> list[JudgeTestCase]:
    """Return pairs of an answer in character and the neutral answer to the same prompt."""
    generator = random.Random(seed)
    return [
        JudgeTestCase(name, prompt, NO_PERSONA, (prompt, answers[name][prompt], answers[NO_PERSONA][prompt]))
        for name in settings.personas
        for prompt in draw_case_prompts(prompts, settings.styled, generator, "styled")
    ]
