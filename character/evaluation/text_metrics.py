"""Figures of well-formed text that no judge is asked for."""

import math
from collections.abc import Sequence

PAIR, RUN = 2, 4  # words


def perplexity(logps: Sequence[Sequence[float]]) -> float:
    """Return the perplexity per token of texts, given the log-probabilities (nats) of their tokens."""
    return math.exp(-sum(map(sum, logps)) / max(1, sum(map(len, logps))))


def distinct(texts: Sequence[str], words: int) -> float:
    """Return the share of distinct pairs among the pairs of neighbouring words (distinct-2, arXiv 1510.03055).

    Of the first `words` words of each text alone: the share falls with the amount of text, and methods differ in length.
    """
    pairs = [pair for text in texts for pair in _runs(text.split()[:words], PAIR)]
    return len(set(pairs)) / max(1, len(pairs))


def repetition(texts: Sequence[str]) -> float:
    """Return the share of runs of four words that occurred before in the same text, as a mean over texts."""
    return sum(map(_repetition, texts)) / max(1, len(texts))


def _repetition(text: str) -> float:
    runs = _runs(text.split(), RUN)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    lower = [word.lower() for word in words]
    return list(zip(*(lower[start:] for start in range(n)), strict=False))
