"""Nucleus (top-p) sampling of the next tokens, with random numbers from a seed per row."""

from collections.abc import Sequence

from character.core.errors import UserError
from character.inference.generate import SamplingSettings

TOP_P_CANDIDATES = 256  # if the nucleus is larger than this, the row's whole vocabulary is sorted


class TokenSampler:
    """Samples tokens for the rows of a batch, each with random numbers from its prompt's own seed.

    Args:
        rows: rows of the batch.
        longest: the most new tokens of any row.
    """

    def __init__(self, model, sampling: SamplingSettings, rows: int, longest: int):
        import torch

        self._sampling, self._model = sampling, model
        device, vocabulary = model.device, model.get_output_embeddings().weight.shape[0]
        self._uniforms = torch.zeros(rows, longest, dtype=torch.float64, device=device)
        penalised = sampling.repetition_penalty != 1
        self._used = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device) if penalised else None

    def add_row(self, row: int, prompt: list[int], seed: int, limit: int) -> None:
        """Start row `row` with the token ids of its prompt; `limit` is its number of new tokens at most."""
        import numpy
        import torch

        uniforms = numpy.random.Generator(numpy.random.PCG64(seed)).random(limit)
        self._uniforms[row, :limit] = torch.from_numpy(uniforms).to(self._uniforms.device)
        if self._used is not None:
            self._used[row] = False
            self._used[row, torch.tensor(prompt, device=self._used.device)] = True

    def move_row(self, source: int, target: int) -> None:
        self._uniforms[target] = self._uniforms[source]
        if self._used is not None:
            self._used[target] = self._used[source]

    def sample_tokens(self, logits, steps: Sequence[int]) -> list[int]:
        """Return the next token of the first `len(steps)` rows; the other rows are padding.

        Args:
            logits: float32 `[rows, vocabulary]`.
            steps: how many tokens each row has already sampled.

        Raises:
            UserError: logits are NaN or infinite.
        """
        import torch

        check_finite(logits[: len(steps)], self._model)
        rows = len(logits)
        at = torch.tensor([*steps, *[0] * (rows - len(steps))], device=logits.device)
        if self._used is not None:
            used, penalty = self._used[:rows], self._sampling.repetition_penalty
            logits = torch.where(used, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
        uniform = self._uniforms[:rows].gather(1, at[:, None])[:, 0]
        chosen = sample_top_p(logits, self._sampling.temperature, self._sampling.top_p, uniform)
        if self._used is not None:
            used.scatter_(1, chosen[:, None], True)
        return chosen.tolist()[: len(steps)]


def check_finite(logits, model, name: str = "") -> None:
    """Refuse logits `[rows, vocabulary]` of which no token can be drawn. A token's own may be minus infinity.

    Args:
        logits: what the model has computed.
        model: for its dtype.
        name: the model's name for error messages; by default the place that it was loaded from.

    Raises:
        UserError: a row has NaN or infinity, or nothing but minus infinity.
    """
    if not logits.amax(-1).isfinite().all():  # the maximum is NaN if anything is
        dtype = str(model.dtype).removeprefix("torch.")
        raise UserError(
            f"{name or model.name_or_path}: the model computes logits in {dtype} that are not finite numbers; check its "
            "weights, and if it is the student in float16, set student.dtype in params.yaml to bfloat16."
        )


def sample_top_p(logits, temperature: float, top_p: float, uniform):
    """Return one token per row, by inverting the cumulative distribution of the nucleus at `uniform`.

    Args:
        logits: float32 `[rows, vocabulary]`.
        uniform: one number in [0, 1) per row.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    total = logits.logsumexp(-1, keepdim=True)
    values, tokens = logits.topk(min(TOP_P_CANDIDATES, logits.shape[-1]))
    probabilities = (values - total).exp()
    chosen = _invert_nucleus(probabilities, tokens, top_p, uniform)
    wide = (probabilities.sum(-1) < top_p).nonzero()[:, 0] if logits.shape[-1] > TOP_P_CANDIDATES else []
    if len(wide):
        values, tokens = logits[wide].sort(descending=True)
        chosen[wide] = _invert_nucleus((values - total[wide]).exp(), tokens, top_p, uniform[wide])
    return chosen


def _invert_nucleus(probabilities, tokens, top_p: float, uniform):
    """Return the nucleus token at `uniform`; `probabilities` and `tokens` `[rows, candidates]` are in descending order."""
    import torch

    cumulative = probabilities.cumsum(-1)
    # The nucleus is the smallest set of tokens that reaches top_p; it has the first token even if that rounds top_p to 0.
    nucleus = (cumulative - probabilities) < top_p
    nucleus[:, 0] = True
    cumulative = (probabilities * nucleus).cumsum(-1)
    target = uniform[:, None].to(cumulative.dtype) * cumulative[:, -1:]
    choice = torch.searchsorted(cumulative, target, right=True).clamp(max=nucleus.sum(-1, keepdim=True) - 1)
    return tokens.gather(-1, choice).squeeze(-1)
