"""The `transformers` engine: continuous batching, in which a reply does not depend on the rest of its batch.

It is faster than `model.generate` on a CPU: top-p reads the largest logits instead of sorting the vocabulary, the key/value
cache is written in place, attention reads grouped keys and values without repeating them, the common prefix of all prompts is
computed once, and a finished row is replaced by the next prompt.

Rounding depends on the shapes of matrix products. Shapes are therefore rounded up to multiples of ROW_MULTIPLE and
COLUMN_MULTIPLE, and each row's tokens have the positions that they would have in a batch of one. With oneDNN's kernels (see
`models.configure_torch`), a row then has the same bits for any batch size and any order of requests.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from character.core import models
from character.inference.chat_format import render_requests, reply_decoder, turn_end_token
from character.inference.generate import Reply, Request, SamplingSettings
from character.inference.kv_cache import attention_masks, build_kv_cache, enable_grouped_attention
from character.inference.token_sampling import TokenSampler

ROW_MULTIPLE = 8  # the rows of matrix products are a multiple of this
COLUMN_MULTIPLE = 64  # the positions that attention reads are a multiple of this
PREFILL_TOKENS = 4096  # prompt tokens in one forward pass


class TransformersEngine:
    """A local chat model with LoRA adapters merged into it, on a CPU or GPU; loaded when the first reply is needed."""

    def __init__(self, student: Path = models.STUDENT_DIR, adapters: Sequence[Path] = ()):
        self._student, self._adapters = Path(student), [Path(adapter) for adapter in adapters]
        self.identity = {
            "engine": "transformers",
            "student": models.directory_fingerprint(self._student),
            "adapters": [models.directory_fingerprint(adapter) for adapter in self._adapters],
        }
        self._model = self._tokenizer = None

    def stream(
        self, requests: Sequence[Request], sampling: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Reply]]:
        if self._model is None:
            self._tokenizer = models.load_tokenizer(self._student)
            self._model = enable_grouped_attention(models.load_model(self._student, self._adapters))
            # No gradient is computed. If weights require none, torch copies the output layer for each prefilled row: 7 GB.
            self._model.requires_grad_(True)
        context = self._model.config.get_text_config().max_position_embeddings
        prompts, skipped = render_requests(self._tokenizer, requests, context, sampling, str(self._student))
        yield from skipped
        order, decode = list(prompts), reply_decoder(self._tokenizer)
        stops = stop_token_ids(self._model, self._tokenizer)
        slots = models.read_runtime().generation_batch
        own_seeds = [seeds[index] for index in order]
        for number, ids, finished in sample_continuations(
            self._model, list(prompts.values()), sampling, own_seeds, stops, slots
        ):
            yield order[number], Reply(decode(ids), "stop" if finished else "length", len(ids))


def stop_token_ids(model, tokenizer) -> set[int]:
    """Return the ids that end a turn: the tokenizer's EOS, the chat template's, and those of the generation config."""
    named = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, turn_end_token(tokenizer), *(named if isinstance(named, list) else [named])} - {None}


@dataclass
class ActiveReply:
    """A reply in progress: the number of its prompt, the token to read next and its position, and the new tokens so far."""

    number: int
    token: int
    position: int
    output: list[int] = field(default_factory=list)
    stopped: bool = False

    def append_token(self, token: int, stops: set[int]) -> None:
        self.token, self.position, self.stopped = token, self.position + 1, token in stops
        if not self.stopped:
            self.output.append(token)


def sample_continuations(
    model,
    prompts: Sequence[list[int]],
    sampling: SamplingSettings,
    seeds: Sequence[int],
    stops: set[int],
    slots: int,
    limits: Sequence[int] | None = None,
) -> Iterator[tuple[int, list[int], bool]]:
    """Yield a continuation of each prompt: its number, the new token ids, and whether it ended with a stop token.

    Continuations are yielded as they finish; the stop token is not part of them.

    Args:
        prompts: token ids.
        seeds: one for each prompt.
        stops: token ids that end a continuation.
        slots: how many prompts are decoded at once, at most.
        limits: a `max_new_tokens` for each prompt, instead of that of `sampling`.
    """
    import torch

    if not prompts:
        return
    limits = limits or [sampling.max_new_tokens] * len(prompts)
    lengths = [len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)]
    # The longest first, which saves padding and shows a lack of memory at once.
    waiting = sorted(range(len(prompts)), key=lambda number: lengths[number])
    slots = min(slots, len(prompts))
    rows: list[ActiveReply] = []
    with torch.inference_mode():
        batch = DecodingBatch(model, _round_up(slots, ROW_MULTIPLE), _round_up(max(lengths) + ROW_MULTIPLE, COLUMN_MULTIPLE))
        sampler = TokenSampler(model, sampling, _round_up(slots, ROW_MULTIPLE), max(limits))
        shared = batch.prefill_shared(prompts)
    while waiting or rows:
        with torch.inference_mode():
            # A single prompt is slow to prefill, so prompts wait until several slots are free.
            if waiting and slots - len(rows) >= min(ROW_MULTIPLE, slots):
                new = _take_waiting(waiting, prompts, slots - len(rows))
                batch.prefill_rows(len(rows), [prompts[number] for number in new], shared)
                for number in new:
                    sampler.add_row(len(rows), prompts[number], seeds[number], limits[number])
                    rows.append(ActiveReply(number, prompts[number][-1], len(prompts[number]) - 1))
            tokens = sampler.sample_tokens(batch.decode_step(rows), [len(row.output) for row in rows])
            for row, token in zip(rows, tokens, strict=True):
                row.append_token(token, stops)
            done = [slot for slot, row in enumerate(rows) if row.stopped or len(row.output) == limits[row.number]]
            finished = [rows[slot] for slot in done]
            for slot in reversed(done):
                # The last row replaces the finished one.
                last = rows.pop()
                if slot < len(rows):
                    rows[slot] = last
                    batch.move_row(len(rows), slot, last.position)
                    sampler.move_row(len(rows), slot)
        for row in finished:
            yield row.number, row.output, row.stopped


def _take_waiting(waiting: list[int], prompts: Sequence[list[int]], free: int) -> list[int]:
    """Remove and return the numbers of the prompts to prefill now: at most `free`, and about PREFILL_TOKENS tokens."""
    new = [waiting.pop()]
    while waiting and len(new) < free and len(new) * len(prompts[new[0]]) < PREFILL_TOKENS:
        new.append(waiting.pop())
    return new


class DecodingBatch:
    """Forward passes over up to `rows` conversations in one key/value cache of `length` positions, each from position 0."""

    def __init__(self, model, rows: int, length: int):
        self._model, self._length = model, length
        self._config = model.config.get_text_config()
        self._cache = build_kv_cache(rows, length)

    def prefill_shared(self, prompts: Sequence[list[int]]) -> int:
        """Prefill the common prefix of all prompts, once for all rows; return its length in tokens."""
        shared = _common_prefix_length(prompts) if len(prompts) > 1 else 0
        if shared:
            self._prefill_cache([prompts[0][:shared]], 0, slice(0, 1))
            self._cache.repeat_first_row(shared)
        return shared

    def prefill_rows(self, first: int, prompts: Sequence[list[int]], shared: int) -> None:
        """Prefill the rows from `first` on with prompts, without their `shared` first tokens and without their last one.

        `decode_step` reads the last one.
        """
        own = [prompt[shared:-1] for prompt in prompts]
        if any(own):
            self._prefill_cache(own, shared, slice(first, first + len(own)))

    def _prefill_cache(self, prompts: Sequence[list[int]], start: int, rows: slice) -> None:
        import torch

        # The padding to the right of a shorter prompt is masked, and overwritten as the reply grows.
        width = _round_up(max(map(len, prompts)), ROW_MULTIPLE)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        self._run_forward(ids, torch.arange(start, start + width).repeat(len(prompts), 1), rows, start + width)

    def decode_step(self, rows: Sequence[ActiveReply]):
        """Read each row's token; return float32 logits `[rows, vocabulary]`, in which rows beyond those given are padding."""
        import torch

        padding = _round_up(len(rows), ROW_MULTIPLE) - len(rows)
        ids = torch.tensor([row.token for row in rows] + [0] * padding)
        positions = torch.tensor([row.position for row in rows] + [self._length - 1] * padding)
        seen = max(row.position for row in rows) + 1
        return self._run_forward(ids[:, None], positions[:, None], slice(0, len(ids)), seen)

    def _run_forward(self, ids, positions, rows: slice, seen: int):
        columns = _round_up(seen, COLUMN_MULTIPLE)
        ids, positions = ids.to(self._model.device), positions.to(self._model.device)
        self._cache.set_target(rows, positions, columns)
        mask = attention_masks(self._config, positions, columns)
        output = self._model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        return output.logits[:, -1].float()

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to row `target`."""
        self._cache.move_row(source, target, length)


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step


def _common_prefix_length(prompts: Sequence[list[int]]) -> int:
    """Return the length of the prefix that all prompts share, without the last token of any of them."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    return next((i for i in range(shortest) if any(prompt[i] != first[i] for prompt in prompts)), shortest)
