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
from character.core.chat_template import TemplateArguments
from character.core.errors import UserError
from character.core.safe_text import shorten_text
from character.inference.chat_format import render_requests, reply_decoder, turn_end_token, usable_context
from character.inference.generate import Reply, Request, SamplingSettings
from character.inference.kv_cache import build_kv_cache, enable_grouped_attention
from character.inference.token_sampling import TokenSampler, check_finite

ROW_MULTIPLE = 8  # the rows of matrix products are a multiple of this
COLUMN_MULTIPLE = 128  # the positions that attention reads are a multiple of this
PREFILL_TOKENS = 4096  # tokens of the prompts that are prefilled together
CHECKED_TEXT = "The model reads this sentence once as its own code does, and once as replies are generated, in a batch."
OTHER_ENGINE = "choose the engine `vllm`"
NO_STEERING = "no other engine steers a student; make its persona with `dvc repro persona`, or choose another student"
MAX_DIFFERENCE, MAX_HALF_DIFFERENCE = 0.01, 0.1  # of logits from the model's own, by its spread; rounding is far below


class TransformersEngine:
    """A local chat model with LoRA adapters merged into it, on a CPU or GPU; loaded when the first reply is needed."""

    def __init__(
        self,
        student: Path = models.STUDENT_DIR,
        adapters: Sequence[Path] = (),
        template_arguments: TemplateArguments | None = None,
    ):
        self._student, self._adapters = Path(student), [Path(adapter) for adapter in adapters]
        self.identity = {
            "engine": "transformers",
            "student": models.directory_fingerprint(self._student),
            "adapters": [models.directory_fingerprint(adapter) for adapter in self._adapters],
            "template_arguments": template_arguments or {},
        }
        self._template_arguments = template_arguments
        self._model = self._tokenizer = None

    def load(self, name: str | None = None) -> None:
        """Load the model, unless that is done, and check that this engine can run it; see `prepare_decoding`.

        Args:
            name: the model's name for error messages; by default its directory.
        """
        if self._model is None:
            self._tokenizer = models.load_tokenizer(self._student, self._template_arguments)
            self._model = models.load_model(self._student, self._adapters)
            text = self._tokenizer(CHECKED_TEXT, add_special_tokens=False)["input_ids"]
            remedy = NO_STEERING if any(map(models.is_control_vector, self._adapters)) else OTHER_ENGINE
            prepare_decoding(self._model, text, name or str(self._student), remedy)

    def stream(
        self, requests: Sequence[Request], sampling: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Reply]]:
        self.load()
        context = usable_context(self._model.config, str(self._student))
        prompts, skipped = render_requests(self._tokenizer, requests, context, sampling, str(self._student))
        yield from skipped
        order, decode = list(prompts), reply_decoder(self._tokenizer)
        stops = stop_token_ids(self._model, self._tokenizer)
        slots = models.read_runtime().generation_batch
        own_seeds = [seeds[index] for index in order]
        for number, ids, finished in sample_continuations(
            self._model, list(prompts.values()), sampling, own_seeds, stops, slots
        ):
            index = order[number]
            yield index, Reply(decode(ids, requests[index].prefill), "stop" if finished else "length", len(ids))


def prepare_decoding(model, text: Sequence[int], name: str, remedy: str = OTHER_ENGINE) -> None:
    """Set a model up for `DecodingBatch`, and check that this computes what the model's own code does.

    The check decodes beginnings of a text in one batch, and compares the logits with those of one pass over the whole text
    with the model's eager attention and without a cache.

    Args:
        text: token ids, at least 18 of them.
        name: the model's name for error messages.
        remedy: what they advise for a model that the engine cannot run.

    Raises:
        UserError: the engine cannot run the model, or its logits are not finite.
    """
    import torch

    # No gradient is computed. If weights require none, torch copies the output layer for each prefilled row: 7 GB.
    model.requires_grad_(True)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # so that differences show errors, not rounding
    try:
        with torch.inference_mode():
            model.set_attn_implementation("eager")
            own = model(torch.tensor([text], device=model.device), use_cache=False).logits[0].float()
            check_finite(own, model, name)
            difference = _decoding_difference(enable_grouped_attention(model), text, own)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # RuntimeErrors that say nothing about the model
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = shorten_text(str(error), 100)
        raise _unsupported(model, name, f"its attention or cache is of another kind: {reason}", remedy) from None
    finally:
        torch.set_float32_matmul_precision(precision)
    if not difference < (MAX_DIFFERENCE if model.dtype == torch.float32 else MAX_HALF_DIFFERENCE):
        raise _unsupported(model, name, f"its logits would be wrong by {difference:.0%}", remedy)


def _unsupported(model, name: str, reason: str, remedy: str) -> UserError:
    return UserError(f"{name}: the transformers engine cannot run {type(model).__name__} ({reason}); {remedy}.")


def _decoding_difference(model, text: Sequence[int], own) -> float:
    """Return the difference of a row's logits from `own` `[length, vocabulary]`, relative to their spread.

    In float32 it is the largest of all rows. With less precision it is the median, because rounding may give a token to
    another expert (mixture of experts), and then that row has quite other logits.
    """
    import torch

    lengths = [len(text) // 2, len(text) - 1, len(text) * 2 // 3]
    prompts = [list(text[:length]) for length in lengths]
    batch = DecodingBatch(model, ROW_MULTIPLE, _round_up(len(text) + ROW_MULTIPLE, COLUMN_MULTIPLE))
    batch.prefill_rows(0, prompts, batch.prefill_shared(prompts))
    differences = []
    for step in range(2):
        at = [length - 1 + step for length in lengths]
        rows = [ActiveReply(number, text[position], position) for number, position in enumerate(at)]
        wanted = own[at]
        wrong = batch.decode_step(rows)[: len(rows)] - wanted
        differences.append(wrong.norm(dim=-1) / (wanted - wanted.mean(-1, keepdim=True)).norm(dim=-1))
    differences = torch.cat(differences)
    return float(differences.max() if model.dtype == torch.float32 else differences.median())


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
        self._model = model
        self._cache = build_kv_cache(rows, length)

    def prefill_shared(self, prompts: Sequence[list[int]]) -> int:
        """Prefill the common prefix of all prompts, once for all rows; return its length, a multiple of ROW_MULTIPLE."""
        shared = _common_prefix_length(prompts) // ROW_MULTIPLE * ROW_MULTIPLE if len(prompts) > 1 else 0
        if shared:
            self._prefill_cache([prompts[0][:shared]], 0, 0)
            self._cache.repeat_first_row(shared)
        return shared

    def prefill_rows(self, first: int, prompts: Sequence[list[int]], shared: int) -> None:
        """Prefill the rows from `first` on with prompts, without their `shared` first tokens and without their last one.

        `decode_step` reads the last one.
        """
        own = [prompt[shared:-1] for prompt in prompts]
        if any(own):
            self._prefill_cache(own, shared, first)

    def _prefill_cache(self, prompts: Sequence[list[int]], start: int, first: int) -> None:
        """Prefill the rows from `first` on with tokens whose positions begin at `start`.

        Each pass ends at a multiple of COLUMN_MULTIPLE. How many columns a token's attention reads, and thereby how it is
        rounded, then depends on its position alone: the fused kernel rounds differently for 192 columns and for 256.
        """
        import torch

        end = start + max(map(len, prompts))
        for begin in (start, *range(_round_up(start + 1, COLUMN_MULTIPLE), end, COLUMN_MULTIPLE)):
            width = _round_up(min(end, _round_up(begin + 1, COLUMN_MULTIPLE)) - begin, ROW_MULTIPLE)
            parts = [prompt[begin - start : begin - start + width] for prompt in prompts]
            count = max(row + 1 for row, part in enumerate(parts) if part)
            # The padding to the right of a shorter prompt is masked, and overwritten as the reply grows.
            ids = torch.zeros(count, width, dtype=torch.long)
            for row, part in enumerate(parts[:count]):
                ids[row, : len(part)] = torch.tensor(part, dtype=torch.long)
            positions = torch.arange(begin, begin + width).repeat(count, 1)
            self._run_forward(ids, positions, slice(first, first + count), end - 1)

    def decode_step(self, rows: Sequence[ActiveReply]):
        """Read each row's token; return float32 logits `[rows, vocabulary]`, in which rows beyond those given are padding."""
        import torch

        padding = _round_up(len(rows), ROW_MULTIPLE) - len(rows)
        ids = torch.tensor([row.token for row in rows] + [0] * padding)
        # Padding reads and writes where the longest row does, so that it sees something in any window.
        last = max(row.position for row in rows)
        positions = torch.tensor([row.position for row in rows] + [last] * padding)
        return self._run_forward(ids[:, None], positions[:, None], slice(0, len(ids)), last)

    def _run_forward(self, ids, positions, rows: slice, last: int):
        """Return the logits of the last column of `ids`; padding is given no position after `last`, the last real one."""
        ids, positions = ids.to(self._model.device), positions.to(self._model.device)
        self._cache.set_target(rows, positions, _round_up(int(positions.max()) + 1, COLUMN_MULTIPLE))
        positions = positions.clamp(max=last)
        output = self._model(ids, position_ids=positions, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
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
