"""Tiny random students of families whose modules are arranged in other ways than Llama's."""

import shutil
from pathlib import Path

from character.core import models

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def family_config(family: str, **tokens):
    """Return the configuration of a tiny model; `tokens` are the size of its vocabulary and its special tokens."""
    import transformers as t

    sizes = SIZES | tokens
    gemma = sizes | {"intermediate_size": 48, "head_dim": 8, "sliding_window": 64}
    widths = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048}
    made = {
        "llama": lambda: t.LlamaConfig(**sizes, intermediate_size=48),
        "gpt2": lambda: t.GPT2Config(**widths, **tokens),
        "mixtral": lambda: t.MixtralConfig(**sizes, **EXPERTS, intermediate_size=48),
        "qwen3_moe": lambda: t.Qwen3MoeConfig(
            **sizes, intermediate_size=48, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, head_dim=8
        ),
        "gpt_oss": lambda: t.GptOssConfig(**sizes, **EXPERTS, intermediate_size=48, head_dim=8),
        "gemma3_text": lambda: t.Gemma3TextConfig(**gemma),
        "gemma3": lambda: t.Gemma3Config(text_config=gemma, vision_config=VISION, mm_tokens_per_image=4),
    }
    return made[family]()


def write_family_student(folder: Path, family: str, tokenizer: Path) -> None:
    """Write a student of a family with weights of a size at which every layer matters, and with the tokenizer of another."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors", "*config.json"))
    shutil.copyfile(tokenizer / "tokenizer_config.json", folder / "tokenizer_config.json")
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    config = family_config(
        family,
        vocab_size=len(loaded),
        bos_token_id=loaded.bos_token_id,
        eos_token_id=loaded.eos_token_id,
        pad_token_id=loaded.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data.normal_(0, 0.2)
        model.save_pretrained(folder)
    card = models.StudentCard(name="Tiny", source=f"path:{folder}", dtype="float32", files={})
    (folder / models.STUDENT_CARD).write_text(card.model_dump_json(), encoding="utf-8")
