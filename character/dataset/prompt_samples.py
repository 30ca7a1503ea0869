"""How often teacher and student answer each training prompt. They share one setting because their answers form pairs."""

from collections.abc import Sequence

from character.core.params import read_value
from character.core.records import Prompt


def prompt_samples(prompts: Sequence[Prompt]) -> list[tuple[Prompt, int]]:
    """Return a tuple (prompt, sample number from 0) for each of the `pairs.samples` samples of each prompt."""
    return [(prompt, sample) for prompt in prompts for sample in range(read_value("pairs.samples"))]
