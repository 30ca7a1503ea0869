"""pairs: chosen + rejected -> data/pairs.jsonl (TRL's preference format), results/pairs.json.

A dropped pair is counted under each of its reasons.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import click
from pydantic import Field

from character.core import models, records
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import Completion, Message, PreferencePair, drop_skipped
from character.core.safe_text import print_text
from character.dataset.filters import FilterSettings, check_teacher_names, drop_reasons, replace_names, trim_completion


class PairSettings(ParamsSection):
    samples: int = Field(gt=0)  # answers of teacher and student to each prompt
    filters: FilterSettings
    unfinished_rejected: Literal["trim", "drop"]  # trim: cut the student's unfinished answer after its last sentence


def join_answers(chosen: Sequence[Completion], rejected: Sequence[Completion]) -> list[tuple[Completion, Completion]]:
    """Return the two answers to each sample of each prompt, in the order of `chosen`."""
    others = {(answer.id, answer.sample): answer for answer in rejected}
    unmatched = [answer for answer in chosen if (answer.id, answer.sample) not in others]
    if unmatched:
        raise UserError(f"data/rejected.jsonl: no answer to {len(unmatched)} prompts of data/chosen.jsonl; run `dvc repro`.")
    return [(answer, others[answer.id, answer.sample]) for answer in chosen]


def accept_trimmed(answer: Completion) -> Completion:
    """Return the answer, as a finished one if it was cut off but ends with a sentence, like a recorded one that was trimmed."""
    trimmed = trim_completion(answer)
    return trimmed if trimmed.response == answer.response else answer


def pair_drop_reasons(chosen: Completion, rejected: Completion, count_tokens, filters: FilterSettings) -> Iterator[str]:
    """Yield the reasons to drop a pair. A refusal counts only against the teacher: the student may learn not to refuse."""
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        for reason in drop_reasons(
            answer.response, answer.finish_reason, count_tokens(answer.response), [answer.prompt], filters
        ):
            if (side, reason) != ("rejected", "refusal"):
                yield f"{side}_{reason}"
    if chosen.response == rejected.response and len(drop_skipped([chosen, rejected])) == 2:
        yield "equal"


def build_pair(chosen: Completion, rejected: Completion, finish_reasons: tuple[str, str]) -> PreferencePair:
    """Return a pair; `finish_reasons` are those of the answers before they were trimmed."""

    def single_turn(role: str, content: str) -> list[Message]:
        return [Message(role=role, content=content)]

    return PreferencePair(
        prompt=single_turn("user", chosen.prompt),
        chosen=single_turn("assistant", chosen.response),
        rejected=single_turn("assistant", rejected.response),
        chosen_finish_reason=finish_reasons[0],
        rejected_finish_reason=finish_reasons[1],
    )


@click.command()
def main():
    """Join and filter the answers, and write preference pairs."""
    params, names, name = read_section("pairs", PairSettings), read_value("teacher.names"), read_value("student.name")
    check_teacher_names(names, name)
    tokenizer = models.load_tokenizer()
    both = join_answers(
        records.read_records("data/chosen.jsonl", Completion),
        records.read_records("data/rejected.jsonl", Completion),
    )
    print_text(f"pairs: {len(both)} pairs to filter")

    def count_tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    pairs, dropped, tokens, counts = [], Counter(), Counter(), Counter()
    kept: set[tuple[str, str, str]] = set()
    for chosen, rejected in both:
        whole = accept_trimmed(chosen)
        own = whole.model_copy(update={"response": replace_names(whole.response, names, name)})
        other = trim_completion(rejected) if params.unfinished_rejected == "trim" else rejected
        identities = {(own.id, "chosen", own.response), (own.id, "rejected", other.response)}
        reasons = list(pair_drop_reasons(own, other, count_tokens, params.filters))
        if identities & kept:  # an earlier sample of the prompt had the same answer
            reasons.append("repeated")
        counts.update(renamed=own != whole, trimmed=other != rejected, dropped=bool(reasons))
        dropped.update(reasons)
        if not reasons:
            kept |= identities
            pairs.append(build_pair(own, other, (chosen.finish_reason, rejected.finish_reason)))
            tokens.update(chosen=count_tokens(own.response), rejected=count_tokens(other.response))
    if not pairs:
        raise UserError(f"data/pairs.jsonl would be empty: every pair was dropped ({dict(dropped)}); see params.yaml: pairs.")
    records.write_records("data/pairs.jsonl", pairs)
    metrics = {
        "pairs": len(pairs),
        **{name: counts[name] for name in ("dropped", "trimmed", "renamed")},
        "dropped_by_reason": dict(sorted(dropped.items())),
        "skipped": {  # the prompts without an answer
            side: [answer.id for answer in answers if answer.finish_reason == "skipped"]
            for side, answers in zip(("chosen", "rejected"), zip(*both, strict=True), strict=True)
        },
        "unfinished_rejected": sum(pair.rejected_finish_reason == "length" for pair in pairs),
        "chosen_tokens": tokens["chosen"] / len(pairs),
        "rejected_tokens": tokens["rejected"] / len(pairs),
        "length_ratio": tokens["chosen"] / tokens["rejected"],
    }
    records.write_json("results/pairs.json", metrics)


if __name__ == "__main__":
    main()
