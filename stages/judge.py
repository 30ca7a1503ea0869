"""judge: recorded answers, trait words -> models/judge (a calibration), metrics/judge.json (how often the judge is right).

About traits: of a persona's word and another persona's, does it name the first for an answer recorded in character? About
coherence: does it prefer a recorded answer to itself with its words shuffled or its sentences reversed, and to the answer to
another prompt? Calibration reads the answers to every other general prompt, the measurement those to the rest.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import click

from character import judge_likelihood, questions, records, traits
from character.classify import NONE
from character.errors import UserError
from character.judge import Judge, Label, Question, Settings, coherence_question, compare, load, trait_question
from character.params import read, value
from character.questions import GENERAL
from character.stats import rate

SENTENCE = re.compile(r"(?<=[.!?])\s+")

Answers = dict[str, dict[str, str]]  # persona -> prompt -> text


@dataclass(frozen=True)
class Case:
    """A question about a text of a persona, with the word that is right."""

    question: Question
    right: str
    persona: str


def recorded(names: Sequence[str], prompts: Sequence[str]) -> Answers:
    """Return each persona's recorded answers to the prompts."""
    return {name: dict(zip(prompts, questions.recorded(name, prompts, "judge.personas"), strict=True)) for name in names}


def labels(personas: dict[str, list[str]], count: int) -> dict[str, Label]:
    """Return by word what the judge may have to say: the traits in use, and the words of the personas."""
    every = traits.load()
    known = {trait.word: Label(trait.word, trait.gloss) for trait in every}
    own = [word for words in personas.values() for word in words]
    if unknown := [word for word in own if word not in known]:
        raise UserError(f"params.yaml: judge.personas: {unknown[0]!r} is no word of {traits.TRAITS}; add it there.")
    return {word: known[word] for word in [*(trait.word for trait in traits.spread(every, count)), *own]}


def drawn(prompts: Sequence[str], count: int, generator: random.Random, field: str) -> list[str]:
    if count > len(prompts):
        raise UserError(f"params.yaml: judge.{field} is {count}, but half of {GENERAL} are {len(prompts)} prompts; lower it.")
    return generator.sample(prompts, count)


def neutral_and_mixed(answers: Answers, prompts: Sequence[str], settings: Settings, seed: int) -> list[tuple[str, str]]:
    """Return prompts and texts to calibrate on: half of them show no persona, the others all of them in turn."""
    generator = random.Random(seed)
    count, names = settings.calibration_texts, list(settings.personas)
    plain = [(NONE, prompt) for prompt in drawn(prompts, count, generator, "calibration_texts")]
    mixed = [(names[at % len(names)], prompt) for at, prompt in enumerate(generator.sample(prompts, count))]
    return [(prompt, answers[name][prompt]) for name, prompt in plain + mixed]


def calibration(answers: Answers, prompts: Sequence[str], known: dict[str, Label], settings: Settings, seed: int) -> dict:
    """Return what the likelihood judge subtracts: about traits over texts, about coherence over pairs of whole answers."""
    texts = neutral_and_mixed(answers, prompts, settings, seed)
    every = tuple(known.values())
    one = [Question("trait", {"prompt": prompt, "text": text}, every) for prompt, text in texts]
    both = [
        coherence_question(prompt, *order)
        for prompt, text in texts[settings.calibration_texts :]
        for order in ((text, answers[NONE][prompt]), (answers[NONE][prompt], text))
    ]
    parts = {"trait": one, "coherence": both}
    return {about: judge_likelihood.calibrate(rows, settings.templates, settings.calibration) for about, rows in parts.items()}


def cases(answers: Answers, prompts: Sequence[str], known: dict[str, Label], settings: Settings, seed: int) -> list[Case]:
    """Return for texts of every persona whether they show a word of their persona, or one of another persona."""
    generator, rows = random.Random(seed), []
    for name, words in settings.personas.items():
        others = [other for other in settings.personas if other != name]
        for prompt in drawn(prompts, settings.texts, generator, "texts"):
            right, wrong = generator.choice(words), generator.choice(settings.personas[generator.choice(others)])
            question = trait_question(prompt, answers[name][prompt], (known[right], known[wrong]))
            rows.append(Case(question, right, name))
    return rows


def contests(answers: Answers, prompts: Sequence[str], settings: Settings, seed: int) -> list[tuple[str, tuple[str, str, str]]]:
    """Return kinds of damage, each with a prompt, a recorded answer and the damaged one."""
    generator, rows = random.Random(seed), []
    for kind in ("words", "sentences", "subject"):
        for _ in range(settings.damaged):
            name = generator.choice(list(settings.personas))
            prompt, other = generator.sample(prompts, 2)
            text = answers[name][prompt]
            words = text.split()
            damaged = {
                "words": " ".join(generator.sample(words, len(words))),
                "sentences": " ".join(reversed(SENTENCE.split(text))),
                "subject": answers[name][other],
            }
            rows.append((kind, (prompt, text, damaged[kind])))
    return rows


def figures(hits: Sequence[bool | None]) -> dict:
    """Return how many verdicts are right, among those that could be read (not None)."""
    read = [hit for hit in hits if hit is not None]
    return rate("accuracy", sum(read), len(read)) | {"unparsed": len(hits) - len(read)}


def of_traits(judge: Judge, rows: Sequence[Case]) -> dict:
    said = judge.decide([row.question for row in rows])
    hits = [None if word is None else word == row.right for word, row in zip(said, rows, strict=True)]
    by_persona = {
        name: figures([hit for hit, row in zip(hits, rows, strict=True) if row.persona == name])
        for name in dict.fromkeys(row.persona for row in rows)
    }
    return {**figures(hits), "by_persona": by_persona}


def of_coherence(judge: Judge, rows: Sequence[tuple[str, tuple[str, str, str]]]) -> dict:
    """Return the figures over the contests that the judge decides alike in both orders; the others are ties."""
    points = compare(judge, [contest for _, contest in rows])
    decided = [(kind, point == 1) for (kind, _), point in zip(rows, points, strict=True) if point in (0, 1)]
    by_damage = {kind: figures([hit for other, hit in decided if other == kind]) for kind in dict(rows)}
    found = {**figures([hit for _, hit in decided]), "ties": points.count(0.5), "unparsed": points.count(None)}
    return {**found, "by_damage": by_damage}


def by_template(rows: Sequence[Case], chosen: Sequence[str], terms: dict) -> dict[str, float]:
    """Return the accuracy of each template alone, of all, and of all without calibration."""
    questions, right = [row.question for row in rows], [row.right for row in rows]
    found = judge_likelihood.score("trait", questions, chosen)
    adjusted = judge_likelihood.centred(found, questions, chosen, terms)
    parts = {name: adjusted[:, [at]] for at, name in enumerate(chosen)} | {"all": adjusted, "uncalibrated": found}
    said = {name: judge_likelihood.settle(part, questions) for name, part in parts.items()}
    return {name: sum(map(str.__eq__, words, right)) / len(rows) for name, words in said.items()}


@click.command()
def main():
    """Calibrate the judge, and measure it."""
    settings, seed = read("judge", Settings), value("seed")
    prompts = questions.load(GENERAL)
    to_calibrate, to_measure = prompts[::2], prompts[1::2]
    answers = recorded([*settings.personas, NONE], prompts)
    known = labels(settings.personas, value("preferences.traits"))
    embedded = settings.kind == "likelihood"
    terms = calibration(answers, to_calibrate, known, settings, seed) if embedded else {}
    with records.replacing(judge_likelihood.CALIBRATION) as file:
        json.dump(terms, file, indent=2)
    judge = load()
    metrics = of_traits(judge, cases(answers, to_measure, known, settings, seed))
    metrics["coherence"] = of_coherence(judge, contests(answers, to_measure, settings, seed))
    if embedded:  # on the prompts of the calibration: to choose templates by, without a look at what is measured
        rows = cases(answers, to_calibrate, known, settings, seed)
        metrics["on_calibration_prompts"] = by_template(rows, settings.templates, terms["trait"])
    records.write_json("metrics/judge.json", metrics)


if __name__ == "__main__":
    main()
