"""A conversation that several methods have side by side, each with a history of its own; knows no terminal.

All share the student's weights, and their replies grow in turn, a token at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from textwrap import shorten
from typing import Literal

from character.core import models
from character.core.errors import UserError
from character.core.params import read_section, read_value
from character.core.records import Message, Record
from character.dataset import constitution
from character.inference.chat_format import truncate_to_context
from character.inference.generate import SamplingSettings
from character.inference.token_sampling import TokenSampler
from character.inference.transformers_engine import stop_token_ids
from character.publish.registry import TrainedPersona

CHAT_METHODS = ("base", "prompted", "persona")


class ChatRecord(Record):
    """A reply as the transcript keeps it; `messages` are the whole conversation up to it.

    `student` and `adapter` are fingerprints; `shortened` says that the oldest turns were not shown to the model.
    """

    time: str
    persona: str
    version: str | None
    method: str
    student: str
    adapter: str | None
    sampling: SamplingSettings
    seed: int
    finish_reason: Literal["stop", "length", "interrupted"]
    shortened: bool
    messages: list[Message]


@dataclass
class ChatReply:
    """One method's reply to the conversation `ids`; it has no `finish_reason` while it grows."""

    method: str
    ids: list[int]
    shortened: bool
    text: str = ""
    finish_reason: Literal["stop", "length", "interrupted"] | None = None


@dataclass
class ChatTurn:
    """What the user said, and each method's answer to it."""

    said: str
    seed: int
    answers: list[ChatReply]


class ChatStudent:
    """The student, and beside it the same weights under a persona's adapter."""

    def __init__(self) -> None:
        self.tokenizer = models.load_tokenizer()
        self.base = models.load_model()
        self.adapted = None
        self.stops = stop_token_ids(self.base, self.tokenizer)
        self.context = self.base.config.get_text_config().max_position_embeddings

    def load_adapter(self, adapter: Path) -> None:
        """Take an adapter in the place of the one before.

        The adapted model has modules of its own around the tensors of the student: nothing is switched while both reply.
        """
        from copy import deepcopy

        from peft import PeftModel

        shared = {id(tensor): tensor for tensor in (*self.base.parameters(), *self.base.buffers())}
        try:
            self.adapted = PeftModel.from_pretrained(deepcopy(self.base, shared), adapter).get_base_model().eval()
        except (RuntimeError, ValueError) as error:
            reason = shorten(str(error), 200, placeholder=" ...")
            raise UserError(f"{adapter} does not fit {models.STUDENT_DIR} ({reason}); take the student it is of.") from None

    def stream_tokens(self, answer: ChatReply, sampling: SamplingSettings, seed: int) -> Iterator[None]:
        """Let an answer grow, a token at each step."""
        ids: list[int] = []
        model = self.adapted if answer.method == "persona" else self.base
        for token in sample_next_tokens(model, answer.ids, sampling, seed):
            if token in self.stops:
                answer.finish_reason = "stop"
                break
            ids.append(token)
            # A character of several tokens is held back until it is whole.
            answer.text = self.tokenizer.decode(ids, skip_special_tokens=True).strip().rstrip("\ufffd")
            yield
        else:
            answer.finish_reason = "length"
        answer.text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def sample_next_tokens(model, ids: Sequence[int], sampling: SamplingSettings, seed: int) -> Iterator[int]:
    """Draw the tokens that follow `ids`, `max_new_tokens` of them; what ends a turn is for the caller to see."""
    import torch

    draws = TokenSampler(model, sampling, 1, sampling.max_new_tokens)
    draws.add_row(0, list(ids), seed, sampling.max_new_tokens)
    new, cache = list(ids), None
    for step in range(sampling.max_new_tokens):
        with torch.inference_mode():
            new = torch.tensor([new], device=model.device)
            output = model(new, past_key_values=cache, use_cache=True, logits_to_keep=1)
            (token,) = draws.sample_tokens(output.logits[:, -1].float(), [step])
        yield token
        new, cache = [token], output.past_key_values


class ChatSession:
    """The conversations of all methods; `messages` has each one's."""

    def __init__(self, persona: TrainedPersona, methods: Sequence[str]):
        self.methods = methods
        self.sampling, self._seed = read_section("sampling", SamplingSettings), read_value("seed")
        self._student, self._fingerprint = ChatStudent(), models.directory_fingerprint(models.STUDENT_DIR)
        self.switch_persona(persona)

    def switch_persona(self, persona: TrainedPersona) -> None:
        """Talk with another persona; every conversation begins anew. Nothing has changed where this fails."""
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

    def begin_turn(self, said: str) -> ChatTurn:
        """Return a turn in which nobody has answered yet; no conversation holds it before it ends."""
        asked = {"role": "user", "content": said}
        answers = [ChatReply(method, *self._truncated_prompt([*before, asked])) for method, before in self.messages.items()]
        return ChatTurn(said, self._seed, answers)

    def regenerate(self) -> ChatTurn:
        """Take the last turn back, and return it as begun anew, with another seed."""
        if self._last is None:
            raise UserError("Nothing was said yet that could be answered again.")
        for messages in self.messages.values():
            del messages[-2:]
        return self.begin_turn(self._last)

    def stream_turn(self, turn: ChatTurn) -> Iterator:
        """Let the answers of a turn grow: each step is a token of each that has not come to its end."""
        return zip_longest(*(self._student.stream_tokens(answer, self.sampling, turn.seed) for answer in turn.answers))

    def end_turn(self, turn: ChatTurn) -> list[ChatRecord]:
        """Add a turn to all conversations, as far as it has come; return its rows of the transcript."""
        self._last, self._seed = turn.said, self._seed + 1
        for answer in turn.answers:
            answer.finish_reason = answer.finish_reason or "interrupted"
            self.messages[answer.method] += [
                {"role": "user", "content": turn.said},
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
        """Return the ids of a conversation, without the oldest turns if a reply has no room then, and whether any are gone."""
        from jinja2 import TemplateError

        budget = self._student.context - self.sampling.max_new_tokens
        try:
            return truncate_to_context(self._student.tokenizer, messages, budget)
        except ValueError as error:
            raise UserError(f"{error} (the context less max_new_tokens); say less.") from None
        except TemplateError as error:  # such as Gemma 2's, which has no place for a system prompt
            raise UserError(
                f"{models.STUDENT_DIR}: its chat template refuses this ({error}); choose other --methods."
            ) from None
