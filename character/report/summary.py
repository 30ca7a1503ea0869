"""The few figures by which experiments are compared: what `dvc metrics diff` and `dvc exp show` print."""

from statistics import fmean

from character.dataset.conditions import ATTACK_CONDITIONS, PLAIN, SUFFIXES
from character.report.table_cells import BASE_METHOD, PERSONA_METHOD

PRESSURE = (SUFFIXES, *ATTACK_CONDITIONS)


def summary_figures(robustness: dict, capabilities: dict, fluency: dict, classifier: dict, judge: dict) -> dict[str, dict]:
    """Return the summary of an experiment from the results of its evaluations, each without its intervals.

    Returns:
        For `persona` and `base`, and as `gain` persona minus base: `in_character`, the share of answers to plain held-out
        prompts that the classifier assigns to the persona; `under_pressure`, the mean of the same share under suffixes, after
        an opening and after an earlier turn out of character (as far as these were run); `accuracy`, over all tasks. Then
        `perplexity`, of the persona's answers under base, per token; and how good the two instruments are, `classifier` and
        `judge`.
    """

    def rates(*conditions: str) -> list[float]:
        return [fmean(robustness[method][name]["recall"] for name in conditions) for method in (PERSONA_METHOD, BASE_METHOD)]

    pressure = [name for name in PRESSURE if name in robustness[PERSONA_METHOD]]  # none where their sizes are 0
    accuracies = (capabilities[method]["overall"]["accuracy"] for method in (PERSONA_METHOD, BASE_METHOD))
    return {
        "in_character": _against_base(*rates(PLAIN)),
        **({"under_pressure": _against_base(*rates(*pressure))} if pressure else {}),
        "accuracy": _against_base(*accuracies),
        "perplexity": {"persona": fluency[PERSONA_METHOD]["perplexity"]},
        "classifier": {"macro_f1": classifier["macro_f1"]},
        "judge": {"accuracy": judge["accuracy"]},
    }


def _against_base(persona: float, base: float) -> dict[str, float]:
    return {"persona": persona, "base": base, "gain": persona - base}
