"""Attention of the transformers engine: a key/value cache with one row per conversation, its masks, and grouped decoding."""

ROUNDED_COLUMNS = 128
IGNORED_OPTIONS = {"dropout", "is_causal", "sliding_window", "position_ids", "output_attentions", "use_cache"}


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

        def get_query_offset(self, layer_idx=0):
            return self.target.index[1]

        def get_mask_sizes(self, query_length, layer_idx):
            return self.target.columns, 0

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
    """Set `model` to attend without repeating keys and values for the query heads that share them, and return it.

    The model's own code still decides which positions a layer sees; `_row_masks` evaluates that for each row's positions.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register("grouped", _grouped_attention)
    AttentionMaskInterface.register("grouped", _row_masks)
    model.set_attn_implementation("grouped")
    return model


def _row_masks(batch_size, kv_length, q_offset, mask_function, device, **options):
    """Return a mask `[rows, 1, width, columns]` in which True means visible.

    `mask_function` is the layer's pattern (causal, sliding, in chunks), and `q_offset` has the positions `[rows, width]`.
    """
    import torch
    from transformers.masking_utils import sdpa_mask

    if not torch.is_tensor(q_offset):  # a plain forward pass, without a PreallocatedCache
        options |= {"mask_function": mask_function, "device": device, "allow_is_causal_skip": False}
        return sdpa_mask(batch_size, kv_length=kv_length, q_offset=q_offset, **options)
    rows = torch.arange(batch_size, device=device)[:, None, None, None]
    columns = torch.arange(kv_length, device=device)
    return mask_function(rows, torch.zeros_like(rows[:1]), q_offset[:, None, :, None], columns)


def _grouped_attention(module, query, key, value, attention_mask, scaling=None, softcap=None, s_aux=None, **options):
    """Return the attention output `[rows, length, heads, value width]`, for any AttentionInterface of transformers.

    Args:
        softcap: limits the scores smoothly (Gemma 2).
        s_aux: a learned score per head that takes part in the softmax and has no value (the sinks of gpt-oss).
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    options = {name: value for name, value in options.items() if name not in IGNORED_OPTIONS}
    if needed := [name for name, value in options.items() if value is not None and value is not False]:
        raise ValueError(f"its attention needs {', '.join(needed)}")
    rows, heads, length, width = query.shape
    if length > 1 and softcap is None and s_aux is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling)
    # With one position to decode, the heads of a group take the dimension of the positions. Plain matrix products are
    # three times as fast here as the fused kernel, which is designed for many positions.
    groups = key.shape[1]
    query = query.reshape(rows, groups, heads // groups * length, width) * (width**-0.5 if scaling is None else scaling)
    scores = (query @ key.transpose(-1, -2)).view(rows, groups, heads // groups, length, -1)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    scores = scores.masked_fill(~attention_mask[:, None], float("-inf"))
    if s_aux is not None:
        sinks = s_aux.to(scores.dtype).view(1, groups, -1, 1, 1).expand(rows, -1, -1, length, 1)
        scores = torch.cat([scores, sinks], -1)
    weights = scores.softmax(-1, dtype=torch.float32)[..., : key.shape[2]].to(value.dtype)
    output = _product_by_columns(weights.flatten(2, 3), value, key.shape[2] if heads // groups < 4 else ROUNDED_COLUMNS)
    return output.view(rows, heads, length, -1).transpose(1, 2), None


def _product_by_columns(weights, value, block: int):
    """Return `weights @ value`, summed over blocks of columns.

    From four rows on, a product over more than ROUNDED_COLUMNS columns is rounded differently if there are still more of them.
    """
    output, *rest = (part @ own for part, own in zip(weights.split(block, -1), value.split(block, -2), strict=True))
    for part in rest:
        output += part
    return output
