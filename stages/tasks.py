"""tasks: data/raw/tasks or other tasks of lm-evaluation-harness, one method's model -> data/tasks/<method>.jsonl.

Measures capabilities. The output is the score of each item, since methods are compared item by item.
"""

from pathlib import Path

import click
from pydantic import Field

from character.core import models, records
from character.core.params import ParamsSection, read_section, read_value
from character.core.safe_text import print_text
from character.evaluation import lm_eval_tasks


class TaskSettings(ParamsSection):
    metrics: dict[str, str] = Field(min_length=1)  # the metric to use, by task
    limit: int = Field(ge=0)  # the first items of each task, for a group those of each subtask; 0: all


@click.command()
@click.option("--method", required=True, help="Names the output: data/tasks/METHOD.jsonl.")
@click.option("--model", type=Path, required=True, help="The student, or an adapter on it.")
def main(method: str, model: Path):
    """Evaluate one method's model on the tasks."""
    settings = read_section("tasks", TaskSettings)
    tasks = lm_eval_tasks.load_tasks(list(settings.metrics), read_value("seed"))
    lm = lm_eval_tasks.language_model([] if model == models.STUDENT_DIR else [model])
    scores = []
    for name, metric in settings.metrics.items():
        print_text(f"tasks@{method}: {name}")
        scores += lm_eval_tasks.score_task_items(lm, name, tasks[name], metric, settings.limit)
    records.write_records(f"data/tasks/{method}.jsonl", scores)


if __name__ == "__main__":
    main()
