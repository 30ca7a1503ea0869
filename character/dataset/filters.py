"""Filters of generated texts. Each fault has a name, the reason under which a dropped text is counted."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import Field

from character.core.params import ParamsSection
from character.core.records import Completion
from character.dataset.reasoning import holds_reasoning

TEACHER_REFUSAL = re.compile(
    r"\b(I(?:['’]m| am) sorry,? but|as an AI(?: language model)?,? I"
    r"|I(?: cannot| can['’]t| can not|(?:['’]m| am) (?:unable|not able) to) "
    r"(?:assist|help (?:you|with)|answer|provide|fulfill?|comply))\b",  # "I can't help smiling" is not a refusal
    re.IGNORECASE,
)
TURN_MARKER = re.compile(
    r"^\s*(?:User|Assistant|Human|System|AI)\s*:|<\|im_(?:start|end)\|>|<(?:start|end)_of_turn>", re.MULTILINE
)
SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]*]*(?=\s|$)|(?<![:,])\n(?=\s*\n)")
# The number of a list item looks like the end of a sentence, but begins one.
LIST_NUMBER = re.compile(r"(?:^|[.!?]\s)\s*[*_#]*\d+\.[*_]*\Z", re.MULTILINE)


class FilterSettings(ParamsSection):
    """When a text is dropped: over `max_tokens`, or the same `ngram` words occur more than `repeats` times."""

    max_tokens: int = Field(gt=0)
    ngram: int = Field(gt=0)
    repeats: int = Field(gt=0)


def drop_reasons(text: str, finish_reason: str, tokens: int, before: Sequence[str], filters: FilterSettings) -> Iterator[str]:
    """Yield every reason to drop `text`.

    Args:
        finish_reason: that of the reply; `skipped` is the only reason to drop a reply that is not there.
        tokens: The length of the text in tokens.
        before: The prompt or the earlier turns, which the text must not copy.
    """
    if finish_reason == "skipped":
        yield "skipped"
        return
    if finish_reason == "length":
        yield "unfinished"
    if not text.strip():
        yield "empty"
    if tokens > filters.max_tokens:
        yield "too_long"
    if TEACHER_REFUSAL.search(text[:200]):
        yield "refusal"
    if TURN_MARKER.search(text):
        yield "hallucinated_turn"
    if max_ngram_count(text, filters.ngram) > filters.repeats:
        yield "repetition"
    if any(is_copy_of(text, earlier) for earlier in before):
        yield "copied_turn"
    if holds_reasoning(text):
        yield "leaked_reasoning"


def max_ngram_count(text: str, n: int) -> int:
    """Return how often the most frequent n-gram of words occurs."""
    return max(Counter(_word_ngrams(text, n)).values(), default=0)


def is_copy_of(text: str, other: str, n: int = 4, share: float = 0.5) -> bool:
    """Return whether at least `share` of the word n-grams of `text` occur in `other`, or both are equal if it has none."""
    ngrams = _word_ngrams(text, n)
    if not ngrams:
        return text.split() == other.split()
    known = set(_word_ngrams(other, n))
    return sum(ngram in known for ngram in ngrams) >= share * len(ngrams)


def trim_to_sentence(text: str) -> str:
    """Return `text` up to the end of its last complete sentence; empty if it has none."""
    ends = [match.end() for match in SENTENCE_END.finditer(text) if not LIST_NUMBER.search(text, 0, match.end())]
    return text[: ends[-1]].rstrip() if ends else ""


def trim_completion(answer: Completion) -> Completion:
    """Return the answer; if it was cut off, only up to the end of its last complete sentence."""
    if answer.finish_reason != "length":
        return answer
    return answer.model_copy(update={"response": trim_to_sentence(answer.response), "finish_reason": "stop"})


def replace_names(text: str, names: Sequence[str], name: str) -> str:
    """Replace each of `names`, as a whole word, with `name`: those of the teacher with that of the student."""
    if not names:
        return text
    longest_first = sorted(names, key=len, reverse=True)
    return re.sub(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", lambda _: name, text)


def _word_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
