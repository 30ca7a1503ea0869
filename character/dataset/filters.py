"""What is wrong with a generated text, told as one reason, so that every drop can be counted."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import Field

from character.core.params import Section
from character.core.records import Completion

REFUSAL = re.compile(
    r"\b(I(?:['’]m| am) sorry,? but|as an AI(?: language model)?,? I"
    r"|I(?: cannot| can['’]t| can not|(?:['’]m| am) (?:unable|not able) to) "
    r"(?:assist|help (?:you|with)|answer|provide|fulfill?|comply))\b",  # "I can't help smiling" is none
    re.IGNORECASE,
)
TURN = re.compile(r"^\s*(?:User|Assistant|Human|System|AI)\s*:|<\|im_(?:start|end)\|>|<(?:start|end)_of_turn>", re.MULTILINE)
REASONING = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]*]*(?=\s|$)|(?<![:,])\n(?=\s*\n)")
LIST_NUMBER = re.compile(r"(?:^|[.!?]\s)\s*[*_#]*\d+\.[*_]*\Z", re.MULTILINE)  # looks like a sentence's end, opens one


class Filters(Section):
    """When a text is dropped. `repeats`: how often the same `ngram` words may occur."""

    max_tokens: int = Field(gt=0)
    ngram: int = Field(gt=0)
    repeats: int = Field(gt=0)


def faults(text: str, finish_reason: str, tokens: int, before: Sequence[str], filters: Filters) -> Iterator[str]:
    """Yield every reason against `text`; `before` holds the prompt or the turns that it must not copy."""
    if finish_reason == "length":
        yield "unfinished"
    if not text.strip():
        yield "empty"
    if tokens > filters.max_tokens:
        yield "too_long"
    if REFUSAL.search(text[:200]):
        yield "refusal"
    if TURN.search(text):
        yield "hallucinated_turn"
    if repeats(text, filters.ngram) > filters.repeats:
        yield "repetition"
    if any(copies(text, earlier) for earlier in before):
        yield "copied_turn"
    if REASONING.search(text):
        yield "leaked_reasoning"


def repeats(text: str, n: int) -> int:
    """Return how often the commonest run of `n` words occurs."""
    return max(Counter(_ngrams(text, n)).values(), default=0)


def copies(text: str, other: str, n: int = 4, share: float = 0.5) -> bool:
    """Return whether at least `share` of the runs of `n` words of `text` stand in `other`, or the texts are equal."""
    runs = _ngrams(text, n)
    if not runs:
        return text.split() == other.split()
    known = set(_ngrams(other, n))
    return sum(run in known for run in runs) >= share * len(runs)


def trimmed(text: str) -> str:
    """Return `text` up to its last complete sentence; empty where it has none."""
    ends = [match.end() for match in SENTENCE_END.finditer(text) if not LIST_NUMBER.search(text, 0, match.end())]
    return text[: ends[-1]].rstrip() if ends else ""


def trim_completion(answer: Completion) -> Completion:
    """Return a cut-off answer up to its last whole sentence."""
    if answer.finish_reason == "stop":
        return answer
    return answer.model_copy(update={"response": trimmed(answer.response), "finish_reason": "stop"})


def renamed(text: str, names: Sequence[str], name: str) -> str:
    """Replace each of the teacher's `names`, as a whole word, by the student's."""
    if not names:
        return text
    longest_first = sorted(names, key=len, reverse=True)
    return re.sub(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", lambda _: name, text)


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
