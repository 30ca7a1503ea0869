"""The `openai` engine: one or several servers with an OpenAI-compatible API (`vllm serve`, llama.cpp, a hosted API).

Designed for unattended runs: requests to a busy server are retried, a server that does not answer is paused and tried again
later, a prompt that a server refuses is skipped, and a stage that has to stop keeps its finished replies. The key comes from
the environment variable OPENAI_API_KEY and is sent only to the endpoints.
"""

import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from character.core.errors import UserError
from character.core.params import ParamsSection, read_section
from character.core.safe_text import print_text
from character.inference.endpoint_pool import (
    RESUME_HINT,
    ChatRequest,
    EndpointPool,
    OpenAISettings,
    RefusedError,
    RetryableError,
    RunAborted,
    endpoint_urls,
    token_count,
)
from character.inference.generate import Reply, Request, SamplingSettings, take_finished

MAX_EMPTY_REPLIES = 3  # an empty reply is requested again with another seed; the last one is accepted
LONGEST_BACKOFF = 20.0  # seconds before a request is sent again

# Fields of a request that may be left out or renamed; `extra` cannot set them, nor the ones that would change what comes back.
REQUEST_FIELDS = (
    "add_generation_prompt",
    "continue_final_message",
    "max_tokens",
    "repetition_penalty",
    "seed",
    "temperature",
    "top_p",
)
RESERVED_FIELDS = {*REQUEST_FIELDS, "model", "messages", "n", "stream", "extra_body"}

# What servers call the ways in which a reply ends, in lower case.
STOP_REASONS = {"stop", "stop_sequence", "stop_token", "end_turn", "end_of_turn", "eos", "eos_token", "end", "done", "finished"}
STOP_REASONS |= {"complete", "completed", "normal", "finish"}
LENGTH_REASONS = {"length", "max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens", "max_length"}
LENGTH_REASONS |= {"model_length", "token_limit", "context_length", "model_context_window_exceeded"}
FILTER_REASONS = {"content_filter", "content_filtered", "content_policy", "safety", "refusal", "recitation", "blocklist"}
FILTER_REASONS |= {"prohibited_content", "spii", "sensitive", "moderation", "guardrail_intervened"}
UNSTATED_REASONS = {"", "null", "none", "unspecified", "finish_reason_unspecified"}

REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")  # of a message
TEXT_PART_TYPES = {"text", "output_text"}
REASONING_PARTS = {"thinking", "reasoning", "redacted_thinking"}


class RequestOptions(ParamsSection):
    """The section `openai` of params.yaml: how the requests to all endpoints differ from the usual ones."""

    omit: list[str]  # fields that the server does not know
    rename: dict[str, str]  # such as max_tokens: max_completion_tokens
    extra: dict[str, Any]  # more fields, such as top_k or chat_template_kwargs

    @field_validator("omit", "rename")
    @classmethod
    def _are_fields(cls, names):
        if unknown := sorted(set(names) - set(REQUEST_FIELDS)):
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(REQUEST_FIELDS)}")
        return names

    @field_validator("extra")
    @classmethod
    def _are_json(cls, extra):
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"JSON cannot hold these values: {error}") from None
        return extra

    @model_validator(mode="after")
    def _are_distinct(self):
        if both := sorted(set(self.omit) & set(self.rename)):
            raise ValueError(f"{both[0]!r} is both in omit and in rename")
        new = [*self.rename.values(), *self.extra]
        if reserved := sorted(set(new) & RESERVED_FIELDS):
            raise ValueError(f"{reserved[0]!r} is set by the engine, and cannot be a new name or an extra field")
        if len(set(new)) < len(new) or not all(new):
            raise ValueError("the new names and the extra fields must be different and not empty")
        return self

    def apply(self, fields: dict) -> dict:
        """Return the fields of a request as the server knows them."""
        kept = {self.rename.get(name, name): value for name, value in fields.items() if name not in self.omit}
        return kept | self.extra


def server_addresses() -> list[str]:
    """Return the base URLs of the endpoints, in one form and order however they are written."""
    urls = map(urlsplit, endpoint_urls(read_section("runtime.openai", OpenAISettings)))
    return sorted({f"{url.scheme}://{url.netloc}".lower() + url.path.rstrip("/") for url in urls})


class OpenAIEngine:
    """A chat model behind one or more HTTP endpoints, whose replies need not be reproducible.

    `source` is the model's name at the endpoints, and may say which weights these are: `<name>#<revision>`. Servers that
    share a name need not share a model, so without a revision replies belong to the addresses that they came from.
    """

    def __init__(self, source: str, field: str, options: RequestOptions):
        self.model, _, revision = source.partition("#")
        if not self.model:
            raise UserError(f"params.yaml: {field} is empty; write the model's name at the endpoint.")
        self.options = options
        self.identity = {"engine": "openai", "model": self.model}
        self.identity |= {"revision": revision} if revision else {"servers": server_addresses()}
        if changed := {name: value for name, value in options.model_dump().items() if value}:
            self.identity["options"] = changed

    def stream(
        self, requests: Sequence[Request], sampling: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Reply]]:
        settings = read_section("runtime.openai", OpenAISettings)
        endpoints = EndpointPool(settings, parse_answer)
        stop = None

        def answer(number: int) -> Reply:
            return self._answer_request(endpoints, requests[number], sampling, seeds[number])

        try:
            for number, outcome in run_in_threads(answer, len(requests), settings.concurrency):
                if isinstance(outcome, Reply):
                    yield number, outcome
                elif not isinstance(outcome, RunAborted):
                    # Requests in flight are awaited, and their replies kept.
                    stop = stop or outcome
                    endpoints.closed.set()
        except KeyboardInterrupt:
            print_text(f"openai: interrupted; requests in flight are lost. {RESUME_HINT}")
            raise
        finally:
            endpoints.closed.set()  # requests that have not started then end at once
            print_text(endpoints.usage_summary(settings.prices))
        if stop:
            raise stop

    def _answer_request(self, endpoints: EndpointPool, request: Request, sampling: SamplingSettings, seed: int) -> Reply:
        from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

        retrying = Retrying(
            retry=retry_if_exception_type(RetryableError),
            wait=wait_random_exponential(multiplier=0.5, max=LONGEST_BACKOFF),
            stop=lambda state: endpoints.closed.is_set() or state.attempt_number >= endpoints.failure_limit,
            sleep=endpoints.closed.wait,
            retry_error_callback=lambda state: endpoints.raise_final_error(state.outcome.exception(), request.id),
        )
        most_empty = MAX_EMPTY_REPLIES if sampling.temperature else 1  # a greedy reply would be the same again
        empty = 0

        def send_once() -> Reply:
            nonlocal empty
            reply = endpoints.send_request(self._chat_request(request, sampling, seed + empty))
            if not reply.text and reply.finish_reason == "stop" and (empty := empty + 1) < most_empty:
                endpoints.count_failure("empty")
                raise RetryableError("empty", "an empty reply")
            return reply

        try:
            return retrying(send_once)
        except RefusedError as error:
            return Reply.skip(f"the server refuses the request with {error}")
        except UserError:
            endpoints.closed.set()  # here and not where it is caught, so no other request starts meanwhile
            raise

    def _chat_request(self, request: Request, sampling: SamplingSettings, seed: int) -> ChatRequest:
        fields = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed % 2**31,
        }
        if sampling.repetition_penalty != 1:
            fields["repetition_penalty"] = sampling.repetition_penalty
        messages = list(request.messages)
        body = {"model": self.model, "messages": messages} | self.options.apply(fields)
        plain = ChatRequest(body, sampling.max_new_tokens)
        if not request.prefill:
            return plain
        # vLLM needs these flags to continue the last message; llama.cpp continues it by default.
        flags = {"add_generation_prompt": False, "continue_final_message": True}
        begun = [*messages, {"role": "assistant", "content": request.prefill}]
        body = {"model": self.model, "messages": begun} | self.options.apply(fields | flags)
        return ChatRequest(body, sampling.max_new_tokens, request.prefill, plain)


def run_in_threads(work: Callable[[int], Any], count: int, threads: int) -> Iterator[tuple[int, Any]]:
    """Yield the number and the outcome of `work(number)` for 0 to count - 1, as they end; an error is an outcome too.

    When it is interrupted, nothing waits for the calls in progress: the threads are daemons.
    """
    waiting, finished = queue.SimpleQueue(), queue.SimpleQueue()
    for number in range(count):
        waiting.put(number)

    def run_calls() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                outcome = work(number)
            except Exception as error:
                outcome = error
            finished.put((number, outcome))

    for _ in range(min(threads, count)):
        threading.Thread(target=run_calls, daemon=True).start()
    yield from take_finished(finished, count)


def parse_answer(answer: dict, request: ChatRequest) -> Reply:
    """Return the reply in a server's JSON.

    Reasoning that the server gives separately is not part of the text. A finish reason that is not given is `length` if all
    tokens were used, as far as the server counts them. A filtered reply is skipped.

    Raises:
        ValueError: it holds no reply, or the server's name of the finish reason is not known.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError("without a message")
    finish = _finish_reason(choice.get("finish_reason"), token_count(answer, "completion_tokens"), request.max_tokens)
    text, separate = _message_text(message)
    if finish == "skipped":
        return Reply.skip("the server filtered the reply")
    if not text and message.get("refusal"):
        return Reply.skip("the server refused to reply")
    text = text.removeprefix(request.prefill) if request.prefill else text  # some servers repeat the prefill
    continued = bool(request.prefill) and not separate
    tokens = token_count(answer, "completion_tokens") or 0
    return Reply(text.strip(), finish, tokens, reproducible=False, continues_prefill=continued)


def _finish_reason(name, tokens: int | None, max_tokens: int) -> str:
    """Return `stop`, `length` or, for a filtered reply, `skipped`."""
    if not isinstance(name, str | None):
        raise ValueError("a finish_reason that is not text")
    known = (name or "").lower()
    if known in UNSTATED_REASONS:
        return "length" if tokens is not None and tokens >= max_tokens else "stop"
    if known not in STOP_REASONS | LENGTH_REASONS | FILTER_REASONS:
        raise ValueError(f"finish_reason {name!r}")
    return "stop" if known in STOP_REASONS else "length" if known in LENGTH_REASONS else "skipped"


def _message_text(message: dict) -> tuple[str, bool]:
    """Return the text of a message, and whether it holds reasoning in a place of its own."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content or ""]
    separate = any(message.get(name) for name in REASONING_FIELDS)
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if not isinstance(kind, str):
            raise ValueError("a part of the content without a type")
        separate |= kind in REASONING_PARTS
        if kind in TEXT_PART_TYPES:
            texts.append(part.get("text") if isinstance(part, dict) else part)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("content that is not text")
    return "".join(texts), separate
