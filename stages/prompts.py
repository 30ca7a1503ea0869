"""prompts: constitution, general.jsonl -> data/prompts.jsonl, data/system.txt (the persona's system prompt), results/.

The prompts for teacher and student: those of the constitution, and general ones, which show the character on other subjects.
Two options add more: a model writes prompts like those of the constitution, or a data set gives general ones. Near duplicates
of held-out prompts are not added; a hand-written prompt that is one stops the stage.
"""

from collections import Counter
from collections.abc import Sequence

import click
from pydantic import Field

from character.core import records
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import Prompt, prompt_id
from character.core.safe_text import print_text, shorten_text
from character.dataset import constitution
from character.dataset.constitution import selected_constitution
from character.dataset.external_prompts import ExternalPrompts, load_external_prompts
from character.dataset.prompts import GENERAL_PROMPTS, HELDOUT_PROMPTS, general_prompt, load_prompts, near_duplicate, take_first
from character.inference.prompt_expansion import ExpansionSettings, expand_prompts


class PromptSettings(ParamsSection):
    per_trait: int = Field(ge=0)  # of the constitution's own prompts
    general: int = Field(ge=0)  # of the lines of general.jsonl
    outside: list[ExternalPrompts]
    expansion: ExpansionSettings


def constitution_prompts(persona: constitution.Constitution, per_trait: int) -> list[Prompt]:
    return [
        Prompt(id=prompt_id(prompt), prompt=prompt, source="constitution", trait=number)
        for number, trait in enumerate(persona.traits)
        for prompt in trait.prompts[:per_trait]
    ]


def check_not_held_out(prompts: Sequence[Prompt], heldout: Sequence[str], file: str) -> None:
    """Raise a UserError for a near duplicate of a held-out prompt: training on it would bias the evaluations."""
    for prompt in prompts:
        if (same := next((other for other in heldout if near_duplicate(prompt.prompt, other)), None)) is not None:
            raise UserError(
                f"{file}: the prompt {shorten_text(prompt.prompt, 60)!r} is too similar to {shorten_text(same, 60)!r} of "
                f"{HELDOUT_PROMPTS}; change it."
            )


def load_general_prompts(count: int) -> list[Prompt]:
    return [
        general_prompt(text) for text in take_first(load_prompts(GENERAL_PROMPTS), count, "prompts.general", GENERAL_PROMPTS)
    ]


@click.command()
def main():
    """Write the training prompts and the system prompt of the selected persona."""
    params, persona = read_section("prompts", PromptSettings), selected_constitution()
    print_text(f"prompts: {persona.name}, {params.per_trait} per trait, {params.general} general")
    heldout = load_prompts(HELDOUT_PROMPTS)
    prompts, metrics = constitution_prompts(persona, params.per_trait), {}
    check_not_held_out(prompts, heldout, f"constitutions/{persona.name}.yaml")
    if params.expansion.per_trait:
        more, metrics["expansion"] = expand_prompts(persona, params.expansion, heldout, read_value("seed"))
        prompts += more
    general = load_general_prompts(params.general)
    check_not_held_out(general, heldout, GENERAL_PROMPTS)
    prompts += general
    for dataset in params.outside:
        prompts += load_external_prompts(dataset, heldout)
    if not prompts:
        raise UserError("params.yaml: prompts selects no prompt at all; raise per_trait or general.")
    unique: dict[str, Prompt] = {}
    for prompt in prompts:
        unique.setdefault(prompt.id, prompt)
    records.write_records("data/prompts.jsonl", unique.values())
    with records.replace_atomically("data/system.txt") as file:
        file.write(constitution.persona_system_prompt(persona, read_value("student.name")))
    by_source = Counter(prompt.source for prompt in prompts)
    records.write_json(
        "results/prompts.json", {"prompts": len(prompts), "by_source": dict(sorted(by_source.items()))} | metrics
    )


if __name__ == "__main__":
    main()
