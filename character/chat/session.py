"""A chat with several methods at once, each with its own history; independent of the terminal.

All methods share the student's weights. Their replies are generated in turn, one token at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from character.chat.transcript import ChatRecord
from character.core import models
from character.core.errors import UserError
from character.core.lora import attach_adapter
from character.core.params import read_section, read_value
from character.core.records import Message
from character.dataset import constitution
from character.inference.chat_format import reply_decoder, truncate_to_context, usable_context
from character.inference.generate import SamplingSettings, whole_characters
from character.inference.token_sampling import TokenSampler
from character.inference.transformers_engine import stop_token_ids
from character.publish.registry import TrainedPersona

CHAT_METHODS = ("base", "prompted", "persona")


@dataclass
class ChatReply:
    """One method's reply to the prompt `ids`; `finish_reason` is None while it is generated."""

    method: str
    ids: list[int]
    shortened: bool
    text: str = ""
    finish_reason: Literal["stop", "length", "interrupted"] | None = None


@dataclass
class ChatTurn:
    """A message of the user and each method's answer."""

    message: str
    seed: int
    answers: list[ChatReply]


class ChatStudent:
    """The student, with and without a persona's adapter, on the same weights."""

    def __init__(self) -> None:
        self.tokenizer = models.load_tokenizer()
        self._decode = reply_decoder(self.tokenizer)
        self.base = models.load_model()
        self.adapted = None
        self.stops = stop_token_ids(self.base, self.tokenizer)
        self.context = usable_context(self.base.config, str(models.STUDENT_DIR))

    def load_adapter(self, adapter: Path) -> None:
        """Load an adapter; it replaces the previous one.

        The adapted model has its own modules around the student's tensors, so both can reply without switching the adapter.

        Raises:
            UserError: the adapter is not supported, or does not fit the student.
        """
        from copy import deepcopy

        shared = {id(tensor): tensor for tensor in (*self.base.parameters(), *self.base.buffers())}
        self.adapted = attach_adapter(deepcopy(self.base, shared), adapter).get_base_model().eval()

    def stream_tokens(self, answer: ChatReply, sampling: SamplingSettings, seed: int) -> Iterator[None]:
        """Generate an answer, one token per step."""
        ids: list[int] = []
        model = self.adapted if answer.method == "persona" else self.base
        for token in sample_next_tokens(model, answer.ids, sampling, seed):
            if token in self.stops:
                answer.finish_reason = "stop"
                break
            ids.append(token)
            # Hold back a character until all of its tokens are there.
            answer.text = self._decode(ids).rstrip("\ufffd")
            yield
        else:
            answer.finish_reason = "length"
        answer.text = whole_characters(self._decode(ids))


def sample_next_tokens(model, ids: Sequence[int], sampling: SamplingSettings, seed: int) -> Iterator[int]:
    """Yield the `max_new_tokens` tokens that follow `ids`; the caller stops at the end of the turn."""
    import torch

    sampler = TokenSampler(model, sampling, 1, sampling.max_new_tokens)
    sampler.add_row(0, list(ids), seed, sampling.max_new_tokens)
    new, cache = list(ids), None
    for step in range(sampling.max_new_tokens):
        with torch.inference_mode():
            new = torch.tensor([new], device=model.device)
            output = model(new, past_key_values=cache, use_cache=True, logits_to_keep=1)
            (token,) = sampler.sample_tokens(output.logits[:, -1].float(), [step])
        yield token
        new, cache = [token], output.past_key_values


class ChatSession:
    """The conversations of all methods; `messages` holds them by method."""

    def __init__(self, persona: TrainedPersona, methods: Sequence[str]):
        self.methods = methods
        self.sampling, self._seed = read_section("sampling", SamplingSettings), read_value("seed")
        self._student, self._fingerprint = ChatStudent(), models.directory_fingerprint(models.STUDENT_DIR)
        self.switch_persona(persona)

    def switch_persona(self, persona: TrainedPersona) -> None:
        """Switch to another persona and start all conversations again; if this fails, nothing changes."""
        messages: dict[str, list[dict[str, str]]] = {method: [] for method in self.methods}
        adapter = None
        if "prompted" in messages:
            system = constitution.persona_system_prompt(
                constitution.load_constitution(persona.constitution_path), read_value("student.name")
            )
            messages["prompted"].append({"role": "system", "content": system})
        if "persona" in messages:
            adapter = models.directory_fingerprint(persona.adapter_dir())
            self._student.load_adapter(persona.adapter_dir())
        self.persona, self._adapter, self.messages, self._last = persona, adapter, messages, None

    def begin_turn(self, message: str) -> ChatTurn:
        """Return a new turn without answers; `end_turn` adds it to the conversations."""
        user_message = {"role": "user", "content": message}
        answers = [
            ChatReply(method, *self._truncated_prompt([*history, user_message])) for method, history in self.messages.items()
        ]
        return ChatTurn(message, self._seed, answers)

    def regenerate(self) -> ChatTurn:
        """Remove the last turn, and return a new one with the same message and another seed.

        Raises:
            UserError: there is no turn yet.
        """
        if self._last is None:
            raise UserError("There is no turn yet to answer again; write a message first.")
        for messages in self.messages.values():
            del messages[-2:]
        return self.begin_turn(self._last)

    def stream_turn(self, turn: ChatTurn) -> Iterator:
        """Generate the answers of a turn: each step adds a token to every unfinished answer."""
        return zip_longest(*(self._student.stream_tokens(answer, self.sampling, turn.seed) for answer in turn.answers))

    def end_turn(self, turn: ChatTurn) -> list[ChatRecord]:
        """Add a turn, finished or interrupted, to all conversations; return its records for the transcript."""
        self._last, self._seed = turn.message, self._seed + 1
        for answer in turn.answers:
            answer.finish_reason = answer.finish_reason or "interrupted"
            self.messages[answer.method] += [
                {"role": "user", "content": turn.message},
                {"role": "assistant", "content": answer.text},
            ]
        return [self._reply_record(turn, answer) for answer in turn.answers]

    def _reply_record(self, turn: ChatTurn, answer: ChatReply) -> ChatRecord:
        return ChatRecord(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            persona=self.persona.name,
            version=self.persona.version,
            method=answer.method,
            student=self._fingerprint,
            adapter=self._adapter if answer.method == "persona" else None,
            sampling=self.sampling,
            seed=turn.seed,
            finish_reason=answer.finish_reason,
            shortened=answer.shortened,
            messages=[Message(**message) for message in self.messages[answer.method]],
        )

    def _truncated_prompt(self, messages: list[dict[str, str]]) -> tuple[list[int], bool]:
        """Return the ids of a conversation and whether the oldest turns were dropped to leave room for the reply.

        Raises:
            UserError: the last message is too long, or the chat template rejects the conversation.
        """
        from jinja2 import TemplateError

        budget = self._student.context - self.sampling.max_new_tokens
        try:
            return truncate_to_context(self._student.tokenizer, messages, budget)
        except ValueError as error:
            raise UserError(f"{error} (the context less max_new_tokens); write a shorter message.") from None
        except TemplateError as error:  # such as those that need turns to alternate
            raise UserError(
                f"{models.STUDENT_DIR}: its chat template rejects this conversation ({error}); choose other --methods."
            ) from None
