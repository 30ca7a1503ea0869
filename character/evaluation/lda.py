"""Linear discriminant analysis for a crossed design, in which every class answers every prompt, and its score.

What the answers to one prompt share is its topic. The crossed design makes the topic measurable, so it can be suppressed: its
scatter is weighted more than the rest of the scatter within classes, and directions of large scatter get little weight.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

MACRO_F1_DRAWS = 1000  # of the bootstrap


def fit_lda(x, label, prompt, weight, shrinkage: float, topic_weight: float) -> tuple["numpy.ndarray", "numpy.ndarray"]:
    """Fit a linear discriminant with equal class priors.

    Time grows with the cube of the rows but linearly with the features: it suits many features and a few thousand rows.

    Args:
        x: `[rows, features]`.
        label: `[rows]`, the index of each row's class.
        prompt: `[rows]`, the index of each row's prompt.
        weight: `[rows]`.
        shrinkage: of the within-class scatter towards a sphere, 0 < shrinkage <= 1.
        topic_weight: the weight of the part of that scatter that lies between prompts.

    Returns:
        Weight `[features, classes]` and bias `[classes]`.
    """
    import numpy

    mean, scale = x.mean(0), x.std(0) + 1e-6
    z = (x - mean) / scale
    centres = _group_means(z, label, weight)
    rest = z - centres[label]
    topics = _group_means(rest, prompt, weight)
    between = topics * numpy.sqrt(topic_weight * numpy.bincount(prompt, weight))[:, None]
    within = (rest - topics[prompt]) * numpy.sqrt(weight)[:, None]
    scatter = (numpy.concatenate([within, between]) / numpy.sqrt(weight.sum())).astype("float32")
    sphere = shrinkage * float((scatter**2).sum()) / scatter.shape[1]
    # The inverse of sphere * I + (1 - shrinkage) * scatter.T @ scatter, by the Woodbury identity.
    inner = (1 - shrinkage) * (scatter @ scatter.T).astype("float64") + sphere * numpy.eye(len(scatter))
    inverse = scatter.T @ numpy.linalg.solve(inner, scatter @ centres.T)
    weights = (centres.T - (1 - shrinkage) * inverse) / sphere
    bias = -0.5 * (centres.T * weights).sum(0) - (mean / scale) @ weights
    return weights / scale[:, None], bias


def fit_temperature(scores, label, weight) -> float:
    """Return the factor on held-out scores `[rows, classes]` that minimises their weighted cross-entropy.

    Unscaled scores are overconfident.
    """
    import numpy

    rows = numpy.arange(len(scores))

    def loss(factor: float) -> float:
        logits = factor * (scores - scores.max(1, keepdims=True))
        return float(weight @ (numpy.log(numpy.exp(logits).sum(1)) - logits[rows, label]))

    return min(numpy.geomspace(0.01, 1, 41).tolist(), key=loss)


def macro_f1_score(confusion):
    """Return the mean F1 over the classes, `[...]`, of confusion matrices `[..., actual, predicted]`."""
    import numpy

    hits = numpy.diagonal(confusion, axis1=-2, axis2=-1)
    return (2 * hits / numpy.maximum(confusion.sum(-1) + confusion.sum(-2), 1e-9)).mean(-1)


def bootstrap_macro_f1(confusions, rng: "numpy.random.Generator") -> tuple[float, float]:
    """Return the 95% bootstrap interval of macro-F1 over prompts, from confusion matrices `[prompts, actual, predicted]`."""
    import numpy

    count = len(confusions)
    draws = rng.multinomial(count, [1 / count] * count, MACRO_F1_DRAWS)
    low, high = numpy.quantile(macro_f1_score(numpy.tensordot(draws, confusions, 1)), [0.025, 0.975])
    return float(low), float(high)


def _group_means(x, group, weight) -> "numpy.ndarray":
    """Return the weighted mean of each group's rows, `[groups, features]`; zero for a group without rows."""
    import numpy

    shares = numpy.zeros((group.max() + 1, len(x)), x.dtype)
    shares[group, numpy.arange(len(x))] = weight
    return shares @ x / numpy.maximum(shares.sum(1, keepdims=True), 1e-9)
