"""Log-probabilities that a chat model assigns to a text as its own turn, or to each of several endings of a turn.

The endings form a trie, in which each token sees only the conversation and the tokens on its path. The conversation is
therefore read once for all endings.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from character.core import models
from character.core.errors import UserError
from character.core.safe_text import print_text
from character.inference.chat_format import Messages, render_messages, usable_context
from character.inference.token_sampling import check_finite

BATCH_POSITIONS = 2048  # positions in one forward pass; scored positions need logits over the whole vocabulary


def length_batches(sizes: Mapping[int, int]) -> Iterator[list[int]]:
    """Yield batches of row numbers; a batch takes at most BATCH_POSITIONS positions, padding included, or is a single row.

    Rows of similar length share a batch, which saves padding. The longest come first, so a lack of memory shows at once.

    Args:
        sizes: the tokens of each row, by row number.
    """
    order = sorted(sizes, key=lambda row: -sizes[row])
    while order:
        count = max(1, BATCH_POSITIONS // sizes[order[0]])
        yield order[:count]
        order = order[count:]


def reply_log_probs(prompts: Sequence[Messages], replies: Sequence[str]) -> list[list[float]]:
    """Return the log-probability (nats) of each token of `replies[i]` as the student's turn after `prompts[i]`.

    The token that ends the turn is not scored, since a truncated reply has none. An empty reply gives an empty list, and so
    does one that exceeds the context together with its prompt; the number of these is printed.

    Raises:
        UserError: all exceed the context.
    """
    import torch

    tokenizer, model = models.load_tokenizer(), models.load_model()
    heads = [render_messages(tokenizer, prompt) for prompt in prompts]
    tails = [tokenizer(reply, add_special_tokens=False)["input_ids"] for reply in replies]
    log_probs: list[list[float]] = [[] for _ in tails]
    sizes = {row: len(heads[row]) + len(tail) for row, tail in enumerate(tails) if tail}
    sizes = {row: sizes[row] for row in _rows_in_context(model, sizes)}
    with torch.inference_mode(), tqdm(total=len(sizes), desc="likelihood", unit="text") as bar:
        for rows in length_batches(sizes):
            for row, logps in zip(rows, _token_log_probs(model, [(heads[row], tails[row]) for row in rows]), strict=True):
                log_probs[row] = logps
            bar.update(len(rows))
    return log_probs


def _rows_in_context(model, lengths: Mapping[int, int]) -> list[int]:
    """Return the numbers of the rows that fit into the context, and print how many do not.

    Args:
        lengths: the tokens of each conversation, by row number.
    """
    context = usable_context(model.config, str(models.STUDENT_DIR))
    fitting = [row for row, length in lengths.items() if length <= context]
    if long := len(lengths) - len(fitting):
        told = f"likelihood: {long} of {len(lengths)} conversations are longer than the student's context of {context} tokens"
        if not fitting:
            raise UserError(f"{told}; shorten the texts that they hold, or choose a student with a longer context.")
        print_text(f"{told}, and are left out")
    return fitting


def _token_log_probs(model, pairs: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
    import torch

    longest = max(len(head) + len(tail) for head, tail in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    scored = torch.zeros(len(pairs), longest, dtype=torch.bool)  # positions whose next token belongs to the reply
    for row, (head, tail) in enumerate(pairs):
        ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
        scored[row, len(head) - 1 : len(head) + len(tail) - 1] = True
    ids, scored = ids.to(model.device), scored.to(model.device)
    kept = scored.any(0).nonzero()[:, 0]
    # Padding is on the right, so causal attention hides it from all positions that are used.
    logits = model(input_ids=ids, logits_to_keep=kept, use_cache=False).logits.float()
    check_finite(logits[scored[:, kept]], model)
    logps = logits.gather(-1, ids.roll(-1, 1)[:, kept, None])[..., 0] - logits.logsumexp(-1)
    return [row[mask].tolist() for row, mask in zip(logps, scored[:, kept], strict=True)]


@dataclass(frozen=True)
class TokenTrie:
    """Token sequences as a trie of their prefixes; node numbers increase along each path.

    `tokens`, `parents` and `depths` have one entry per node: its token, its predecessor (-1: the end of the conversation) and
    its depth, from 1. `paths` has the nodes of each sequence.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    paths: list[list[int]]


def build_trie(sequences: Sequence[Sequence[int]]) -> TokenTrie:
    nodes: dict[tuple[int, ...], int] = {(): -1}
    for sequence in sequences:
        for end in range(1, len(sequence) + 1):
            nodes.setdefault(tuple(sequence[:end]), len(nodes) - 1)
    prefixes = list(nodes)[1:]
    return TokenTrie(
        tokens=[prefix[-1] for prefix in prefixes],
        parents=[nodes[prefix[:-1]] for prefix in prefixes],
        depths=[len(prefix) for prefix in prefixes],
        paths=[[nodes[tuple(sequence[:end])] for end in range(1, len(sequence) + 1)] for sequence in sequences],
    )


def ending_log_probs(prompts: Sequence[Messages], endings: Sequence[Sequence[str]]) -> list[list[float]]:
    """Return the log-probability (nats) of each of `endings[i]` as the beginning of the student's turn after `prompts[i]`.

    They are NaN where prompt and ending exceed the context; the number of these prompts is printed.

    Raises:
        UserError: all exceed the context.
    """
    import torch

    tokenizer, model = models.load_tokenizer(), models.load_model()
    heads = [render_messages(tokenizer, prompt) for prompt in prompts]
    tries = [build_trie([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]) for texts in endings]
    lengths = {row: len(head) + max(tries[row].depths, default=0) for row, head in enumerate(heads)}
    sizes = {row: len(heads[row]) + len(tries[row].tokens) for row in _rows_in_context(model, lengths)}
    log_probs = [[math.nan] * len(texts) for texts in endings]
    with torch.inference_mode(), tqdm(total=len(sizes), desc="likelihood", unit="text") as bar:
        for rows in length_batches(sizes):
            for row, logps in zip(rows, _node_log_probs(model, [(heads[row], tries[row]) for row in rows]), strict=True):
                log_probs[row] = [sum(logps[node] for node in path) for path in tries[row].paths]
            bar.update(len(rows))
    return log_probs


def _node_log_probs(model, rows: Sequence[tuple[list[int], TokenTrie]]) -> list[list[float]]:
    """Return the log-probability (nats) of each node of each row's trie, given the row's head and the nodes before it."""
    import torch

    length = max(len(head) + len(trie.tokens) for head, trie in rows)
    first = min(len(head) for head, _ in rows) - 1
    ids, positions, seen = _trie_inputs(rows, length)
    ids, positions, seen = (tensor.to(model.device) for tensor in (ids, positions, seen))
    kept = torch.arange(first, length, device=model.device)
    masks = _layer_masks(model, positions, seen)
    logits = model(
        input_ids=ids, position_ids=positions, attention_mask=masks, logits_to_keep=kept, use_cache=False
    ).logits.float()
    totals = logits.logsumexp(-1)
    log_probs = []
    for row, (head, trie) in enumerate(rows):
        # A node's token is predicted at its parent; for the first nodes that is the last token of the head.
        at = torch.tensor([len(head) + parent - first for parent in trie.parents], device=model.device, dtype=torch.long)
        tokens = torch.tensor(trie.tokens, device=model.device, dtype=torch.long)
        check_finite(logits[row, at], model)
        log_probs.append((logits[row, at, tokens] - totals[row, at]).tolist())
    return log_probs


def _layer_masks(model, positions, seen):
    """Return what is added to attention scores `[rows, 1, length, length]`: one for all layers, or one by type of layer.

    Args:
        positions: `[rows, length]`.
        seen: which tokens each token sees with full attention, `[rows, length, length]`.

    Raises:
        UserError: a type of layer is neither full nor sliding attention.
    """
    import torch

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["all"])
    if unknown := kinds - {"all", "full_attention", "sliding_attention"}:
        raise UserError(f"The likelihood judge cannot read layers of {', '.join(sorted(unknown))}; choose another judge.kind.")
    window = getattr(config, "sliding_window", None) if kinds & {"all", "sliding_attention"} else None
    near = seen & (positions[:, :, None] - positions[:, None] < window) if window else seen
    least = torch.finfo(model.dtype).min
    full, sliding = (torch.where(mask, 0.0, least).to(model.dtype)[:, None] for mask in (seen, near))
    return {"full_attention": full, "sliding_attention": sliding} if "sliding_attention" in kinds else sliding


def _trie_inputs(rows: Sequence[tuple[list[int], TokenTrie]], length: int):
    """Return token ids and positions `[rows, length]`, and which tokens each token sees `[rows, length, length]`."""
    import torch

    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    seen = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)  # padding too, since a token that sees nothing gives NaN
    for row, (head, trie) in enumerate(rows):
        start, end = len(head), len(head) + len(trie.tokens)
        ids[row, :end] = torch.tensor(head + trie.tokens)
        positions[row, :end] = torch.tensor([*range(start), *(start - 1 + depth for depth in trie.depths)])
        seen[row, :start, :start] = torch.ones(start, start).tril().bool()
        seen[row, start:end, :start] = True
        for node, parent in enumerate(trie.parents):
            if parent >= 0:
                seen[row, start + node] |= seen[row, start + parent]
    return ids, positions, seen
