"""The trait words among which a method may choose, and what it wrote when it chose."""

from collections.abc import Sequence
from itertools import chain, zip_longest

from character.core import models, records
from character.core.errors import UserError
from character.core.params import read_value
from character.core.records import Completion, Record

TRAIT_WORDS_FILE = "data/raw/traits.jsonl"


class TraitWord(Record):
    """A trait word; `gloss` ends a sentence that begins with "somebody who", `like` are words of like meaning."""

    word: str
    group: str
    gloss: str
    like: tuple[str, ...]


class TraitChoice(Completion):
    """An answer that was to show one of two traits, in the order in which they were offered."""

    condition: str
    traits: tuple[str, str]


def load_trait_words() -> list[TraitWord]:
    return records.read_records(TRAIT_WORDS_FILE, TraitWord)


def select_trait_words(traits: list[TraitWord], count: int) -> list[TraitWord]:
    """Return `count` of the traits, as evenly from all groups as can be, from each the first ones."""
    if count > len(traits):
        raise UserError(
            f"params.yaml: preferences.traits is {count}, but {TRAIT_WORDS_FILE} has {len(traits)} words; lower it."
        )
    groups: dict[str, list[TraitWord]] = {}
    for trait in traits:
        groups.setdefault(trait.group, []).append(trait)
    in_turn = chain.from_iterable(zip_longest(*groups.values()))
    return [trait for trait in in_turn if trait][:count]


def truncate_to_choice_length(texts: Sequence[str]) -> list[str]:
    """Return as much of each text as a method may write where it chooses, up to a whole word."""
    tokens, tokenizer = read_value("choices.sampling.max_new_tokens"), models.load_tokenizer()
    read = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [
        text if len(ids) <= tokens else tokenizer.decode(ids[:tokens]).rsplit(maxsplit=1)[0]
        for text, ids in zip(texts, read, strict=True)
    ]
