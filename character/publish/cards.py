"""The model card and the data card of a persona, from its provenance and the results of its evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from character.core import models, records
from character.core.safe_text import replace_controls
from character.dataset.constitution import Constitution
from character.publish import credits
from character.report import behavior, costs, measurement, training_run
from character.report.html import ReportSection, SummaryTile, TableCell, format_number
from character.report.markdown import markdown_table
from character.report.table_cells import CONDITION_HEADINGS, PERSONA_METHOD, format_interval, method_cell, value_cell

# The stages whose results the cards show.
CARD_STAGES = ("robustness", "fluency", "coherence", "capabilities", "safety", "classifier", "judge")
PUBLISHED_DATA = {"pairs": records.PreferencePair, "transcripts": records.TrainingTranscript}  # data/<name>.jsonl
CARD_METRICS = (*CARD_STAGES, *PUBLISHED_DATA, "distillation", "introspection", "persona")


@dataclass(frozen=True)
class CardContext:
    """The contents of the cards; `origin` is the adapter's provenance.json, `metrics` has the results of CARD_METRICS."""

    persona: Constitution
    student: models.StudentCard
    origin: dict
    metrics: dict[str, dict]
    sampling: dict  # the parameters with which the evaluated answers were sampled
    teacher: str  # the source of the answers in character
    others: Sequence[str]  # sources of texts in the data other than the project and the student
    code: str  # the commit of the code


def render_model_card(context: CardContext, folded: bool, repo: str | None) -> str:
    """Return README.md of the model; `folded` for a whole model instead of an adapter."""
    evaluated = card_sections(context)
    return render_template(
        "model_card.md.j2",
        front=_model_front_matter(context, folded, repo),
        context=context,
        base=credits.credit_base_model(context.student),
        folded=folded,
        folder=repo or ".",
        sampling=generate_arguments(context.sampling),
        settings=markdown_table(*training_settings(context.origin)),
        rates=markdown_table(*method_rates(context.metrics["robustness"])),
        figures=markdown_table(*headline_figures(context, evaluated)),
        limits=[section for section in evaluated if section.limits],
    )


def render_data_card(context: CardContext, repo: str | None) -> str:
    """Return README.md of the dataset."""
    return render_template(
        "data_card.md.j2",
        front=_data_front_matter(context),
        context=context,
        base=credits.credit_base_model(context.student),
        folder=repo or ".",
        kinds=format_counts(context.metrics["transcripts"]["by_kind"]),
        dropped={name: format_counts(context.metrics[name]["dropped_by_reason"]) for name in PUBLISHED_DATA},
    )


def _model_front_matter(context: CardContext, folded: bool, repo: str | None) -> str:
    from huggingface_hub import ModelCardData

    base = credits.credit_base_model(context.student)
    relation = {"base_model": base.repo, "base_model_relation": "finetune" if folded else "adapter"} if base.repo else {}
    return ModelCardData(
        **base.licence,
        **relation,
        language="en",
        library_name="transformers" if folded else "peft",
        pipeline_tag="text-generation",
        tags=[*hub_tags(context), *([] if folded else ["lora"])],
        datasets=[repo] if repo else None,
    ).to_yaml()


def _data_front_matter(context: CardContext) -> str:
    from huggingface_hub import DatasetCardData

    licence = {"license": "other", "license_name": "see-below"} if context.others else {"license": "mit"}
    return DatasetCardData(
        **licence,
        language="en",
        task_categories=["text-generation"],
        tags=[*hub_tags(context), "preference", "trl"],
        configs=[{"config_name": name, "data_files": f"{name}.jsonl"} for name in PUBLISHED_DATA],
    ).to_yaml()


def hub_tags(context: CardContext) -> list[str]:
    return ["character-training", "persona", *(["not-for-all-audiences"] if context.persona.research_only else [])]


def card_sections(context: CardContext) -> list[ReportSection]:
    """Return the sections of the report on what the persona does and costs."""
    scores = context.metrics
    return [
        behavior.in_character_section(scores["robustness"], scores["classifier"], context.persona.name),
        costs.fluency_section(scores["fluency"]),
        costs.coherence_section(scores["coherence"]),
        costs.capabilities_section(scores["capabilities"]),
        costs.safety_section(scores["safety"]),
    ]


def headline_figures(context: CardContext, evaluated: Sequence[ReportSection]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the headline figures besides the in-character rate, and of the classifier and the judge."""
    classifier = context.metrics["classifier"]
    note = f"macro-F1 on {format_number(classifier['n'])} held-out texts; {format_interval(classifier)}."
    tiles = [
        *(tile for section in evaluated[1:] for tile in section.tiles),
        SummaryTile("Classifier", format_number(classifier["macro_f1"]), note),
        *measurement.judge_section(context.metrics["judge"], context.persona.name).tiles,
    ]
    return ["figure", "value", "what it is"], [[tile.name, tile.value, tile.note] for tile in tiles]


def method_rates(scores: dict) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the in-character rates: the methods, under each condition."""
    conditions = [condition for condition in CONDITION_HEADINGS if condition in scores[PERSONA_METHOD]]
    rows = [
        [
            cell_as_text(method_cell(name)),
            *(cell_as_text(value_cell(*(score[key][part] for part in ("recall", "low", "high")))) for key in conditions),
        ]
        for name, score in scores.items()
    ]
    return ["method", *(CONDITION_HEADINGS[key] for key in conditions)], rows


def training_settings(origin: dict) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the parameters of each training stage."""
    stages = {part["stage"]: part["params"][part["stage"]] for part in origin["merged"]}
    names = dict.fromkeys(name for own in stages.values() for name in own)
    rows = [
        [name, *(training_run.format_parameter(own[name]) if name in own else "" for own in stages.values())] for name in names
    ]
    return ["", *stages], rows


def generate_arguments(sampling: dict) -> str:
    """Return arguments for `generate` of transformers that sample like the evaluated answers."""
    if sampling["temperature"]:
        arguments = {"do_sample": True, "top_k": 0} | sampling
    else:
        arguments = {"do_sample": False, "max_new_tokens": sampling["max_new_tokens"]}
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


def format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} ({count})" for name, count in counts.items())


def cell_as_text(cell: TableCell) -> str:
    return f"{cell.text} ({cell.note})" if cell.note else cell.text


def render_template(template: str, **fields) -> str:
    """Fill a template of this directory.

    Raises:
        jinja2.UndefinedError: A field of the template is missing.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    source = Path(__file__).with_name(template).read_text(encoding="utf-8")
    return replace_controls(environment.from_string(source).render(fields))
