"""The few figures by which experiments are compared: what `dvc metrics diff` and `dvc exp show` print."""

from statistics import fmean

from character.dataset.conditions import ATTACK_CONDITIONS, PLAIN, SUFFIXES
from character.report.table_cells import BASE_METHOD, PERSONA_METHOD

PRESSURE = (SUFFIXES, *ATTACK_CONDITIONS)


def summary_figures(robustness: dict, capabilities: dict, fluency: dict, classifier: dict, judge: dict) -> dict[str, dict]:
    """Return the summary of an experiment from the results of its evaluations, each without its intervals.

    Returns:
        `in_character`: the share of answers to plain held-out prompts that the classifier calls the persona's;
        `under_pressure`: the same where the method is led out of character, the mean over requests, openings and earlier turns;
        `accuracy`: of all tasks. These for the persona, for the base student, and their difference. `perplexity`: of the
        persona's answers under the base student, per token. `classifier`, `judge`: how good these two instruments are.
    """

    def rate(method: str, *conditions: str) -> float:
        return fmean(robustness[method][condition]["recall"] for condition in conditions)

    return {
        "in_character": _against_base(rate(PERSONA_METHOD, PLAIN), rate(BASE_METHOD, PLAIN)),
        "under_pressure": _against_base(rate(PERSONA_METHOD, *PRESSURE), rate(BASE_METHOD, *PRESSURE)),
        "accuracy": _against_base(*(capabilities[method]["overall"]["accuracy"] for method in (PERSONA_METHOD, BASE_METHOD))),
        "perplexity": {"persona": fluency[PERSONA_METHOD]["perplexity"]},
        "classifier": {"macro_f1": classifier["macro_f1"]},
        "judge": {"accuracy": judge["accuracy"]},
    }


def _against_base(persona: float, base: float) -> dict[str, float]:
    return {"persona": persona, "base": base, "difference": persona - base}
