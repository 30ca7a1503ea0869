"""fluency: answers, student, encoder -> results/fluency.json, plots/fluency.csv.

Does a method still write well-formed text? The metrics of its answers to plain prompts need no judge: their perplexity under
base, how varied their words are, how much they repeat themselves, how long they are, and whether they are on topic. The
last is the similarity of answer and prompt by a sentence encoder, next to that of the same answers and other prompts.
"""

from collections.abc import Sequence

import click
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import EvaluatedAnswer
from character.core.safe_text import print_text
from character.dataset.conditions import plain_answers
from character.dataset.segmentation import count_words
from character.evaluation.intervals import bootstrap_interval
from character.evaluation.sentence_encoder import embed_texts
from character.evaluation.text_metrics import distinct_bigram_share, mean_repetition, token_perplexity
from character.inference import log_probs


class FluencyParams(ParamsSection):
    words: int = Field(ge=2)  # at the beginning of each answer, for the share of distinct pairs of words


def fluency_scores(answers: Sequence[EvaluatedAnswer], logps: Sequence[Sequence[float]], words: int, seed: int) -> dict:
    """Return the metrics of one method; its perplexity has a 95% interval from a bootstrap over the answers.

    Args:
        answers: of the method.
        logps: for each answer the log-probabilities (nats) of its tokens.
        words: how many words of each answer count for `distinct_2`.
        seed: of the bootstrap.
    """
    texts = [answer.response for answer in answers]
    low, high = bootstrap_interval(list(logps), token_perplexity, seed)
    return {
        "perplexity": token_perplexity(logps),
        "low": low,
        "high": high,
        "distinct_2": distinct_bigram_share(texts, words),
        "repetition": mean_repetition(texts),
        "words": sum(map(count_words, texts)) / len(texts),
        "unfinished": sum(answer.finish_reason == "length" for answer in answers) / len(answers),
        "empty": sum(not text.strip() for text in texts) / len(texts),
        "n": len(answers),
    }


def topic_similarity(answers: Sequence[EvaluatedAnswer], seed: int) -> dict[str, float | int | None]:
    """Return the mean cosine similarity of answers and their prompts, with a 95% interval from a bootstrap over the answers.

    `elsewhere` is the mean similarity of each answer and the other prompts. Empty answers have no topic and are left out.
    """
    written = [answer for answer in answers if answer.response.strip()]
    if len(written) < 2:
        return {"similarity": None, "low": None, "high": None, "elsewhere": None, "n": len(written)}
    similarity = embed_texts([answer.response for answer in written]) @ embed_texts([answer.prompt for answer in written]).T
    own = similarity.diagonal()
    low, high = bootstrap_interval(own.tolist(), lambda drawn: sum(drawn) / len(drawn), seed)
    elsewhere = (similarity.sum() - own.sum()) / (similarity.size - own.size)
    return {"similarity": float(own.mean()), "low": low, "high": high, "elsewhere": float(elsewhere), "n": len(written)}


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Measure data/answers/METHOD.jsonl of each method."""
    settings, seed = read_section("fluency", FluencyParams), read_value("seed")
    metrics = {}
    for method in methods:
        asked = plain_answers(records.read_records(f"data/answers/{method}.jsonl", EvaluatedAnswer))
        answers = records.drop_skipped(asked)
        print_text(f"fluency: {len(answers)} answers of {method}")
        chats = [[{"role": "user", "content": answer.prompt}] for answer in answers]
        logps = log_probs.reply_log_probs(chats, [answer.response for answer in answers])
        metrics[method] = fluency_scores(answers, logps, settings.words, seed) | {
            "skipped": len(asked) - len(answers),
            "unread": sum(bool(answer.response) and not own for answer, own in zip(answers, logps, strict=True)),
            "on_topic": topic_similarity(answers, seed),
        }
    records.write_json("results/fluency.json", metrics)
    records.write_csv(
        "plots/fluency.csv",
        [
            {"method": method} | {key: value for key, value in scores.items() if key not in ("on_topic", "skipped", "unread")}
            for method, scores in metrics.items()
        ],
    )


if __name__ == "__main__":
    main()
