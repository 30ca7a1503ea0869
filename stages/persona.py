"""persona: models/distillation/ + models/introspection/ -> models/persona/ (one adapter, exactly their sum), results/.

With scalings s = alpha / rank, the merged update of a module is s_d B_d A_d + w s_s B_s A_s. Stacking the factors,
A = [A_d; A_s] and B = [s_d B_d, w s_s B_s], gives exactly that product for any ranks, at rank r_d + r_s and scaling 1.
Adding the factors themselves, as PEFT's "linear" merge does, would add cross terms B_d A_s and B_s A_d. For servers that do
not support such a rank, `merge.rank` asks for the best approximation of a lower rank; results/persona.json has its error.
"""

from pathlib import Path

import click
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section, read_value
from character.core.safe_text import print_text
from character.dataset import constitution
from character.training import adapters, merging


class MergeSettings(ParamsSection):
    introspection_weight: float = Field(ge=0)
    rank: int = Field(ge=0)  # 0: the sum of the ranks, exact


@click.command()
def main():
    """Merge both adapters into the adapter models/persona/."""
    merge, name = read_section("merge", MergeSettings), read_value("persona")
    traits = constitution.traits_hash(constitution.load_constitution(f"constitutions/{name}.yaml"))
    weight = merge.introspection_weight
    print_text(f"persona: models/distillation + {weight} x models/introspection -> models/persona")
    shares = {Path("models/distillation"): 1.0} | ({Path("models/introspection"): weight} if weight else {})
    scaled = [
        {target: (a, share * b) for target, (a, b) in merging.load_lora_factors(folder).items()}
        for folder, share in shares.items()
    ]
    factors, error = merging.sum_factors(scaled), 0.0
    if 0 < merge.rank < merging.largest_rank(factors):
        factors, error = merging.truncate_rank(factors, merge.rank)
    config, weights = merging.build_adapter(factors, list(shares))
    origin = adapters.stage_provenance("persona") | {
        "constitution": traits,
        "merged": [records.read_provenance(folder) for folder in shares],
    }
    adapters.save_adapter(Path("models/persona"), weights, config, origin)
    records.write_json("results/persona.json", {"rank": config.r, "relative_error": error})


if __name__ == "__main__":
    main()
