"""capabilities: scores on tasks -> results/capabilities.json, plots/capabilities.csv.

What does the character cost? The accuracy of each method, and how far it is from the first method's on the same items.
"""

from collections.abc import Sequence

import click

from character.core import records
from character.core.errors import UserError
from character.core.params import value
from character.evaluation.intervals import contrast, mean
from character.evaluation.lm_eval_tasks import Score

ALL = "overall"  # the items of all tasks together


def paired(reference: Sequence[Score], scores: Sequence[Score]) -> dict[str, list[tuple[float, float]]]:
    """Return for all tasks together, and for each, what the reference and the method got for the same items."""
    pairs = {ALL: []}
    for one, other in zip(reference, scores, strict=True):
        for group in (ALL, one.task):
            pairs.setdefault(group, []).append((one.score, other.score))
    return pairs


def scored(pairs: Sequence[tuple[float, float]], seed: int) -> dict[str, float | int]:
    """Return accuracy and its change, with 95% intervals, and how many items were gained and lost.

    The change compares both scores of an item: most of what makes an item hard is shared, and drops out of it.
    """
    reference, own = zip(*pairs, strict=True)
    accuracy, low, high = mean(own, seed)
    change, change_low, change_high = contrast(own, reference, seed)
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


def scores_of(method: str) -> list[Score]:
    return records.read(f"data/tasks/{method}.jsonl", Score)


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Compare data/tasks/METHOD.jsonl of each method with the first one's."""
    seed, first = value("seed"), scores_of(methods[0])
    metrics = {}
    for method in methods:
        scores = scores_of(method)
        if [(row.task, row.item) for row in scores] != [(row.task, row.item) for row in first]:
            raise UserError(
                f"data/tasks/{method}.jsonl has other items than {methods[0]}.jsonl; run `dvc repro` to make both anew."
            )
        metrics[method] = {task: scored(pairs, seed) for task, pairs in paired(first, scores).items()}
    records.write_json("results/capabilities.json", metrics)
    rows = [{"method": method, "task": task, **found} for method, tasks in metrics.items() for task, found in tasks.items()]
    records.write_csv("plots/capabilities.csv", rows)


if __name__ == "__main__":
    main()
