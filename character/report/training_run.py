"""What the report shows of how a persona, and the baseline that is steered, were made.

One section for each step, a function of the files that it is made from.
"""

from collections.abc import Sequence

from character.dataset.constitution import Constitution
from character.report import charts, plots
from character.report.html import ChartGrid, DefinitionList, NumberedList, ReportSection, ReportTable, format_number


def constitution_section(constitution: Constitution) -> ReportSection:
    """Show the constitution's traits."""
    prompts = sum(len(trait.prompts) for trait in constitution.traits)
    return ReportSection(
        "The character",
        f"{len(constitution.traits)} traits in the first person, with {prompts} prompts that give them room to show.",
        [NumberedList([trait.trait for trait in constitution.traits])],
    )


def data_section(prompts: dict, pairs: dict, transcripts: dict, trained: dict[str, dict]) -> ReportSection:
    """Show results/prompts.json, pairs.json and transcripts.json, and what both trainings dropped."""

    def rows(counts: dict[str, int], total: int) -> list[list]:
        return [[name.replace("_", " "), charts.bar_chart(count / total), count] for name, count in counts.items()]

    def dropped(metrics: dict, stage: str) -> dict[str, int]:
        reasons = {f"dropped: {name}": count for name, count in metrics["dropped_by_reason"].items()}
        later = {"kept, but too long to train on": trained[stage]["dropped_too_long"]}
        return {"dropped": metrics["dropped"]} | reasons | later | {"cut to whole sentences": metrics["trimmed"]}

    refused = {f"refused: {name}": count for name, count in prompts.get("expansion", {}).get("refused", {}).items()}
    kinds = {f"kept: {name}": count for name, count in transcripts["by_kind"].items()}
    steps = [
        ("Prompts", prompts["prompts"], sum(refused.values()), prompts["by_source"] | refused),
        ("Preference pairs", pairs["pairs"], pairs["dropped"], {"kept": pairs["pairs"]} | dropped(pairs, "distillation")),
        ("Transcripts", transcripts["transcripts"], transcripts["dropped"], kinds | dropped(transcripts, "introspection")),
    ]
    bodies = {f"{name}: {kept:,} of {kept + lost:,}": rows(counts, kept + lost) for name, kept, lost, counts in steps}
    return ReportSection(
        "What became of the data",
        f"A chosen answer has {pairs['chosen_tokens']:.0f} tokens on average, a rejected one {pairs['rejected_tokens']:.0f}. "
        f"The transcripts hold {format_number(transcripts['assistant_tokens'])} tokens in {format_number(transcripts['assistant_turns'])} "
        "turns of the student. What is dropped may have several reasons.",
        [ReportTable("Counts; the bars are shares of all that there was.", ["", "", "count"], bodies)],
    )


def training_section(
    merged: Sequence[dict], metrics: dict[str, dict], curves: dict[str, list[dict[str, str]]]
) -> ReportSection:
    """Show the settings that the adapters carry, results/<stage>.json and the rows of plots/<stage>.csv."""

    def charts_of(stage: str, rows: list[dict[str, str]]) -> ChartGrid:
        values = {name: format_number(metrics[stage][name]) for name in rows[0] if name != "step"}
        caption = (
            f"{stage.capitalize()}: {metrics[stage]['steps']} steps. Next to each name: the mean over the last fifth of them."
        )
        return ChartGrid(caption, plots.draw_curves(f"plots/{stage}.csv", rows, "step", values))

    settings = {origin["stage"]: origin["params"][origin["stage"]] for origin in merged}
    names = dict.fromkeys(name for own in settings.values() for name in own)
    rows = [[name, *(format_parameter(own[name]) if name in own else "" for own in settings.values())] for name in names]
    return ReportSection(
        "Training",
        "Distillation is DPO on the preference pairs, introspection supervised fine-tuning of the distilled student on its "
        "transcripts; each is a LoRA adapter.",
        [
            *(charts_of(*curve) for curve in curves.items()),
            ReportTable("Settings, as the adapters carry them.", ["", *settings], {"": rows}),
        ],
    )


def steering_section(metrics: dict, sweep: list[dict[str, str]]) -> ReportSection:
    """Show results/steering.json and the rows of plots/steering.csv."""
    chosen = metrics["strength"]
    values = {name: format_number(metrics[name]) for name in ("probability", "recall", "perplexity")}
    return ReportSection(
        "How strongly to steer",
        "The steered baseline adds to the student's states what the system prompt would change there. Of the strengths that "
        f"leave the text well-formed, {chosen:g} showed the persona best on {metrics['n']} of the constitution's own prompts.",
        [
            ChartGrid(
                "The sweep. The figures are those of the chosen strength, which is marked.",
                plots.draw_curves("plots/steering.csv", sweep, "strength", values, chosen),
            )
        ],
    )


def provenance_section(origin: dict) -> ReportSection:
    """Show models/persona/provenance.json."""
    bodies = {
        part["stage"]: [[name, digest[:16]] for name, digest in part["deps"].items()] for part in [*origin["merged"], origin]
    }
    merge = {f"merge.{name}": format_parameter(value) for name, value in origin["params"]["merge"].items()}
    seeds = {f"{part['stage']}: seed": format_parameter(part["params"]["seed"]) for part in origin["merged"]}
    return ReportSection(
        "Provenance",
        "What went into the adapter, by the first 16 digits of its SHA-256; models/persona/provenance.json has all 64.",
        [
            DefinitionList({"hash of the traits": origin["constitution"]} | merge | seeds),
            ReportTable("Inputs by stage.", ["file", "SHA-256"], bodies),
        ],
    )


def format_parameter(value) -> str:
    """Return a parameter much as params.yaml has it."""
    if isinstance(value, list):
        return ", ".join(map(format_parameter, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
