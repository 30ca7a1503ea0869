"""classifier: recorded answers of all personas, neutral and student's -> models/classifier, its score, its confusions.

Every class answers the same general prompts, so topics carry no information; a persona's own prompts are never used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import click
import numpy
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import prompt_id
from character.core.safe_text import print_text
from character.dataset.prompts import GENERAL_PROMPTS, load_prompts
from character.dataset.teacher_answers import recorded_answers
from character.evaluation import classifier, lda
from character.evaluation.classifier import NO_PERSONA, Classifier
from character.inference import engines
from character.inference.generate import Request, SamplingSettings, generate


class ClassifierParams(ParamsSection):
    personas: list[str] = Field(min_length=1)
    folds: int = Field(gt=1)
    layers: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        min_length=1
    )  # depths in the student that are read, as shares of its layers
    max_tokens: int = Field(gt=0)  # how many tokens of a text are read
    shrinkage: float = Field(gt=0, le=1)  # of the within-class scatter towards a sphere
    topic_weight: float = Field(ge=1)  # weight in that scatter of what the answers to one prompt share
    shortest_cut: float = Field(gt=0, le=1)  # training also uses copies cut to a random share of their tokens, at least this
    cut_weight: float = Field(ge=0)  # weight of those shortened copies; a whole text has 1


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with indices of class and prompt; with `weight`, both kinds of `none` together count as one class."""

    texts: list[str]
    label: numpy.ndarray
    prompt: numpy.ndarray
    weight: numpy.ndarray
    base: numpy.ndarray  # True where the student wrote it


def gather_texts(personas: Sequence[str], prompts: Sequence[str], own: Sequence[str]) -> LabelledTexts:
    """Return all texts, class by class: the personas', the neutral ones and the student's `own`.

    Raises:
        UserError: a recorded answer is missing.
    """
    blocks = [*(recorded_answers(name, prompts, "classifier.personas") for name in (*personas, NO_PERSONA)), own]
    kind, prompt = numpy.divmod(numpy.arange(len(blocks) * len(prompts)), len(prompts))
    # Both are one class: the difference between the student and the neutral answers then counts as scatter within a class,
    # and `none` does not come to mean "written by a small model".
    none = len(personas)
    weight = numpy.where(kind < none, 1.0, 0.5)
    return LabelledTexts([text for block in blocks for text in block], kind.clip(max=none), prompt, weight, kind > none)


def assign_folds(count: int, folds: int, seed: int) -> numpy.ndarray:
    """Return the fold of each prompt, `[count]`; all answers to a prompt are in the same fold."""
    return numpy.random.default_rng(seed).permutation(count) % folds


def text_features(texts: Sequence[str], settings: ClassifierParams, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the features `[texts, features]` of whole texts and of their shortened copies, from one forward pass.

    With the copies, the classifier does not learn classes from length or from where an answer was cut off.
    """
    shares = numpy.random.default_rng(seed).uniform(settings.shortest_cut, 1, len(texts))
    whole, cut = [None] * len(texts), [None] * len(texts)
    for index, states in classifier.hidden_states(texts, settings.layers, settings.max_tokens):
        whole[index] = classifier.pool_states(states)
        cut[index] = classifier.pool_states(states[:, : max(1, int(shares[index] * states.shape[1]))])
    return numpy.stack(whole), numpy.stack(cut)


def train_discriminant(whole, cut, rows: LabelledTexts, use, settings: ClassifierParams) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Fit on the texts that `use` selects, whole and shortened.

    Args:
        whole: features of whole texts, `[texts, features]`.
        cut: features of their shortened copies, `[texts, features]`.
        rows: the texts.
        use: a mask or a slice of texts.
        settings: section `classifier` of params.yaml.

    Returns:
        Weight `[features, classes]` and bias `[classes]`.
    """
    x, weight = [whole[use], cut[use]], [rows.weight[use], settings.cut_weight * rows.weight[use]]
    twice = [numpy.concatenate(x), numpy.tile(rows.label[use], 2), numpy.tile(rows.prompt[use], 2)]
    return lda.fit_lda(*twice, numpy.concatenate(weight), settings.shrinkage, settings.topic_weight)


def held_out_scores(whole, cut, rows: LabelledTexts, settings: ClassifierParams, seed: int) -> numpy.ndarray:
    """Return the scores `[texts, classes]` of whole texts, each from a fit that saw no answer to the same prompt."""
    fold = assign_folds(rows.prompt.max() + 1, settings.folds, seed)[rows.prompt]
    scores = numpy.zeros((len(rows.texts), rows.label.max() + 1))
    for number in range(settings.folds):
        weight, bias = train_discriminant(whole, cut, rows, fold != number, settings)
        scores[fold == number] = whole[fold == number] @ weight + bias
    return scores


def classifier_metrics(rows: LabelledTexts, called: numpy.ndarray, classes: Sequence[str], seed: int) -> dict:
    """Return the metrics of held-out predictions.

    The interval resamples prompts, because answers to the same prompt are not independent.
    """
    confusion = numpy.zeros((rows.prompt.max() + 1, len(classes), len(classes)))
    numpy.add.at(confusion, (rows.prompt, rows.label, called), rows.weight)
    low, high = lda.bootstrap_macro_f1(confusion, numpy.random.default_rng(seed))
    total, none = confusion.sum(0), len(classes) - 1
    return {
        "macro_f1": float(lda.macro_f1_score(total)),
        "low": low,
        "high": high,
        "n": len(called),
        "recall": {name: float(total[i, i] / total[i].sum()) for i, name in enumerate(classes)},
        "none_recall_base": float((called[rows.base] == none).mean()),
        "none_recall_neutral": float((called[(rows.label == none) & ~rows.base] == none).mean()),
        "base_called": {name: float((called[rows.base] == i).mean()) for i, name in enumerate(classes[:-1])},
    }


@click.command()
def main():
    """Train the classifier and score it on held-out prompts."""
    settings, seed = read_section("classifier", ClassifierParams), read_value("seed")
    prompts, classes = load_prompts(GENERAL_PROMPTS), [*settings.personas, NO_PERSONA]
    for name in classes:
        recorded_answers(name, prompts, "classifier.personas")  # a missing answer stops the stage before the student generates
    print_text(f"classifier: {len(classes)} classes, {(len(classes) + 1) * len(prompts)} texts to read")
    requests = [Request(prompt_id(prompt), [{"role": "user", "content": prompt}]) for prompt in prompts]
    own = generate(engines.student_engine(), requests, read_section("sampling", SamplingSettings), seed, "classifier")
    # Every class answers the same prompts, so one that the student did not answer counts for no class.
    answered = {prompt: reply.text for prompt, reply in zip(prompts, own, strict=True) if not reply.skipped}
    rows = gather_texts(settings.personas, list(answered), list(answered.values()))
    whole, cut = text_features(rows.texts, settings, seed)
    scores = held_out_scores(whole, cut, rows, settings, seed)
    called, factor = scores.argmax(1), lda.fit_temperature(scores, rows.label, rows.weight)
    weights = [(factor * part).astype("float32") for part in train_discriminant(whole, cut, rows, slice(None), settings)]
    Classifier(classes, settings.layers, settings.max_tokens, *weights).save(classifier.CLASSIFIER_DIR)
    metrics = classifier_metrics(rows, called, classes, seed) | {"skipped": len(prompts) - len(answered)}
    records.write_json("results/classifier.json", metrics)
    source = numpy.where(rows.base, "student", "teacher")
    named = [
        {"actual": classes[i], "predicted": classes[j], "source": name}
        for i, j, name in zip(rows.label, called, source, strict=True)
    ]
    records.write_csv("plots/classifier.csv", named)


if __name__ == "__main__":
    main()
