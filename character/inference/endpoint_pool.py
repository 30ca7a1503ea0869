"""The endpoints of the openai engine, shared by all of its workers: whose turn it is, who rests, what failed, what was used."""

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic import Field

from character.core.errors import UserError
from character.core.params import ParamsSection
from character.inference.generate import Reply

API_KEY_VARIABLE = "OPENAI_API_KEY"
RESUME_HINT = "Finished replies are kept; run again to go on."
FAILURES_BEFORE_PAUSE = 3  # failures in a row after which an endpoint is left out
FIRST_PAUSE = 5.0  # seconds that it is left out for at first, doubled with each further failure
LONGEST_PAUSE = 60.0
FIRST_CONTACT_FAILURES = 5  # failures in a row that are borne from endpoints that have never answered
RETRYABLE_STATUSES = {408, 409, 425, 429}  # and every 5xx


class OpenAISettings(ParamsSection):
    """runtime.openai."""

    endpoints: list[str]
    concurrency: int = Field(gt=0)
    timeout: float = Field(gt=0)
    max_failures: int = Field(gt=0)
    prices: list[float] = Field(min_length=2, max_length=2)  # for a million tokens read and written


class RetryableError(Exception):
    """A failure that may pass. `wait` is how many seconds the server asked for."""

    def __init__(self, kind: str, told: str, wait: float = 0.0):
        super().__init__(told)
        self.kind, self.wait = kind, wait


class RunAborted(Exception):
    """Another request has stopped the run."""


@dataclass
class Endpoint:
    url: str
    client: object
    failures: int = 0  # in a row
    failed_at: float = 0.0
    rests_until: float = 0.0
    told: str = ""


@dataclass
class EndpointPool:
    """The servers, used in turn by all workers: who rests, what failed, what was used."""

    settings: OpenAISettings
    closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        from openai import OpenAI

        key = os.environ.get(API_KEY_VARIABLE) or "none"  # local servers want none
        urls = self.settings.endpoints or [url for url in [os.environ.get("OPENAI_BASE_URL")] if url]
        if not urls:
            raise UserError("params.yaml: runtime.openai.endpoints is empty; name a server, such as http://localhost:8000/v1.")
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
                shown = f"one at {parts.hostname}" if parts.username or parts.query else repr(url)  # no secret is told
                raise UserError(
                    f"params.yaml: runtime.openai.endpoints: {shown} is not a plain base URL, "
                    f"such as http://localhost:8000/v1; correct it, and put a key into the environment variable {API_KEY_VARIABLE}."
                )
        options = {"api_key": key, "timeout": self.settings.timeout, "max_retries": 0}
        self._key = key
        self._all = [Endpoint(url, OpenAI(base_url=url, **options)) for url in urls]
        self._lock = threading.Lock()
        self._turn = 0
        self._in_a_row = 0
        self._answered = False
        self.troubles: Counter = Counter()
        self.replies = self.read = self.written = 0

    @property
    def failure_limit(self) -> int:
        """How many failures in a row are borne."""
        return self.settings.max_failures if self._answered else min(self.settings.max_failures, FIRST_CONTACT_FAILURES)

    def send_request(self, body: dict) -> Reply:
        """Send one request to the endpoint whose turn it is.

        Raises:
            Trouble: it may be sent again.
            UserError: it may not, or there were too many failures.
        """
        endpoint = self._pick_endpoint()
        began = time.monotonic()
        try:
            reply = self._call_endpoint(endpoint, body)
        except RetryableError as trouble:
            self._handle_failure(endpoint, trouble, began)
            raise
        with self._lock:
            endpoint.failures = self._in_a_row = 0
            self._answered = True
            self.replies += 1
        return reply

    def count_failure(self, kind: str) -> None:
        with self._lock:
            self.troubles[kind] += 1

    def raise_final_error(self, error: BaseException):
        if self.closed.is_set():
            raise RunAborted from None
        raise UserError(
            f"the endpoints failed {self.failure_limit} times for one request, last with: {error}; {RESUME_HINT}"
        ) from None

    def usage_summary(self, prices: Sequence[float]) -> str:
        """Return what was used, for the user."""
        line = f"openai: {self.replies} replies, {self.read:,} tokens read, {self.written:,} written"
        if any(prices):
            line += f", cost {(self.read * prices[0] + self.written * prices[1]) / 1e6:.2f}"
        told = ", ".join(f"{kind} ({count})" for kind, count in sorted(self.troubles.items()))
        return line + (f"; asked again after {told}" if told else "")

    def _pick_endpoint(self) -> Endpoint:
        while not self.closed.is_set():
            with self._lock:
                now = time.monotonic()
                for step in range(len(self._all)):
                    endpoint = self._all[(self._turn + step) % len(self._all)]
                    if endpoint.rests_until <= now:
                        self._turn += step + 1
                        return endpoint
                wait = min(endpoint.rests_until for endpoint in self._all) - now
            self.closed.wait(wait)
        raise RunAborted

    def _call_endpoint(self, endpoint: Endpoint, body: dict) -> Reply:
        import openai

        try:
            answer = endpoint.client.chat.completions.create(**body)
        except openai.APITimeoutError:
            raise RetryableError("timeout", f"no answer within {self.settings.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise RetryableError("connection", f"{error.__cause__ or error}") from None
        except openai.APIStatusError as error:
            if error.status_code in RETRYABLE_STATUSES or error.status_code >= 500:
                wait = _retry_after_seconds(error.response.headers.get("retry-after"))
                raise RetryableError(str(error.status_code), self._redact_key(f"HTTP {error.status_code}"), wait) from None
            raise UserError(
                f"{endpoint.url} refuses the request with HTTP {error.status_code} ({self._redact_key(error.message)[:200]}); "
                f"check the model's name, {API_KEY_VARIABLE} and the sampling settings. {RESUME_HINT}"
            ) from None
        except (openai.OpenAIError, ValueError) as error:  # a body that is no JSON
            raise RetryableError("malformed", f"a malformed body ({type(error).__name__})") from None
        return self._parse_reply(answer)

    def _parse_reply(self, answer) -> Reply:
        """Return the reply in `answer`, which the client has not checked."""
        try:
            choice = answer.choices[0]
            text, finish = choice.message.content or "", choice.finish_reason
            read, written = (answer.usage.prompt_tokens, answer.usage.completion_tokens) if answer.usage else (0, 0)
            if finish not in ("stop", "length", "content_filter") or not isinstance(text, str):
                raise ValueError(f"finish_reason {finish!r}")
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise RetryableError("malformed", f"a malformed body ({error})") from None
        with self._lock:
            self.read += read
            self.written += written
        if finish == "content_filter":
            self.count_failure("content_filter")
            text = ""
        return Reply(text.strip(), "length" if finish == "length" else "stop", written, reproducible=False)

    def _handle_failure(self, endpoint: Endpoint, trouble: RetryableError, began: float) -> None:
        with self._lock:
            self.troubles[trouble.kind] += 1
            now = time.monotonic()
            endpoint.told = str(trouble)
            self._answered |= trouble.kind == "429"  # it is busy, so it is there
            if trouble.wait:
                endpoint.rests_until = max(endpoint.rests_until, now + trouble.wait)
            if began < endpoint.failed_at:
                return  # many requests in flight fail together: that is one failure
            endpoint.failed_at = now
            endpoint.failures += 1
            self._in_a_row += 1
            if endpoint.failures >= FAILURES_BEFORE_PAUSE:
                rest = min(FIRST_PAUSE * 2 ** (endpoint.failures - FAILURES_BEFORE_PAUSE), LONGEST_PAUSE)
                endpoint.rests_until = max(endpoint.rests_until, now + rest)
            if self._in_a_row >= self.failure_limit:
                told = "; ".join(f"{one.url}: {one.told or 'not asked'}" for one in self._all)
                raise UserError(f"{self._in_a_row} failures in a row ({told}); check the endpoints. {RESUME_HINT}") from None

    def _redact_key(self, text: str) -> str:
        return text.replace(self._key, "***")


def _retry_after_seconds(header: str | None) -> float:
    """Return the seconds of a Retry-After header, which may also be a date."""
    from email.utils import parsedate_to_datetime

    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0
