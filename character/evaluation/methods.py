"""The methods that evaluations compare, each a model and a system prompt. dvc.yaml lists them, from `base` to `persona`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path

import click

from character.core import models
from character.core.params import read_value
from character.inference import engines
from character.inference.generate import Engine, Reply, Request, SamplingSettings, generate


@dataclass(frozen=True)
class Method:
    """A model with a system prompt.

    `model` is the folder of the student or of an adapter on it. `system` is a file with a system prompt; a directory means no
    system prompt.
    """

    name: str
    model: Path
    system: Path

    @cached_property
    def engine(self) -> Engine:
        return engines.student_engine([] if self.model == models.STUDENT_DIR else [self.model])

    def build_messages(self, *said: str, more: str = "") -> list[dict[str, str]]:
        """Return a conversation under the method's system prompt.

        Args:
            said: the texts of user and assistant in turn, the user first.
            more: text that is appended to the system prompt.
        """
        own = self.system.read_text(encoding="utf-8") if self.system.is_file() else ""
        system = "\n\n".join(part for part in (own, more) if part)
        turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(said)]
        return [{"role": "system", "content": system}, *turns] if system else turns

    def answer_requests(
        self, requests: Sequence[Request], sampling: SamplingSettings, stage: str, retry: bool = False
    ) -> list[Reply]:
        """Return the replies of `generate`, whose `retry` this is."""
        return generate(self.engine, requests, sampling, read_value("seed"), f"{stage}@{self.name}", retry)


def method_options(command: Callable[[Method], None]) -> Callable:
    """Add the options that select a method to a click command, which then receives a `Method`."""

    @click.option("--method", "name", required=True, help="Names the output: data/<stage>/METHOD.jsonl.")
    @click.option("--model", type=click.Path(path_type=Path), required=True, help="The student, or an adapter on it.")
    @click.option(
        "--system",
        type=click.Path(exists=True, path_type=Path),
        required=True,
        help="A file with a system prompt; a directory means none.",
    )
    @wraps(command)
    def run(name: str, model: Path, system: Path) -> None:
        command(Method(name, model, system))

    return run
