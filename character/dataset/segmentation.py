"""Words and sentences in any script, by the properties that Unicode gives to characters (UAX #14, #24 and #29).

In most scripts, a word is what stands between spaces. Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and others write no
spaces between words, which only a dictionary could find. Their characters (grapheme clusters) count instead, each as a part of
a word, so that "four words" is a similar amount of text everywhere: eight Chinese characters, or twelve Thai ones.
"""

from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import accumulate, pairwise

import regex

IDEOGRAPHS = r"\p{Han}\p{Yi}"
# LB=SA are the scripts of South East Asia that UAX #14 breaks with a dictionary. The long vowel mark is of no single script.
UNSPACED_SCRIPTS = rf"{IDEOGRAPHS}\p{{Hiragana}}\p{{Katakana}}\p{{Bopomofo}}ー\p{{LB=SA}}[\p{{Tibetan}}&&\p{{L}}]"
WORD, IDEOGRAPH, CHARACTER = 6, 3, 2  # sixths of a word

_IDEOGRAPH = regex.compile(f"(?V1)[{IDEOGRAPHS}]")
_UNSPACED = regex.compile(f"(?V1)[{UNSPACED_SCRIPTS}]")
_SIGNS = r"[\p{P}\p{S}]*"  # stay with the character that they follow, as they stay with a word
_UNIT = regex.compile(rf"(?V1){_SIGNS}(?=[{UNSPACED_SCRIPTS}])\X{_SIGNS}|(?:(?!{_SIGNS}[{UNSPACED_SCRIPTS}])\S)+")
_UNSPACED_RUN = regex.compile(rf"(?V1)(?:(?=[{UNSPACED_SCRIPTS}])\X)+")
_WORD = regex.compile(r"[\w\p{No}]{2,}")  # unlike `re`, takes the vowel signs of Indic scripts as parts of words
_ASCII_SIGNS = ".,;:!?\"'()"
_EDGE_SIGNS = regex.compile(rf"(?V1)^[{_ASCII_SIGNS}[\p{{P}}--\p{{ASCII}}]]+|[{_ASCII_SIGNS}[\p{{P}}--\p{{ASCII}}]]+$")

# An end of a sentence: a mark with its closing quotes and brackets. Marks that also stand within words or numbers count before
# a space only. Thai and Lao have no such mark, but leave spaces between clauses.
_CLOSING = r"""["'”’)\]*[\p{Pe}\p{Pf}\p{Pi}--\p{ASCII}]]*"""
_OWN_MARKS = r"[\p{SB=STerm}།༎--[!.?၊]]"  # Myanmar's first sign is a comma
SENTENCE_END = regex.compile(
    rf"""(?x)(?V1)
    (?: [.!?…] | (?<=\p{{Greek}})[;\u037e] | (?<=\p{{Armenian}}): ){_CLOSING}(?=\s|$)
    | {_OWN_MARKS}[\p{{SB=STerm}}.…]*{_CLOSING} | ．(?!\p{{N}}){_CLOSING}
    | (?<=[{UNSPACED_SCRIPTS}])[!?]+{_CLOSING}
    | (?<=[\p{{Thai}}\p{{Lao}}--[ๆໆ]])(?=\n|[ ]+[\p{{Thai}}\p{{Lao}}--[ๆໆ]])
    | (?<![:,：，；、،])\n(?=\s*\n)"""
)
SENTENCE_BREAK = regex.compile(rf"(?V1)(?<=[.!?])\s+|(?<={_OWN_MARKS})\s*(?!$)")


def split_units(text: str) -> list[str]:
    """Return the words of a text; of scripts without spaces, the characters with their punctuation."""
    return _UNIT.findall(text) if _is_unspaced(text) else text.split()


def count_words(text: str) -> int:
    """Return the number of words, which is estimated for scripts without spaces."""
    return -(-sum(map(_unit_size, split_units(text))) // WORD)


def first_words(text: str, count: int) -> str:
    """Return the first `count` words, separated by spaces."""
    units = split_units(text)
    return " ".join(units[: bisect_right(_unit_ends(units), count * WORD)])


def drop_last_word(text: str) -> str:
    """Return the text without its last word, or last character where no spaces are written; a single word is kept."""
    last = split_units(text)[-1:]
    return text.rstrip()[: -len(last[0])].rstrip() or text if last else text


def word_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Return all runs of `n` words in lower case, in order; of scripts without spaces, runs of as much text."""
    units = split_units(text.lower())
    ends = _unit_ends(units)
    lasts = (bisect_left(ends, before + n * WORD) for before in [0, *ends[:-1]])
    return [tuple(units[start : last + 1]) for start, last in enumerate(lasts) if last < len(units)]


@lru_cache(maxsize=1 << 14)
def word_set(text: str) -> frozenset[str]:
    """Return the words in lower case, without punctuation; of scripts without spaces, all runs as long as a word."""
    return frozenset("".join(map(_strip_signs, run)) for run in word_ngrams(text, 1))


def index_terms(text: str) -> list[str]:
    """Return words of two letters or more, as scikit-learn does, and of scripts without spaces all pairs of characters."""
    runs = (regex.findall(r"\X", run) for run in _UNSPACED_RUN.findall(text))
    pairs = [first + second for run in runs for first, second in pairwise(run)]
    return [*_WORD.findall(_UNSPACED_RUN.sub(" ", text)), *pairs]


def _strip_signs(word: str) -> str:
    return word.strip(_ASCII_SIGNS) if word.isascii() else _EDGE_SIGNS.sub("", word)


def _is_unspaced(text: str) -> bool:
    return not text.isascii() and _UNSPACED.search(text) is not None


def _unit_size(unit: str) -> int:
    return WORD if not _is_unspaced(unit) else IDEOGRAPH if _IDEOGRAPH.search(unit) else CHARACTER


def _unit_ends(units: list[str]) -> list[int]:
    """Return the size of the text up to the end of each unit."""
    return list(accumulate(map(_unit_size, units)))
