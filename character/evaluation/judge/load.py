"""The judge that params.yaml selects, and its measured accuracy."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from character.core.errors import UserError
from character.core.params import ParamsSection, read_section, read_value
from character.core.safe_text import print_text
from character.evaluation.judge.chat_judge import ChatJudge
from character.evaluation.judge.likelihood_judge import LikelihoodJudge
from character.evaluation.judge.questions import Judge
from character.inference import engines
from character.inference.generate import SamplingSettings
from character.inference.openai_engine import RequestOptions

JUDGE_METRICS = Path("results/judge.json")


class ExampleSettings(ParamsSection):
    """How the template `examples` of likelihood_judge.py is learned, as in the classifier."""

    layers: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        min_length=1
    )  # depths in the student that are read, as shares of its layers
    shrinkage: float = Field(gt=0, le=1)  # of the within-word scatter towards a sphere
    topic_weight: float = Field(ge=1)  # weight in that scatter of what the examples for one prompt share


class JudgeSettings(ParamsSection):
    kind: Literal["likelihood", "student", "transformers", "vllm", "openai"]
    source: str  # the model of the last three
    templates: list[str] = Field(min_length=1)  # of likelihood_judge.py, averaged
    examples: ExampleSettings
    calibration: Literal["mean", "scaled"]
    tries: int = Field(gt=0)  # of a chat judge, until its verdict can be parsed
    sampling: SamplingSettings  # of a chat judge
    personas: dict[str, list[str]] = Field(min_length=2)  # persona -> the trait words that its recorded answers show
    texts: int = Field(gt=0)  # of each persona, to measure the judge on traits
    calibration_texts: int = Field(gt=0)  # neutral texts, and the same number in character
    damaged: int = Field(gt=0)  # answers of each kind of damage
    styled: int = Field(gt=0)  # answers of each persona, compared with neutral ones


def load_judge() -> Judge:
    """Return the judge that params.yaml selects; the likelihood judge has the calibration that the stage `judge` wrote."""
    settings = read_section("judge", JudgeSettings)
    if settings.kind == "likelihood":
        return LikelihoodJudge.load_calibrated(settings.templates)
    engine = engines.open_engine(settings.kind, settings.source, "judge.source", read_section("openai", RequestOptions))
    return ChatJudge(engine, settings.tries, settings.sampling, read_value("seed"))


def load_accuracy(about: Literal["trait", "coherence", "style"]) -> dict:
    """Return the judge's accuracy on a kind of question, or its preference for a style, to report with its verdicts.

    Raises:
        UserError: the judge was not measured yet.
    """
    if not JUDGE_METRICS.is_file():
        raise UserError(f"{JUDGE_METRICS} is missing; run `dvc repro judge` to measure the judge.")
    figures = json.loads(JUDGE_METRICS.read_text(encoding="utf-8"))
    figures = figures if about == "trait" else figures[about]
    plain = {key: value for key, value in figures.items() if not isinstance(value, dict)}
    print_text(f"the judge, about {about}: " + ", ".join(f"{key} {value}" for key, value in plain.items()))
    return plain
