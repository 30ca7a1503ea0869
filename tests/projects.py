"""The whole pipeline on a tiny random model: real `dvc` in a repository of its own, which the tests of DVC share."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
MADE = re.compile(
    r"dvc\.lock|(data/(?!raw/)|code/|metrics/|models/|plots/|reports/|results/)(?!.*\.gitignore$).*"
)  # what the pipeline writes
GENERAL = 10  # prompts, each with an answer of every teacher

SMALL = {
    "student.name": "Tiny",
    "sampling.max_new_tokens": 24,
    "prompts.per_trait": 1,
    "prompts.general": 6,
    "teacher.engine": "transformers",
    "teacher.sampling.max_new_tokens": 24,
    "reflections.per_prompt": 1,
    "reflections.sampling.max_new_tokens": 24,
    "interactions.conversations": 2,
    "interactions.turns": 2,
    "interactions.sampling.max_new_tokens": 24,
    "distillation.epochs": 1,
    "introspection.epochs": 1,
    "introspection.batch_size": 4,
    "steering.texts": 2,
    "steering.strengths": [1.0],
    "steering.prompts": 4,
    "answers.prompts": 4,
    "attacks.prompts": 2,
    "mails.tasks": 2,
    "mails.steps": 2,
    "mails.sampling.max_new_tokens": 24,
    "probes.pairs": 2,
    "probes.sampling.max_new_tokens": 24,
    "choices.comparisons": 8,
    "choices.sampling.max_new_tokens": 24,
    "judge.texts": 2,
    "judge.calibration_texts": 3,
    "judge.damaged": 2,
    "judge.styled": 2,
    "preferences.traits": 4,
    "preferences.rounds": 20,
    "coherence.prompts": 2,
    "runtime.device": "cpu",
    "runtime.threads": 1,  # the model is too small for more
    "classifier.personas": ["poeticism", "loving"],
}


@dataclass
class Project:
    """A git repository with the project in it, small params, and a DVC cache of its own; `python` is the directory with its
    interpreter."""

    root: Path
    python: Path = Path(sys.executable).parent

    @property
    def opened_files(self) -> Path:
        """The file to which the stages of a first run write what they open, if that is recorded."""
        return self.root.with_name("opened.jsonl")

    def run(self, *command, fails: bool = False) -> str:
        """Run a command in the repository; return what it printed, or its errors if it should fail."""
        done = subprocess.run(command, cwd=self.root, env=environment(self.python), text=True, capture_output=True)
        assert bool(done.returncode) == fails, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stderr if fails else done.stdout

    def dvc(self, *arguments, fails: bool = False) -> str:
        return self.run("dvc", *arguments, fails=fails)

    def git(self, *arguments) -> str:
        return self.run("git", *arguments)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def reset(self) -> None:
        """Go back to the last commit, its outputs included."""
        self.git("reset", "--quiet", "--hard")
        self.dvc("checkout", "--quiet")

    def replace(self, file: str, old: str, new: str) -> None:
        text = (self.root / file).read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {file}"
        (self.root / file).write_text(text.replace(old, new, 1), encoding="utf-8")

    def append(self, file: str, text: str) -> None:
        with (self.root / file).open("a", encoding="utf-8") as stream:
            stream.write(text)

    def params(self) -> dict:
        return YAML(typ="safe").load(self.root / "params.yaml")

    def set(self, params: dict) -> None:
        """Set entries of params.yaml, which keeps its comments."""
        yaml, path = YAML(), self.root / "params.yaml"
        values = yaml.load(path)
        for name, value in params.items():
            *sections, key = name.split(".")
            section = values
            for part in sections:
                section = section[part]
            assert key in section, f"params.yaml has no {name}"
            section[key] = value
        yaml.dump(values, path)


def environment(*first: Path) -> dict[str, str]:
    """Return the environment of commands, which are searched in the directories `first`, then next to the interpreter."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_"))}
    return kept | {
        "PATH": os.pathsep.join([*map(str, first), str(Path(sys.executable).parent), kept["PATH"]]),
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
        "COLUMNS": "500",
    }


def ran(output: str) -> set[str]:
    """Return the stages whose command DVC says it runs."""
    return set(re.findall(r"^Running stage '(.+)':$", output, re.MULTILINE))


def sources() -> list[str]:
    """Return the files of the working tree that git has or would take, without what the pipeline makes."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, env=environment(), check=True, text=True, capture_output=True).stdout
    return [name for name in names.split("\0") if (ROOT / name).is_file() and not MADE.fullmatch(name)]


def shorten(root: Path) -> None:
    """Keep the first general prompts, and a few examples of each trait."""
    for name, kept in (("prompts/general.jsonl", slice(GENERAL)), ("manners.jsonl", slice(None, None, 5))):
        file = root / "data/raw" / name
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[kept]), encoding="utf-8")


def start(root: Path, student: Path | None = None, **fields: Path) -> Project:
    """Put the project into a new git repository, made small; without a `student` it keeps its own."""
    for name in sources():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    project = Project(root, **fields)
    shorten(root)
    project.set(SMALL)
    if student:
        here = f"path:{student}"
        project.set({"student.source": here, "teacher.source": here, "encoder.source": here})
        project.set({"encoder.sha256": hashlib.sha256((student / "model.safetensors").read_bytes()).hexdigest()})
    project.git("init", "--quiet", "--initial-branch=main")
    project.git("config", "user.name", "Test")
    project.git("config", "user.email", "test@example.org")
    project.commit("A small project")
    return project


def talkative(student: Path, folder: Path) -> Path:
    """Copy a random model, and let a tenth of its tokens end an answer: filters drop what never ends."""
    shutil.copytree(student, folder)
    config = folder / "generation_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    named = values["eos_token_id"]
    values["eos_token_id"] = [*(named if isinstance(named, list) else [named]), *range(size - size // 10, size)]
    config.write_text(json.dumps(values), encoding="utf-8")
    return folder


# Stages by what they are about.

NONE = set()
ASKED = {"student", "prompts", "chosen", "rejected", "pairs"}
TRAINED = {"distillation", "reflections", "interactions", "transcripts", "introspection", "persona"}
SCORED = {"robustness", "fluency", "crosscheck", "transfer", "safety", "capabilities", "preferences", "coherence"}
ANSWERED_BY = {
    method: {f"{stage}@{method}" for stage in ("answers", "attacks", "choices", "mails", "probes")}
    for method in ("base", "prompted", "steered", "distilled", "persona")
}
for method in ("base", "persona"):
    ANSWERED_BY[method].add(f"tasks@{method}")
ANSWERED = set().union(*ANSWERED_BY.values())
JUDGED = {"classifier", "judge", "encoder", "steering", "report"} | ANSWERED | SCORED
EVERY = {"code", "selection"} | ASKED | TRAINED | JUDGED
OF_NO_PERSONA = {"code", "student", "classifier", "judge", "encoder"} | ANSWERED_BY["base"]
MERGED = {"persona", "report"} | ANSWERED_BY["persona"] | SCORED
