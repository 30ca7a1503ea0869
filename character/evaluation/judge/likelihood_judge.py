"""The default judge: it compares the student's log-probabilities of replies that name a label, and generates nothing.

Each label is represented by several synonyms, because a small student knows some words better than others; their mean counts.
Some labels are more likely than others for any text, so each label's mean over neutral and mixed texts is subtracted
(contextual calibration, arXiv 2102.09690). The scores of several reply templates are averaged in units of their spread over
those texts.

For traits, `examples` may be one of the templates. It is not a reply: it scores how similar the text is to texts written in the
manner of each label (see character/evaluation/judge/trait_examples.py). It is wrong about other texts than the replies are.
"""

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from character.core.errors import UserError
from character.evaluation.judge import trait_examples
from character.evaluation.judge.questions import COHERENCE_CRITERION, JUDGE_SYSTEM_PROMPT, JudgeQuestion
from character.inference.log_probs import ending_log_probs

if TYPE_CHECKING:
    from numpy import ndarray

CALIBRATION_FILE = Path("models/judge/calibration.json")
EXAMPLES_TEMPLATE = "examples"  # listed with the templates: similarity to example texts
QuestionKind = Literal["trait", "coherence"]
ShownFields = dict[str, str]
CalibrationTerms = dict[str, dict[str, tuple[float, float]]]  # template -> word -> mean and spread, in nats

# The question as the student reads it; it names no label.
QUESTION_HEADS: dict[QuestionKind, Callable[[ShownFields], str]] = {
    "trait": lambda shown: f"Text:\n{shown['text']}\n\nIn what manner is this text written?",
    "coherence": lambda shown: (
        f"Question:\n{shown['prompt']}\n\nAnswer A:\n{shown['first']}\n\nAnswer B:\n{shown['second']}\n\n{COHERENCE_CRITERION}"
    ),
}

REPLY_TEMPLATES: dict[QuestionKind, dict[str, Callable[[str], str]]] = {
    "trait": {
        "bare": lambda word: word.capitalize(),
        "tone": lambda word: f"The tone is {word}",
        "writer": lambda word: f"Whoever wrote this is {word}",
        "manner": lambda word: f"This text is written in a manner that is {word}",
    },
    "coherence": {
        "bare": lambda word: word,
        "answer": lambda word: f"Answer {word}",
        "better": lambda word: f"The more coherent answer is {word}",
    },
}


class LikelihoodJudge:
    """Chooses the label with the higher calibrated score; only a question that exceeds the student's context has no verdict."""

    def __init__(self, chosen: Sequence[str], calibration: dict[QuestionKind, CalibrationTerms]):
        self._chosen, self._calibration = chosen, calibration

    @classmethod
    def load_calibrated(cls, chosen: Sequence[str]) -> "LikelihoodJudge":
        """Return the judge with the calibration that the stage `judge` wrote.

        Raises:
            UserError: the calibration is missing.
        """
        if not CALIBRATION_FILE.is_file():
            raise UserError(f"{CALIBRATION_FILE} is missing; run `dvc repro judge`, or `dvc pull` to fetch it.")
        return cls(chosen, json.loads(CALIBRATION_FILE.read_text(encoding="utf-8")))

    def decide(self, questions: Sequence[JudgeQuestion]) -> list[str | None]:
        if not questions:
            return []
        about = questions[0].about
        scores = score_labels(about, questions, self._chosen)
        return pick_labels(
            apply_calibration(scores, questions, template_names(about, self._chosen), self._calibration[about]), questions
        )


def template_names(about: QuestionKind, chosen: Sequence[str]) -> list[str]:
    """Return the templates for a kind of question: the `chosen` ones for traits, all for coherence."""
    if about != "trait":
        return list(REPLY_TEMPLATES[about])
    known = [*REPLY_TEMPLATES[about], EXAMPLES_TEMPLATE]
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(f"params.yaml: judge.templates: {unknown[0]!r} is not one of {', '.join(known)}; correct it.")
    return list(chosen)


def score_labels(about: QuestionKind, questions: Sequence[JudgeQuestion], chosen: Sequence[str]) -> "ndarray":
    """Return uncalibrated scores `[questions, templates, labels]`; all questions must have the same number of labels.

    They are NaN for a question that exceeds the student's context.
    """
    import numpy

    names = template_names(about, chosen)
    replies = [name for name in names if name != EXAMPLES_TEMPLATE]
    scores = (
        dict(zip(replies, numpy.moveaxis(_label_log_probs(about, questions, replies), 1, 0), strict=True)) if replies else {}
    )
    if EXAMPLES_TEMPLATE in names:
        words = [[label.word for label in question.labels] for question in questions]
        scores[EXAMPLES_TEMPLATE] = trait_examples.example_similarity([question.shown["text"] for question in questions], words)
    return numpy.stack([scores[name] for name in names], axis=1)


def _label_log_probs(about: QuestionKind, questions: Sequence[JudgeQuestion], templates: Sequence[str]) -> "ndarray":
    """Return log-probabilities of the replies in nats, `[questions, templates, labels]`; each is the mean over a label's words.

    A text that several questions share is read once, with the labels of all of them.
    """
    import numpy

    heads = [QUESTION_HEADS[about](question.shown) for question in questions]
    words: dict[str, dict[str, None]] = {head: {} for head in heads}
    for head, question in zip(heads, questions, strict=True):
        words[head] |= dict.fromkeys(word for label in question.labels for word in label.all_words)
    prompts = [[{"role": "system", "content": JUDGE_SYSTEM_PROMPT}, {"role": "user", "content": head}] for head in words]
    endings = [[REPLY_TEMPLATES[about][name](word) for name in templates for word in own] for own in words.values()]
    logps = {
        head: dict(zip(product(templates, own), row, strict=True))
        for (head, own), row in zip(words.items(), ending_log_probs(prompts, endings), strict=True)
    }
    return numpy.array(
        [
            [[fmean(logps[head][name, word] for word in label.all_words) for label in question.labels] for name in templates]
            for head, question in zip(heads, questions, strict=True)
        ]
    )


def fit_calibration(
    questions: Sequence[JudgeQuestion], chosen: Sequence[str], how: Literal["mean", "scaled"]
) -> CalibrationTerms:
    """Return the mean and the spread by which each label's scores are calibrated: `(score - mean) / spread`.

    Both are rounded, so that processors that sum in different orders write the same file.

    Args:
        questions: about neutral and mixed texts, each with all labels.
        chosen: the templates for traits.
        how: the spread is pooled over all labels (`mean`) or each label's own (`scaled`).

    Raises:
        UserError: all texts get the same score, so there is no spread.
    """
    import numpy

    about, labels = questions[0].about, questions[0].labels
    scores = score_labels(about, questions, chosen)
    scores = scores[~numpy.isnan(scores).any((1, 2))]
    means, spreads = scores.mean(0), scores.std(0)
    if how == "mean":
        spreads = numpy.broadcast_to(numpy.sqrt((spreads**2).mean(1, keepdims=True)), spreads.shape)
    terms = numpy.stack([means, spreads], axis=-1).round(6)
    words, templates = [label.word for label in labels], template_names(about, chosen)
    if flat := [name for name, own in zip(templates, terms[..., 1], strict=True) if not (own > 0).all()]:
        raise UserError(
            f"params.yaml: judge.calibration_texts: all texts get the same score from template {flat[0]!r} ({about}); raise it."
        )
    return {name: dict(zip(words, row, strict=True)) for name, row in zip(templates, terms.tolist(), strict=True)}


def apply_calibration(
    scores: "ndarray", questions: Sequence[JudgeQuestion], templates: Sequence[str], terms: CalibrationTerms
) -> "ndarray":
    """Return calibrated scores, in the shape of `scores`: `[questions, templates, labels]`.

    Raises:
        UserError: a template or a word was not calibrated.
    """
    import numpy

    try:
        own = [[[terms[name][label.word] for label in row.labels] for name in templates] for row in questions]
    except KeyError as missing:
        raise UserError(f"{CALIBRATION_FILE}: {missing} was not calibrated; run `dvc repro judge`.") from None
    mean, spread = numpy.moveaxis(numpy.array(own), -1, 0)
    return (scores - mean) / spread


def pick_labels(scores: "ndarray", questions: Sequence[JudgeQuestion]) -> list[str | None]:
    """Return for each question the word of the label with the highest mean score over the templates, None without scores."""
    import numpy

    means = scores.mean(1)
    best, scored = means.argmax(1), ~numpy.isnan(means).any(1)
    return [question.labels[at].word if known else None for question, at, known in zip(questions, best, scored, strict=True)]
