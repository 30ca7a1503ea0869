"""Attention of the transformers engine: a key/value cache with one row per conversation, its masks, and grouped decoding."""

from character.core.errors import UserError


def attention_masks(config, positions, columns: int):
    """Return the boolean attention mask of `positions`, or a dictionary with one mask per type of layer; True means visible.

    Args:
        config: the text configuration of the model.
        positions: `[rows, width]`.
        columns: how many cached positions attention reads. A mask is `[rows, 1, width, columns]`.

    Raises:
        UserError: the model has layers that are neither full nor sliding attention.
    """
    import torch

    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    unknown = kinds - {"full_attention", "sliding_attention"}
    if unknown:
        raise UserError(f"the transformers engine cannot run layers of {', '.join(sorted(unknown))}; use the vllm engine.")
    at = torch.arange(columns, device=positions.device)
    positions = positions[:, None, :, None]
    seen = at <= positions
    window = getattr(config, "sliding_window", None)
    if not window or (getattr(config, "layer_types", None) and "sliding_attention" not in kinds):
        return seen
    near = seen & (at > positions - window)
    return {"full_attention": seen, "sliding_attention": near} if getattr(config, "layer_types", None) else near


def build_kv_cache(rows: int, length: int):
    """Return a key/value cache of `rows` rows and `length` positions, allocated once and filled in place.

    `set_target(rows, positions, columns)` sets where the next forward pass writes (a slice of rows, and `positions`
    `[rows, width]`), and how many columns it reads.
    """
    import torch
    from transformers.cache_utils import Cache, CacheLayerMixin

    class PreallocatedLayer(CacheLayerMixin):
        is_sliding = False

        def lazy_initialization(self, key_states, value_states):
            # Zeros, because masked values are multiplied by zero and must not be NaN.
            kind = {"dtype": key_states.dtype, "device": key_states.device}
            self.keys = torch.zeros(rows, key_states.shape[1], length, key_states.shape[3], **kind)
            self.values = torch.zeros(rows, value_states.shape[1], length, value_states.shape[3], **kind)
            self.is_initialized = True

        def update(self, key_states, value_states, *_, **__):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            keys, values = self.keys[self.target.rows], self.values[self.target.rows]
            row, at = self.target.index
            # Indices around a slice: rows and positions come first, heads after them.
            keys[row, :, at], values[row, :, at] = key_states.transpose(1, 2), value_states.transpose(1, 2)
            return keys[:, :, : self.target.columns], values[:, :, : self.target.columns]

        def get_mask_sizes(self, query_length):
            return self.target.columns, 0

        def get_seq_length(self):
            return 0

        def get_max_length(self):
            return length

    class WriteTarget:
        rows, index, columns = slice(0), None, 0

    class PreallocatedCache(Cache):
        target = WriteTarget()

        def set_target(self, rows, positions, columns):
            row = torch.arange(len(positions), device=positions.device)[:, None]
            self.target.rows, self.target.index, self.target.columns = rows, (row, positions), columns

        def repeat_first_row(self, positions):
            """Copy the first `positions` positions of the first row to all other rows."""
            for layer in self.layers:
                layer.keys[1:, :, :positions] = layer.keys[:1, :, :positions]
                layer.values[1:, :, :positions] = layer.values[:1, :, :positions]

        def move_row(self, source, target, positions):
            for layer in self.layers:
                layer.keys[target, :, :positions] = layer.keys[source, :, :positions]
                layer.values[target, :, :positions] = layer.values[source, :, :positions]

    PreallocatedLayer.target = PreallocatedCache.target
    return PreallocatedCache(layer_class_to_replicate=PreallocatedLayer)


def enable_grouped_attention(model):
    """Set `model` to decode without repeating keys and values for the query heads that share them, and return it.

    Raises:
        UserError: the model uses attn_logit_softcapping.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        raise UserError("the transformers engine cannot run a model with attn_logit_softcapping; use the vllm engine.")

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        rows, heads, length, width = query.shape
        if length > 1:
            return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        # With one position to decode, the heads of a group take the dimension of the positions. Plain matrix products are
        # three times as fast here as the fused kernel, which is designed for many positions.
        groups = key.shape[1]
        query = query.view(rows, groups, heads // groups, width) * (width**-0.5 if scaling is None else scaling)
        scores = (query @ key.transpose(-1, -2)).masked_fill(~attention_mask, float("-inf"))
        output = scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
        return output.reshape(rows, 1, heads, width), None

    AttentionInterface.register("grouped", attend)
    AttentionMaskInterface.register("grouped", sdpa_mask)
    model.set_attn_implementation("grouped")
    return model
