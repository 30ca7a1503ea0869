"""How much the results of a persona vary with the seed."""

from collections.abc import Sequence
from statistics import fmean, stdev

from character.dataset.conditions import PLAIN, SUFFIXES
from character.report.html import ReportSection, ReportTable
from character.report.table_cells import PERSONA_METHOD
from character.study.results import RunResult, rating_correlation

COMPARED_CONDITIONS = (PLAIN, SUFFIXES)


def personas_with_seeds(results: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Return the results of the personas that were run with several seeds, by persona."""
    by_persona: dict[str, list[RunResult]] = {}
    for result in results:
        by_persona.setdefault(result.run.persona, []).append(result)
    return {persona: own for persona, own in by_persona.items() if len(own) > 1}


def seed_section(repeated: dict[str, list[RunResult]]) -> ReportSection:
    """Show how much the results of a persona vary with the seed."""
    bodies = {persona: _seed_rows(own) for persona, own in repeated.items()}
    return ReportSection(
        "How much is chance?",
        "The same persona and params with other seeds, which change all that is random: replies, orders, adapters, the "
        "classifier.",
        [
            ReportTable(
                "In-character rate of persona and distilled, by seed; the mean rank correlation of its trait ratings "
                "with those of the other seeds.",
                _SEED_COLUMNS,
                bodies,
            )
        ],
    )


_SEED_COLUMNS = [
    "seed",
    "plain",
    "suffixes",
    "distilled, plain",
    "distilled, suffixes",
    "change of accuracy",
    "likeness of ratings",
]


def _seed_rows(results: Sequence[RunResult]) -> list[list]:
    rows = []
    for result in results:
        scores = result.metrics["robustness"]
        recall = [
            scores[name][condition]["recall"] for name in (PERSONA_METHOD, "distilled") for condition in COMPARED_CONDITIONS
        ]
        others = [
            rating_correlation(result.ratings[PERSONA_METHOD], other.ratings[PERSONA_METHOD])
            for other in results
            if other is not result
        ]
        rows.append(
            [result.run.seed, *recall, result.metrics["capabilities"][PERSONA_METHOD]["overall"]["change"], fmean(others)]
        )
    columns = list(zip(*(row[1:] for row in rows), strict=True))
    return [*rows, ["mean", *map(fmean, columns)], ["standard deviation", *map(stdev, columns)]]
