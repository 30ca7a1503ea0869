"""coherence: answers, a judge -> results/coherence.json, plots/coherence.csv.

Does a persona cost coherence? The judge compares its answer to each prompt with every other method's, in both orders. If the
verdict depends on the order it is a tie, which counts as half a win for either side. For reference, the win rate of recorded
answers in character against neutral ones shows the judge's preference for style.
"""

from collections.abc import Sequence

import click
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section
from character.core.records import EvaluatedAnswer
from character.core.safe_text import print_text
from character.dataset.conditions import plain_answers
from character.dataset.prompts import take_first
from character.evaluation.intervals import rate_summary
from character.evaluation.judge.load import load_accuracy, load_judge
from character.evaluation.judge.questions import compare_coherence

STYLE_BASELINE = "style"  # listed with the methods: recorded answers, in character against neutral


class CoherenceParams(ParamsSection):
    prompts: int = Field(gt=0)  # of the plain ones


def first_plain_answers(method: str, count: int) -> dict[str, str]:
    """Return the method's answers to the first `count` plain prompts, by prompt, without those that it did not answer."""
    path = f"data/answers/{method}.jsonl"
    answers = take_first(
        plain_answers(records.read_records(path, EvaluatedAnswer)), count, "coherence.prompts", path, "plain answers"
    )
    return {answer.prompt: answer.response for answer in records.drop_skipped(answers)}


def coherence_scores(points: Sequence[float | None], empty: int) -> dict:
    """Return the win rate of the first side with its 95% interval, and the counts behind it.

    The interval is Wilson's, which treats each prompt as a win or a loss; with ties it is rather too wide.

    Args:
        points: of `compare_coherence`.
        empty: how many contests were left out because an answer is empty.
    """
    read = [point for point in points if point is not None]
    counts = {"wins": read.count(1), "losses": read.count(0), "ties": read.count(0.5)}
    return rate_summary("win_rate", sum(read), len(read)) | counts | {"unparsed": len(points) - len(read), "empty": empty}


@click.command()
@click.argument("method")
@click.argument("others", nargs=-1, required=True)
def main(method: str, others: Sequence[str]):
    """Compare data/answers/METHOD.jsonl with that of each of the OTHERS."""
    settings = read_section("coherence", CoherenceParams)
    own = first_plain_answers(method, settings.prompts)
    judge, metrics = load_judge(), {"judge": load_accuracy("coherence"), "style": load_accuracy("style"), "against": {}}
    for other in others:
        theirs = first_plain_answers(other, settings.prompts)
        contests = [(prompt, own[prompt], theirs[prompt]) for prompt in own if prompt in theirs]
        whole = [contest for contest in contests if all(text.strip() for text in contest)]
        print_text(f"coherence: {len(whole)} answers of {method} against those of {other}")
        metrics["against"][other] = coherence_scores(compare_coherence(judge, whole), len(contests) - len(whole)) | {
            "skipped": settings.prompts - len(contests)
        }
    records.write_json("results/coherence.json", metrics)
    shown = metrics["against"] | {STYLE_BASELINE: metrics["style"]}
    rows = [
        {"against": other} | {key: scores[key] for key in ("win_rate", "low", "high", "n")} for other, scores in shown.items()
    ]
    records.write_csv("plots/coherence.csv", rows)


if __name__ == "__main__":
    main()
