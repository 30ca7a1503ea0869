"""How often teacher and student answer each training prompt. They share one setting because their answers form pairs."""

from collections.abc import Sequence

from character.core.errors import UserError
from character.core.params import read_value
from character.core.records import Prompt


def prompt_samples(prompts: Sequence[Prompt]) -> list[tuple[Prompt, int]]:
    """Return a tuple (prompt, sample number from 0) for each of the `pairs.samples` samples of each prompt."""
    samples = read_value("pairs.samples")
    if not isinstance(samples, int) or samples < 1:
        raise UserError(f"params.yaml: pairs.samples is {samples!r}; make it a whole number above 0.")
    return [(prompt, sample) for prompt in prompts for sample in range(samples)]
