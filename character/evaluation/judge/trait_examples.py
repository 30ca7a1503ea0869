"""Example texts for each trait word, and how similar another text is to them.

Each trait word has an answer in its manner to each of the same few prompts. A linear discriminant on the frozen student's
hidden states learns the words from these answers, as the classifier learns personas.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from character.core.errors import UserError
from character.core.records import Record
from character.evaluation import classifier

if TYPE_CHECKING:
    import numpy

TRAIT_EXAMPLES_FILE = "data/raw/manners.jsonl"
JUDGE_DIR = Path("models/judge")
EXAMPLE_PARTS = 1  # parts of a text with features of their own: there are too few examples to learn from more


class TraitExample(Record):
    """An answer to a prompt, in the manner of `word`."""

    word: str
    prompt: str
    text: str


def example_similarity(texts: Sequence[str], words: Sequence[Sequence[str]]) -> "numpy.ndarray":
    """Return how similar each text is to the examples of each of its words, `[texts, words]`.

    The scores of different words are not comparable before calibration.

    Raises:
        UserError: a word has no examples.
    """
    import numpy

    reader = classifier.load_classifier(JUDGE_DIR)
    place = {word: at for at, word in enumerate(reader.classes)}
    if unknown := [word for row in words for word in row if word not in place]:
        raise UserError(
            f"{TRAIT_EXAMPLES_FILE}: no example of {unknown[0]!r}; add some, or remove `examples` from judge.templates."
        )
    once = list(dict.fromkeys(texts))
    scores = dict(zip(once, reader.class_scores(once), strict=True))
    return numpy.array([scores[text][[place[word] for word in row]] for text, row in zip(texts, words, strict=True)])
