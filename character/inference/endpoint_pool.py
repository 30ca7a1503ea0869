"""The endpoints of the openai engine, shared by all its workers: round robin, pauses after failures, refusals, usage."""

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from pydantic import Field

from character.core.errors import UserError
from character.core.params import ParamsSection
from character.core.safe_text import print_text
from character.core.server_errors import (
    LOADING,
    NO_CREDIT,
    connection_reason,
    embedded_status,
    load_json,
    reason_line,
    retry_after_seconds,
    server_reason,
)
from character.inference.generate import Reply

API_KEY_VARIABLE = "OPENAI_API_KEY"
RESUME_HINT = "Finished replies are kept; run again to continue."
FAILURES_BEFORE_PAUSE = 3  # failures in a row after which an endpoint is paused
FIRST_PAUSE = 5.0  # seconds, doubled with each further failure
LONGEST_PAUSE = 60.0  # seconds
PRINTED_WAIT = 20.0  # seconds; a longer wait that a server asks for is printed
FIRST_CONTACT_FAILURES = 5  # failures in a row after which a run stops if no endpoint has ever answered
MOST_TOKENS = 10**9  # a larger count in `usage` is a fault of the server

RETRYABLE_STATUSES = {408, 409, 425, 429}  # and every 5xx but 501
# No request can be answered: the key, the credit, the address or the model's name is wrong.
FINAL_STATUSES = {
    401: f"check the key in {API_KEY_VARIABLE}",
    402: "add credit at the server",
    404: "check the address and the model's name",
    405: "check the address",
    501: "check the address and the server",
}
ABOUT_OPENING = re.compile(r"prefill|continue_final_message|add_generation_prompt|last message|assistant", re.IGNORECASE)


class OpenAISettings(ParamsSection):
    """The section runtime.openai of params.yaml."""

    endpoints: list[str]
    concurrency: int = Field(gt=0)  # requests in flight
    timeout: float = Field(gt=0)  # seconds
    patience: float = Field(gt=0)  # seconds to wait for a server that loads its model or asks to wait
    max_failures: int = Field(gt=0)  # in a row
    prices: list[float] = Field(min_length=2, max_length=2)  # for a million tokens read and written


class RetryableError(Exception):
    """A temporary failure. `wait` is how many seconds the server asked to wait."""

    def __init__(self, kind: str, message: str, wait: float = 0.0):
        super().__init__(message)
        self.kind, self.wait = kind, wait


class LoadingError(Exception):
    """The server is loading its model."""


class RefusedError(Exception):
    """The server refuses this request, and may answer others."""


class RunAborted(Exception):
    """The run was stopped by the failure of another request."""


@dataclass(frozen=True)
class ChatRequest:
    """The JSON `body` of a request for at most `max_tokens` tokens; the reply has to continue `prefill`.

    `plain` is the same request without the prefill, for servers that refuse one.
    """

    body: dict
    max_tokens: int
    prefill: str = ""
    plain: "ChatRequest | None" = None

    def control(self) -> "ChatRequest":
        """Return a harmless request of the same form: a server that refuses it too refuses all."""
        plain = self.plain or self
        messages = [message | {"content": "Hello."} for message in plain.body["messages"]]
        return replace(plain, body=plain.body | {"messages": messages})


def endpoint_urls(settings: OpenAISettings) -> list[str]:
    """Return the base URLs of the endpoints, as the user wrote them.

    Raises:
        UserError: one is not a plain base URL.
    """
    urls = settings.endpoints or [url for url in [os.environ.get("OPENAI_BASE_URL")] if url]
    for url in urls:
        _check_base_url(url)
    return urls


def _check_base_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and not parts.query and parts.port != 0
    except ValueError:  # such as a port that is no number
        raise UserError("params.yaml: runtime.openai.endpoints: an address is not a URL; correct its host and port.") from None
    if not plain or parts.username or parts.password or parts.path.rstrip("/").endswith("/completions"):
        shown = f"one at {parts.hostname}" if parts.username or parts.password or parts.query else repr(url)  # prints no secret
        raise UserError(
            f"params.yaml: runtime.openai.endpoints: {shown} is not a plain base URL, such as "
            f"http://localhost:8000/v1; correct it, and put a key into the environment variable {API_KEY_VARIABLE}."
        )


@dataclass
class Endpoint:
    url: str
    client: object
    failures: int = 0  # in a row
    failed_at: float = 0.0  # seconds, like all times here by time.monotonic
    paused_until: float = 0.0
    last_error: str = ""
    answered: bool = False
    refusals: int = 0  # since the last answer
    loading_since: float = 0.0  # 0: it is not loading its model
    continues_prefill: bool | None = None  # None: not known yet


@dataclass
class EndpointPool:
    """Distributes the requests of all workers over the servers in turn; counts failures, replies and tokens.

    `parse` returns the reply in an answer to a request.

    Raises:
        UserError: there is no endpoint, one is not a plain base URL, or the key or the HTTP client's variables are invalid.
    """

    settings: OpenAISettings
    parse: Callable[[dict, ChatRequest], Reply]
    closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        urls = endpoint_urls(self.settings)
        if not urls:
            raise UserError("params.yaml: runtime.openai.endpoints is empty; name a server, such as http://localhost:8000/v1.")
        key = read_api_key()
        self._all = [Endpoint(url, _open_client(url, key, self.settings.timeout)) for url in urls]
        self._lock = threading.Lock()
        self._control_lock = threading.Lock()
        self._turn = 0
        self._failures = 0
        self._answered = False
        self.failure_counts: Counter = Counter()
        self.replies = self.read = self.written = self.uncounted = 0

    @property
    def failure_limit(self) -> int:
        """The number of failures in a row that stops the run."""
        return self.settings.max_failures if self._answered else min(self.settings.max_failures, FIRST_CONTACT_FAILURES)

    def send_request(self, request: ChatRequest) -> Reply:
        """Send one request to the next endpoint that is not paused, and wait for servers that are loading.

        Raises:
            RetryableError: the request failed and may be sent again.
            RefusedError: the server does not answer this request.
            RunAborted: the pool was closed.
            UserError: the server refuses all requests, there were too many failures, or the wait is too long.
        """
        while True:
            endpoint = self._pick_endpoint()
            began = time.monotonic()
            try:
                reply = self._ask_with_prefill(endpoint, request)
            except LoadingError as error:
                self._wait_for_loading(endpoint, str(error))
            except RetryableError as error:
                self._handle_failure(endpoint, error, began)
                raise
            except RefusedError as error:
                self._check_refusal(endpoint, request, str(error))
                raise
            else:
                with self._lock:
                    self.replies += 1
                return reply

    def count_failure(self, kind: str) -> None:
        with self._lock:
            self.failure_counts[kind] += 1

    def raise_final_error(self, error: BaseException, request_id: str):
        if self.closed.is_set():
            raise RunAborted
        raise UserError(
            f"the endpoints failed {self.failure_limit} times for one request ({request_id}), last with: {error}; {RESUME_HINT}"
        )

    def usage_summary(self, prices: Sequence[float]) -> str:
        """Return one line: replies, tokens, cost by `prices` (read and written, for a million tokens), and retries."""
        line = f"openai: {self.replies} replies, {self.read:,} tokens read, {self.written:,} written"
        if any(prices):
            line += f", cost {(self.read * prices[0] + self.written * prices[1]) / 1e6:.2f}"
        if self.uncounted:
            line += f", without {self.uncounted} replies whose tokens the server did not count"
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
            if wait > self.settings.patience:
                raise UserError(
                    f"the wait of {wait:,.0f} s that the server asks for is longer than runtime.openai.patience in params.yaml "
                    f"({self.settings.patience:,g} s): {self._last_errors()}; wait, or raise it. {RESUME_HINT}"
                )
            self.closed.wait(wait)
        raise RunAborted

    def _ask_with_prefill(self, endpoint: Endpoint, request: ChatRequest) -> Reply:
        """Ask with the request's prefill, or without it if the server refuses the first one and answers without."""
        plain = request.plain
        if plain is None:
            return self._call_endpoint(endpoint, request)
        if endpoint.continues_prefill is not False:
            try:
                reply = self._call_endpoint(endpoint, request)
                endpoint.continues_prefill = True
                return reply
            except RefusedError as error:
                if endpoint.continues_prefill:
                    raise
                reason = str(error)
        reply = self._call_endpoint(endpoint, plain)
        with self._lock:
            first, endpoint.continues_prefill = endpoint.continues_prefill is None, False
        if first:
            _print_line(f"{endpoint.url} refuses to continue a reply that has begun ({reason}); asking without the beginning")
        return reply

    def _call_endpoint(self, endpoint: Endpoint, request: ChatRequest) -> Reply:
        """Return the reply to a request that is sent once."""
        response = self._post_body(endpoint, request.body)
        text = response.content.decode("utf-8-sig", "replace")
        answer = load_json(text)
        status = response.status_code
        if 200 <= status < 300:
            status = embedded_status(answer, text)
        if status:
            undecided = bool(request.prefill) and endpoint.continues_prefill is None
            self._raise_status_error(endpoint, status, server_reason(answer, text), response.headers, undecided)
        try:
            reply = self.parse(answer, request)
        except ValueError as error:
            told = "" if isinstance(answer, dict) and "choices" in answer else f": {server_reason(answer, text)}"
            message = f"a malformed body ({reason_line(str(error))}{told}){_address_hint(endpoint.url, told)}"
            raise RetryableError("malformed", message) from None
        self._count_answer(endpoint, answer)
        return reply

    def _post_body(self, endpoint: Endpoint, body: dict):
        """Return the HTTP response, whatever its status. Errors are raised outside `except`: the client's hold the headers."""
        import openai

        send = endpoint.client.chat.completions.with_raw_response.create
        fields = {name: value for name, value in body.items() if name not in ("model", "messages")}
        try:
            return send(model=body["model"], messages=body["messages"], extra_body=fields).http_response
        except openai.APIStatusError as error:
            return error.response
        except openai.APITimeoutError:
            failure = RetryableError("timeout", f"no answer within {self.settings.timeout:g} s")
        except openai.APIConnectionError as error:
            failure = RetryableError("connection", connection_reason(error))
        except (openai.OpenAIError, ValueError) as error:  # such as a header from the environment that is not ASCII
            failure = UserError(f"{endpoint.url}: the request cannot be sent ({reason_line(str(error))}). {RESUME_HINT}")
        raise failure

    def _raise_status_error(self, endpoint: Endpoint, status: int, reason: str, headers: Mapping, undecided: bool):
        """Raise what a status other than success means. `undecided`: the prefill may be the reason."""
        shown = f"HTTP {status}" + (f": {reason}" if reason else "")
        if 300 <= status < 400:
            target = reason_line(headers.get("location", ""))
            raise UserError(f"{endpoint.url} redirects to {target}; write the right address into runtime.openai.endpoints.")
        no_credit = status < 500 and NO_CREDIT.search(reason)  # with 400 from Anthropic, 403 from others
        if no_credit or status in FINAL_STATUSES:
            remedy = FINAL_STATUSES[402 if no_credit else status] + _address_hint(endpoint.url, reason, status in (404, 405))
            raise UserError(f"{endpoint.url} refuses the request with {shown}; {remedy}. {RESUME_HINT}")
        if status == 503 and LOADING.search(reason):
            raise LoadingError(shown)
        if status >= 500 and undecided and ABOUT_OPENING.search(reason):
            raise RefusedError(shown)  # llama.cpp
        if status in RETRYABLE_STATUSES or status >= 500:
            wait, fault = retry_after_seconds(headers)
            raise RetryableError(str(status), shown + (f", and its {fault} is not a time" if fault else ""), wait)
        raise RefusedError(shown)

    def _count_answer(self, endpoint: Endpoint, answer: dict) -> None:
        read, written = token_count(answer, "prompt_tokens"), token_count(answer, "completion_tokens")
        with self._lock:
            endpoint.failures = self._failures = endpoint.refusals = 0
            endpoint.loading_since = 0.0
            self._answered = endpoint.answered = True
            self.read += read or 0
            self.written += written or 0
            self.uncounted += read is None or written is None

    def _handle_failure(self, endpoint: Endpoint, error: RetryableError, began: float) -> None:
        with self._lock:
            self.failure_counts[error.kind] += 1
            now = time.monotonic()
            endpoint.last_error = str(error)
            self._answered |= error.kind == "429"  # a busy server exists
            if error.wait > PRINTED_WAIT and endpoint.paused_until <= now:
                _print_line(f"{endpoint.url} asks to wait {error.wait:,.0f} s ({error})")
            if error.wait:
                endpoint.paused_until = max(endpoint.paused_until, now + error.wait)
            if began < endpoint.failed_at:
                return  # requests in flight fail together and count as one failure
            endpoint.failed_at = now
            endpoint.failures += 1
            self._failures += 1
            if endpoint.failures >= FAILURES_BEFORE_PAUSE:
                doublings = min(endpoint.failures - FAILURES_BEFORE_PAUSE, 10)
                pause = min(FIRST_PAUSE * 2**doublings, LONGEST_PAUSE, self.settings.patience)
                endpoint.paused_until = max(endpoint.paused_until, now + pause)
            if self._failures >= self.failure_limit:
                errors = self._last_errors()
                raise UserError(f"{self._failures} failures in a row ({errors}); check the endpoints. {RESUME_HINT}") from None

    def _wait_for_loading(self, endpoint: Endpoint, reason: str) -> None:
        """Pause an endpoint that loads its model; stop if all have been loading for longer than the patience."""
        patience = self.settings.patience
        with self._lock:
            now = time.monotonic()
            self._answered = True  # the server exists
            endpoint.last_error = reason
            first, endpoint.loading_since = not endpoint.loading_since, endpoint.loading_since or now
            endpoint.paused_until = now + min(FIRST_PAUSE, patience)
            late = all(one.loading_since and now - one.loading_since > patience for one in self._all)
        if late:
            raise UserError(
                f"no model is loaded after {now - endpoint.loading_since:,.0f} s ({self._last_errors()}); check the server, or "
                f"raise runtime.openai.patience ({patience:,g} s) in params.yaml. {RESUME_HINT}"
            ) from None
        if first:
            _print_line(f"{endpoint.url} is loading its model ({reason}); waiting for up to {patience:,g} s")

    def _check_refusal(self, endpoint: Endpoint, request: ChatRequest, reason: str) -> None:
        """Stop the run if the server refuses a harmless request of the same form too, and thus all.

        That is tested with each refusal until the server has answered something, then with the first of several in a row, and
        with every `max_failures`-th; a refusal that remains is about one prompt.
        """
        with self._control_lock:  # the other workers wait for the outcome
            if self.closed.is_set():
                raise RunAborted from None
            endpoint.refusals += 1
            count = endpoint.refusals
            if endpoint.answered and 1 < count < self.settings.max_failures:
                return
            endpoint.refusals = 0  # if the test fails, the next refusal repeats it
            with suppress(RetryableError, LoadingError):
                try:
                    self._call_endpoint(endpoint, request.control())
                    endpoint.refusals = count % self.settings.max_failures
                except RefusedError:
                    self.closed.set()
                    raise UserError(
                        f"{endpoint.url} refuses every request, also a harmless one, with {reason}; check the model's name, "
                        f"{API_KEY_VARIABLE}, the sampling settings, and in params.yaml the section openai, by which fields of "
                        f"a request are left out or renamed. {RESUME_HINT}"
                    ) from None

    def _last_errors(self) -> str:
        return "; ".join(f"{one.url}: {one.last_error or 'not used'}" for one in self._all)


def read_api_key() -> str:
    """Return the key without surrounding whitespace, `none` if there is none.

    Raises:
        UserError: it holds a character that no key has; the key is not shown.
    """
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError(
            f"the environment variable {API_KEY_VARIABLE} holds a space, a control character or one outside ASCII; "
            "set it to the key alone."
        )
    return key or "none"  # local servers need none


def _open_client(url: str, key: str, timeout: float):
    from openai import DefaultHttpxClient, OpenAI

    try:
        # A redirect would turn the POST into a GET, and take prompts to an address that nobody wrote down.
        http = DefaultHttpxClient(follow_redirects=False, timeout=timeout)
        return OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0, http_client=http)
    except Exception as error:  # which kinds, depends on the version of the client
        reason = reason_line(f"{type(error).__name__}: {error}")
    raise UserError(f"no HTTP client for {url} ({reason}); check the proxy and certificate variables of the environment.")


def token_count(answer: dict, name: str) -> int | None:
    """Return a number of tokens in the `usage` of an answer, or None if the server does not give it."""
    usage = answer.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(count, bool) or not isinstance(count, int | float) or not 0 <= count <= MOST_TOKENS:
        return None
    return int(count)


def _print_line(line: str) -> None:
    print_text(f"openai: {line}")


def _address_hint(url: str, reason: str, wrong: bool = True) -> str:
    """Return a hint for an address without `/v1`, where the server did not say that only the model is unknown."""
    if not wrong or re.search(r"/v\d", urlsplit(url).path) or re.search(r"\bmodel\b", reason):
        return ""
    return f" (a base URL usually ends in /v1: {url.rstrip('/')}/v1)"
