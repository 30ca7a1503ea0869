"""The judge that params.yaml names, and how often it is right."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from character.core.errors import UserError
from character.core.params import ParamsSection, read_section, read_value
from character.evaluation.judge.chat_judge import ChatJudge
from character.evaluation.judge.likelihood_judge import LikelihoodJudge
from character.evaluation.judge.questions import Judge
from character.inference import engines
from character.inference.generate import SamplingSettings

JUDGE_METRICS = Path("results/judge.json")


class ExampleSettings(ParamsSection):
    """How the `examples` of judge_likelihood.py are learned; as in the classifier."""

    layers: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        min_length=1
    )  # depths in the student that are read, as shares of its layers
    shrinkage: float = Field(gt=0, le=1)  # of the within-word scatter towards a sphere
    topic_weight: float = Field(ge=1)  # of what the examples for one prompt share, in that scatter


class JudgeSettings(ParamsSection):
    kind: Literal["likelihood", "student", "transformers", "vllm", "openai"]
    source: str  # the model of the last three
    templates: list[str] = Field(min_length=1)  # of judge_likelihood.py, averaged
    examples: ExampleSettings
    calibration: Literal["mean", "scaled"]
    tries: int = Field(gt=0)  # of an asked judge, until its verdict can be read
    sampling: SamplingSettings  # of an asked judge
    personas: dict[str, list[str]] = Field(min_length=2)  # the trait words that their recorded answers show
    texts: int = Field(gt=0)  # of each persona, on which the judge is measured
    calibration_texts: int = Field(gt=0)  # neutral ones, and as many in character
    damaged: int = Field(gt=0)  # answers of each kind of damage
    styled: int = Field(gt=0)  # answers of each persona, compared with neutral ones


def load_judge() -> Judge:
    """Return the judge that params.yaml names; the likelihood judge with the calibration that the stage `judge` made."""
    settings = read_section("judge", JudgeSettings)
    if settings.kind == "likelihood":
        return LikelihoodJudge.load_calibrated(settings.templates)
    engine = engines.open_engine(settings.kind, settings.source, "judge.source")
    return ChatJudge(engine, settings.tries, settings.sampling, read_value("seed"))


def load_accuracy(about: Literal["trait", "coherence", "style"]) -> dict:
    """Return how often the judge is right about such questions, or which style it prefers, to be told beside what it says."""
    if not JUDGE_METRICS.is_file():
        raise UserError(f"{JUDGE_METRICS} is missing; run `dvc repro judge` to measure the judge.")
    figures = json.loads(JUDGE_METRICS.read_text(encoding="utf-8"))
    figures = figures if about == "trait" else figures[about]
    told = {key: found for key, found in figures.items() if not isinstance(found, dict)}
    print(f"the judge, about {about}: " + ", ".join(f"{key} {found}" for key, found in told.items()), flush=True)
    return told
