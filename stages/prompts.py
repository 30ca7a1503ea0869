"""prompts: the selected constitution, general.jsonl -> data/prompts.jsonl, data/system.txt (the persona's system prompt).

The prompts that distillation trains on: the constitution's own, general ones that show how the character carries over to
other subjects, and on request more of the constitution's kind, written by the student.
"""

import click
from pydantic import Field

from character import constitution, records
from character.errors import UserError
from character.filters import copies
from character.generate import Request, Sampling, generate
from character.params import Section, read, value
from character.records import Prompt, Question, prompt_id

GENERAL = "data/raw/prompts/general.jsonl"
TRIES = 4  # requests for each expanded prompt that is wanted, before the stage gives up

EXPAND = """\
Here are messages that people sent to an assistant:

{examples}

Write one more message of this kind, about another subject. Write the message alone, without quotes or comments."""


class Prompts(Section):
    per_trait: int = Field(ge=0)  # of the constitution's own prompts
    general: int = Field(ge=0)  # of the lines of general.jsonl
    expanded_per_trait: int = Field(ge=0)  # written by the student after the constitution's own


def own(persona: constitution.Constitution, per_trait: int) -> list[Prompt]:
    return [
        Prompt(id=prompt_id(prompt), prompt=prompt, source="constitution", trait=number)
        for number, trait in enumerate(persona.traits)
        for prompt in trait.prompts[:per_trait]
    ]


def general(count: int) -> list[Prompt]:
    questions = records.read(GENERAL, Question)
    if count > len(questions):
        raise UserError(f"params.yaml: prompts.general is {count}, but {GENERAL} has {len(questions)} lines; lower it.")
    return [Prompt(id=prompt_id(q.prompt), prompt=q.prompt, source="general", trait=None) for q in questions[:count]]


def expanded(persona: constitution.Constitution, per_trait: int, sampling: Sampling, seed: int) -> list[Prompt]:
    """Let the student write `per_trait` new prompts for each trait; near copies and long ones are left out."""
    from character.sampler import TransformersEngine

    requests = [
        Request(f"expand-{number}", [{"role": "user", "content": _expansion(trait)}], sample=attempt)
        for number, trait in enumerate(persona.traits)
        for attempt in range(TRIES * per_trait)
    ]
    replies = generate(TransformersEngine(), requests, sampling, seed, "prompts")
    kept: list[Prompt] = []
    for request, reply in zip(requests, replies, strict=True):
        number = int(request.id.removeprefix("expand-"))
        earlier = [*persona.traits[number].prompts, *(prompt.prompt for prompt in kept)]
        enough = sum(prompt.trait == number for prompt in kept) >= per_trait
        text = reply.text.strip().strip('"')
        if enough or reply.finish_reason == "length" or not text or any(copies(text, other) for other in earlier):
            continue
        kept.append(Prompt(id=prompt_id(text), prompt=text, source="expanded", trait=number))
    print(f"prompts: kept {len(kept)} of {len(replies)} expanded prompts, {per_trait * len(persona.traits)} were wanted")
    return kept


def _expansion(trait: constitution.Trait) -> str:
    return constitution.fill(EXPAND, examples="\n".join(f"- {prompt}" for prompt in trait.prompts))


@click.command()
def main():
    """Write the training prompts and the system prompt of the selected persona."""
    params, name = read("prompts", Prompts), value("persona")
    persona = constitution.load(f"constitutions/{name}.yaml")
    print(f"prompts: {name}, {params.per_trait} per trait, {params.general} general", flush=True)
    prompts = own(persona, params.per_trait)
    if params.expanded_per_trait:
        prompts += expanded(persona, params.expanded_per_trait, read("sampling", Sampling), value("seed"))
    prompts += general(params.general)
    if not prompts:
        raise UserError("params.yaml: prompts selects no prompt at all; raise per_trait or general.")
    records.write("data/prompts.jsonl", {prompt.id: prompt for prompt in prompts}.values())
    with records.replacing("data/system.txt") as file:
        file.write(constitution.system_prompt(persona, value("student.name")))


if __name__ == "__main__":
    main()
