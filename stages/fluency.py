"""fluency: answers, student, encoder -> results/fluency.json, plots/fluency.csv.

Does a method still write well-formed text? No judge is asked: how likely the untrained student finds its answers to plain
prompts, how varied their words are, how much they repeat themselves, how long they are, and whether they are about what was
asked: a sentence encoder's likeness of answer and prompt, beside that of the same answers and other prompts.
"""

from collections.abc import Sequence

import click
from pydantic import Field

from character.core import records
from character.core.params import Section, read, value
from character.core.records import Answer
from character.dataset.conditions import plain
from character.evaluation.intervals import bootstrap
from character.evaluation.sentence_encoder import embed
from character.evaluation.text_metrics import distinct, perplexity, repetition
from character.inference import log_probs as likelihood


class Fluency(Section):
    words: int = Field(ge=2)  # of the beginning of each answer, for its share of distinct pairs of words


def scored(answers: Sequence[Answer], logps: Sequence[Sequence[float]], words: int, seed: int) -> dict:
    """Return the figures of one method; its perplexity has a 95% interval, by a bootstrap over the answers."""
    texts = [answer.response for answer in answers]
    low, high = bootstrap(list(logps), perplexity, seed)
    return {
        "perplexity": perplexity(logps),
        "low": low,
        "high": high,
        "distinct_2": distinct(texts, words),
        "repetition": repetition(texts),
        "words": sum(len(text.split()) for text in texts) / len(texts),
        "unfinished": sum(answer.finish_reason == "length" for answer in answers) / len(answers),
        "empty": sum(not text.strip() for text in texts) / len(texts),
        "n": len(answers),
    }


def on_topic(answers: Sequence[Answer], seed: int) -> dict[str, float | int | None]:
    """Return the mean likeness (cosine) of answers and their prompts, with a 95% interval by a bootstrap over the answers.

    `elsewhere` is that of each answer and the other prompts. Empty answers are about nothing, and left out.
    """
    written = [answer for answer in answers if answer.response.strip()]
    if len(written) < 2:
        return {"similarity": None, "low": None, "high": None, "elsewhere": None, "n": len(written)}
    likeness = embed([answer.response for answer in written]) @ embed([answer.prompt for answer in written]).T
    own = likeness.diagonal()
    low, high = bootstrap(own.tolist(), lambda drawn: sum(drawn) / len(drawn), seed)
    elsewhere = (likeness.sum() - own.sum()) / (likeness.size - own.size)
    return {"similarity": float(own.mean()), "low": low, "high": high, "elsewhere": float(elsewhere), "n": len(written)}


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Measure data/answers/METHOD.jsonl of each method."""
    settings, seed = read("fluency", Fluency), value("seed")
    metrics = {}
    for method in methods:
        answers = plain(records.read(f"data/answers/{method}.jsonl", Answer))
        print(f"fluency: {len(answers)} answers of {method}", flush=True)
        asked = [[{"role": "user", "content": answer.prompt}] for answer in answers]
        logps = likelihood.of_replies(asked, [answer.response for answer in answers])
        metrics[method] = scored(answers, logps, settings.words, seed) | {"on_topic": on_topic(answers, seed)}
    records.write_json("results/fluency.json", metrics)
    records.write_csv(
        "plots/fluency.csv",
        [
            {"method": method} | {key: found for key, found in scores.items() if key != "on_topic"}
            for method, scores in metrics.items()
        ],
    )


if __name__ == "__main__":
    main()
