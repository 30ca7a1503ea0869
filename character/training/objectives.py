"""The loss of distillation."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from character.training.run import TrainingSettings


class DistillationSettings(TrainingSettings):
    loss: Literal["sigmoid", "sigmoid_norm"]  # summed log-ratios (DPO), or their mean per token
    beta: float = Field(gt=0)
    nll_coef: float = Field(ge=0)
    kl_coef: float = Field(ge=0)
    stop_when_saturated: bool  # end the run once the preference loss is near zero


def preference_loss(settings: DistillationSettings, logps: Sequence, reference: Sequence, totals) -> tuple:
    """Return a micro-batch's share of the loss, and its shares of the curve's columns.

    With r = logp - logp_ref per token, and s = its sum (sigmoid_norm: its mean) over an answer:
        preference = mean over pairs of -log sigmoid(beta * (s_chosen - s_rejected))
        nll        = mean over chosen tokens of -logp
        kl         = mean over all answer tokens of r^2 (a squared log-ratio, which the paper's code calls KL)

    Args:
        logps: one tensor of token log-probabilities (nats) per answer: the chosen answers, then the rejected ones.
        reference: the same of the model without the adapter.
        totals: the `BatchTotals` of the effective batch; the means are taken over it.
    """
    import torch

    pairs = len(logps) // 2
    ratios = [ours - theirs for ours, theirs in zip(logps, reference, strict=True)]
    score = torch.mean if settings.loss == "sigmoid_norm" else torch.sum
    scores = torch.stack([score(ratio) for ratio in ratios])
    margins = scores[:pairs] - scores[pairs:]
    chosen, rejected = torch.cat(logps[:pairs]).sum(), torch.cat(logps[pairs:]).sum()
    preference = -torch.nn.functional.logsigmoid(settings.beta * margins).sum() / totals.examples
    nll = -chosen / totals.chosen
    kl = torch.cat(ratios).square().sum() / totals.tokens
    shares = {
        "preference": preference,
        "nll": nll,
        "kl": kl,
        "margin": margins.sum() / totals.examples,
        "accuracy": (margins > 0).sum() / totals.examples,
        "chosen_logp": chosen / totals.chosen,
        "rejected_logp": rejected / (totals.tokens - totals.chosen),
        "length_ratio": chosen.new_tensor(sum(map(len, logps[:pairs])) / (totals.tokens - totals.chosen)),
    }
    return preference + settings.nll_coef * nll + settings.kl_coef * kl, shares
