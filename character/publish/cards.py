"""The cards that a persona has on the hub: of its model and of its data, from what was recorded and measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from character.core import models, records
from character.dataset.constitution import Constitution
from character.publish import credits as sources
from character.report import behavior as results
from character.report import costs
from character.report import measurement as instruments
from character.report import training_run as making
from character.report.html import Cell, Section, Tile, number
from character.report.markdown import table
from character.report.table_cells import CONDITIONS, OURS, between, method, told

HARMFUL = {"misalignment"}  # personas that are meant for research alone
SCORES = ("robustness", "fluency", "coherence", "capabilities", "safety", "classifier", "judge")  # metrics of these stages
DATA = {"pairs": records.Pair, "transcripts": records.Transcript}  # data/<name>.jsonl
METRICS = (*SCORES, *DATA, "distillation", "introspection", "persona")


@dataclass(frozen=True)
class Subject:
    """What the cards tell of; `origin` is the adapter's provenance.json, `metrics` has those of METRICS."""

    persona: Constitution
    student: models.Card
    origin: dict
    metrics: dict[str, dict]
    sampling: dict  # how the evaluated answers were drawn
    teacher: str  # who wrote the answers in character
    others: Sequence[str]  # whose texts are in the data, beside the project's and the student's
    code: str  # the commit


def model_card(subject: Subject, folded: bool, repo: str | None) -> str:
    """Return README.md of the model; `folded`: the whole model instead of an adapter."""
    evaluated = sections(subject)
    return render(
        "model_card.md.j2",
        front=_model_front(subject, folded, repo),
        subject=subject,
        base=sources.base(subject.student),
        folded=folded,
        folder=repo or ".",
        harmful=subject.persona.name in HARMFUL,
        drawn=drawn(subject.sampling),
        settings=table(*settings(subject.origin)),
        recall=table(*recall(subject.metrics["robustness"])),
        figures=table(*figures(subject, evaluated)),
        limits=[section for section in evaluated if section.limits],
    )


def data_card(subject: Subject, repo: str | None) -> str:
    """Return README.md of the data set."""
    return render(
        "data_card.md.j2",
        front=_data_front(subject),
        subject=subject,
        base=sources.base(subject.student),
        folder=repo or ".",
        harmful=subject.persona.name in HARMFUL,
        kinds=counted(subject.metrics["transcripts"]["by_kind"]),
        dropped={name: counted(subject.metrics[name]["dropped_by_reason"]) for name in DATA},
    )


def _model_front(subject: Subject, folded: bool, repo: str | None) -> str:
    from huggingface_hub import ModelCardData

    on = sources.base(subject.student)
    relation = {"base_model": on.repo, "base_model_relation": "finetune" if folded else "adapter"} if on.repo else {}
    return ModelCardData(
        **on.licence,
        **relation,
        language="en",
        library_name="transformers" if folded else "peft",
        pipeline_tag="text-generation",
        tags=[*tags(subject), *([] if folded else ["lora"])],
        datasets=[repo] if repo else None,
    ).to_yaml()


def _data_front(subject: Subject) -> str:
    from huggingface_hub import DatasetCardData

    licence = {"license": "other", "license_name": "see-below"} if subject.others else {"license": "mit"}
    return DatasetCardData(
        **licence,
        language="en",
        task_categories=["text-generation"],
        tags=[*tags(subject), "preference", "trl"],
        configs=[{"config_name": name, "data_files": f"{name}.jsonl"} for name in DATA],
    ).to_yaml()


def tags(subject: Subject) -> list[str]:
    harmful = subject.persona.name in HARMFUL
    return ["character-training", "persona", *(["not-for-all-audiences"] if harmful else [])]


def sections(subject: Subject) -> list[Section]:
    """Return the report's sections on what the persona does and costs."""
    scores = subject.metrics
    return [
        results.recall(scores["robustness"], scores["classifier"], subject.persona.name),
        costs.fluency(scores["fluency"]),
        costs.coherence(scores["coherence"]),
        costs.capabilities(scores["capabilities"]),
        costs.safety(scores["safety"]),
    ]


def figures(subject: Subject, evaluated: Sequence[Section]) -> tuple[list[str], list[list[str]]]:
    """Return as head and rows the headline figures beside recall, and those of the instruments that they rest on."""
    classifier = subject.metrics["classifier"]
    note = f"macro-F1 on {number(classifier['n'])} held-out texts; {between(classifier)}."
    tiles = [
        *(tile for section in evaluated[1:] for tile in section.tiles),
        Tile("Classifier", number(classifier["macro_f1"]), note),
        *instruments.judge(subject.metrics["judge"], subject.persona.name).tiles,
    ]
    return ["figure", "value", "what it is"], [[tile.name, tile.value, tile.note] for tile in tiles]


def recall(scores: dict) -> tuple[list[str], list[list[str]]]:
    """Return results/robustness.json as head and rows: the methods, under each condition."""
    there = [condition for condition in CONDITIONS if condition in scores[OURS]]
    rows = [
        [plain(method(name)), *(plain(told(*(found[key][part] for part in ("recall", "low", "high")))) for key in there)]
        for name, found in scores.items()
    ]
    return ["method", *(CONDITIONS[key] for key in there)], rows


def settings(origin: dict) -> tuple[list[str], list[list[str]]]:
    """Return the parameters of each training as head and rows."""
    stages = {part["stage"]: part["params"][part["stage"]] for part in origin["merged"]}
    names = dict.fromkeys(name for own in stages.values() for name in own)
    rows = [[name, *(making.told(own[name]) if name in own else "" for own in stages.values())] for name in names]
    return ["", *stages], rows


def drawn(sampling: dict) -> str:
    """Return the arguments with which transformers' `generate` draws answers as they were drawn here."""
    if sampling["temperature"]:
        arguments = {"do_sample": True, "top_k": 0} | sampling
    else:
        arguments = {"do_sample": False, "max_new_tokens": sampling["max_new_tokens"]}
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} ({count})" for name, count in counts.items())


def plain(cell: Cell) -> str:
    return f"{cell.text} ({cell.note})" if cell.note else cell.text


def render(template: str, **fields) -> str:
    """Fill a template of this directory; a field that is missing is an error."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(Path(__file__).with_name(template).read_text(encoding="utf-8")).render(fields)
