"""The `transformers` engine: continuous batching with a loop of its own, in which a reply does not hang on its neighbours.

Faster than `model.generate` on a CPU: top-p looks at the largest logits instead of sorting the vocabulary, the key/value
cache is written in place, attention reads grouped keys and values without repeating them, what all prompts share is computed
once, and a row that is finished makes room for the next prompt.

Rounding depends on the shapes of matrix products, so shapes only come in coarse steps (`ROWS`, `COLUMNS`), and each row's
tokens stand at the positions they would have alone. Then, with oneDNN's kernels (see `models.settle`), a row's numbers are the
same bits whatever the batch size, the order of the requests, or what shares the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from character.core import models
from character.inference.chat_format import render_requests, turn_end_token
from character.inference.generate import Reply, Request, SamplingSettings
from character.inference.kv_cache import attention_masks, build_kv_cache, enable_grouped_attention
from character.inference.token_sampling import TokenSampler

ROW_MULTIPLE = 8  # matrix products have a multiple of this many rows
COLUMN_MULTIPLE = 64  # attention looks at a multiple of this many positions
PREFILL_TOKENS = 4096  # tokens of new prompts that are read at once


class TransformersEngine:
    """A local chat model with LoRA adapters folded in, on CPU or GPU; loaded at the first reply, not before."""

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
            # No gradient is taken, but where weights want none, torch copies the output layer for each row of a prefill: 7 GB.
            self._model.requires_grad_(True)
        context = self._model.config.get_text_config().max_position_embeddings
        prompts = render_requests(self._tokenizer, requests, context, sampling.max_new_tokens, str(self._student))
        stops = stop_token_ids(self._model, self._tokenizer)
        slots = models.read_runtime().generation_batch
        for index, ids, finished in sample_continuations(self._model, prompts, sampling, seeds, stops, slots):
            text = self._tokenizer.decode(ids, skip_special_tokens=True).strip()
            yield index, Reply(text, "stop" if finished else "length", len(ids))


def stop_token_ids(model, tokenizer) -> set[int]:
    """Return the ids that end a turn: the tokenizer's EOS, the chat template's, and all that the generation config names."""
    named = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, turn_end_token(tokenizer), *(named if isinstance(named, list) else [named])} - {None}


@dataclass
class ActiveReply:
    """A reply in progress; `number` is its prompt's, `token` the one to read next, at `position`."""

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
    """Continue prompts (token ids), at most `slots` at once.

    Yields, as each is done, the prompt's number, the new ids without the stop token, and whether it stopped by itself.
    `limits` gives each prompt a `max_new_tokens` of its own.
    """
    import torch

    limits = limits or [sampling.max_new_tokens] * len(prompts)
    lengths = [len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)]
    # The longest first: little padding, and too little memory shows at once.
    waiting = sorted(range(len(prompts)), key=lambda number: lengths[number])
    slots = min(slots, len(prompts))
    rows: list[ActiveReply] = []
    with torch.inference_mode():
        batch = DecodingBatch(model, _round_up(slots, ROW_MULTIPLE), _round_up(max(lengths) + ROW_MULTIPLE, COLUMN_MULTIPLE))
        draws = TokenSampler(model, sampling, _round_up(slots, ROW_MULTIPLE), max(limits))
        shared = batch.prefill_shared(prompts)
    while waiting or rows:
        with torch.inference_mode():
            # One prompt alone is slow to read, so they wait for each other.
            if waiting and slots - len(rows) >= min(ROW_MULTIPLE, slots):
                new = _take_waiting(waiting, prompts, slots - len(rows))
                batch.prefill_rows(len(rows), [prompts[number] for number in new], shared)
                for number in new:
                    draws.add_row(len(rows), prompts[number], seeds[number], limits[number])
                    rows.append(ActiveReply(number, prompts[number][-1], len(prompts[number]) - 1))
            tokens = draws.sample_tokens(batch.decode_step(rows), [len(row.output) for row in rows])
            for row, token in zip(rows, tokens, strict=True):
                row.append_token(token, stops)
            done = [slot for slot, row in enumerate(rows) if row.stopped or len(row.output) == limits[row.number]]
            finished = [rows[slot] for slot in done]
            for slot in reversed(done):
                # The last row takes the place of the finished one.
                last = rows.pop()
                if slot < len(rows):
                    rows[slot] = last
                    batch.move_row(len(rows), slot, last.position)
                    draws.move_row(len(rows), slot)
        for row in finished:
            yield row.number, row.output, row.stopped


def _take_waiting(waiting: list[int], prompts: Sequence[list[int]], free: int) -> list[int]:
    """Take from `waiting` the prompts to read now: as many as there is room for, but not too many tokens at once."""
    new = [waiting.pop()]
    while waiting and len(new) < free and len(new) * len(prompts[new[0]]) < PREFILL_TOKENS:
        new.append(waiting.pop())
    return new


class DecodingBatch:
    """Up to `rows` conversations in one key/value cache, each from position 0 on, and the forward passes on it."""

    def __init__(self, model, rows: int, length: int):
        self._model, self._length = model, length
        self._config = model.config.get_text_config()
        self._cache = build_kv_cache(rows, length)

    def prefill_shared(self, prompts: Sequence[list[int]]) -> int:
        """Read what all prompts begin with, once for all rows; return how many tokens that is."""
        shared = _common_prefix_length(prompts) if len(prompts) > 1 else 0
        if shared:
            self._prefill_cache([prompts[0][:shared]], 0, slice(0, 1))
            self._cache.repeat_first_row(shared)
        return shared

    def prefill_rows(self, first: int, prompts: Sequence[list[int]], shared: int) -> None:
        """Read prompts into the rows from `first` on, but for what is shared and for the last token: `step` reads that."""
        own = [prompt[shared:-1] for prompt in prompts]
        if any(own):
            self._prefill_cache(own, shared, slice(first, first + len(own)))

    def _prefill_cache(self, prompts: Sequence[list[int]], start: int, rows: slice) -> None:
        import torch

        # What stands to the right of a shorter prompt is hidden from it, and overwritten when it gets there.
        width = _round_up(max(map(len, prompts)), ROW_MULTIPLE)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        self._run_forward(ids, torch.arange(start, start + width).repeat(len(prompts), 1), rows, start + width)

    def decode_step(self, rows: Sequence[ActiveReply]):
        """Read each row's token; return float32 logits `[rows, vocabulary]`, with rows of no meaning at the end."""
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
        """Put row `source`, of `length` positions, in the place of row `target`."""
        self._cache.move_row(source, target, length)


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step


def _common_prefix_length(prompts: Sequence[list[int]]) -> int:
    """Return how many leading tokens all prompts share, leaving each at least one of its own."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    return next((i for i in range(shortest) if any(prompt[i] != first[i] for prompt in prompts)), shortest)
