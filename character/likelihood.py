"""How likely a chat model finds a text as its own turn."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from character import models
from character.chat import Messages, render

AT_ONCE = 16  # texts; each of their positions needs logits over the whole vocabulary


def of_replies(prompts: Sequence[Messages], replies: Sequence[str], adapters: Sequence[Path] = ()) -> list[list[float]]:
    """Return the log-probability (nats) of each token of `replies[i]` as the student's turn after `prompts[i]`.

    The end of the turn is not counted: a reply that was cut off has none. An empty reply has no tokens.
    """
    import torch

    tokenizer, model = models.load_tokenizer(), models.load_model(adapters=adapters)
    heads = [render(tokenizer, prompt) for prompt in prompts]
    tails = [tokenizer(reply, add_special_tokens=False)["input_ids"] for reply in replies]
    found: list[list[float]] = [[] for _ in tails]
    # Texts of like length are read together, the longest first: little padding, and too little memory shows at once.
    order = sorted((row for row, tail in enumerate(tails) if tail), key=lambda row: -len(heads[row]) - len(tails[row]))
    with torch.inference_mode(), tqdm(total=len(order), desc="likelihood", unit="text") as bar:
        for start in range(0, len(order), AT_ONCE):
            rows = order[start : start + AT_ONCE]
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
