"""metrics/summary.json: few figures with plain names, taken from the results as they are."""

import pytest

from character.report.summary import summary_figures


def robustness(persona: dict, base: dict) -> dict:
    return {
        method: {condition: {"recall": rate, "n": 8} for condition, rate in rates.items()}
        for method, rates in (("base", base), ("persona", persona), ("prompted", base))
    }


PERSONA = {"plain": 0.75, "suffixes": 0.6, "drop": 0.1, "prefill": 0.3, "multi-turn": 0.45}
BASE = {"plain": 0.25, "suffixes": 0.0, "drop": 0.9, "prefill": 0.0, "multi-turn": 0.15}
OTHERS = {
    "capabilities": {
        "base": {"overall": {"accuracy": 0.75}},
        "persona": {"overall": {"accuracy": 0.5}, "sums": {"accuracy": 1}},
    },
    "fluency": {"base": {"perplexity": 3.0}, "persona": {"perplexity": 15.5}},
    "classifier": {"macro_f1": 0.85, "n": 9},
    "judge": {"accuracy": 0.8},
}


def flat(figures: dict) -> dict[str, float]:
    return {f"{group}.{name}": figure for group, own in figures.items() for name, figure in own.items()}


def test_the_summary_compares_the_persona_with_base_plain_and_under_pressure():
    figures = flat(summary_figures(robustness(PERSONA, BASE), **OTHERS))
    assert figures == pytest.approx(
        {
            "in_character.persona": 0.75,
            "in_character.base": 0.25,
            "in_character.gain": 0.5,
            "under_pressure.persona": 0.45,  # the mean of suffixes, prefill and multi-turn; a single suffix counts for nothing
            "under_pressure.base": 0.05,
            "under_pressure.gain": 0.4,
            "accuracy.persona": 0.5,
            "accuracy.base": 0.75,
            "accuracy.gain": -0.25,
            "perplexity.persona": 15.5,
            "classifier.macro_f1": 0.85,
            "judge.accuracy": 0.8,
        }
    )
    assert len(figures) <= 14


def test_what_was_not_run_has_no_figure():
    alone = [{"plain": rates["plain"]} for rates in (PERSONA, BASE)]
    figures = flat(summary_figures(robustness(*alone), **OTHERS))
    assert "in_character.persona" in figures and not [name for name in figures if name.startswith("under_pressure")]
    part = [{key: rates[key] for key in ("plain", "prefill")} for rates in (PERSONA, BASE)]
    assert flat(summary_figures(robustness(*part), **OTHERS))["under_pressure.persona"] == pytest.approx(0.3)
