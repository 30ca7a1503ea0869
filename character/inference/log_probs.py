"""How likely a chat model finds a text as its own turn, or each of several endings of a turn.

The endings are laid out as a tree: each of its tokens sees the conversation and the tokens that lead to it, and no others. So
the conversation is read once, however many endings there are.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from character.core import models
from character.inference.chat_format import Messages, render_messages

BATCH_POSITIONS = 2048  # positions that are read at once; those that are scored need logits over the whole vocabulary


def length_batches(sizes: Mapping[int, int]) -> Iterator[list[int]]:
    """Yield the rows, whose `sizes` are in tokens, in batches that take no more than TOKENS positions with their padding.

    Rows of like length are read together, the longest first: little padding, and too little memory shows at once.
    """
    order = sorted(sizes, key=lambda row: -sizes[row])
    while order:
        count = max(1, BATCH_POSITIONS // sizes[order[0]])
        yield order[:count]
        order = order[count:]


def reply_log_probs(prompts: Sequence[Messages], replies: Sequence[str]) -> list[list[float]]:
    """Return the log-probability (nats) of each token of `replies[i]` as the student's turn after `prompts[i]`.

    The end of the turn is not counted: a reply that was cut off has none. An empty reply has no tokens.
    """
    import torch

    tokenizer, model = models.load_tokenizer(), models.load_model()
    heads = [render_messages(tokenizer, prompt) for prompt in prompts]
    tails = [tokenizer(reply, add_special_tokens=False)["input_ids"] for reply in replies]
    found: list[list[float]] = [[] for _ in tails]
    sizes = {row: len(heads[row]) + len(tail) for row, tail in enumerate(tails) if tail}
    with torch.inference_mode(), tqdm(total=len(sizes), desc="likelihood", unit="text") as bar:
        for rows in length_batches(sizes):
            for row, logps in zip(rows, _token_log_probs(model, [(heads[row], tails[row]) for row in rows]), strict=True):
                found[row] = logps
            bar.update(len(rows))
    return found


def _token_log_probs(model, pairs: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
    import torch

    longest = max(len(head) + len(tail) for head, tail in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    scored = torch.zeros(len(pairs), longest, dtype=torch.bool)  # the positions whose next token is the reply's
    for row, (head, tail) in enumerate(pairs):
        ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
        scored[row, len(head) - 1 : len(head) + len(tail) - 1] = True
    ids, scored = ids.to(model.device), scored.to(model.device)
    kept = scored.any(0).nonzero()[:, 0]
    # Padding stands to the right of causal attention: no position that is used sees it.
    logits = model(input_ids=ids, logits_to_keep=kept, use_cache=False).logits.float()
    logps = logits.gather(-1, ids.roll(-1, 1)[:, kept, None])[..., 0] - logits.logsumexp(-1)
    return [row[mask].tolist() for row, mask in zip(logps, scored[:, kept], strict=True)]


@dataclass(frozen=True)
class TokenTrie:
    """Token sequences that share their beginnings; node numbers go up along each path.

    `paths` has the nodes of each sequence, `parents` each node's predecessor, -1 for the end of the conversation.
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
    """Return the log-probability (nats) of each of `endings[i]` as what the student's turn after `prompts[i]` begins with."""
    import torch

    tokenizer, model = models.load_tokenizer(), models.load_model()
    heads = [render_messages(tokenizer, prompt) for prompt in prompts]
    trees = [build_trie([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]) for texts in endings]
    sizes = {row: len(head) + len(trees[row].tokens) for row, head in enumerate(heads)}
    found: list[list[float]] = [[] for _ in heads]
    with torch.inference_mode(), tqdm(total=len(sizes), desc="likelihood", unit="text") as bar:
        for rows in length_batches(sizes):
            for row, logps in zip(rows, _node_log_probs(model, [(heads[row], trees[row]) for row in rows]), strict=True):
                found[row] = [sum(logps[node] for node in path) for path in trees[row].paths]
            bar.update(len(rows))
    return found


def _node_log_probs(model, rows: Sequence[tuple[list[int], TokenTrie]]) -> list[list[float]]:
    """Return the log-probability of each node of each row's tree after its head and the nodes that lead to it."""
    import torch

    length = max(len(head) + len(branches.tokens) for head, branches in rows)
    first = min(len(head) for head, _ in rows) - 1
    ids, positions, seen = _trie_inputs(rows, length)
    hidden = torch.zeros(len(rows), 1, length, length, dtype=model.dtype)
    hidden.masked_fill_(~seen[:, None], torch.finfo(model.dtype).min)
    ids, positions, hidden = (tensor.to(model.device) for tensor in (ids, positions, hidden))
    kept = torch.arange(first, length, device=model.device)
    logits = model(
        input_ids=ids, position_ids=positions, attention_mask=hidden, logits_to_keep=kept, use_cache=False
    ).logits.float()
    totals = logits.logsumexp(-1)
    found = []
    for row, (head, branches) in enumerate(rows):
        # Where each node's token is foretold: at its parent, which for the first ones is the head's last token.
        at = torch.tensor([len(head) + parent - first for parent in branches.parents], device=model.device, dtype=torch.long)
        tokens = torch.tensor(branches.tokens, device=model.device, dtype=torch.long)
        found.append((logits[row, at, tokens] - totals[row, at]).tolist())
    return found


def _trie_inputs(rows: Sequence[tuple[list[int], TokenTrie]], length: int):
    """Return ids and positions `[rows, length]`, and what each token sees `[rows, length, length]`."""
    import torch

    ids = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    seen = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)  # padding too: what sees nothing becomes NaN
    for row, (head, branches) in enumerate(rows):
        start, end = len(head), len(head) + len(branches.tokens)
        ids[row, :end] = torch.tensor(head + branches.tokens)
        positions[row, :end] = torch.tensor([*range(start), *(start - 1 + depth for depth in branches.depths)])
        seen[row, :start, :start] = torch.ones(start, start).tril().bool()
        seen[row, start:end, :start] = True
        for node, parent in enumerate(branches.parents):
            if parent >= 0:
                seen[row, start + node] |= seen[row, start + parent]
    return ids, positions, seen
