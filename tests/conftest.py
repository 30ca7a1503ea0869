"""A chat model small enough to be made, trained and sampled within a test."""

from pathlib import Path

import pytest

from character import chat, models

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory) -> Path:
    """Return a directory like models/student/: a random Llama of two layers, a byte-level BPE tokenizer with ChatML's
    special tokens, and SmolLM2's chat template with `{% generation %}` markers."""
    return write_student(tmp_path_factory.mktemp("tiny") / "student", width=32)


@pytest.fixture
def student(tiny_student, tmp_path, monkeypatch):
    """Work in a directory with the tiny student as models/student/ and a params.yaml that says how to run."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/student").symlink_to(tiny_student)
    runtime = {"device": "cpu", "threads": 1, "generation_batch": 4, "training_batch": 4, "accelerate": "", "report_to": []}
    (tmp_path / "params.yaml").write_text(f"runtime: {runtime}")
    monkeypatch.chdir(tmp_path)


def write_student(folder: Path, width: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = models.Card(name="Tiny", source=f"path:{folder}", dtype="float32", files={})
    (folder / models.CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder


def _tokenizer():
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train([str(path) for path in sorted((ROOT / "constitutions").glob("*.yaml"))], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=chat.SMOLLM2_TRAINING,
        clean_up_tokenization_spaces=False,
    )
