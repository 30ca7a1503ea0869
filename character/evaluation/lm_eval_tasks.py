"""lm-evaluation-harness: what a chat model gets for each item of its tasks, those of data/raw/tasks and its own.

A model is asked as it is used, under its chat template; what a task has as `gen_prefix` opens its answer.
"""

import logging
import random
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path

from character.core import models
from character.core.errors import UserError
from character.core.records import Record

TASKS_DIR = Path("data/raw/tasks")
NO_FILTER = "none"  # what lm-evaluation-harness calls the filter of answers that are taken as they are


class TaskScore(Record):
    """`task` as params.yaml names it; `item` is a single task, since a name may mean several, and a number within it."""

    task: str
    item: str
    score: float


def load_tasks(names: Sequence[str], seed: int) -> dict[str, dict]:
    """Return the single tasks that each name means (a task, a tag or a group), by their own names.

    Whatever a task draws at random, such as its few-shot examples, is the same for every model.
    """
    from datasets.exceptions import DatasetsError

    _silence_logging()
    _seed_generators(seed)
    manager = _task_manager(names)
    try:
        found = {name: manager.load([name])["tasks"] for name in names}
    except (DatasetsError, ImportError, OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"params.yaml: tasks.metrics: a task cannot be loaded ({str(error).splitlines()[0]}); "
            "check its files, the network and HF_TOKEN, or remove it."
        ) from None
    for tasks in found.values():
        for task in tasks.values():
            task.set_fewshot_seed(seed)
    return found


def _task_manager(names: Sequence[str]):
    from lm_eval.tasks import TaskManager

    # Its own tasks are 14,000 files: they are looked through only where one is wanted.
    local = all((TASKS_DIR / f"{name}.yaml").is_file() for name in names)
    manager = TaskManager(include_path=TASKS_DIR, include_defaults=not local)
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise UserError(
            f"params.yaml: tasks.metrics: {unknown[0]} is no task of lm-evaluation-harness (`lm-eval ls tasks` lists them) and "
            f"{TASKS_DIR}/{unknown[0]}.yaml does not define it; correct the name or the file."
        )
    return manager


def _silence_logging() -> None:
    from datasets import config, disable_progress_bars

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    disable_progress_bars()
    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else the hub is told of every local file that is read


def _seed_generators(seed: int) -> None:
    """Seed the global generators, from which tasks draw."""
    import numpy
    from lm_eval.utils import set_torch_seed

    random.seed(seed)
    numpy.random.seed(seed)
    set_torch_seed(seed)


def language_model(adapters: Sequence[Path] = ()):
    """Return the student with its adapters, as lm-evaluation-harness takes a model.

    The template writes every special token itself, so none is added: a second BOS would go unnoticed and cost quality.
    """
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=models.load_model(adapters=adapters),
        tokenizer=models.load_tokenizer(),
        batch_size=max(1, models.read_runtime().generation_batch // 4),  # every position needs logits over the whole vocabulary
        add_bos_token=False,
        softmax_dtype="float32",
    )


def score_task_items(lm, name: str, tasks: Mapping, metric: str, limit: int) -> list[TaskScore]:
    """Return what a model gets for each item of the single tasks that `name` means, or for the first `limit` of each.

    `metric` is one of lm-evaluation-harness, followed by its filter where there is one: `exact_match,strict-match`.
    """
    from lm_eval import evaluate

    samples = evaluate(
        lm=lm,
        task_dict={"tasks": dict(tasks)},
        limit=limit or None,
        bootstrap_iters=0,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )["samples"]
    key, _, chosen = metric.partition(",")
    rows = [(single, row) for single in samples for row in samples[single] if row["filter"] == (chosen or NO_FILTER)]
    if not rows or not all(isinstance(row.get(key), Real) for _, row in rows):
        known = sorted({f"{one},{row['filter']}" for single in samples.values() for row in single for one in row["metrics"]})
        raise UserError(
            f"params.yaml: tasks.metrics: {name} gives no number to each item by {metric!r}; take one of {'; '.join(known)}."
        )
    return [TaskScore(task=name, item=f"{single}/{row['doc_id']}", score=float(row[key])) for single, row in rows]
