"""How likely a chat model finds a text as its own turn."""

from collections.abc import Iterator, Mapping, Sequence

from tqdm import tqdm

from character import models
from character.chat import Messages, render

TOKENS = 2048  # positions that are read at once; those that are scored need logits over the whole vocabulary


def batches(sizes: Mapping[int, int]) -> Iterator[list[int]]:
    """Yield the rows, whose `sizes` are in tokens, in batches that take no more than TOKENS positions with their padding.

    Rows of like length are read together, the longest first: little padding, and too little memory shows at once.
    """
    order = sorted(sizes, key=lambda row: -sizes[row])
    while order:
        count = max(1, TOKENS // sizes[order[0]])
        yield order[:count]
        order = order[count:]


def of_replies(prompts: Sequence[Messages], replies: Sequence[str]) -> list[list[float]]:
    """Return the log-probability (nats) of each token of `replies[i]` as the student's turn after `prompts[i]`.

    The end of the turn is not counted: a reply that was cut off has none. An empty reply has no tokens.
    """
    import torch

    tokenizer, model = models.load_tokenizer(), models.load_model()
    heads = [render(tokenizer, prompt) for prompt in prompts]
    tails = [tokenizer(reply, add_special_tokens=False)["input_ids"] for reply in replies]
    found: list[list[float]] = [[] for _ in tails]
    sizes = {row: len(heads[row]) + len(tail) for row, tail in enumerate(tails) if tail}
    with torch.inference_mode(), tqdm(total=len(sizes), desc="likelihood", unit="text") as bar:
        for rows in batches(sizes):
            for row, logps in zip(rows, _read(model, [(heads[row], tails[row]) for row in rows]), strict=True):
                found[row] = logps
            bar.update(len(rows))
    return found


def _read(model, pairs: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
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
