"""Checkpoints: where a training run keeps them, and how a killed run finds its own."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from character.core import models
from character.core.params import ParamsSection, read_value
from character.core.safe_text import print_text
from character.training.adapters import stage_provenance

TRAINING_LIBRARIES = ("accelerate", "peft", "torch", "transformers", "trl")


def checkpoint_dir(name: str, settings: ParamsSection, examples: Sequence, earlier: Path | None, processes: int) -> Path:
    """Return the directory for the checkpoints of this run; its name is a hash of everything that affects the adapter."""
    runtime = models.read_runtime()
    weights = [models.directory_fingerprint(folder) for folder in (models.STUDENT_DIR, earlier) if folder]
    code = {file: digest for file, digest in stage_provenance(name)["deps"].items() if file.startswith("code/")}
    config = Path(runtime.accelerate).read_text(encoding="utf-8") if runtime.accelerate else ""
    inputs = [settings.model_dump(), [example.model_dump() for example in examples], read_value("seed"), weights, code]
    inputs += [
        models.select_device(),
        runtime.threads,
        runtime.training_batch,
        processes,
        config,
        list(map(version, TRAINING_LIBRARIES)),
    ]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return models.original_repository() / ".cache" / "train" / digest[:32]


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a checkpoint directory; two experiments on one machine may train the same adapter."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print_text("another run is training the same adapter; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def last_checkpoint(folder: Path, processes: int) -> Path | None:
    """Return the newest checkpoint that all processes wrote completely, and delete those that the first left incomplete."""
    newest = None
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2])):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # the file that the first process writes last
        except (FileNotFoundError, ValueError):
            shutil.rmtree(path)
            continue
        if len(list(path.glob("rng_state*.pth"))) == processes:
            newest = path
    return newest
