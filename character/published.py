"""The personas that are here: the selected one, in models/persona, and those that were published, by their tags.

`character publish` makes the tags (see character/publishing.py); `git fetch --tags` brings those of others.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from character import constitution, models, provenance
from character.errors import UserError
from character.params import value
from character.publishing import TAG, tag
from character.shell import run

SELECTED = Path("models/persona")
FETCHED = Path(".cache/personas")


@dataclass(frozen=True)
class Persona:
    """A trained persona; `version` is None for the selected one, as it lies in models/persona."""

    name: str
    version: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.version else f"{self.name} ({SELECTED})"

    @property
    def constitution(self) -> Path:
        return Path(f"constitutions/{self.name}.yaml")

    def folder(self) -> Path:
        """Return the folder of its adapter, fetched if need be."""
        folder = fetch(self.name, self.version) if self.version else SELECTED
        if not (folder / "adapter_config.json").is_file():
            raise UserError(f"{folder}: no adapter here; run `dvc repro` to make it, or `dvc pull` to fetch it.")
        return folder


def available() -> dict[str, str]:
    """Return the newest published version of each persona, by the tags of this clone."""
    tags = run("git", "tag", "--list", "adapter-*", "--sort=version:refname").splitlines()
    return {match["name"]: match["version"] for name in tags if (match := TAG.fullmatch(name))}


def known() -> list[Persona]:
    """Return the selected persona, then the published ones."""
    selected = value("persona")
    others = [Persona(name, version) for name, version in available().items() if name != selected]
    return [Persona(selected, None), *others]


def find(name: str) -> Persona:
    """Return a persona by its name: the selected one, or the newest version of another.

    Raises:
        UserError: it is neither selected nor published.
    """
    if name == value("persona"):
        return Persona(name, None)
    personas = {persona.name: persona for persona in known()}
    if name not in personas:
        raise UserError(
            f"{name!r} is neither the selected persona nor a published one; there are {', '.join(personas)} "
            "(`git fetch --tags` brings those that others published)."
        )
    return personas[name]


def fetch(name: str, version: str) -> Path:
    """Return the folder of a published adapter, which is fetched once: from DVC's cache, or else from its remote."""
    folder = FETCHED / f"{name}@{version}"
    if not folder.exists():
        FETCHED.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FETCHED, prefix=".") as temporary:
            made = Path(temporary) / "adapter"
            run("dvc", "get", ".", str(SELECTED), "--rev", tag(name, version), "--out", str(made))
            made.rename(folder)
    return folder


def doubts(persona: Persona) -> list[str]:
    """Return what speaks against an adapter's being of this student and of the constitution as it now is."""
    folder = persona.folder()
    origin = provenance.recorded(folder)
    found = []
    if origin["merged"][0]["deps"][str(models.STUDENT)] != models.fingerprint(models.STUDENT):
        found.append(f"{folder} was trained on another {models.STUDENT} than the one that is here.")
    here = persona.constitution
    if here.is_file() and constitution.traits_hash(constitution.load(here)) != origin["constitution"]:
        found.append(f"{folder} was trained on other traits than those of {here} as it is now.")
    return found
