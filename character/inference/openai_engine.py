"""The `openai` engine: one or several servers with an OpenAI-compatible API (`vllm serve`, llama.cpp, a hosted API).

Designed for unattended runs: requests to a busy server are retried, a server that does not answer is paused and tried again
later, and a stage that has to stop keeps its finished replies. The key comes from the environment variable OPENAI_API_KEY
and is sent only to the endpoints.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from character.core.errors import UserError
from character.core.params import read_section
from character.core.safe_text import print_text
from character.inference.endpoint_pool import EndpointPool, OpenAISettings, RetryableError, RunAborted
from character.inference.generate import Reply, Request, SamplingSettings

MAX_EMPTY_REPLIES = 3  # an empty reply is requested again; the last one is accepted


class OpenAIEngine:
    """A chat model behind one or more HTTP endpoints, whose replies need not be reproducible."""

    def __init__(self, model: str, field: str):
        if not model:
            raise UserError(f"params.yaml: {field} is empty; write the model's name at the endpoint.")
        self.model = model
        self.identity = {"engine": "openai", "model": model}

    def stream(
        self, requests: Sequence[Request], sampling: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Reply]]:
        settings = read_section("runtime.openai", OpenAISettings)
        endpoints = EndpointPool(settings)
        stop = None
        try:
            with ThreadPoolExecutor(settings.concurrency) as workers:
                jobs = {
                    workers.submit(self._answer_request, endpoints, request, sampling, seed): index
                    for index, (request, seed) in enumerate(zip(requests, seeds, strict=True))
                }
                try:
                    for job in as_completed(jobs):
                        error = job.exception()
                        if error is None:
                            yield jobs[job], job.result()
                        elif not isinstance(error, RunAborted):
                            # Requests in flight are awaited, and their replies kept.
                            stop = stop or error
                            endpoints.closed.set()
                finally:
                    endpoints.closed.set()  # requests that have not started then end at once
        finally:
            print_text(endpoints.usage_summary(settings.prices))
        if stop:
            raise stop

    def _answer_request(self, endpoints: EndpointPool, request: Request, sampling: SamplingSettings, seed: int) -> Reply:
        from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

        retrying = Retrying(
            retry=retry_if_exception_type(RetryableError),
            wait=wait_random_exponential(multiplier=0.5, max=20),
            stop=lambda state: endpoints.closed.is_set() or state.attempt_number >= endpoints.failure_limit,
            sleep=endpoints.closed.wait,
            retry_error_callback=lambda state: endpoints.raise_final_error(state.outcome.exception()),
        )
        body, empty = self._request_body(request, sampling, seed), 0

        def send_once() -> Reply:
            nonlocal empty
            reply = endpoints.send_request(body)
            if not reply.text and reply.finish_reason == "stop" and (empty := empty + 1) < MAX_EMPTY_REPLIES:
                endpoints.count_failure("empty")
                raise RetryableError("empty", "an empty reply")
            return reply

        try:
            return retrying(send_once)
        except UserError:
            endpoints.closed.set()  # here and not where it is caught, so no other request starts meanwhile
            raise

    def _request_body(self, request: Request, sampling: SamplingSettings, seed: int) -> dict:
        messages, extra = list(request.messages), {}
        if request.prefill:
            # vLLM needs these flags to continue the last message; llama.cpp continues it by default.
            messages.append({"role": "assistant", "content": request.prefill})
            extra |= {"add_generation_prompt": False, "continue_final_message": True}
        if sampling.repetition_penalty != 1:
            extra["repetition_penalty"] = sampling.repetition_penalty
        return {
            "model": self.model,
            "messages": messages,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed % 2**31,
            "extra_body": extra,
        }
