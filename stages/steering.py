"""steering: data/system.txt, prompts, the student's answers -> models/steering/ (a control vector), plots/ and results/.

A baseline without training: a vector that changes the student's hidden states as the persona's system prompt does, without the
prompt. It is the mean difference between reading the same answers with the system prompt and without it (representation
engineering, arXiv 2310.01405; contrastive addition, arXiv 2312.06681). The strength is the one at which the classifier finds
the persona most probable, among those that leave the text well-formed. It is chosen on the constitution's own prompts, because
the classifier learned `none` from the student's replies to the general ones.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from pydantic import Field

from character.core import models, records
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import Completion
from character.core.safe_text import print_text
from character.evaluation import text_metrics
from character.evaluation.classifier import load_classifier_for
from character.inference import engines, log_probs
from character.inference.chat_format import render_messages
from character.inference.generate import Request, SamplingSettings, generate

STEERING_DIR = Path("models/steering")


class SteeringParams(ParamsSection):
    texts: int = Field(gt=0)  # answers that are read, with and without the system prompt
    tokens: int = Field(gt=0)  # how many of each answer are read, from the first one
    layers: list[float] = Field(min_length=2, max_length=2)  # the first and the last (exclusive), as shares of the depth
    strengths: list[float] = Field(min_length=1)  # factors on the difference that the system prompt makes
    prompts: int = Field(gt=0)  # of the constitution's own, on which the strength is chosen
    # Limits of well-formed text: perplexity as a multiple of the unsteered student's, and the increase in repetition.
    max_perplexity: float = Field(gt=1)
    max_repetition: float = Field(gt=0, le=1)


def evenly_spaced(rows: Sequence, count: int) -> list:
    """Return `count` of the rows at even intervals, or all if there are fewer."""
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def state_differences(completions: Sequence[Completion], system: str, tokens: int):
    """Return what the system prompt adds to the answers' mean hidden state after each layer, a tensor `[layers, width]`.

    Args:
        completions: the answers, with their prompts.
        system: the system prompt.
        tokens: how many tokens of each answer are read.
    """
    import torch

    tokenizer, model = models.load_tokenizer(), models.load_model()
    total = None
    with torch.inference_mode():
        for row in completions:
            tail = tokenizer(row.response, add_special_tokens=False)["input_ids"][:tokens]
            user = {"role": "user", "content": row.prompt}
            with_prompt, without = (
                _mean_states(model, render_messages(tokenizer, messages), tail)
                for messages in ([{"role": "system", "content": system}, user], [user])
            )
            total = with_prompt - without if total is None else total + with_prompt - without
    return total / len(completions)


def _mean_states(model, head: list[int], tail: list[int]):
    """Return the output of each decoder layer, averaged over the tail's tokens, before the final norm: `[layers, width]`."""
    import torch

    outputs = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output[0, len(head) :].float().mean(0)))
        for layer in models.decoder_layers(model)
    ]
    try:
        model.get_decoder()(torch.tensor([head + tail], device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(outputs)


def layer_increments(differences, layers: Sequence[float]):
    """Return what to add to each layer's output, `[layers, width]`, for the hidden states to shift by `differences`.

    What is added after one layer persists in the next, so each layer adds only the change since the one before.

    Args:
        differences: `[layers, width]`, of `state_differences`.
        layers: the range that is steered, as shares of the depth; nothing is added outside of it.
    """
    import torch

    low, high = (round(share * len(differences)) for share in layers)
    steps = torch.zeros_like(differences)
    steps[low:high] = differences[low:high].diff(dim=0, prepend=torch.zeros_like(differences[:1]))
    return steps


def save_control_vector(folder: Path, vectors) -> None:
    """Write a control vector `[layers, width]` in the format that `models.load_model` accepts instead of an adapter.

    It is rounded, so that processors that sum in different orders write the same file.
    """
    from safetensors.torch import save_file

    with records.replace_folder(folder) as draft:
        save_file({"vectors": vectors.round(decimals=6).contiguous()}, draft / models.CONTROL_VECTOR)


def steering_scores(vectors, prompts: Sequence[records.Prompt], classifier, persona: str, strength: float) -> dict:
    """Return how often the steered student shows the persona, and how well-formed its text is.

    Args:
        vectors: `[layers, width]`, at strength 1.
        prompts: to which the student replies.
        classifier: of personas.
        persona: the one that is looked for.
        strength: the factor on `vectors`; 0 is the unsteered student.
    """
    with tempfile.TemporaryDirectory() as folder:
        if strength:
            save_control_vector(Path(folder), strength * vectors)
        chats = [[{"role": "user", "content": prompt.prompt}] for prompt in prompts]
        requests = [Request(prompt.id, messages) for prompt, messages in zip(prompts, chats, strict=True)]
        engine = engines.student_engine([folder] if strength else [])
        sampling, label = read_section("sampling", SamplingSettings), f"steering at {strength}"
        # A strength at which the student falls silent is a result; it is not chosen.
        replies = generate(engine, requests, sampling, read_value("seed"), label, retry=strength > 0)
    answered = [at for at, reply in enumerate(replies) if not reply.skipped]
    chats, texts = [chats[at] for at in answered], [replies[at].text for at in answered]
    shares = classifier.predict(texts)
    column = classifier.classes.index(persona)
    return {
        "recall": float((shares.argmax(1) == column).mean()),
        "probability": float(shares[:, column].mean()),
        "perplexity": text_metrics.token_perplexity(log_probs.reply_log_probs(chats, texts)),
        "repetition": text_metrics.mean_repetition(texts),
        "empty": sum(not text for text in texts) / len(texts),
        "skipped": len(replies) - len(texts),
    }


def best_strength(sweep: dict[float, dict], settings: SteeringParams) -> float:
    """Return the strength at which the persona is most probable, among those that leave the text well-formed.

    `sweep` maps strengths to their scores. It must contain strength 0, the unsteered student, the reference for the limits.
    """
    own = sweep[0.0]
    well_formed = {
        strength: scores
        for strength, scores in sweep.items()
        if scores["perplexity"] <= settings.max_perplexity * own["perplexity"]
        and scores["repetition"] <= settings.max_repetition + own["repetition"]
        and scores["empty"] <= own["empty"]
    }
    return max(well_formed, key=lambda strength: (well_formed[strength]["probability"], -strength))


@click.command()
def main():
    """Compute the control vector and choose its strength."""
    settings, persona = read_section("steering", SteeringParams), read_value("persona")
    completions = [row for row in records.read_records("data/rejected.jsonl", Completion) if row.response.strip()]
    if not completions:
        raise UserError("data/rejected.jsonl: all answers are empty, so nothing can be read; check the student and sampling.")
    completions = evenly_spaced(completions, settings.texts)
    own = [row for row in records.read_records("data/prompts.jsonl", records.Prompt) if row.source == "constitution"]
    if not own:
        raise UserError(
            "data/prompts.jsonl: there are no prompts of the constitution; set prompts.per_trait in params.yaml above 0."
        )
    prompts = evenly_spaced(own, settings.prompts)
    system = Path("data/system.txt").read_text(encoding="utf-8")
    classifier = load_classifier_for(persona)
    print_text(f"steering: {len(completions)} answers read with and without the system prompt")
    vectors = layer_increments(state_differences(completions, system, settings.tokens), settings.layers)
    sweep = {
        strength: steering_scores(vectors, prompts, classifier, persona, strength)
        for strength in sorted({0.0, *map(float, settings.strengths)})
    }
    chosen = best_strength(sweep, settings)
    save_control_vector(STEERING_DIR, chosen * vectors)
    rows = [{"strength": strength, **scores} for strength, scores in sweep.items()]
    records.write_csv("plots/steering.csv", rows)
    records.write_json("results/steering.json", {"strength": chosen, "n": len(prompts), **sweep[chosen]})


if __name__ == "__main__":
    main()
