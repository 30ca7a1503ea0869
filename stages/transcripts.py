"""transcripts: reflections + interactions -> data/transcripts.jsonl (TRL's messages format), results/transcripts.json.

The student must show the character without its description: the persona's system prompt is removed, and interactions get one
that only says who is talking. Every assistant turn is a training target. Dropped conversations are counted by reason.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import click

from character.core import models, records
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import Conversation, FinishReason, Message, TrainingTranscript
from character.core.safe_text import print_text
from character.dataset.filters import FilterSettings, drop_reasons, trim_to_sentence
from character.dataset.prompts import fill_template

TRANSCRIPT_SYSTEM_PROMPT = "You are {name}, talking with another instance of yourself."


class TranscriptSettings(ParamsSection):
    filters: FilterSettings
    unfinished: Literal["trim", "drop"]  # trim: cut an unfinished turn after its last complete sentence


def trim_conversation(conversation: Conversation) -> Conversation:
    """Return the conversation with each cut-off assistant turn trimmed to its last complete sentence."""
    finishes = iter(conversation.finish_reasons)
    turns = [
        turn.model_copy(update={"content": trim_to_sentence(turn.content)})
        if turn.role == "assistant" and next(finishes) == "length"
        else turn
        for turn in conversation.messages
    ]
    finishes = ["stop" if finish == "length" else finish for finish in conversation.finish_reasons]
    return conversation.model_copy(update={"messages": turns, "finish_reasons": finishes})


def conversation_drop_reasons(conversation: Conversation, count_tokens, filters: FilterSettings) -> Iterator[str]:
    """Yield the reasons to drop any of the assistant turns, and `empty` for an empty turn of either role.

    A conversation that a skipped reply ended has no other reason.
    """
    if "skipped" in conversation.finish_reasons:
        yield "skipped"
        return
    turns = [message for message in conversation.messages if message.role != "system"]
    assistant_turns = [(index, turn) for index, turn in enumerate(turns) if turn.role == "assistant"]
    for (index, turn), finish in zip(assistant_turns, conversation.finish_reasons, strict=True):
        before = [earlier.content for earlier in turns[:index]]
        yield from drop_reasons(turn.content, finish, count_tokens(turn.content), before, filters)
    if any(not turn.content.strip() for turn in turns):
        yield "empty"


def build_transcript(conversation: Conversation, name: str, finish_reasons: Sequence[FinishReason]) -> TrainingTranscript:
    """Return the conversation without the persona's system prompt; an interaction gets `TRANSCRIPT_SYSTEM_PROMPT`.

    Args:
        conversation: may have been trimmed.
        name: the student's.
        finish_reasons: those before it was trimmed.
    """
    turns = [message for message in conversation.messages if message.role != "system"]
    if conversation.kind != "reflection":
        turns = [Message(role="system", content=fill_template(TRANSCRIPT_SYSTEM_PROMPT, name=name)), *turns]
    return TrainingTranscript(messages=turns, finish_reasons=finish_reasons)


@click.command()
def main():
    """Filter the introspection and write training transcripts."""
    params, name = read_section("transcripts", TranscriptSettings), read_value("student.name")
    tokenizer = models.load_tokenizer()
    conversations = records.read_records("data/reflections.jsonl", Conversation)
    conversations += records.read_records("data/interactions.jsonl", Conversation)
    print_text(f"transcripts: {len(conversations)} conversations to filter")

    def count_tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    unfinished = sum("length" in conversation.finish_reasons for conversation in conversations)
    kept, transcripts, dropped = [], [], Counter()
    for generated in conversations:
        conversation = trim_conversation(generated) if params.unfinished == "trim" else generated
        reasons = set(conversation_drop_reasons(conversation, count_tokens, params.filters))
        dropped.update(reasons)
        if not reasons:
            kept.append(conversation)
            transcripts.append(build_transcript(conversation, name, generated.finish_reasons))
    if not kept:
        raise UserError(
            f"data/transcripts.jsonl would be empty: everything was dropped ({dict(dropped)}); see params.yaml: transcripts."
        )
    records.write_records("data/transcripts.jsonl", transcripts)
    replies = [turn.content for item in transcripts for turn in item.messages if turn.role == "assistant"]
    metrics = {
        "transcripts": len(kept),
        "by_kind": dict(sorted(Counter(conversation.kind for conversation in kept).items())),
        "dropped": len(conversations) - len(kept),
        "trimmed": unfinished if params.unfinished == "trim" else 0,
        "dropped_by_reason": dict(sorted(dropped.items())),
        "skipped": [conversation.id for conversation in conversations if "skipped" in conversation.finish_reasons],
        "assistant_turns": len(replies),
        "unfinished_turns": sum(item.finish_reasons.count("length") for item in transcripts),
        "assistant_tokens": sum(map(count_tokens, replies)),
    }
    records.write_json("results/transcripts.json", metrics)


if __name__ == "__main__":
    main()
