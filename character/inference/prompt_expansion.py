"""New prompts like those of the constitution, written by a model from the examples of each trait."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from character.core.errors import UserError
from character.core.params import ParamsSection, read_section
from character.core.records import Prompt, prompt_id
from character.core.text_input import normalize_text
from character.dataset import constitution
from character.dataset.filters import TURN_MARKER
from character.dataset.prompts import fill_template, near_duplicate
from character.dataset.reasoning import holds_reasoning, strip_reasoning
from character.dataset.segmentation import count_words
from character.inference import engines
from character.inference.generate import Reply, Request, SamplingSettings, generate
from character.inference.openai_engine import RequestOptions

EXPANSION_TEMPLATE = """\
Here are messages that people sent to an assistant:

{examples}

Write one more message of this kind, about another subject. It should have {words}. Write the message alone, without quotes \
or comments."""

LENGTH_INSTRUCTIONS = {"short": "at most 15 words", "medium": "16 to 40 words", "long": "more than 40 words"}


class ExpansionSettings(ParamsSection):
    """Settings of the expansion; the prompts are written by the student or by another engine's model."""

    per_trait: int = Field(ge=0)
    engine: Literal["student", "transformers", "vllm", "openai"]
    source: str  # the model; not used by the engine `student`
    rounds: int = Field(gt=0)
    short: float = Field(ge=0)  # shares of the requested lengths
    medium: float = Field(ge=0)
    long: float = Field(ge=0)
    sampling: SamplingSettings


@dataclass
class ExpansionQuota:
    """The number of prompts that one trait still lacks, by requested length."""

    trait: int
    missing: Counter
    known: list[str]  # a new prompt must differ from all of these
    request_count: int = 0

    def build_requests(self, examples: Sequence[str], seed: int) -> Iterator[tuple[str, Request]]:
        """Yield length and request for each missing prompt; every request shows the examples in another order."""
        for length in sorted(self.missing):
            for _ in range(self.missing[length]):
                order = random.Random(f"{seed}/{self.trait}/{self.request_count}").sample(examples, len(examples))
                text = fill_template(
                    EXPANSION_TEMPLATE, examples="\n".join(f"- {one}" for one in order), words=LENGTH_INSTRUCTIONS[length]
                )
                yield length, Request(f"expand-{self.trait}-{length}", [{"role": "user", "content": text}], self.request_count)
                self.request_count += 1


def expand_prompts(
    persona: constitution.Constitution, params: ExpansionSettings, heldout: Sequence[str], seed: int
) -> tuple[list, dict]:
    """Return new prompts for each trait, and counts: wanted, requested and kept by length, rejected by reason.

    Rejected prompts are requested again, in at most `rounds` rounds.

    Args:
        heldout: prompts of the evaluation, of which no new prompt may be a near duplicate.
        seed: the global seed.
    """
    options = read_section("openai", RequestOptions)
    engine = engines.open_engine(params.engine, params.source, "prompts.expansion.source", options)
    mix = {length: getattr(params, length) for length in LENGTH_INSTRUCTIONS}
    quotas = [
        ExpansionQuota(number, apportion_count(params.per_trait, mix), list(trait.prompts))
        for number, trait in enumerate(persona.traits)
    ]
    kept: list[Prompt] = []
    lengths, refused = Counter(), Counter()
    for turn in range(params.rounds):
        pending = [
            (quota, *pair) for quota in quotas for pair in quota.build_requests(persona.traits[quota.trait].prompts, seed)
        ]
        if not pending:
            break
        requests, label = [request for *_, request in pending], f"prompts, round {turn + 1}"
        replies = generate(engine, requests, params.sampling, seed, label, retry=turn > 0)
        for (quota, length, _), reply in zip(pending, replies, strict=True):
            text = normalize_text(strip_reasoning(reply.text, thinking=False).strip('"“”'))
            if reason := rejection_reason(reply, text, quota.known, heldout):
                refused[reason] += 1
                continue
            quota.missing[length] -= 1
            quota.known.append(text)
            lengths[length_class(text)] += 1
            kept.append(Prompt(id=prompt_id(text), prompt=text, source="expanded", trait=quota.trait))
    kept.sort(key=lambda prompt: prompt.trait)
    requested = sum((apportion_count(params.per_trait, mix) for _ in persona.traits), Counter())
    return kept, {"wanted": requested.total(), "asked": dict(requested), "measured": dict(lengths), "refused": dict(refused)}


def apportion_count(count: int, mix: dict[str, float]) -> Counter:
    """Split `count` in the proportions of `mix` by the largest remainder method.

    Raises:
        UserError: all proportions are 0.
    """
    total = sum(mix.values())
    if count and not total:
        raise UserError("params.yaml: prompts.expansion: short, medium and long are all 0; raise one.")
    exact = {name: count * share / total for name, share in mix.items()} if total else {}
    counts = Counter({name: int(part) for name, part in exact.items()})
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: count - counts.total()]:
        counts[name] += 1
    return +counts


def length_class(text: str) -> str:
    words = count_words(text)
    return "short" if words <= 15 else "medium" if words <= 40 else "long"


def rejection_reason(reply: Reply, text: str, known: Sequence[str], heldout: Sequence[str]) -> str:
    """Return why a reply is rejected as a new prompt, or an empty string.

    `known` are the prompts of the trait, `heldout` those of the evaluation.
    """
    if reply.finish_reason != "stop":
        return "skipped" if reply.skipped else "unfinished"
    if not text:
        return "empty"
    if TURN_MARKER.search(text) or holds_reasoning(text):
        return "markup"
    if any(near_duplicate(text, other) for other in known):
        return "near_duplicate"
    return "held_out" if any(near_duplicate(text, other) for other in heldout) else ""
