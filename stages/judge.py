"""judge: recorded answers, trait words -> models/judge (a calibration), results/judge.json (how often the judge is right).

Traits: does the judge choose a persona's word over another persona's, for an answer recorded in character and cut to the length
of `choices`? Coherence: does it prefer a recorded answer to the same answer with its words shuffled or its sentences reversed,
and to the answer to another prompt? The damage does not change the style, so a third figure measures the effect of style: how
often the judge prefers an answer in character to a neutral one. Calibration, choice of templates and measurement share no
prompt.
"""

import json
import random
from collections.abc import Collection, Sequence

import click
import numpy

from character.core import records
from character.core.errors import UserError
from character.core.params import read_section, read_value
from character.dataset import trait_words
from character.dataset.prompts import GENERAL_PROMPTS, load_prompts
from character.evaluation import classifier, lda
from character.evaluation.classifier import NO_PERSONA
from character.evaluation.intervals import crossed_bootstrap, rate_summary
from character.evaluation.judge import benchmark, likelihood_judge, trait_examples
from character.evaluation.judge.benchmark import JudgeTestCase, PersonaAnswers
from character.evaluation.judge.load import ExampleSettings, JudgeSettings, load_judge
from character.evaluation.judge.questions import JudgeQuestion, VerdictLabel, coherence_question, compare_coherence


def judge_labels(personas: dict[str, list[str]], count: int) -> dict[str, VerdictLabel]:
    """Return the labels that the judge may have to choose, by word: the traits in use and the words of the personas.

    Args:
        personas: the trait words of each persona.
        count: how many traits are in use.

    Raises:
        UserError: a word of a persona is not a known trait word.
    """
    every = trait_words.load_trait_words()
    known = {trait.word: VerdictLabel.from_trait(trait) for trait in every}
    own = [word for words in personas.values() for word in words]
    if unknown := [word for word in own if word not in known]:
        raise UserError(
            f"params.yaml: judge.personas: {unknown[0]!r} is not a word in {trait_words.TRAIT_WORDS_FILE}; add it there."
        )
    return {word: known[word] for word in [*(trait.word for trait in trait_words.select_trait_words(every, count)), *own]}


def calibration_terms(
    answers: PersonaAnswers,
    short: PersonaAnswers,
    prompts: Sequence[str],
    known: dict[str, VerdictLabel],
    settings: JudgeSettings,
    seed: int,
) -> dict:
    """Return the calibration of the likelihood judge, by kind of question.

    The texts for traits are short, those for coherence are pairs of whole answers. Half of the texts for traits are neutral,
    the others are from all personas in turn.

    Args:
        answers: whole answers of all personas and the neutral ones.
        short: the same answers, cut to the length of `choices`.
        prompts: those that are used for calibration only.
        known: the label of each trait word.
        settings: section `judge` of params.yaml.
        seed: of the draws.
    """
    generator, names = random.Random(seed), list(settings.personas)
    plain = benchmark.draw_case_prompts(prompts, settings.calibration_texts, generator, "calibration_texts")
    mixed = [(names[at % len(names)], prompt) for at, prompt in enumerate(generator.sample(prompts, len(plain)))]
    shown = [
        {"prompt": prompt, "text": short[name][prompt]}
        for name, prompt in [*((NO_PERSONA, prompt) for prompt in plain), *mixed]
    ]
    pairs = [(prompt, answers[name][prompt], answers[NO_PERSONA][prompt]) for name, prompt in mixed]
    parts = {
        "trait": [JudgeQuestion("trait", text, tuple(known.values())) for text in shown],
        "coherence": [coherence_question(prompt, *order) for prompt, *pair in pairs for order in (pair, pair[::-1])],
    }
    chosen, how = settings.templates, settings.calibration
    return {about: likelihood_judge.fit_calibration(rows, chosen, how) for about, rows in parts.items()}


def train_word_classifier(wanted: Collection[str], settings: ExampleSettings, max_tokens: int) -> classifier.Classifier:
    """Return a classifier of the trait words in use, trained on the example texts."""
    rows = [
        row
        for row in records.read_records(trait_examples.TRAIT_EXAMPLES_FILE, trait_examples.TraitExample)
        if row.word in wanted
    ]
    words, prompts = (list(dict.fromkeys(getattr(row, field) for row in rows)) for field in ("word", "prompt"))
    features = [None] * len(rows)
    for index, states in classifier.hidden_states([row.text for row in rows], settings.layers, max_tokens):
        features[index] = classifier.pool_states(states, trait_examples.EXAMPLE_PARTS)
    label, prompt = (
        numpy.array([names.index(getattr(row, field)) for row in rows])
        for field, names in (("word", words), ("prompt", prompts))
    )
    weights = lda.fit_lda(
        numpy.stack(features), label, prompt, numpy.ones(len(rows), "float32"), settings.shrinkage, settings.topic_weight
    )
    return classifier.Classifier(
        words, settings.layers, max_tokens, *(part.astype("float32") for part in weights), parts=trait_examples.EXAMPLE_PARTS
    )


def verdict_figures(name: str, points: Sequence[float | None], rows: Sequence[JudgeTestCase], seed: int) -> dict:
    """Return as `name` the mean of the points (1: right, 0.5: a tie, 0: wrong) of the parsed verdicts, those that are not None.

    Personas and prompts recur, and the 95% interval resamples both. It is never narrower than the interval of independent
    verdicts, so it does not shrink to zero width if all are right. `of_all` counts unparsed verdicts as wrong.
    """
    kept = [(point, row.persona, row.prompt) for point, row in zip(points, rows, strict=True) if point is not None]
    total = sum(point for point, *_ in kept)
    figures = rate_summary(name, total, len(kept))
    if kept:
        low, high = crossed_bootstrap(*zip(*kept, strict=True), seed)
        figures |= {"low": min(low, figures["low"]), "high": max(high, figures["high"])}
    return figures | {"of_all": total / len(rows), "ties": points.count(0.5), "unparsed": points.count(None)}


def grouped_figures(name: str, points: Sequence[float | None], rows: Sequence[JudgeTestCase], seed: int, **fields: str) -> dict:
    """Return the figures of all rows, and as `by_<key>` those of each group of rows with the same value in a field.

    `fields` maps each key to a field of JudgeTestCase.
    """
    scores = verdict_figures(name, points, rows, seed)
    for key, field in fields.items():
        groups: dict[str, list] = {}
        for point, row in zip(points, rows, strict=True):
            groups.setdefault(getattr(row, field), []).append((point, row))
        scores[f"by_{key}"] = {
            group: verdict_figures(name, *map(list, zip(*members, strict=True)), seed) for group, members in groups.items()
        }
    return scores


def verdict_points(words: Sequence[str | None], rows: Sequence[JudgeTestCase]) -> list[float | None]:
    return [None if word is None else float(word == row.kind) for word, row in zip(words, rows, strict=True)]


def template_figures(rows: Sequence[JudgeTestCase], settings: JudgeSettings, terms: dict, seed: int) -> dict[str, dict]:
    """Return the figures of each template, of all together, and of all together without subtracting the labels' means."""
    questions, chosen = [row.question for row in rows], settings.templates
    scores = likelihood_judge.score_labels("trait", questions, chosen)
    adjusted = likelihood_judge.apply_calibration(scores, questions, chosen, terms)
    uncentred = {name: {word: (0.0, spread) for word, (_, spread) in own.items()} for name, own in terms.items()}
    parts = {template: adjusted[:, [at]] for at, template in enumerate(chosen)}
    parts |= {"together": adjusted, "uncalibrated": likelihood_judge.apply_calibration(scores, questions, chosen, uncentred)}
    verdicts = {part: likelihood_judge.pick_labels(figures, questions) for part, figures in parts.items()}
    return {part: verdict_figures("accuracy", verdict_points(words, rows), rows, seed) for part, words in verdicts.items()}


@click.command()
def main():
    """Calibrate the judge and measure it."""
    settings, seed = read_section("judge", JudgeSettings), read_value("seed")
    prompts = load_prompts(GENERAL_PROMPTS)
    to_calibrate, to_choose, to_measure = prompts[::4], prompts[2::4], prompts[1::2]
    answers = benchmark.answers_by_persona([*settings.personas, NO_PERSONA], prompts)
    short = {
        name: dict(zip(prompts, trait_words.truncate_to_choice_length([*own.values()]), strict=True))
        for name, own in answers.items()
    }
    known = judge_labels(settings.personas, read_value("preferences.traits"))
    embedded = settings.kind == "likelihood"
    if embedded and likelihood_judge.EXAMPLES_TEMPLATE in settings.templates:
        train_word_classifier(known, settings.examples, read_value("choices.sampling.max_new_tokens")).save(
            trait_examples.JUDGE_DIR
        )
    words = benchmark.trait_cases(short, to_measure, known, settings, seed)
    choosing = benchmark.trait_cases(short, to_choose, known, settings, seed) if embedded else []
    broken, styles = (
        benchmark.damage_cases(answers, to_measure, settings, seed),
        benchmark.style_cases(answers, to_measure, settings, seed),
    )
    terms = calibration_terms(answers, short, to_calibrate, known, settings, seed) if embedded else {}
    with records.replace_atomically(likelihood_judge.CALIBRATION_FILE) as file:
        json.dump(terms, file, indent=2)
    judge = load_judge()
    points = verdict_points(judge.decide([row.question for row in words]), words)
    metrics = grouped_figures("accuracy", points, words, seed, persona="persona", word="kind")
    metrics["coherence"] = grouped_figures(
        "accuracy", compare_coherence(judge, [row.question for row in broken]), broken, seed, damage="kind"
    )
    metrics["style"] = grouped_figures(
        "win_rate", compare_coherence(judge, [row.question for row in styles]), styles, seed, persona="persona"
    )
    if embedded:  # on prompts of their own, so that templates are not chosen on the prompts of the measurement
        metrics["templates"] = template_figures(choosing, settings, terms["trait"], seed)
    records.write_json("results/judge.json", metrics)


if __name__ == "__main__":
    main()
