"""The `vllm` engine: vLLM in this process, on GPUs or a CPU, with LoRA adapters per request and prefix caching.

Every request has its own seed, but rounding in vLLM's kernels depends on the batch, so replies are not reproducible bit for
bit.
"""

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from uuid import uuid4

from pydantic import Field

from character.core import models
from character.core.chat_template import TemplateArguments
from character.core.errors import UserError
from character.core.lora import read_lora_config
from character.core.params import ParamsSection, read_section
from character.core.weights import load_pretrained
from character.inference.chat_format import original_context, render_requests, reply_decoder, turn_end_token
from character.inference.generate import Reply, Request, SamplingSettings, take_finished

VLLM_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM has kernels


class VLLMSettings(ParamsSection):
    """The section runtime.vllm of params.yaml."""

    tensor_parallel: int = Field(gt=0)  # GPUs per replica of the model
    data_parallel: int = Field(gt=0)  # replicas


def vllm_environment() -> dict[str, str]:
    """Return defaults of environment variables for vLLM: no report of its usage; on a CPU, limits of memory and threads."""
    limits = {"VLLM_CPU_KVCACHE_SPACE": "2", "OMP_NUM_THREADS": str(models.read_runtime().threads)}  # GiB
    return {"VLLM_NO_USAGE_STATS": "1"} | (limits if models.select_device() == "cpu" else {})


def vllm_lora_rank(adapter: Path) -> int:
    """Return the lowest rank that vLLM has kernels for and that is not below any of the adapter's.

    Raises:
        UserError: there is no adapter, it is not supported, or its rank is too high for vLLM.
    """
    config = read_lora_config(adapter)
    own = max([config.r, *config.rank_pattern.values()])
    fitting = next((size for size in VLLM_LORA_RANKS if size >= own), None)
    if fitting is None:
        raise UserError(
            f"{adapter}: rank {own} is more than vLLM's {VLLM_LORA_RANKS[-1]}; set merge.rank in params.yaml to a lower one, "
            "or use the engine transformers."
        )
    return fitting


def vllm_context(weights: Path) -> int | None:
    """Return the context that vLLM has to be given for the model in this directory; None if its own choice is right."""
    from transformers import AutoConfig

    return original_context(load_pretrained(AutoConfig, weights))


class VLLMEngine:
    """A local chat model with at most one LoRA adapter; vLLM starts when the first reply is needed."""

    def __init__(
        self,
        student: Path = models.STUDENT_DIR,
        adapters: Sequence[Path] = (),
        template_arguments: TemplateArguments | None = None,
    ):
        if len(adapters) > 1:
            raise UserError("the vllm engine runs one adapter at a time; use the transformers engine for several.")
        self._student, self._adapters = Path(student), list(adapters)
        self.identity = {
            "engine": "vllm",
            "student": models.directory_fingerprint(self._student),
            "adapters": [models.directory_fingerprint(adapter) for adapter in adapters],
            "template_arguments": template_arguments or {},
        }
        self._template_arguments = template_arguments
        self._llm = None

    def stream(
        self, requests: Sequence[Request], sampling: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Reply]]:
        if self._llm is None:
            self._start_engine()
        prompts, skipped = render_requests(self._tokenizer, requests, self._context, sampling, str(self._student))
        yield from skipped
        done: SimpleQueue = SimpleQueue()

        async def put_reply(index: int, ids: list[int]) -> None:
            try:
                done.put((index, await self._generate_reply(ids, sampling, seeds[index], requests[index].prefill)))
            except Exception as error:
                done.put((index, error))

        for index, ids in prompts.items():
            asyncio.run_coroutine_threadsafe(put_reply(index, ids), self._loop)
        for index, reply in take_finished(done, len(prompts)):
            if isinstance(reply, Exception):
                raise reply
            yield index, reply

    def close(self) -> None:
        """Stop vLLM's processes, which otherwise run until this one ends."""
        if self._llm is not None:
            self._llm.shutdown()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._llm = None

    def _start_engine(self) -> None:
        self._tokenizer = models.load_tokenizer(self._student, self._template_arguments)
        self._stop, self._decode = turn_end_token(self._tokenizer), reply_decoder(self._tokenizer)
        os.environ.update(vllm_environment() | os.environ)  # before the import, which reads it
        try:
            from vllm import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError:
            raise UserError("vLLM is not installed here; `pip install -e '.[vllm]'`, or choose engine: transformers.") from None
        settings = read_section("runtime.vllm", VLLMSettings)
        weights = models.verified_weights_dir(self._student)
        arguments = AsyncEngineArgs(
            model=str(weights),
            tokenizer=str(self._student),
            dtype=models.read_student_card(self._student).dtype,
            max_model_len=vllm_context(weights),
            tensor_parallel_size=settings.tensor_parallel,
            data_parallel_size=settings.data_parallel,
            enable_prefix_caching=True,
            enforce_eager=models.select_device() == "cpu",
            generation_config="vllm",  # sampling settings come only from params.yaml
            disable_log_stats=True,
            **self._lora_arguments(),
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

        async def create_engine():
            return AsyncLLM.from_engine_args(arguments)

        self._llm = asyncio.run_coroutine_threadsafe(create_engine(), self._loop).result()
        self._context = self._llm.model_config.max_model_len

    def _lora_arguments(self) -> dict:
        if not self._adapters:
            return {}
        return {"enable_lora": True, "max_lora_rank": vllm_lora_rank(self._adapters[0]), "max_loras": 1}

    async def _generate_reply(self, ids: list[int], sampling: SamplingSettings, seed: int, prefill: str) -> Reply:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        settings = SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            repetition_penalty=sampling.repetition_penalty,
            seed=seed % 2**63,
            stop_token_ids=[] if self._stop is None else [self._stop],
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        lora = LoRARequest("adapter", 1, str(self._adapters[0].resolve())) if self._adapters else None
        prompt = {"prompt_token_ids": ids}
        async for output in self._llm.generate(prompt, settings, uuid4().hex, lora_request=lora):
            last = output.outputs[0]
        if last.finish_reason not in ("stop", "length"):  # "abort" or "error"
            raise UserError(
                f"{self._student}: vLLM gave up a reply ({last.finish_reason}); its own messages above say why. "
                "Finished replies are kept; run again to continue."
            )
        return Reply(self._decode(last.token_ids, prefill), last.finish_reason, len(last.token_ids), reproducible=False)
