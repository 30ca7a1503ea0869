"""Which persona does a text show? A linear classifier on the student's hidden states, which reads texts without a prompt.

The student is frozen and reads each text once, so scoring costs one forward pass through some of its layers.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from character.core import models, records
from character.core.errors import UserError

if TYPE_CHECKING:
    import numpy

NO_PERSONA = "none"  # the class of texts that show no persona
TEXT_QUARTERS = 4  # a persona shows most at the start and end of an answer, which one mean over the text would blur
CLASSIFIER_DIR = Path("models/classifier")
CLASSIFIER_CARD, CLASSIFIER_WEIGHTS = "classifier.json", "classifier.safetensors"


@dataclass(frozen=True)
class Classifier:
    """A linear classifier of texts.

    Attributes:
        classes: the names of the classes.
        layers: the depths at which hidden states are read, as shares of the student's depth.
        max_tokens: how many tokens of a text are read.
        weight: `[features, classes]`.
        bias: `[classes]`.
        parts: how many parts of a text have features of their own.
        student: the folder of the model that reads texts.
    """

    classes: list[str]
    layers: list[float]
    max_tokens: int
    weight: "numpy.ndarray"
    bias: "numpy.ndarray"
    parts: int = TEXT_QUARTERS
    student: Path = models.STUDENT_DIR

    def predict(self, texts: Sequence[str]) -> "numpy.ndarray":
        """Return probabilities `[texts, classes]`, in the order of `classes`."""
        return softmax_rows(self.class_scores(texts))

    def class_scores(self, texts: Sequence[str]) -> "numpy.ndarray":
        """Return unnormalised log-probabilities (nats), `[texts, classes]`."""
        import numpy

        features = numpy.zeros((len(texts), len(self.weight)), "float32")
        for index, read in hidden_states(texts, self.layers, self.max_tokens, self.student):
            features[index] = pool_states(read, self.parts)
        return features @ self.weight + self.bias

    def predict_labels(self, texts: Sequence[str]) -> list[str]:
        """Return the most probable class of each text."""
        return [self.classes[index] for index in self.predict(texts).argmax(1)]

    def check_persona(self, persona: str) -> None:
        """Raise a UserError if `persona` is not among the classes."""
        if persona not in self.classes:
            raise UserError(
                f"params.yaml: persona {persona} is not known to the classifier; add it to classifier.personas and its answers "
                f"to all general prompts as data/raw/teacher/{persona}.jsonl."
            )

    def save(self, folder: Path) -> None:
        """Write weights and class names to `folder`, without pickle."""
        from safetensors.numpy import save_file

        card = {"classes": self.classes, "layers": self.layers, "max_tokens": self.max_tokens, "parts": self.parts}
        with records.replace_folder(folder) as draft:
            save_file({"weight": self.weight, "bias": self.bias}, draft / CLASSIFIER_WEIGHTS)
            (draft / CLASSIFIER_CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load_classifier_for(persona: str) -> Classifier:
    """Load the pipeline's classifier.

    Raises:
        UserError: the classifier is missing or does not know `persona`.
    """
    classifier = load_classifier(CLASSIFIER_DIR)
    classifier.check_persona(persona)
    return classifier


def load_classifier(folder: Path, student: Path = models.STUDENT_DIR) -> Classifier:
    """Load the classifier saved in `folder` by the stage of that name.

    Args:
        folder: where `Classifier.save` wrote it.
        student: the folder of the model that reads texts.

    Raises:
        UserError: `folder` has no classifier.
    """
    from safetensors.numpy import load_file

    if not (folder / CLASSIFIER_CARD).is_file() or not (folder / CLASSIFIER_WEIGHTS).is_file():
        raise UserError(f"{folder}: no classifier here; run `dvc repro {folder.name}`, or `dvc pull` to fetch it.")
    card = json.loads((folder / CLASSIFIER_CARD).read_text(encoding="utf-8"))
    return Classifier(**card, **load_file(folder / CLASSIFIER_WEIGHTS), student=student)


def hidden_states(
    texts: Sequence[str], layers: Sequence[float], max_tokens: int, student: Path = models.STUDENT_DIR
) -> Iterator[tuple[int, "numpy.ndarray"]]:
    """Yield each text's index and the hidden states `[layers, tokens, width]` of its first `max_tokens` tokens.

    Texts of similar length are read together, the longest first. This keeps padding low, and a lack of memory shows at once.

    The model is causal, so the first n states of a text are those of its first n tokens on their own.

    Args:
        texts: yielded in another order than given.
        layers: depths, as shares of the student's depth.
        max_tokens: how many tokens of each text are read.
        student: the folder of the model that reads.
    """
    import torch

    tokenizer = models.load_tokenizer(student)
    body = models.load_model(student).get_decoder()
    depths = [round(share * len(body.layers)) for share in layers]
    # Layers above the highest one read are dropped, except the next one: the output of the last layer is normalised.
    body.layers = body.layers[: max(depths) + 1]
    # The first position collects attention whatever its token is: it gets a special token, and its state is dropped.
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = [[start, *tokenizer(text, add_special_tokens=False).input_ids[:max_tokens]] for text in texts]
    order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
    size = models.read_runtime().generation_batch
    with torch.inference_mode(), tqdm(total=len(ids), desc="reading", unit="text") as bar:
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            rows = [torch.tensor(ids[index]) for index in batch]
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=start).to(body.device)
            # Padding is on the right and attention is causal: no state that is used depends on it.
            hidden = body(padded, output_hidden_states=True, use_cache=False).hidden_states
            read = torch.stack([hidden[depth] for depth in depths], dim=1).float().cpu().numpy()
            for row, index in zip(read, batch, strict=True):
                tokens = len(ids[index])
                yield index, row[:, 1:tokens] if tokens > 1 else row[:, :1]
            bar.update(len(batch))


def pool_states(states: "numpy.ndarray", parts: int = TEXT_QUARTERS) -> "numpy.ndarray":
    """Return the features of a text: the mean of its hidden states in each part, and their standard deviation.

    Args:
        states: `[layers, tokens, width]`.
        parts: into how many parts of equal length the text is cut.

    Returns:
        `[layers * (parts + 1) * width]`.
    """
    import numpy

    tokens = states.shape[1]
    edges = [(part * tokens // parts, (part + 1) * tokens // parts) for part in range(parts)]
    means = [states[:, low : max(high, low + 1)].mean(1) for low, high in edges]  # a text may have fewer tokens than parts
    return numpy.concatenate([*means, states.std(1)], axis=1).ravel()


def softmax_rows(scores: "numpy.ndarray") -> "numpy.ndarray":
    import numpy

    powers = numpy.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
