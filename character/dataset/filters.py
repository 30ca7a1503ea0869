"""Filters of generated texts. Each fault has a name, the reason under which a dropped text is counted."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from unicodedata import normalize

import regex
from pydantic import Field

from character.core.errors import UserError
from character.core.params import ParamsSection
from character.core.records import Completion
from character.dataset.reasoning import holds_reasoning
from character.dataset.segmentation import SENTENCE_END, UNSPACED_SCRIPTS, word_ngrams

TEACHER_REFUSAL = re.compile(
    r"\b(I(?:['’]m| am) sorry,? but|as an AI(?: language model)?,? I"
    r"|I(?: cannot| can['’]t| can not|(?:['’]m| am) (?:unable|not able) to) "
    r"(?:assist|help (?:you|with)|answer|provide|fulfill?|comply))\b",  # "I can't help smiling" is not a refusal
    re.IGNORECASE,
)
TURN_MARKER = re.compile(
    r"^\s*(?:User|Assistant|Human|System|AI)\s*:|<\|im_(?:start|end)\|>|<(?:start|end)_of_turn>", re.MULTILINE
)
# Scripts that write words, or particles after a name, without a space between them.
JOINING_SCRIPTS = rf"{UNSPACED_SCRIPTS}\p{{Hangul}}"
# The number of a list item looks like the end of a sentence, but begins one.
LIST_NUMBER = regex.compile(r"(?:^|[.!?]\s|[。！？।])\s*[*_#]*\d+[.．][*_]*\Z", regex.MULTILINE)


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
    return max(Counter(word_ngrams(text, n)).values(), default=0)


def is_copy_of(text: str, other: str, n: int = 4, share: float = 0.5) -> bool:
    """Return whether at least `share` of the word n-grams of `text` occur in `other`, or both are equal if it has none."""
    ngrams = word_ngrams(text, n)
    if not ngrams:
        return text.split() == other.split()
    known = set(word_ngrams(other, n))
    return sum(ngram in known for ngram in ngrams) >= share * len(ngrams)


def trim_to_sentence(text: str) -> str:
    """Return `text` up to the end of its last complete sentence; empty if it has none."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    last = next((end for end in reversed(ends) if not LIST_NUMBER.search(text, 0, end)), 0)
    return text[:last].rstrip()


def trim_completion(answer: Completion) -> Completion:
    """Return the answer; if it was cut off, only up to the end of its last complete sentence."""
    if answer.finish_reason != "length":
        return answer
    return answer.model_copy(update={"response": trim_to_sentence(answer.response), "finish_reason": "stop"})


def check_teacher_names(names: Sequence[str], student: str) -> None:
    """Raise a UserError for a name that is empty, given twice, or a part of the student's name."""
    for name in names:
        if not name or name != name.strip():
            raise UserError(f"params.yaml: teacher.names has {name!r}; remove it, or the spaces around it.")
        if names.count(name) > 1:
            raise UserError(f"params.yaml: teacher.names has {name!r} twice; remove one.")
        if replace_names(student, [name], "") != student:
            raise UserError(f"params.yaml: teacher.names has {name!r}, a part of student.name ({student}); remove it.")


def replace_names(text: str, names: Sequence[str], name: str) -> str:
    """Replace each of `names`, as a whole word, with `name`: those of the teacher with that of the student.

    A name counts as it is given and in capitals, with its accents composed or not. Where words are not separated, as in Chinese
    text or before a Korean particle, letters of another script end a word too.
    """
    if not names:
        return text
    forms = {normalize(form, written) for given in names for written in (given, given.upper()) for form in ("NFC", "NFD")}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return regex.sub(f"(?V1){'|'.join(map(_whole_word, longest_first))}", lambda _: name, text)


def _whole_word(word: str) -> str:
    """Return a pattern for `word` where no letter continues it."""

    def barrier(letter: str) -> str:
        if regex.match(r"\p{Katakana}", letter):
            return r"[\p{Katakana}ー]"
        return "(?!)" if regex.match(rf"(?V1)[{JOINING_SCRIPTS}]", letter) else rf"[\w--[{JOINING_SCRIPTS}]]"

    return f"(?<!{barrier(word[0])}){regex.escape(word)}(?!{barrier(word[-1])})"
