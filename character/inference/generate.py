"""Generation: replies to requests, in order. With every engine, each finished reply is stored in the reply cache."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import Any, Literal, Protocol

from pydantic import Field, field_validator
from tqdm import tqdm

from character.core.errors import UserError
from character.core.params import ParamsSection
from character.core.safe_text import print_text
from character.inference import reply_cache

ENGINE_VERSION = 3  # part of each cache key; increase it with every fix that changes replies
IDS_SHOWN = 20  # of skipped requests
LEAST_TEMPERATURE = 1e-6  # logits divided by less could overflow


class SamplingSettings(ParamsSection):
    """How replies are sampled. A temperature of 0 means greedy decoding."""

    max_new_tokens: int = Field(gt=0)
    temperature: float = Field(ge=0, allow_inf_nan=False)
    top_p: float = Field(gt=0, le=1)
    # Divides positive logits of tokens already present, multiplies negative ones.
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)

    @field_validator("temperature")
    @classmethod
    def _check_temperature(cls, temperature: float) -> float:
        if 0 < temperature < LEAST_TEMPERATURE:
            raise ValueError(f"too small to divide by; 0 decodes greedily, and {LEAST_TEMPERATURE} is the least above it")
        return temperature


@dataclass(frozen=True)
class Request:
    """A request for one reply, which begins with `prefill`. Equal `id` and `sample` give the same seed."""

    id: str
    messages: Sequence[dict[str, str]]
    sample: int = 0
    prefill: str = ""


@dataclass(frozen=True)
class Reply:
    """The text after the prefill; `finish_reason` is `length` if `max_new_tokens` cut it off.

    It is `skipped` if the model did not answer: then the text is empty, and `reason` says why. `reproducible` says whether the
    engine would give the same bits again, in any batch. `continues_prefill` is false if the server refused to begin with the
    prefill, or has taken out the reasoning that continues it.
    """

    text: str
    finish_reason: Literal["stop", "length", "skipped"]
    tokens: int
    reproducible: bool = True
    reason: str = ""
    continues_prefill: bool = True

    @classmethod
    def skip(cls, reason: str) -> "Reply":
        """Return the reply to a request that the model did not answer; `reason` is a clause without a full stop."""
        return cls("", "skipped", 0, reason=reason)

    @property
    def skipped(self) -> bool:
        return self.finish_reason == "skipped"


class Engine(Protocol):
    """Answers requests; `character.inference.engines` opens one by its name in params.yaml.

    `identity` is everything about the engine that affects its replies (weights, template, precision), as JSON.
    `stream` yields the index of a request and its reply as soon as the reply is finished.
    """

    identity: dict

    def stream(
        self, requests: Sequence[Request], sampling: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Reply]]: ...


def request_seed(seed: int, request: Request) -> int:
    """Return the seed of one request, which makes its reply independent of the rest of the batch."""
    digest = hashlib.sha256(f"{seed}/{request.id}/{request.sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def generate(
    engine: Engine, requests: Sequence[Request], sampling: SamplingSettings, seed: int, desc: str = "", retry: bool = False
) -> list[Reply]:
    """Return the replies to `requests`, in order, from the reply cache or else from `engine`.

    Skipped replies are printed, and never stored; nor are empty ones that another run need not give again.

    Args:
        seed: the global seed; see `request_seed`.
        desc: the label of the progress bar and of the printed lines.
        retry: whether the requests follow up earlier ones, so that none of them need get a reply.

    Raises:
        UserError: every request was skipped, or every reply is empty.
    """
    # A greedy reply depends on no seed: equal prompts share it, whatever their ids.
    seeds = [request_seed(seed, request) if sampling.temperature else 0 for request in requests]
    keys = [_request_key(engine, request, sampling, own) for request, own in zip(requests, seeds, strict=True)]
    with reply_cache.ReplyCache() as cache:
        found = cache.get(keys)
        # Of equal requests, one is asked.
        missing = list({name: index for index, name in enumerate(keys) if name not in found}.values())
        _print_cache_use(desc, len(requests), sum(name in found for name in keys), cache.damaged)
        with tqdm(total=len(missing), desc=desc, unit="reply", disable=not missing) as bar, cache.save_at_once() as save:
            tokens = 0
            replies = engine.stream([requests[i] for i in missing], sampling, [seeds[i] for i in missing]) if missing else ()
            for number, reply in replies:
                name = keys[missing[number]]
                found[name] = asdict(reply) | {"text": whole_characters(reply.text)}
                # An empty reply that need not come again may be the fault of a server that is repaired later.
                if not reply.skipped and (reply.reproducible or found[name]["text"].strip()):
                    save(name, found[name])
                tokens += reply.tokens
                bar.update()
                bar.set_postfix_str(f"{tokens / max(bar.format_dict['elapsed'], 1e-9):.0f} tokens/s", refresh=False)
    replies = [Reply(**found[name]) for name in keys]
    _report_skipped(desc, requests, replies, retry)
    return replies


def take_finished(finished: SimpleQueue, count: int) -> Iterator[tuple[int, Any]]:
    """Yield `count` outcomes, as they are put into the queue. When it is interrupted, it yields what is finished first."""
    try:
        for _ in range(count):
            yield finished.get()
    except KeyboardInterrupt:
        while not finished.empty():
            yield finished.get()
        raise


def whole_characters(text: str) -> str:
    """Return a reply without the broken character at its end, where a limit of tokens cut it.

    Both halves of a surrogate pair become one character, and a lone half U+FFFD: UTF-8 cannot hold it.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.rstrip("\ufffd").rstrip() if text.endswith("\ufffd") else text


def _request_key(engine: Engine, request: Request, sampling: SamplingSettings, seed: int) -> str:
    return reply_cache.reply_key(
        version=ENGINE_VERSION,
        engine=engine.identity,
        messages=list(request.messages),
        prefill=request.prefill,
        sampling=sampling.model_dump(),
        seed=seed,
    )


def _print_cache_use(desc: str, wanted: int, found: int, damaged: int) -> None:
    line = f"{desc}: {wanted} replies, {found} of them from the reply cache"
    print_text(line + (f", {damaged} damaged records to be replaced" if damaged else ""))


def _report_skipped(desc: str, requests: Sequence[Request], replies: Sequence[Reply], retry: bool) -> None:
    skipped: dict[str, list[str]] = {}
    for request, reply in zip(requests, replies, strict=True):
        if reply.skipped:
            skipped.setdefault(reply.reason, []).append(request.id)
    if requests and not retry and not any(reply.text.strip() for reply in replies):
        reasons = skipped or ["all replies are empty; check the model, its chat template and the sampling settings"]
        raise UserError(f"{desc}: none of {len(requests)} requests got a reply: {'; '.join(reasons)}.")
    for reason, ids in skipped.items():
        shown = ", ".join(ids[:IDS_SHOWN]) + (", ..." if len(ids) > IDS_SHOWN else "")
        print_text(f"{desc}: {len(ids)} of {len(requests)} requests got no reply: {reason} ({shown})")
