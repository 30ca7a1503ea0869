"""The `transformers` engine: batched sampling with a loop of its own.

It is faster on a CPU than `model.generate` because top-p looks at the largest logits instead of sorting the vocabulary, the
key/value cache is written in place instead of being copied at every step, attention reads grouped keys and values as they are
instead of repeating them for every head, and finished rows leave the batch.
"""

from collections.abc import Sequence
from pathlib import Path

from character import models
from character.chat import fit
from character.errors import UserError
from character.generate import Reply, Request, Sampling

CANDIDATES = 256  # where the nucleus is larger than this, the row's vocabulary is sorted after all


class TransformersEngine:
    """A local chat model with LoRA adapters folded in, on CPU or GPU; loaded at the first reply, not before."""

    def __init__(self, student: Path = models.STUDENT, adapters: Sequence[Path] = ()):
        self._student, self._adapters = Path(student), [Path(adapter) for adapter in adapters]
        self.batch = models.runtime().generation_batch
        self.identity = {
            "engine": "transformers",
            "student": models.fingerprint(self._student),
            "adapters": [models.fingerprint(adapter) for adapter in self._adapters],
        }
        self._model = self._tokenizer = None

    def reply(self, requests: Sequence[Request], sampling: Sampling, seeds: Sequence[int]) -> list[Reply]:
        if self._model is None:
            self._tokenizer = models.load_tokenizer(self._student)
            self._model = with_grouped_attention(models.load_model(self._student, self._adapters))
        budget = self._model.config.get_text_config().max_position_embeddings - sampling.max_new_tokens
        try:
            prompts = [fit(self._tokenizer, request.messages, budget, request.prefill) for request in requests]
        except ValueError as error:
            raise UserError(
                f"{self._student}: {error} (the model's context less max_new_tokens); shorten the prompt."
            ) from None
        outputs = sample(self._model, prompts, sampling, seeds, stop_ids(self._model, self._tokenizer))
        return [self._read(ids, finished) for ids, finished in outputs]

    def _read(self, ids: list[int], finished: bool) -> Reply:
        text = self._tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Reply(text, "stop" if finished else "length", len(ids))


def stop_ids(model, tokenizer) -> set[int]:
    """Return the ids that end a turn: the tokenizer's EOS and all that the generation config names."""
    named = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}


def sample(
    model, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int], stops: set[int]
) -> list[tuple[list[int], bool]]:
    """Continue each prompt (token ids); return per prompt the new ids without the stop token, and whether it stopped."""
    import torch

    # What all prompts share, a system prompt above all, is computed once for the batch.
    shared = _common_prefix(prompts)
    prefix = torch.tensor([prompts[0][:shared]], device=model.device)
    prompts = [prompt[shared:] for prompt in prompts]
    longest = max(map(len, prompts))
    length = shared + longest + sampling.max_new_tokens
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.ones(len(prompts), length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, shared : shared + longest - len(prompt)] = 0
    noise = torch.stack([_uniforms(seed, sampling.max_new_tokens) for seed in seeds])
    ids, mask, noise = ids.to(model.device), mask.to(model.device), noise.to(model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    outputs: list[list[int]] = [[] for _ in prompts]
    stopped = [False] * len(prompts)
    rows = list(range(len(prompts)))  # which prompt each row of the batch belongs to
    with torch.inference_mode():
        cache = growing_cache(length)
        if shared:
            model(prefix, past_key_values=cache, logits_to_keep=1)
            cache.repeat(len(prompts))
        for step in range(sampling.max_new_tokens):
            end = shared + longest + step
            logits = model(
                ids,
                attention_mask=mask[:, :end],
                position_ids=positions[:, end - ids.shape[1] : end],
                past_key_values=cache,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = draw(logits.float(), sampling.temperature, sampling.top_p, noise[:, step])
            going = []
            for index, token in enumerate(chosen.tolist()):
                if token in stops:
                    stopped[rows[index]] = True
                else:
                    outputs[rows[index]].append(token)
                    going.append(index)
            if not going:
                break
            ids = chosen[:, None]
            if len(going) < len(rows):
                rows = [rows[index] for index in going]
                kept = torch.tensor(going, device=model.device)
                ids, mask, positions, noise = ids[kept], mask[kept], positions[kept], noise[kept]
                cache.select(kept)
    return list(zip(outputs, stopped, strict=True))


def _common_prefix(prompts: Sequence[list[int]]) -> int:
    """Return how many leading tokens all prompts share, leaving each at least one of its own."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    return next((i for i in range(shortest) if any(prompt[i] != first[i] for prompt in prompts)), shortest)


def draw(logits, temperature: float, top_p: float, uniform):
    """Draw one token per row by inverting the distribution of the nucleus at `uniform`.

    Args:
        logits: float32 `[rows, vocabulary]`.
        uniform: one number in [0, 1) per row.
    """
    import torch

    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    total = logits.logsumexp(-1, keepdim=True)
    values, tokens = logits.topk(min(CANDIDATES, logits.shape[-1]))
    probabilities = (values - total).exp()
    if (probabilities.sum(-1) < top_p).any() and logits.shape[-1] > CANDIDATES:
        values, tokens = logits.sort(descending=True)
        probabilities = (values - total).exp()
    cumulative = probabilities.cumsum(-1)
    # The nucleus: the fewest tokens that together reach top_p; the first is always in.
    nucleus = (cumulative - probabilities) < top_p
    probabilities = probabilities * nucleus
    cumulative = probabilities.cumsum(-1)
    target = uniform[:, None].to(cumulative.dtype) * cumulative[:, -1:]
    choice = torch.searchsorted(cumulative, target, right=True).clamp(max=nucleus.sum(-1, keepdim=True) - 1)
    return tokens.gather(-1, choice).squeeze(-1)


def _uniforms(seed: int, count: int):
    import numpy
    import torch

    return torch.from_numpy(numpy.random.Generator(numpy.random.PCG64(seed)).random(count))


def growing_cache(length: int):
    """Return a key/value cache that is allocated once for `length` positions and filled in place."""
    import torch
    from transformers.cache_utils import Cache, CacheLayerMixin

    class Layer(CacheLayerMixin):
        is_sliding = False

        def lazy_initialization(self, key_states, value_states=None):
            rows, heads, _, width = key_states.shape
            self.keys = torch.empty(rows, heads, length, width, dtype=key_states.dtype, device=key_states.device)
            self.values = torch.empty_like(self.keys)
            self.filled = 0
            self.is_initialized = True

        def update(self, key_states, value_states, *_, **__):
            if not self.is_initialized:
                self.lazy_initialization(key_states)
            end = self.filled + key_states.shape[2]
            self.keys[:, :, self.filled : end] = key_states
            self.values[:, :, self.filled : end] = value_states
            self.filled = end
            return self.keys[:, :, :end], self.values[:, :, :end]

        def get_mask_sizes(self, query_length):
            return self.get_seq_length() + (query_length if isinstance(query_length, int) else query_length.shape[0]), 0

        def get_seq_length(self):
            return self.filled if self.is_initialized else 0

        def get_max_length(self):
            return length

    class Growing(Cache):
        def repeat(self, rows):
            """Give each of `rows` rows a copy of the only row."""
            for layer in self.layers:
                layer.keys = layer.keys.repeat(rows, 1, 1, 1)
                layer.values = layer.values.repeat(rows, 1, 1, 1)

        def select(self, rows):
            """Keep only these rows of the batch."""
            for layer in self.layers:
                layer.keys, layer.values = layer.keys[rows], layer.values[rows]

    return Growing(layer_class_to_replicate=Layer)


def with_grouped_attention(model):
    """Let `model` attend without repeating keys and values for each of their query heads while it decodes."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(module, query, key, value, attention_mask, **kwargs):
        rows, heads, length, width = query.shape
        groups = key.shape[1]
        if length > 1 or heads == groups:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        # With one position to decode, the heads of a group can stand in the place of positions.
        query = query.view(rows, groups, heads // groups, width)
        output, weights = sdpa_attention_forward(
            _Ungrouped, query, key, value, attention_mask, **{**kwargs, "is_causal": False}
        )
        return output.transpose(1, 2).reshape(rows, 1, heads, width), weights

    AttentionInterface.register("grouped", attend)
    AttentionMaskInterface.register("grouped", sdpa_mask)
    model.set_attn_implementation("grouped")
    return model


class _Ungrouped:
    """Stands for an attention module whose keys have as many heads as its queries."""

    num_key_value_groups = 1
    is_causal = False
