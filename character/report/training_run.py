"""Sections of the report on how a persona and the steered baseline were made, one for each step.

Each is a function of the files that it shows.
"""

from collections.abc import Sequence

from character.dataset.constitution import Constitution
from character.report import charts, plots
from character.report.html import ChartGrid, DefinitionList, NumberedList, ReportSection, ReportTable, format_number


def constitution_section(constitution: Constitution) -> ReportSection:
    """Show the traits of the constitution."""
    prompts = sum(len(trait.prompts) for trait in constitution.traits)
    return ReportSection(
        "The character",
        f"{len(constitution.traits)} traits in the first person, with {prompts} prompts that give occasion to show them.",
        [NumberedList([trait.trait for trait in constitution.traits])],
    )


def data_section(prompts: dict, pairs: dict, transcripts: dict, trained: dict[str, dict]) -> ReportSection:
    """Show results/prompts.json, pairs.json and transcripts.json, and what both training stages dropped."""

    def count_rows(counts: dict[str, int], total: int) -> list[list]:
        return [[name.replace("_", " "), charts.bar_chart(count / total), count] for name, count in counts.items()]

    def drop_counts(metrics: dict, stage: str) -> dict[str, int]:
        reasons = {f"dropped: {name}": count for name, count in metrics["dropped_by_reason"].items()}
        too_long = {"kept, but too long to train on": trained[stage]["dropped_too_long"]}
        return {"dropped": metrics["dropped"]} | reasons | too_long | {"cut to whole sentences": metrics["trimmed"]}

    refused = {f"refused: {name}": count for name, count in prompts.get("expansion", {}).get("refused", {}).items()}
    kinds = {f"kept: {name}": count for name, count in transcripts["by_kind"].items()}
    steps = [
        ("Prompts", prompts["prompts"], sum(refused.values()), prompts["by_source"] | refused),
        ("Preference pairs", pairs["pairs"], pairs["dropped"], {"kept": pairs["pairs"]} | drop_counts(pairs, "distillation")),
        ("Transcripts", transcripts["transcripts"], transcripts["dropped"], kinds | drop_counts(transcripts, "introspection")),
    ]
    bodies = {f"{name}: {kept:,} of {kept + lost:,}": count_rows(counts, kept + lost) for name, kept, lost, counts in steps}
    tokens, turns = (format_number(transcripts[f"assistant_{unit}"]) for unit in ("tokens", "turns"))
    return ReportSection(
        "What became of the data",
        f"A chosen answer has {pairs['chosen_tokens']:.0f} tokens on average, a rejected one {pairs['rejected_tokens']:.0f}. "
        f"The transcripts have {tokens} tokens in {turns} turns of the student. An item may be dropped for several reasons.",
        [ReportTable("Counts; the bars are shares of all items of the step.", ["", "", "count"], bodies)],
    )


def training_section(
    merged: Sequence[dict], metrics: dict[str, dict], curves: dict[str, list[dict[str, str]]]
) -> ReportSection:
    """Show the settings that the adapters record, results/<stage>.json and the rows of plots/<stage>.csv."""

    def training_charts(stage: str, rows: list[dict[str, str]]) -> ChartGrid:
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
        "Distillation is DPO on the preference pairs; introspection is supervised fine-tuning of the distilled student on its "
        "transcripts. Each trains a LoRA adapter.",
        [
            *(training_charts(*curve) for curve in curves.items()),
            ReportTable("Settings, as recorded in the adapters.", ["", *settings], {"": rows}),
        ],
    )


def steering_section(metrics: dict, sweep: list[dict[str, str]]) -> ReportSection:
    """Show results/steering.json and the rows of plots/steering.csv."""
    chosen = metrics["strength"]
    values = {name: format_number(metrics[name]) for name in ("probability", "recall", "perplexity")}
    return ReportSection(
        "How strongly to steer",
        "The steered baseline adds to the student's hidden states the change that the system prompt would make there. Of the "
        f"strengths that leave the text well-formed, {chosen:g} showed the persona best on {metrics['n']} of the "
        "constitution's own prompts.",
        [
            ChartGrid(
                "The sweep. The figures are those of the chosen strength, which is marked by a line.",
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
        "The inputs of the adapter, by the first 16 digits of their SHA-256; models/persona/provenance.json has all 64.",
        [
            DefinitionList({"hash of the traits": origin["constitution"]} | merge | seeds),
            ReportTable("Inputs by stage.", ["file", "SHA-256"], bodies),
        ],
    )


def format_parameter(value) -> str:
    """Return the value of a parameter as text, much as in params.yaml."""
    if isinstance(value, list):
        return ", ".join(map(format_parameter, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
