"""Endings that share a conversation: read together, each is as likely as read alone."""

import json
import shutil

import numpy
import pytest

from character.core import models
from character.core.errors import UserError
from character.inference import log_probs
from character.inference.log_probs import build_trie, ending_log_probs


@pytest.fixture
def student(repository, tiny_student, monkeypatch):
    """The tiny student with larger weights, so that its next token depends on all that it sees.

    It multiplies in full float32: with the bfloat16 of some CPUs, texts read together and alone differ more than two texts.
    """
    import torch
    from transformers import AutoModelForCausalLM

    repository.set(runtime={"device": "cpu", "threads": 1})
    torch.set_num_threads(1)
    monkeypatch.setattr(models, "configure_torch", lambda: torch.set_float32_matmul_precision("highest"))
    shutil.copytree(tiny_student, models.STUDENT_DIR)
    model = AutoModelForCausalLM.from_pretrained(tiny_student)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(models.STUDENT_DIR)


def test_a_tree_has_each_shared_beginning_once_and_leads_back_to_every_sequence():
    sequences = [[5, 6, 7], [5, 6], [5, 8, 7], [9], [5, 6, 7]]
    grown = build_trie(sequences)
    assert len(grown.tokens) == 6
    assert [[grown.tokens[node] for node in path] for path in grown.paths] == sequences
    assert [[grown.depths[node] for node in path] for path in grown.paths] == [[1, 2, 3], [1, 2], [1, 2, 3], [1], [1, 2, 3]]
    assert all([-1, *path[:-1]] == [grown.parents[node] for node in path] for path in grown.paths)
    assert all(parent < node for node, parent in enumerate(grown.parents))


PROMPTS = ["Why? " * count for count in range(1, 12)]
ENDINGS = ["The tone is warm", "The tone is rather warm", "The", "Whoever wrote this is stern", "The tone is stern"]


def test_rows_of_like_length_are_read_together_within_the_positions_there_are(monkeypatch):
    monkeypatch.setattr(log_probs, "BATCH_POSITIONS", 100)
    sizes = {3: 20, 5: 200, 0: 50, 7: 49, 1: 30, 2: 30}
    assert list(log_probs.length_batches(sizes)) == [[5], [0, 7], [1, 2, 3]]
    assert list(log_probs.length_batches({})) == []


@pytest.mark.parametrize("tokens", [log_probs.BATCH_POSITIONS, 1], ids=["together", "one by one"])
def test_endings_are_as_likely_as_replies_that_are_read_alone(student, monkeypatch, tokens):
    monkeypatch.setattr(log_probs, "BATCH_POSITIONS", tokens)
    asked = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    endings = [ENDINGS[: 1 + at % len(ENDINGS)] for at in range(len(asked))]
    found = ending_log_probs(asked, endings)
    assert [len(row) for row in found] == [len(row) for row in endings]
    flat = [(prompt, text) for prompt, row in zip(asked, endings, strict=True) for text in row]
    alone = [sum(row) for row in log_probs.reply_log_probs([prompt for prompt, _ in flat], [text for _, text in flat])]
    assert [logp for row in found for logp in row] == pytest.approx(alone, abs=1e-3)
    assert len({round(logp, 2) for logp in alone}) > len(alone) / 2, "the student tells texts apart"


def test_an_ending_is_as_likely_whatever_other_endings_are_read_with_it(student):
    asked = [[{"role": "user", "content": "Why?"}]]
    together = ending_log_probs(asked, [ENDINGS])[0]
    back = ending_log_probs(asked, [ENDINGS[::-1]])[0][::-1]
    alone = [ending_log_probs(asked, [[ending]])[0][0] for ending in ENDINGS]
    assert together == pytest.approx(alone, abs=1e-4)
    assert back == pytest.approx(alone, abs=1e-4)


def test_the_likelihoods_are_those_of_the_students_own_turn(student):
    tokenizer = models.load_tokenizer()
    (found,) = ending_log_probs([[{"role": "user", "content": "Why?"}]], [["a", "ab"]])
    ((first,), both) = log_probs.reply_log_probs([[{"role": "user", "content": "Why?"}]] * 2, ["a", "ab"])
    assert len(tokenizer("a", add_special_tokens=False)["input_ids"]) == 1
    assert found == pytest.approx([first, sum(both)], abs=1e-4)


def test_a_conversation_longer_than_the_context_is_left_out_and_counted(student, capsys):
    asked = [[{"role": "user", "content": text}] for text in ("क्यों? " * 700, "Why?", "why " * 3000)]
    first, second, third = ending_log_probs(asked, [["A", "B"], ["A"], ["A"]])
    assert numpy.isnan([*first, *third]).all() and [second] == ending_log_probs(asked[1:2], [["A"]])
    assert [len(row) for row in log_probs.reply_log_probs(asked, ["A", "A", "A"])] == [0, 1, 0]
    line = "likelihood: 2 of 3 conversations are longer than the student's context of 2048 tokens, and are left out\n"
    assert capsys.readouterr().out == 2 * line


def test_conversations_that_are_all_longer_than_the_context_stop_the_stage(student):
    asked = [[{"role": "user", "content": "क्यों? " * 700}]]
    for read in (lambda: ending_log_probs(asked, [["A", "B"]]), lambda: log_probs.reply_log_probs(asked, ["A"])):
        with pytest.raises(UserError, match=r"1 of 1 conversations are longer than .* context of 2048 tokens; shorten"):
            read()


def test_the_context_is_the_one_in_which_positions_do_not_depend_on_other_texts(student, capsys):
    config = models.STUDENT_DIR / "config.json"
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 96}
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"rope_parameters": rope}))
    asked = [[{"role": "user", "content": text}] for text in ("why " * 200, "Why?")]
    assert [len(row) for row in log_probs.reply_log_probs(asked, ["A", "A"])] == [0, 1]
    assert "1 of 2 conversations are longer than the student's context of 96 tokens" in capsys.readouterr().out
