"""lm-evaluation-harness: a chat model's score for each item of a task, one of data/raw/tasks or of the harness.

The model is prompted as in use, with its chat template. A task's `gen_prefix` opens the answer.
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
NO_FILTER = "none"  # lm-evaluation-harness's name for the filter that leaves answers as they are


class TaskScore(Record):
    """The score of one item.

    `task` is the name in params.yaml. It may stand for several tasks, so `item` gives the single task and a number within it.
    """

    task: str
    item: str
    score: float


def load_tasks(names: Sequence[str], seed: int) -> dict[str, dict]:
    """Return the single tasks of each name (a task, a tag or a group), keyed by their own names.

    Random choices of a task, such as its few-shot examples, are the same for every model.

    Raises:
        UserError: a name is unknown, or a task cannot be loaded.
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

    # The harness has 14,000 task files: they are searched only if one of them is named.
    local = all((TASKS_DIR / f"{name}.yaml").is_file() for name in names)
    manager = TaskManager(include_path=TASKS_DIR, include_defaults=not local)
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise UserError(
            f"params.yaml: tasks.metrics: {unknown[0]} is not a task of lm-evaluation-harness (`lm-eval ls tasks` lists them), "
            f"and {TASKS_DIR}/{unknown[0]}.yaml does not define it; correct the name or the file."
        )
    return manager


def _silence_logging() -> None:
    from datasets import config, disable_progress_bars

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    disable_progress_bars()
    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise every local file that is read is reported to the hub


def _seed_generators(seed: int) -> None:
    """Seed the global generators, which tasks use."""
    import numpy
    from lm_eval.utils import set_torch_seed

    random.seed(seed)
    numpy.random.seed(seed)
    set_torch_seed(seed)


def language_model(adapters: Sequence[Path] = ()):
    """Return the student with its adapters as a model of lm-evaluation-harness.

    The chat template writes all special tokens, so none is added: a second BOS would go unnoticed and lower the scores.
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
    """Return a model's score for each item of the tasks that `name` stands for.

    Args:
        lm: a model of lm-evaluation-harness.
        name: the name in params.yaml.
        tasks: its single tasks.
        metric: a metric of lm-evaluation-harness, followed by its filter if it has one: `exact_match,strict-match`.
        limit: how many items of each single task are scored, from the first one; 0 for all.

    Raises:
        UserError: the metric gives no number for some item.
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
            f"params.yaml: tasks.metrics: {name} has no number for each item under {metric!r}; use one of {'; '.join(known)}."
        )
    return [TaskScore(task=name, item=f"{single}/{row['doc_id']}", score=float(row[key])) for single, row in rows]
