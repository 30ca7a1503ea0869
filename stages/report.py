"""report: results, plots data, answers, constitution, models/persona/ -> reports/report.html, metrics/summary.json.

The page is a single file that needs no network; the summary has the few figures that `dvc metrics diff` compares.

The parts follow the argument: what the persona does, what it costs, how well that is measured, how it was made. Their
sections are in `character.report`.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import click
from pydantic import Field

from character.core import models, records
from character.core.lora import ADAPTER_WEIGHTS
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import read_result
from character.core.safe_text import print_text
from character.core.text_input import read_utf8
from character.dataset import constitution
from character.report import behavior, costs, html, measurement, preferences, training_run
from character.report.summary import summary_figures

TRAINING_STAGES = ("distillation", "introspection")


class ReportParams(ParamsSection):
    movers: int = Field(gt=0)  # how many traits are shown, from the one whose rating changed most
    replies: int = Field(ge=0)  # how many held-out prompts are shown with their answers, from the first


def count_parameters(adapter: Path) -> int:
    """Return the number of parameters of an adapter."""
    from safetensors import safe_open

    with safe_open(adapter / ADAPTER_WEIGHTS, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (it is no dict)


def page_facts(pairs: dict, transcripts: dict, merged: dict) -> dict[str, str]:
    """Return the facts for the head of the page: the models, the training data and the size of the adapter."""
    student = models.read_student_card()
    engine, source = read_value("teacher.engine"), read_value("teacher.source")
    lost = f"{merged['relative_error']:.1%} of the update lost" if merged["relative_error"] else "merged exactly"
    size = f"{count_parameters(models.PERSONA_DIR) / 1e6:.1f} million parameters"
    return {
        "Student": f"{student.name} ({student.source}, {student.dtype})",
        "Teacher": "recorded answers" if engine == "recorded" else f"{source} ({engine})",
        "Trained on": f"{pairs['pairs']:,} preference pairs, {transcripts['transcripts']:,} transcripts",
        "Adapter": f"LoRA of rank {merged['rank']}, {lost}: {size}",
    }


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Write reports/report.html, which compares answers of METHODS, and metrics/summary.json."""
    name, settings = read_value("persona"), read_section("report", ReportParams)
    persona = constitution.load_constitution(f"constitutions/{name}.yaml")
    origin = records.read_provenance(models.PERSONA_DIR)
    robustness, classifier, judge = map(read_result, ("robustness", "classifier", "judge"))
    pairs, transcripts = map(read_result, ("pairs", "transcripts"))
    trained = {name: read_result(name) for name in TRAINING_STAGES}
    curves = {name: records.read_csv(f"plots/{name}.csv") for name in TRAINING_STAGES}
    answers = {method: records.read_records(f"data/answers/{method}.jsonl", records.EvaluatedAnswer) for method in methods}
    suffixes = [json.loads(line) for line in read_utf8("data/raw/prompts/suffixes.jsonl").split("\n") if line.strip()]
    calls = [(row["actual"], row["predicted"]) for row in records.read_csv("plots/classifier.csv")]
    parts = {
        "What it does": [
            behavior.in_character_section(robustness, classifier, name),
            behavior.break_character_section(robustness, classifier, name, {row["name"]: row["suffix"] for row in suffixes}),
            behavior.transfer_section(read_result("transfer"), classifier, name, read_value("mails.begun")),
            preferences.preferences_section(
                read_result("preferences"), records.read_csv("plots/preferences.csv"), settings.movers
            ),
            behavior.replies_section(answers, settings.replies),
        ],
        "What it costs": [
            costs.fluency_section(read_result("fluency")),
            costs.coherence_section(read_result("coherence")),
            costs.capabilities_section(read_result("capabilities")),
            costs.safety_section(read_result("safety")),
        ],
        "How well it is measured": [
            measurement.classifier_section(classifier, calls, name),
            measurement.crosscheck_section(read_result("crosscheck"), classifier, name),
            measurement.judge_section(judge, name),
        ],
        "How it was made": [
            training_run.constitution_section(persona),
            training_run.data_section(read_result("prompts"), pairs, transcripts, trained),
            training_run.training_section(origin["merged"], trained, curves),
            training_run.steering_section(read_result("steering"), records.read_csv("plots/steering.csv")),
            training_run.provenance_section(origin),
        ],
    }
    with records.replace_atomically("reports/report.html") as file:
        file.write(
            html.render_page(
                title=name,
                lede=persona.summary,
                facts=page_facts(pairs, transcripts, read_result("persona")),
                parts=parts,
            )
        )
    figures = summary_figures(robustness, read_result("capabilities"), read_result("fluency"), classifier, judge)
    records.write_json("metrics/summary.json", figures)
    print_text(f"report: {sum(map(len, parts.values()))} sections in reports/report.html")


if __name__ == "__main__":
    main()
