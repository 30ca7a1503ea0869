"""Training data as token ids, rendered by the student's own chat template, with a loss on the answers and nothing else.

An answer's tokens are those of its words and the token that ends its turn. If the answer was cut off, its end is not one that
the student should learn, and only the words count.
"""

from collections.abc import Sequence
from itertools import takewhile

from character.core.chat_template import ChatRenderer
from character.core.records import Message, PreferencePair, TrainingTranscript

IGNORED_LABEL = -100


class ConversationTokenizer:
    """Encodes pairs and transcripts as rows of TRL's tokenized data sets."""

    def __init__(self, tokenizer):
        self.renderer = ChatRenderer(tokenizer)

    def encode_pair(self, pair: PreferencePair) -> dict[str, list[int]]:
        """Return `prompt_ids`, `chosen_ids` and `rejected_ids`."""
        chosen, first = self._encode_answer(pair.prompt + pair.chosen, pair.chosen_finish_reason)
        rejected, second = self._encode_answer(pair.prompt + pair.rejected, pair.rejected_finish_reason)
        common = zip(chosen[:first], rejected[:second], strict=False)
        size = sum(1 for _ in takewhile(lambda tokens: tokens[0] == tokens[1], common))
        return {"prompt_ids": chosen[:size], "chosen_ids": chosen[size:], "rejected_ids": rejected[size:]}

    def encode_transcript(self, transcript: TrainingTranscript) -> dict[str, list[int]]:
        """Return `input_ids`, and `labels`, which are IGNORED_LABEL outside the answers."""
        ids, spans = self._tokenize(transcript.messages, transcript.finish_reasons)
        labels = [IGNORED_LABEL] * len(ids)
        for start, end in spans:
            labels[start:end] = ids[start:end]
        return {"input_ids": ids, "labels": labels}

    def _encode_answer(self, messages: Sequence[Message], finish_reason: str) -> tuple[list[int], int]:
        """Return the ids up to the end of the last turn, and the number of tokens before that turn's answer."""
        turns = sum(message.role == "assistant" for message in messages)
        ids, spans = self._tokenize(messages, ["stop"] * (turns - 1) + [finish_reason])
        start, end = spans[-1]
        return ids[:end], start

    def _tokenize(self, messages: Sequence[Message], finish_reasons: Sequence[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of the conversation, and the first token of each answer and the one after its last."""
        text, answers = self.renderer.locate_answers([message.model_dump() for message in messages])
        # The template writes every special token itself, so the tokenizer adds none.
        encoded = self.renderer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        return encoded["input_ids"], [
            _token_span(offsets, answer.start, answer.end if reason == "stop" else answer.content_end)
            for answer, reason in zip(answers, finish_reasons, strict=True)
        ]


def _token_span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Return the first token that reaches beyond character `start`, and the first after it that begins at `end` or later."""
    first = next((index for index, (_, stop) in enumerate(offsets) if stop > start), len(offsets))
    last = next((index for index in range(first, len(offsets)) if offsets[index][0] >= end), len(offsets))
    return first, last
