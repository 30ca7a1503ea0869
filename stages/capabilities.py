"""capabilities: scores on tasks -> results/capabilities.json, plots/capabilities.csv.

What does the character cost? The accuracy of each method, and its difference from the first method's on the same items.
"""

from collections.abc import Sequence

import click

from character.core import records
from character.core.errors import UserError
from character.core.params import read_value
from character.evaluation.intervals import mean_difference, mean_with_interval
from character.evaluation.lm_eval_tasks import TaskScore

ALL_TASKS = "overall"  # the items of all tasks together


def paired_scores(reference: Sequence[TaskScore], scores: Sequence[TaskScore]) -> dict[str, list[tuple[float, float]]]:
    """Return pairs of scores (reference, method) for the same items, for all tasks together and for each task."""
    pairs = {ALL_TASKS: []}
    for one, other in zip(reference, scores, strict=True):
        for group in (ALL_TASKS, one.task):
            pairs.setdefault(group, []).append((one.score, other.score))
    return pairs


def capability_scores(pairs: Sequence[tuple[float, float]], seed: int) -> dict[str, float | int]:
    """Return accuracy and its change, with 95% intervals, and how many items were gained and lost.

    The change is paired: it compares the two scores of each item, so the difficulty of the items cancels out.
    """
    reference, own = zip(*pairs, strict=True)
    accuracy, low, high = mean_with_interval(own, seed)
    change, change_low, change_high = mean_difference(own, reference, seed)
    return {
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "change": change,
        "change_low": change_low,
        "change_high": change_high,
        "gained": sum(after > before for before, after in pairs),
        "lost": sum(after < before for before, after in pairs),
        "n": len(pairs),
    }


def load_task_scores(method: str) -> list[TaskScore]:
    return records.read_records(f"data/tasks/{method}.jsonl", TaskScore)


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Compare data/tasks/METHOD.jsonl of each method with the first one's."""
    seed, first = read_value("seed"), load_task_scores(methods[0])
    metrics = {}
    for method in methods:
        scores = load_task_scores(method)
        if [(row.task, row.item) for row in scores] != [(row.task, row.item) for row in first]:
            raise UserError(
                f"data/tasks/{method}.jsonl has different items from {methods[0]}.jsonl; run `dvc repro` to make both again."
            )
        metrics[method] = {task: capability_scores(pairs, seed) for task, pairs in paired_scores(first, scores).items()}
    records.write_json("results/capabilities.json", metrics)
    rows = [{"method": method, "task": task, **scores} for method, tasks in metrics.items() for task, scores in tasks.items()]
    records.write_csv("plots/capabilities.csv", rows)


if __name__ == "__main__":
    main()
