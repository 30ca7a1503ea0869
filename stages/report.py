"""report: results, plots data, answers, constitution, models/persona/ -> reports/report.html, metrics/summary.json.

The page is one file, which is read without a network; the summary has the few figures that `dvc metrics diff` compares.

The order of the parts is the order of the argument: what the persona does, what it costs, how well that is measured, how it
was made. Each part is a module of the library.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import click
from pydantic import Field

from character.core import models, records
from character.core.params import Section, read, value
from character.core.records import read_result
from character.dataset import constitution
from character.report import behavior as results
from character.report import costs
from character.report import html as page
from character.report import measurement as instruments
from character.report import preferences as revealed
from character.report import training_run as making
from character.report.summary import summary_figures

TRAINED = ("distillation", "introspection")


class Report(Section):
    movers: int = Field(gt=0)  # traits that are shown, those whose rating changed most
    replies: int = Field(ge=0)  # held-out prompts whose answers are shown, from the first


def parameters(adapter: Path) -> int:
    """Return how many numbers an adapter consists of."""
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (it is no dict)


def facts(pairs: dict, transcripts: dict, merged: dict) -> dict[str, str]:
    """Return what was trained, on what, and how large it is."""
    student = models.card()
    engine, source = value("teacher.engine"), value("teacher.source")
    lost = f"{merged['relative_error']:.1%} of the update lost" if merged["relative_error"] else "merged exactly"
    return {
        "Student": f"{student.name} ({student.source}, {student.dtype})",
        "Teacher": "recorded answers" if engine == "recorded" else f"{source} ({engine})",
        "Trained on": f"{pairs['pairs']:,} preference pairs, {transcripts['transcripts']:,} transcripts",
        "Adapter": f"LoRA of rank {merged['rank']}, {lost}: {parameters(models.PERSONA) / 1e6:.1f} million parameters",
    }


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Write reports/report.html, with answers of METHODS side by side."""
    name, settings = value("persona"), read("report", Report)
    persona = constitution.load(f"constitutions/{name}.yaml")
    origin = records.read_provenance(models.PERSONA)
    robustness, classifier, judge = map(read_result, ("robustness", "classifier", "judge"))
    pairs, transcripts = map(read_result, ("pairs", "transcripts"))
    trained = {name: read_result(name) for name in TRAINED}
    curves = {name: records.read_csv(f"plots/{name}.csv") for name in TRAINED}
    answers = {method: records.read(f"data/answers/{method}.jsonl", records.Answer) for method in methods}
    asked = [json.loads(line) for line in records.read_text("data/raw/prompts/suffixes.jsonl").split("\n") if line.strip()]
    calls = [(row["actual"], row["predicted"]) for row in records.read_csv("plots/classifier.csv")]
    parts = {
        "What it does": [
            results.recall(robustness, classifier, name),
            results.requests(robustness, classifier, name, {row["name"]: row["suffix"] for row in asked}),
            results.transfer(read_result("transfer"), classifier, name, value("mails.begun")),
            revealed.preferences(read_result("preferences"), records.read_csv("plots/preferences.csv"), settings.movers),
            results.replies(answers, settings.replies),
        ],
        "What it costs": [
            costs.fluency(read_result("fluency")),
            costs.coherence(read_result("coherence")),
            costs.capabilities(read_result("capabilities")),
            costs.safety(read_result("safety")),
        ],
        "How well it is measured": [
            instruments.classifier(classifier, calls, name),
            instruments.crosscheck(read_result("crosscheck"), classifier, name),
            instruments.judge(judge, name),
        ],
        "How it was made": [
            making.character(persona),
            making.data(read_result("prompts"), pairs, transcripts, trained),
            making.training(origin["merged"], trained, curves),
            making.steering(read_result("steering"), records.read_csv("plots/steering.csv")),
            making.provenance(origin),
        ],
    }
    with records.replacing("reports/report.html") as file:
        file.write(
            page.render(
                title=name,
                lede=persona.summary,
                facts=facts(pairs, transcripts, read_result("persona")),
                parts=parts,
            )
        )
    figures = summary_figures(robustness, read_result("capabilities"), read_result("fluency"), classifier, judge)
    records.write_json("metrics/summary.json", figures)
    print(f"report: {sum(map(len, parts.values()))} sections in reports/report.html", flush=True)


if __name__ == "__main__":
    main()
