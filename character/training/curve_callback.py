"""The training curve, one row per optimiser step, and warnings of the two known failures of this training."""

import math

from tqdm.auto import tqdm
from transformers import TrainerCallback

from character.core.errors import UserError

SATURATED_LOSS, SATURATED_STEPS = 0.01, 5  # a preference loss without useful gradient, and for how many steps
MAX_ENTROPY_RISE = 1.0  # nats above the entropy of the first step


class CurveCallback(TrainerCallback):
    """Collects one row per optimiser step, shows a progress bar, and warns of a saturated loss or a rising entropy."""

    def __init__(self, name: str, stop_when_saturated: bool = False):
        self.name, self.stop_when_saturated = name, stop_when_saturated
        self.rows: list[dict] = []
        self.warned: set[str] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        self.rows = [_curve_row(logs) for logs in state.log_history if "loss" in logs]  # of a resumed run
        others = not state.is_world_process_zero
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, unit="step", disable=others)

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" not in logs:  # the summary at the end
            return
        if not math.isfinite(logs["loss"]):
            raise UserError(f"{self.name}: the loss is {logs['loss']} at step {state.global_step}; lower its learning_rate.")
        self.rows.append(_curve_row({"step": state.global_step} | logs))
        self.bar.update()
        self.bar.set_postfix(loss=f"{logs['loss']:.3f}")
        self._check_training(state, control)

    def _check_training(self, state, control):
        recent = self.rows[-SATURATED_STEPS:]
        saturated = len(recent) == SATURATED_STEPS and all(row.get("preference", 1) < SATURATED_LOSS for row in recent)
        if saturated and state.global_step < state.max_steps // 2:
            self._warn_once(
                f"the preference loss has been below {SATURATED_LOSS} for {SATURATED_STEPS} steps: the remaining steps train "
                "only on the likelihood of the chosen answers; lower beta or the learning rate, or see stop_when_saturated"
            )
        if saturated and self.stop_when_saturated:
            control.should_training_stop = True
            control.should_save = False  # a run resumed from here would take one more step
        first, now = self.rows[0]["entropy"], self.rows[-1]["entropy"]
        if now > first + MAX_ENTROPY_RISE:
            self._warn_once(f"entropy rose from {first:.1f} to {now:.1f} nats: answers may degrade; lower the learning rate")

    def _warn_once(self, sentence: str):
        kind = sentence.split()[0]
        if kind not in self.warned and not self.bar.disable:
            self.bar.write(f"{self.name}: warning: {sentence}")
            self.warned.add(kind)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def _curve_row(logs: dict) -> dict:
    """Return the logged values that depend only on data and parameters, without times and rates."""
    noise = ("epoch", "learning_rate", "grad_norm", "step")
    return {"step": logs["step"]} | {key: value for key, value in logs.items() if key not in noise}
