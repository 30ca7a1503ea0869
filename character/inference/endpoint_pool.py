"""The endpoints of the openai engine, shared by all its workers: round robin, pauses after failures, usage."""

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
RESUME_HINT = "Finished replies are kept; run again to continue."
FAILURES_BEFORE_PAUSE = 3  # failures in a row after which an endpoint is paused
FIRST_PAUSE = 5.0  # seconds, doubled with each further failure
LONGEST_PAUSE = 60.0  # seconds
FIRST_CONTACT_FAILURES = 5  # failures in a row after which a run stops if no endpoint has ever answered
RETRYABLE_STATUSES = {408, 409, 425, 429}  # and every 5xx


class OpenAISettings(ParamsSection):
    """The section runtime.openai of params.yaml."""

    endpoints: list[str]
    concurrency: int = Field(gt=0)  # requests in flight
    timeout: float = Field(gt=0)  # seconds
    max_failures: int = Field(gt=0)  # in a row
    prices: list[float] = Field(min_length=2, max_length=2)  # for a million tokens read and written


class RetryableError(Exception):
    """A temporary failure. `wait` is how many seconds the server asked to wait."""

    def __init__(self, kind: str, message: str, wait: float = 0.0):
        super().__init__(message)
        self.kind, self.wait = kind, wait


class RunAborted(Exception):
    """The run was stopped by the failure of another request."""


@dataclass
class Endpoint:
    url: str
    client: object
    failures: int = 0  # in a row
    failed_at: float = 0.0  # seconds, like all times here by time.monotonic
    paused_until: float = 0.0
    last_error: str = ""


@dataclass
class EndpointPool:
    """Distributes the requests of all workers over the servers in turn; counts failures, replies and tokens.

    Raises:
        UserError: there is no endpoint, or one is not a plain base URL.
    """

    settings: OpenAISettings
    closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        from openai import OpenAI

        key = os.environ.get(API_KEY_VARIABLE) or "none"  # local servers need none
        urls = self.settings.endpoints or [url for url in [os.environ.get("OPENAI_BASE_URL")] if url]
        if not urls:
            raise UserError("params.yaml: runtime.openai.endpoints is empty; name a server, such as http://localhost:8000/v1.")
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
                shown = f"one at {parts.hostname}" if parts.username or parts.query else repr(url)  # prints no secret
                raise UserError(
                    f"params.yaml: runtime.openai.endpoints: {shown} is not a plain base URL, such as "
                    f"http://localhost:8000/v1; correct it, and put a key into the environment variable {API_KEY_VARIABLE}."
                )
        options = {"api_key": key, "timeout": self.settings.timeout, "max_retries": 0}
        self._key = key
        self._all = [Endpoint(url, OpenAI(base_url=url, **options)) for url in urls]
        self._lock = threading.Lock()
        self._turn = 0
        self._failures = 0
        self._answered = False
        self.failure_counts: Counter = Counter()
        self.replies = self.read = self.written = 0

    @property
    def failure_limit(self) -> int:
        """The number of failures in a row that stops the run."""
        return self.settings.max_failures if self._answered else min(self.settings.max_failures, FIRST_CONTACT_FAILURES)

    def send_request(self, body: dict) -> Reply:
        """Send one request to the next endpoint that is not paused.

        Raises:
            RetryableError: the request failed and may be sent again.
            RunAborted: the pool was closed.
            UserError: the request was refused, or there were too many failures.
        """
        endpoint = self._pick_endpoint()
        began = time.monotonic()
        try:
            reply = self._call_endpoint(endpoint, body)
        except RetryableError as error:
            self._handle_failure(endpoint, error, began)
            raise
        with self._lock:
            endpoint.failures = self._failures = 0
            self._answered = True
            self.replies += 1
        return reply

    def count_failure(self, kind: str) -> None:
        with self._lock:
            self.failure_counts[kind] += 1

    def raise_final_error(self, error: BaseException):
        if self.closed.is_set():
            raise RunAborted from None
        raise UserError(
            f"the endpoints failed {self.failure_limit} times for one request, last with: {error}; {RESUME_HINT}"
        ) from None

    def usage_summary(self, prices: Sequence[float]) -> str:
        """Return one line: replies, tokens, cost by `prices` (read and written, for a million tokens), and retries."""
        line = f"openai: {self.replies} replies, {self.read:,} tokens read, {self.written:,} written"
        if any(prices):
            line += f", cost {(self.read * prices[0] + self.written * prices[1]) / 1e6:.2f}"
        retries = ", ".join(f"{kind} ({count})" for kind, count in sorted(self.failure_counts.items()))
        return line + (f"; retried after {retries}" if retries else "")

    def _pick_endpoint(self) -> Endpoint:
        while not self.closed.is_set():
            with self._lock:
                now = time.monotonic()
                for step in range(len(self._all)):
                    endpoint = self._all[(self._turn + step) % len(self._all)]
                    if endpoint.paused_until <= now:
                        self._turn += step + 1
                        return endpoint
                wait = min(endpoint.paused_until for endpoint in self._all) - now
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
        except (openai.OpenAIError, ValueError) as error:  # a body that is not JSON
            raise RetryableError("malformed", f"a malformed body ({type(error).__name__})") from None
        return self._parse_reply(answer)

    def _parse_reply(self, answer) -> Reply:
        """Return the reply in `answer`, which the client does not validate."""
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

    def _handle_failure(self, endpoint: Endpoint, error: RetryableError, began: float) -> None:
        with self._lock:
            self.failure_counts[error.kind] += 1
            now = time.monotonic()
            endpoint.last_error = str(error)
            self._answered |= error.kind == "429"  # a busy server exists
            if error.wait:
                endpoint.paused_until = max(endpoint.paused_until, now + error.wait)
            if began < endpoint.failed_at:
                return  # requests in flight fail together and count as one failure
            endpoint.failed_at = now
            endpoint.failures += 1
            self._failures += 1
            if endpoint.failures >= FAILURES_BEFORE_PAUSE:
                pause = min(FIRST_PAUSE * 2 ** (endpoint.failures - FAILURES_BEFORE_PAUSE), LONGEST_PAUSE)
                endpoint.paused_until = max(endpoint.paused_until, now + pause)
            if self._failures >= self.failure_limit:
                errors = "; ".join(f"{one.url}: {one.last_error or 'not used'}" for one in self._all)
                raise UserError(f"{self._failures} failures in a row ({errors}); check the endpoints. {RESUME_HINT}") from None

    def _redact_key(self, text: str) -> str:
        return text.replace(self._key, "***")


def _retry_after_seconds(header: str | None) -> float:
    """Return the wait in seconds of a Retry-After header, which gives seconds or a date; 0 if it cannot be read."""
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
