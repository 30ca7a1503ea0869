"""transfer: e-mails in three formats, classifier -> results/transfer.json, plots/transfer.csv.

Does the character of a method's e-mails in chat also show in structured output and in an agent's work? The classifier reads the
body of the e-mail; in chat it reads the whole reply. A reply without an e-mail counts as out of character. A second figure
leaves such replies out, which shows whether the character is lost or only the format.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import click

from character.core import records
from character.core.params import read_value
from character.core.safe_text import print_text
from character.dataset.emails import EMAIL_FORMATS, NO_REPLY, Email
from character.evaluation.classifier import load_classifier_for
from character.evaluation.intervals import difference_summary, rate_summary

CHAT_FORMAT = EMAIL_FORMATS[0]


def mail_in_character_rate(hits: dict[str, bool]) -> dict[str, float | int | None]:
    return rate_summary("recall", sum(hits.values()), len(hits))


def gap_to_chat(hits: dict[str, bool], chat: dict[str, bool]) -> dict[str, float | int | None]:
    """Return the in-character rate minus that in chat, over the tasks that have both, so task difficulty cancels out."""
    both = [key for key in hits if key in chat]
    return difference_summary([hits[key] for key in both], [chat[key] for key in both])


def scores_by_format(mails: Sequence[Email], shown: Sequence[bool]) -> dict[str, dict]:
    """Return the scores of each format; `shown` says which e-mails are in character.

    Tasks that the model did not answer are only counted, under `faults`.
    """
    every = {name: {} for name in EMAIL_FORMATS}
    parsed = {name: {} for name in EMAIL_FORMATS}
    faults = {name: Counter() for name in EMAIL_FORMATS}
    for mail, has_it in zip(mails, shown, strict=True):
        if mail.fault != NO_REPLY:
            every[mail.format][mail.id] = has_it
        if mail.fault is None:
            parsed[mail.format][mail.id] = has_it
        else:
            faults[mail.format][mail.fault] += 1
    scores = {}
    for name in EMAIL_FORMATS:
        scores[name] = mail_in_character_rate(every[name]) | {"parsed": mail_in_character_rate(parsed[name])}
        scores[name]["faults"] = dict(sorted(faults[name].items()))
        if name != CHAT_FORMAT:
            scores[name] |= {
                "gap": gap_to_chat(every[name], every[CHAT_FORMAT]),
                "gap_parsed": gap_to_chat(parsed[name], parsed[CHAT_FORMAT]),
            }
    return scores


def transfer_plot_rows(metrics: dict[str, dict]) -> Iterator[dict]:
    """Yield the rows of the plot: the in-character rate over all tasks, and over those whose e-mail could be parsed."""
    for method, formats in metrics.items():
        for name, scores in formats.items():
            for over, figures in (("all", scores), ("parsed", scores["parsed"])):
                yield {"method": method, "format": name, "over": over} | {
                    key: figures[key] for key in ("recall", "low", "high", "n")
                }


@click.command()
@click.argument("methods", nargs=-1, required=True)
def main(methods: Sequence[str]):
    """Score data/mails/METHOD.jsonl of each method."""
    persona = read_value("persona")
    classifier = load_classifier_for(persona)
    metrics = {}
    for method in methods:
        mails = records.read_records(f"data/mails/{method}.jsonl", Email)
        print_text(f"transfer: {len(mails)} e-mails of {method}")
        called = classifier.predict_labels([mail.body for mail in mails])
        shown = [name == persona and mail.fault is None for name, mail in zip(called, mails, strict=True)]
        metrics[method] = scores_by_format(mails, shown)
    records.write_json("results/transfer.json", metrics)
    records.write_csv("plots/transfer.csv", list(transfer_plot_rows(metrics)))


if __name__ == "__main__":
    main()
