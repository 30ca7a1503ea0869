"""Sentence embeddings: unit vectors, whose dot product is the similarity of two texts' topics (arXiv 1908.10084)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from character.core import models
from character.core.errors import UserError

if TYPE_CHECKING:
    from numpy import ndarray

ENCODER_DIR = Path("models/encoder")
ENCODER_BATCH = 32  # texts


def embed_texts(texts: Sequence[str]) -> "ndarray":
    """Return a unit vector for each text, `[texts, width]`: the normalised mean of the encoder's last hidden states.

    Raises:
        UserError: models/encoder is missing.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModel, AutoTokenizer

    if not (ENCODER_DIR / "config.json").is_file():
        raise UserError(f"{ENCODER_DIR} is missing; run `dvc repro encoder`, or `dvc pull` to fetch it.")
    models.configure_torch()
    tokenizer = models.load_pretrained(AutoTokenizer, ENCODER_DIR)
    encoder = models.load_pretrained(AutoModel, ENCODER_DIR, use_safetensors=True).float().eval()
    longest = encoder.config.get_text_config().max_position_embeddings
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), ENCODER_BATCH):
            batch = tokenizer(list(texts[start : start + ENCODER_BATCH]), truncation=True, max_length=longest)["input_ids"]
            rows = [torch.tensor(ids) for ids in batch]
            # Padded here, since not every tokenizer has a token for it; the mask hides it.
            ids, mask = (pad_sequence(kind, batch_first=True) for kind in (rows, list(map(torch.ones_like, rows))))
            states, read = encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask[..., None]
            found.append(torch.nn.functional.normalize((states * read).sum(1) / read.sum(1), dim=-1))
    return torch.cat(found).numpy()
