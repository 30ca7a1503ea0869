"""Metrics of well-formed text that need no judge."""

import math
from collections.abc import Sequence

from character.dataset.segmentation import first_words, word_ngrams

DISTINCT_N, REPETITION_N = 2, 4  # words


def token_perplexity(logps: Sequence[Sequence[float]]) -> float:
    """Return the perplexity per token of texts, given the log-probabilities (nats) of their tokens."""
    return math.exp(-sum(map(sum, logps)) / max(1, sum(map(len, logps))))


def distinct_bigram_share(texts: Sequence[str], words: int) -> float:
    """Return the share of distinct pairs among all pairs of adjacent words (distinct-2, arXiv 1510.03055).

    Only the first `words` words of each text count: the share falls with the amount of text, and methods differ in length.
    """
    pairs = [pair for text in texts for pair in word_ngrams(first_words(text, words), DISTINCT_N)]
    return len(set(pairs)) / max(1, len(pairs))


def mean_repetition(texts: Sequence[str]) -> float:
    """Return the mean over texts of the share of 4-grams of words that repeat an earlier one of the same text."""
    return sum(map(_text_repetition, texts)) / max(1, len(texts))


def _text_repetition(text: str) -> float:
    runs = word_ngrams(text, REPETITION_N)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
