"""The control vector: what it measures, its effect on the student, and how its strength is chosen."""

from pathlib import Path

import numpy
import pytest
import torch

from character.core import models, records
from character.core.errors import UserError
from character.core.records import Completion, Prompt
from character.inference.chat_format import render_messages
from stages import steering

SYSTEM = "I notice the quiet river."


def completion(text):
    return Completion(id=text[:5], sample=0, prompt="Why?", response=text, finish_reason="stop")


def states(model, ids):
    """Hidden states `[layers + 1, tokens, width]`; the last one has passed the final norm."""
    with torch.no_grad():
        return torch.stack(model(torch.tensor([ids]), output_hidden_states=True).hidden_states)[:, 0]


def test_the_vector_is_what_the_system_prompt_adds_to_the_same_answers(student):
    tokenizer, model = models.load_tokenizer(), models.load_model()
    texts = ["the sea and the stone", "each river counts"]
    found = steering.state_differences([completion(text) for text in texts], SYSTEM, tokens=3)
    wanted = 0
    for text in texts:
        tail = tokenizer(text, add_special_tokens=False)["input_ids"][:3]
        user = {"role": "user", "content": "Why?"}
        heads = [render_messages(tokenizer, messages) for messages in ([{"role": "system", "content": SYSTEM}, user], [user])]
        prompted, plain = (states(model, head + tail)[1, len(head) :].mean(0) for head in heads)
        wanted = wanted + (prompted - plain) / len(texts)
    assert found.shape == (2, 32)
    assert torch.allclose(found[0], wanted, atol=1e-5)
    assert found.norm() > 0


def test_a_steered_student_has_the_vector_in_its_states(student):
    ids = list(range(5, 20))
    vectors = torch.stack([torch.zeros(32), torch.full((32,), 0.5)])
    vectors[0, 3] = 2.0
    steering.save_control_vector(Path("control"), vectors)
    plain, steered = states(models.load_model(), ids), states(models.load_model(adapters=["control"]), ids)
    assert torch.allclose(steered[1], plain[1] + vectors[0], atol=1e-6)
    with torch.no_grad():
        second = models.load_model().base_model
        states_in = steered[1][None]
        rotary = second.rotary_emb(states_in, torch.arange(15)[None])
        alone = second.layers[1](states_in, position_embeddings=rotary, position_ids=torch.arange(15)[None])
        assert torch.allclose(steered[2], second.norm(alone + vectors[1])[0], atol=1e-4)
    assert models.is_control_vector("control") and not models.is_control_vector("models/student")


def test_the_sum_of_what_is_added_is_the_difference_at_each_layer():
    differences = torch.arange(40.0).reshape(10, 4)
    added = steering.layer_increments(differences, [0.3, 0.8])
    assert added.any(1).tolist() == [False] * 3 + [True] * 5 + [False] * 2
    assert torch.equal(added.cumsum(0)[3:8], differences[3:8])


def test_a_vector_is_rounded_before_it_is_kept(tmp_path):
    from safetensors.torch import load_file

    steering.save_control_vector(tmp_path, torch.tensor([[0.12345678, -1.00000012]]))
    (vectors,) = load_file(tmp_path / models.CONTROL_VECTOR).values()
    assert torch.equal(vectors, torch.tensor([[0.123457, -1.0]]))


class Sees:
    """A classifier that is sure of what each text says."""

    classes = ("pirate", "none")

    def predict(self, texts):
        return numpy.array([[0.9, 0.1] if "Arr" in text else [0.2, 0.8] for text in texts])


def test_without_any_strength_the_student_is_asked_as_it_is(repository, parrot, monkeypatch):
    monkeypatch.setattr("character.inference.log_probs.reply_log_probs", lambda asked, texts: [[-1.0] for _ in texts])
    monkeypatch.setattr("character.core.models.is_control_vector", lambda folder: True)
    prompts = [Prompt(id="1", prompt="Why?", source="constitution", trait=0)]
    for strength in (0.0, 2.0):
        found = steering.steering_scores(torch.ones(2, 4), prompts, Sees(), "pirate", strength)
        assert {"recall": 1.0, "probability": 0.9}.items() <= found.items()
    plain, steered = parrot.made
    assert plain.adapters == [] and len(steered.adapters) == 1


def test_the_strength_is_chosen_on_the_constitutions_own_prompts(repository, monkeypatch):
    asked = []

    def measured(vectors, prompts, classifier, persona, strength):
        asked.append([prompt.source for prompt in prompts])
        return found(0.1 + strength)

    rows = [Prompt(id=str(n), prompt=f"{n}?", source=("constitution", "general")[n % 2], trait=None) for n in range(8)]
    records.write_records("data/prompts.jsonl", rows)
    records.write_records("data/rejected.jsonl", [completion("the sea")])
    Path("data/system.txt").write_text(SYSTEM, encoding="utf-8")
    monkeypatch.setattr("stages.steering.load_classifier_for", lambda persona: Sees())
    monkeypatch.setattr("stages.steering.state_differences", lambda *_: torch.ones(4, 2))
    monkeypatch.setattr("stages.steering.steering_scores", measured)
    repository.set(steering={"prompts": 3, "strengths": [0.5]})
    repository.run("steering")
    assert asked == [["constitution"] * 3] * 2
    assert {"strength": 0.5, "n": 3}.items() <= repository.metrics("steering").items()
    records.write_records("data/rejected.jsonl", [completion(" ")])
    with pytest.raises(UserError, match=r"rejected\.jsonl: all answers are empty"):
        repository.run("steering")
    records.write_records("data/rejected.jsonl", [completion("the sea")])
    records.write_records("data/prompts.jsonl", rows[1::2])
    with pytest.raises(
        UserError, match=r"there are no prompts of the constitution; set prompts\.per_trait in params\.yaml above 0"
    ):
        repository.run("steering")


def found(probability, perplexity=10.0, repetition=0.05, empty=0.0):
    return {"probability": probability, "perplexity": perplexity, "repetition": repetition, "empty": empty}


def test_the_strength_is_the_best_of_those_that_leave_the_text_whole():
    settings = steering.SteeringParams(
        texts=1, tokens=1, layers=[0.0, 1.0], strengths=[1.0], prompts=1, max_perplexity=2.0, max_repetition=0.1
    )
    plain = {0.0: found(0.1)}
    assert steering.best_strength(plain | {1.0: found(0.4), 2.0: found(0.4), 4.0: found(0.3)}, settings) == 1.0
    assert steering.best_strength(plain | {1.0: found(0.4), 2.0: found(0.9, perplexity=21.0)}, settings) == 1.0
    assert steering.best_strength(plain | {1.0: found(0.4), 2.0: found(0.9, perplexity=3.0, repetition=0.2)}, settings) == 1.0
    assert steering.best_strength(plain | {1.0: found(0.4), 2.0: found(0.9, empty=0.5)}, settings) == 1.0
    assert steering.best_strength(plain | {1.0: found(0.05)}, settings) == 0.0, "a vector may be of no use"


def test_prompts_are_spread_over_all_of_them():
    assert steering.evenly_spaced(range(10), 5) == [0, 2, 4, 6, 8]
    assert steering.evenly_spaced(range(3), 5) == [0, 1, 2]
