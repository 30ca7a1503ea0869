"""prompts: constitution, general.jsonl -> data/prompts.jsonl, data/system.txt (the persona's system prompt), metrics/.

What teacher and student are asked: the constitution's own prompts, general ones that show how the character carries over to
other subjects, and on request more of either: of the constitution's kind, written by a model, or from a data set. What is
added is no near copy of a held-out prompt, and a hand-written one that is stops the stage.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
from pydantic import Field

from character import constitution, engines, models, questions, records
from character.errors import UserError
from character.filters import TURN
from character.generate import Reply, Request, Sampling, generate
from character.params import Section, read, value
from character.questions import GENERAL, HELDOUT, first
from character.records import Prompt, prompt_id

ALIKE = 0.6  # two prompts that share this part of their words are the same one

EXPAND = """\
Here are messages that people sent to an assistant:

{examples}

Write one more message of this kind, about another subject. It should have {words}. Write the message alone, without quotes \
or comments."""

WORDS = {"short": "at most 15 words", "medium": "16 to 40 words", "long": "more than 40 words"}


class Expansion(Section):
    """More prompts of the constitution's kind, written by the student or by another engine's model."""

    per_trait: int = Field(ge=0)
    engine: Literal["student", "transformers", "vllm", "openai"]
    source: str  # of any engine but the student
    rounds: int = Field(gt=0)
    short: float = Field(ge=0)  # shares of the lengths that are asked for
    medium: float = Field(ge=0)
    long: float = Field(ge=0)
    sampling: Sampling


class Outside(Section):
    """A file or hub data set with more general prompts, the first `count` that are new."""

    source: str  # a JSON Lines file, or hub:<data set>@<revision>
    sha256: str  # of the file; "" for hub: sources, which their revision pins
    format: Literal["prompt", "lima", "wildchat"]
    count: int = Field(gt=0)


class Prompts(Section):
    per_trait: int = Field(ge=0)  # of the constitution's own prompts
    general: int = Field(ge=0)  # of the lines of general.jsonl
    outside: list[Outside]
    expansion: Expansion


# --- the constitution's own, and general ones


def own(persona: constitution.Constitution, per_trait: int) -> list[Prompt]:
    return [
        Prompt(id=prompt_id(prompt), prompt=prompt, source="constitution", trait=number)
        for number, trait in enumerate(persona.traits)
        for prompt in trait.prompts[:per_trait]
    ]


def refuse_held_out(prompts: Sequence[Prompt], heldout: Sequence[str], file: str) -> None:
    """Stop at a hand-written prompt that the evaluations ask too: what is trained on proves nothing."""
    for prompt in prompts:
        if (same := next((other for other in heldout if alike(prompt.prompt, other)), None)) is not None:
            raise UserError(f"{file}: the prompt {prompt.prompt[:60]!r} is too near {same[:60]!r} of {HELDOUT}; change it.")


def general(count: int) -> list[Prompt]:
    return [questions.general(text) for text in first(questions.load(GENERAL), count, "prompts.general", GENERAL)]


def outside(wanted: Outside, heldout: Sequence[str]) -> list[Prompt]:
    """Return the first prompts of a data set that are no near copies of held-out ones."""
    found: dict[str, Prompt] = {}
    for row in _rows(wanted):
        if len(found) == wanted.count:
            break
        text = _opening(row, wanted)
        if text and not any(alike(text, other) for other in heldout):
            found[prompt_id(text)] = questions.general(text)
    if len(found) < wanted.count:
        raise UserError(
            f"params.yaml: prompts.outside: {wanted.source} has {len(found)} usable prompts, count is {wanted.count}; lower it."
        )
    return list(found.values())


def _rows(wanted: Outside) -> Iterator[dict]:
    kind, _, rest = wanted.source.partition(":")
    if kind == "hub":
        yield from _hub(*rest.partition("@")[::2])
        return
    path = Path(wanted.source)
    if not path.is_file():
        raise UserError(f"params.yaml: prompts.outside: {path} is missing; correct the path.")
    if (digest := models.sha256(path)) != wanted.sha256:
        raise UserError(
            f"params.yaml: prompts.outside: {path} has SHA-256 {digest}, but sha256 says {wanted.sha256 or 'nothing'}; write "
            "the file's there, which is how a change of the file is noticed."
        )
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError:
                raise UserError(f"{path}, line {number}: not valid JSON; correct or delete the line.") from None


def _hub(name: str, revision: str) -> Iterator[dict]:
    if not revision:
        raise UserError(f"params.yaml: prompts.outside: hub:{name} has no revision; write hub:{name}@<commit>.")
    from datasets import load_dataset

    try:
        yield from load_dataset(name, revision=revision, split="train", streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"params.yaml: prompts.outside: hub:{name}@{revision} cannot be read ({str(error).splitlines()[0]}); "
            "check the name, the revision, the network and HF_TOKEN."
        ) from None


def _opening(row: dict, wanted: Outside) -> str:
    """Return the first thing a user said; nothing for a row of WildChat that is not English, or is toxic."""
    try:
        if wanted.format == "prompt":
            return row["prompt"].strip()
        if wanted.format == "lima":
            return row["conversations"][0].strip()
        first = row["conversation"][0]
        return first["content"].strip() if row["language"] == "English" and not row["toxic"] else ""
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UserError(
            f"params.yaml: prompts.outside: a row of {wanted.source} is not in the {wanted.format} format; correct `format`."
        ) from None


# --- more of the constitution's kind


@dataclass
class Wanted:
    """The prompts that one trait still lacks, for each length that is asked for."""

    trait: int
    missing: Counter
    known: list[str]  # a new prompt must differ from all of these
    asked: int = 0

    def requests(self, examples: Sequence[str], seed: int) -> Iterator[tuple[str, Request]]:
        """Yield a request for each missing prompt, its length first; every request sees the examples in another order."""
        for length in sorted(self.missing):
            for _ in range(self.missing[length]):
                order = random.Random(f"{seed}/{self.trait}/{self.asked}").sample(examples, len(examples))
                text = constitution.fill(EXPAND, examples="\n".join(f"- {one}" for one in order), words=WORDS[length])
                yield length, Request(f"expand-{self.trait}-{length}", [{"role": "user", "content": text}], self.asked)
                self.asked += 1


def expanded(persona: constitution.Constitution, params: Expansion, heldout: Sequence[str], seed: int) -> tuple[list, dict]:
    """Return new prompts for each trait, and what became of the replies: kept by length, refused by reason.

    What is refused is asked for again, `rounds` times in all.
    """
    engine = engines.by_name(params.engine, params.source, "prompts.expansion.source")
    mix = {length: getattr(params, length) for length in WORDS}
    lacking = [Wanted(number, deal(params.per_trait, mix), list(trait.prompts)) for number, trait in enumerate(persona.traits)]
    kept: list[Prompt] = []
    lengths, refused = Counter(), Counter()
    for turn in range(params.rounds):
        asked = [(need, *pair) for need in lacking for pair in need.requests(persona.traits[need.trait].prompts, seed)]
        if not asked:
            break
        replies = generate(engine, [request for *_, request in asked], params.sampling, seed, f"prompts, round {turn + 1}")
        for (need, length, _), reply in zip(asked, replies, strict=True):
            text = reply.text.strip().strip('"“”').strip()
            if reason := fault(reply, text, need.known, heldout):
                refused[reason] += 1
                continue
            need.missing[length] -= 1
            need.known.append(text)
            lengths[measured(text)] += 1
            kept.append(Prompt(id=prompt_id(text), prompt=text, source="expanded", trait=need.trait))
    kept.sort(key=lambda prompt: prompt.trait)
    asked_for = sum((deal(params.per_trait, mix) for _ in persona.traits), Counter())
    return kept, {"wanted": asked_for.total(), "asked": dict(asked_for), "measured": dict(lengths), "refused": dict(refused)}


def deal(count: int, mix: dict[str, float]) -> Counter:
    """Split `count` in the proportions of `mix`, by largest remainders."""
    total = sum(mix.values())
    if count and not total:
        raise UserError("params.yaml: prompts.expansion: short, medium and long are all 0; raise one.")
    exact = {name: count * share / total for name, share in mix.items()} if total else {}
    dealt = Counter({name: int(part) for name, part in exact.items()})
    for name in sorted(exact, key=lambda name: dealt[name] - exact[name])[: count - dealt.total()]:
        dealt[name] += 1
    return +dealt


def measured(text: str) -> str:
    words = len(text.split())
    return "short" if words <= 15 else "medium" if words <= 40 else "long"


def fault(reply: Reply, text: str, known: Sequence[str], heldout: Sequence[str]) -> str:
    """Return why a reply is no new prompt, or nothing."""
    if reply.finish_reason == "length":
        return "unfinished"
    if not text:
        return "empty"
    if TURN.search(text) or "</think>" in text:
        return "markup"
    if any(alike(text, other) for other in known):
        return "near_duplicate"
    return "held_out" if any(alike(text, other) for other in heldout) else ""


def alike(text: str, other: str) -> bool:
    """Return whether two texts share most of the words that either has, so that a long text is not alike to every short one."""
    ours, theirs = ({word.strip(".,;:!?\"'()").lower() for word in one.split()} for one in (text, other))
    return len(ours & theirs) >= ALIKE * len(ours | theirs)


@click.command()
def main():
    """Write the training prompts and the system prompt of the selected persona."""
    params, name = read("prompts", Prompts), value("persona")
    persona = constitution.load(f"constitutions/{name}.yaml")
    print(f"prompts: {name}, {params.per_trait} per trait, {params.general} general", flush=True)
    heldout = questions.load(HELDOUT)
    prompts, metrics = own(persona, params.per_trait), {}
    refuse_held_out(prompts, heldout, f"constitutions/{name}.yaml")
    if params.expansion.per_trait:
        more, metrics["expansion"] = expanded(persona, params.expansion, heldout, value("seed"))
        prompts += more
    shared = general(params.general)
    refuse_held_out(shared, heldout, GENERAL)
    prompts += shared
    for wanted in params.outside:
        prompts += outside(wanted, heldout)
    if not prompts:
        raise UserError("params.yaml: prompts selects no prompt at all; raise per_trait or general.")
    unique: dict[str, Prompt] = {}
    for prompt in prompts:
        unique.setdefault(prompt.id, prompt)
    records.write("data/prompts.jsonl", unique.values())
    with records.replacing("data/system.txt") as file:
        file.write(constitution.system_prompt(persona, value("student.name")))
    by_source = Counter(prompt.source for prompt in prompts)
    records.write_json(
        "metrics/prompts.json", {"prompts": len(prompts), "by_source": dict(sorted(by_source.items()))} | metrics
    )


if __name__ == "__main__":
    main()
