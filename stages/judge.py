"""judge: recorded answers, trait words -> models/judge (a calibration), results/judge.json (how often the judge is right).

About traits: of a persona's word and another persona's, does it name the first for an answer recorded in character, cut to the
length of `choices`? About coherence: does it prefer a recorded answer to itself with its words shuffled or its sentences
reversed, and to the answer to another prompt? That leaves the style as it is, so a third figure tells what style is worth: how
often it prefers an answer in character to a neutral one. Calibration, choice of templates and measurement share no prompt.
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
    """Return by word what the judge may have to say: the traits in use, and the words of the personas."""
    every = trait_words.load_trait_words()
    known = {trait.word: VerdictLabel.from_trait(trait) for trait in every}
    own = [word for words in personas.values() for word in words]
    if unknown := [word for word in own if word not in known]:
        raise UserError(
            f"params.yaml: judge.personas: {unknown[0]!r} is no word of {trait_words.TRAIT_WORDS_FILE}; add it there."
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
    """Return what the likelihood judge subtracts: about traits over short texts, about coherence over pairs of whole answers.

    Half of the texts are neutral, the others are those of all personas in turn.
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
    """Return a classifier of the trait words in use, learned from the written examples of them."""
    rows = [
        row
        for row in records.read_records(trait_examples.TRAIT_EXAMPLES_FILE, trait_examples.TraitExample)
        if row.word in wanted
    ]
    words, prompts = (list(dict.fromkeys(getattr(row, field) for row in rows)) for field in ("word", "prompt"))
    found = [None] * len(rows)
    for index, states in classifier.hidden_states([row.text for row in rows], settings.layers, max_tokens):
        found[index] = classifier.pool_states(states, trait_examples.EXAMPLE_PARTS)
    label, prompt = (
        numpy.array([names.index(getattr(row, field)) for row in rows])
        for field, names in (("word", words), ("prompt", prompts))
    )
    weights = lda.fit_lda(
        numpy.stack(found), label, prompt, numpy.ones(len(rows), "float32"), settings.shrinkage, settings.topic_weight
    )
    return classifier.Classifier(
        words, settings.layers, max_tokens, *(part.astype("float32") for part in weights), parts=trait_examples.EXAMPLE_PARTS
    )


def verdict_figures(name: str, points: Sequence[float | None], rows: Sequence[JudgeTestCase], seed: int) -> dict:
    """Return as `name` the mean point (1: right, 0.5: a tie, 0: wrong) of the verdicts that could be read (not None).

    Personas and prompts recur, and the 95% interval draws both; but it is no narrower than for verdicts that share nothing,
    and so does not vanish where all are right. `of_all` takes what could not be read for wrong.
    """
    kept = [(point, row.persona, row.prompt) for point, row in zip(points, rows, strict=True) if point is not None]
    total = sum(point for point, *_ in kept)
    found = rate_summary(name, total, len(kept))
    if kept:
        low, high = crossed_bootstrap(*zip(*kept, strict=True), seed)
        found |= {"low": min(low, found["low"]), "high": max(high, found["high"])}
    return found | {"of_all": total / len(rows), "ties": points.count(0.5), "unparsed": points.count(None)}


def grouped_figures(name: str, points: Sequence[float | None], rows: Sequence[JudgeTestCase], seed: int, **fields: str) -> dict:
    """Return the figures of all rows, and as `by_<key>` those of the rows that are alike in a field of Case."""
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
    """Return the figures of each template alone, of all together, and of all where no label's mean is subtracted."""
    asked, chosen = [row.judged for row in rows], settings.templates
    scores = likelihood_judge.score_labels("trait", asked, chosen)
    adjusted = likelihood_judge.apply_calibration(scores, asked, chosen, terms)
    leaning = {name: {word: (0.0, spread) for word, (_, spread) in own.items()} for name, own in terms.items()}
    parts = {template: adjusted[:, [at]] for at, template in enumerate(chosen)}
    parts |= {"together": adjusted, "uncalibrated": likelihood_judge.apply_calibration(scores, asked, chosen, leaning)}
    said = {part: likelihood_judge.pick_labels(found, asked) for part, found in parts.items()}
    return {part: verdict_figures("accuracy", verdict_points(words, rows), rows, seed) for part, words in said.items()}


@click.command()
def main():
    """Calibrate the judge, and measure it."""
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
    points = verdict_points(judge.decide([row.judged for row in words]), words)
    metrics = grouped_figures("accuracy", points, words, seed, persona="persona", word="kind")
    metrics["coherence"] = grouped_figures(
        "accuracy", compare_coherence(judge, [row.judged for row in broken]), broken, seed, damage="kind"
    )
    metrics["style"] = grouped_figures(
        "win_rate", compare_coherence(judge, [row.judged for row in styles]), styles, seed, persona="persona"
    )
    if embedded:  # on prompts of their own: to choose templates by, without a look at what is measured
        metrics["templates"] = template_figures(choosing, settings, terms["trait"], seed)
    records.write_json("results/judge.json", metrics)


if __name__ == "__main__":
    main()
