"""The trait words between which a method chooses, and the record of an answer with such a choice."""

from collections.abc import Sequence
from itertools import chain, zip_longest

from character.core import models, records
from character.core.errors import UserError
from character.core.params import read_value
from character.core.records import Completion, Record
from character.dataset.segmentation import drop_last_word

TRAIT_WORDS_FILE = "data/raw/traits.jsonl"


class TraitWord(Record):
    """A trait word; `gloss` completes a sentence that begins with "somebody who", `like` are words of similar meaning."""

    word: str
    group: str
    gloss: str
    like: tuple[str, ...]


class TraitChoice(Completion):
    """An answer to a prompt that offered two traits, of which the answer should show one; `traits` is in that order."""

    condition: str
    traits: tuple[str, str]


def load_trait_words() -> list[TraitWord]:
    return records.read_records(TRAIT_WORDS_FILE, TraitWord)


def select_trait_words(traits: list[TraitWord], count: int) -> list[TraitWord]:
    """Return `count` traits, taken from the groups in turn and from each group in order."""
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
    """Return each text, cut after a whole word if it has more tokens than an answer in the stage `choices` may have."""
    tokens, tokenizer = read_value("choices.sampling.max_new_tokens"), models.load_tokenizer()
    token_ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [
        text if len(ids) <= tokens else drop_last_word(tokenizer.decode(ids[:tokens]))
        for text, ids in zip(texts, token_ids, strict=True)
    ]
