"""transfer: e-mails in three formats, classifier -> results/transfer.json, plots/transfer.csv.

Does the character that shows when an e-mail is asked for in chat also show in structured output and in an agent's work? The
body of the e-mail is read, in a chat the whole reply. A reply without one shows no persona; a second figure leaves it out,
which tells whether the character is lost or only the format.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import click

from character.core import records
from character.core.params import value
from character.dataset.emails import FORMATS, Mail
from character.evaluation import classifier as classify
from character.evaluation.intervals import difference, rate

CHAT = FORMATS[0]


def recall(hits: dict[str, bool]) -> dict[str, float | int | None]:
    return rate("recall", sum(hits.values()), len(hits))


def gap(hits: dict[str, bool], chat: dict[str, bool]) -> dict[str, float | int | None]:
    """Return recall less that in chat, over the tasks that both have, so that a hard task weighs on both sides alike."""
    both = [key for key in hits if key in chat]
    return difference([hits[key] for key in both], [chat[key] for key in both])


def by_format(mails: Sequence[Mail], shown: Sequence[bool]) -> dict[str, dict]:
    """Return the scores of each format; `shown` says which mails have the persona."""
    every = {name: {} for name in FORMATS}
    parsed = {name: {} for name in FORMATS}
    faults = {name: Counter() for name in FORMATS}
    for mail, has_it in zip(mails, shown, strict=True):
        every[mail.format][mail.id] = has_it
        if mail.fault is None:
            parsed[mail.format][mail.id] = has_it
        else:
            faults[mail.format][mail.fault] += 1
    scores = {}
    for name in FORMATS:
        scores[name] = recall(every[name]) | {"parsed": recall(parsed[name])}
        scores[name]["faults"] = dict(sorted(faults[name].items()))
        if name != CHAT:
            scores[name] |= {"gap": gap(every[name], every[CHAT]), "gap_parsed": gap(parsed[name], parsed[CHAT])}
    return scores


def lines(metrics: dict[str, dict]) -> Iterator[dict]:
    """Yield the rows of the plot: recall over all e-mails that were asked for, and over those that were found."""
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
    persona = value("persona")
    classifier = classify.knowing(persona)
    metrics = {}
    for method in methods:
        mails = records.read(f"data/mails/{method}.jsonl", Mail)
        print(f"transfer: {len(mails)} e-mails of {method}", flush=True)
        called = classifier.call([mail.body for mail in mails])
        shown = [name == persona and mail.fault is None for name, mail in zip(called, mails, strict=True)]
        metrics[method] = by_format(mails, shown)
    records.write_json("results/transfer.json", metrics)
    records.write_csv("plots/transfer.csv", list(lines(metrics)))


if __name__ == "__main__":
    main()
