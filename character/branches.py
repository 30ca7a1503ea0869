"""How likely a chat model finds each of several endings of a turn, all read in one pass behind what they share.

The endings are laid out as a tree: each of its tokens sees the conversation and the tokens that lead to it, and no others. So
the conversation is read once, however many endings there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from character import models
from character.chat import Messages, render
from character.likelihood import batches


@dataclass(frozen=True)
class Tree:
    """Token sequences that share their beginnings; node numbers go up along each path.

    `paths` has the nodes of each sequence, `parents` each node's predecessor, -1 for the end of the conversation.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    paths: list[list[int]]


def tree(sequences: Sequence[Sequence[int]]) -> Tree:
    nodes: dict[tuple[int, ...], int] = {(): -1}
    for sequence in sequences:
        for end in range(1, len(sequence) + 1):
            nodes.setdefault(tuple(sequence[:end]), len(nodes) - 1)
    prefixes = list(nodes)[1:]
    return Tree(
        tokens=[prefix[-1] for prefix in prefixes],
        parents=[nodes[prefix[:-1]] for prefix in prefixes],
        depths=[len(prefix) for prefix in prefixes],
        paths=[[nodes[tuple(sequence[:end])] for end in range(1, len(sequence) + 1)] for sequence in sequences],
    )


def of_endings(prompts: Sequence[Messages], endings: Sequence[Sequence[str]]) -> list[list[float]]:
    """Return the log-probability (nats) of each of `endings[i]` as what the student's turn after `prompts[i]` begins with."""
    import torch

    tokenizer, model = models.load_tokenizer(), models.load_model()
    heads = [render(tokenizer, prompt) for prompt in prompts]
    trees = [tree([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]) for texts in endings]
    sizes = {row: len(head) + len(trees[row].tokens) for row, head in enumerate(heads)}
    found: list[list[float]] = [[] for _ in heads]
    with torch.inference_mode(), tqdm(total=len(sizes), desc="likelihood", unit="text") as bar:
        for rows in batches(sizes):
            for row, logps in zip(rows, _read(model, [(heads[row], trees[row]) for row in rows]), strict=True):
                found[row] = [sum(logps[node] for node in path) for path in trees[row].paths]
            bar.update(len(rows))
    return found


def _read(model, rows: Sequence[tuple[list[int], Tree]]) -> list[list[float]]:
    """Return the log-probability of each node of each row's tree after its head and the nodes that lead to it."""
    import torch

    length = max(len(head) + len(branches.tokens) for head, branches in rows)
    first = min(len(head) for head, _ in rows) - 1
    ids, positions, seen = _laid_out(rows, length)
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


def _laid_out(rows: Sequence[tuple[list[int], Tree]], length: int):
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
