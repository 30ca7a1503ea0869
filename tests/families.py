"""Tiny random models of the families that people train, each in a directory of the form in which its authors publish it.

The classes, the kinds of attention and of rotary scaling, the special tokens, the form of tokenizer.json and the chat templates
are those of the published models; sizes are the smallest that keep all of them. Templates come from TRL, or are short ones of
the same form.
"""

import json
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTH = 32
WINDOW = 16  # of sliding attention: shorter than the replies in tests
CONTEXT = 4096

SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
GEMMA3 = SIZES | {
    "num_hidden_layers": 3,
    "head_dim": 16,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 16,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    },
}

MISTRAL_TEMPLATE = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
MIXTRAL_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}{{ ' [INST] ' + message['content'] + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}\
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""
OLMO2_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '\\n' }}\
{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}\
{% elif message['role'] == 'assistant' %}\
{% if not loop.last %}{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}\
{% else %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}{% endif %}{% endif %}\
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"""
# That of V3. TRL's file is the one of R1, whose generation prompt opens the reasoning.
DEEPSEEK_TEMPLATE = """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% set ns = namespace(system='') %}\
{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system = message['content'] %}\
{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}\
{%- for message in messages %}\
{%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{%- endif %}\
{%- if message['role'] == 'assistant' and message['content'] is not none %}\
{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}{%- endif %}\
{%- endfor -%}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"""
SMOLLM3_TEMPLATE = """\
{%- if enable_thinking is not defined %}{%- set enable_thinking = true %}{%- endif %}
{%- set mode = "/think" if enable_thinking else "/no_think" %}
{{- "<|im_start|>system\\n## Metadata\\n\\nToday Date: " + strftime_now("%d %B %Y") + "\\nReasoning Mode: " + mode + "\\n\\n" }}
{%- if messages[0].role == "system" %}
    {{- messages[0].content.rstrip() }}
{%- else %}
    {{- "You are a helpful AI assistant named SmolLM, trained by Hugging Face." }}
{%- endif %}
{{- "<|im_end|>\\n" }}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- "<|im_start|>user\\n" + message.content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" %}
        {%- generation %}
        {%- if enable_thinking %}
            {{- "<|im_start|>assistant\\n" + message.content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- else %}
            {{- "<|im_start|>assistant\\n<think>\\n\\n</think>\\n" + message.content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endif %}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" + ("" if enable_thinking else "<think>\\n\\n</think>\\n") }}
{%- endif %}
"""


@dataclass(frozen=True)
class Family:
    """A model: its class and the fields of config.json, its tokenizer, and how its turns end.

    Attributes:
        tokenizer: the kind of tokenizer.json: `bytes` (byte-level BPE), `llama` (SentencePiece, with a space before the text)
            or `gemma` (SentencePiece, without it).
        specials: the special tokens, in the order of their ids.
        ends: the tokens that generation_config.json names as EOS; none of them if there is no such file.
        template: TRL's file of the template, or the template.
        spare: rows of the embeddings without a token.
        params: the entries of params.yaml that the family needs.
    """

    architecture: str
    model_type: str
    config: dict
    tokenizer: str
    tokenizer_class: str
    specials: list[str]
    named: dict[str, str]
    ends: list[str]
    template: str
    spare: int = 0
    params: dict = field(default_factory=dict)


CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_NAMES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
LLAMA_SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
]
MISTRAL_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GEMMA_SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"]
GEMMA_NAMES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
WITHOUT_THINKING = {f"{model}.chat_template_kwargs": {"enable_thinking": False} for model in ("student", "teacher")}
DEEPSEEK_BOS, DEEPSEEK_EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
GPT_OSS_SPECIALS = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|call|>",
]
EXPERTS = {"moe_intermediate_size": WIDTH, "num_experts_per_tok": 2}

FAMILIES = {
    "Llama 3.2": Family(
        architecture="LlamaForCausalLM",
        model_type="llama",
        config=SIZES
        | {
            "head_dim": 8,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 256,
            },
        },
        tokenizer="bytes",
        tokenizer_class="PreTrainedTokenizerFast",
        specials=LLAMA_SPECIALS,
        named={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ends=["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        template="llama3_2.jinja",
    ),
    "Mistral": Family(
        architecture="MistralForCausalLM",
        model_type="mistral",
        config=SIZES | {"head_dim": 8, "sliding_window": WINDOW, "tie_word_embeddings": False},
        tokenizer="llama",
        tokenizer_class="LlamaTokenizer",
        specials=["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        named=MISTRAL_NAMES,
        ends=["</s>"],
        template=MISTRAL_TEMPLATE,
    ),
    "Qwen 2.5": Family(
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        config=SIZES | {"tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": None},
        tokenizer="bytes",
        tokenizer_class="Qwen2Tokenizer",
        specials=CHATML,
        named=QWEN_NAMES,
        ends=["<|im_end|>", "<|endoftext|>"],
        template="qwen2_5.jinja",
        spare=20,
    ),
    "Qwen 3": Family(
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        config=SIZES | {"head_dim": 16, "tie_word_embeddings": True},
        tokenizer="bytes",
        tokenizer_class="Qwen2Tokenizer",
        specials=[*CHATML, "<think>", "</think>"],
        named=QWEN_NAMES,
        ends=["<|im_end|>", "<|endoftext|>"],
        template="qwen3.jinja",
        spare=20,
        params=WITHOUT_THINKING,
    ),
    "Qwen3-MoE": Family(
        architecture="Qwen3MoeForCausalLM",
        model_type="qwen3_moe",
        config=SIZES | EXPERTS | {"head_dim": 16, "num_experts": 4, "norm_topk_prob": True, "tie_word_embeddings": False},
        tokenizer="bytes",
        tokenizer_class="Qwen2Tokenizer",
        specials=[*CHATML, "<think>", "</think>"],
        named=QWEN_NAMES,
        ends=["<|im_end|>", "<|endoftext|>"],
        template="qwen3_instruct_2507.jinja",
        spare=20,
    ),
    "Gemma 3, text": Family(
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        config=GEMMA3,
        tokenizer="gemma",
        tokenizer_class="GemmaTokenizer",
        specials=GEMMA_SPECIALS,
        named=GEMMA_NAMES,
        ends=["<eos>", "<end_of_turn>"],
        template="gemma3.jinja",
    ),
    "Gemma 3, vision": Family(
        architecture="Gemma3ForConditionalGeneration",
        model_type="gemma3",
        config={
            "text_config": GEMMA3 | {"model_type": "gemma3_text"},
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
        },
        tokenizer="gemma",
        tokenizer_class="GemmaTokenizer",
        specials=GEMMA_SPECIALS,
        named=GEMMA_NAMES,
        ends=["<eos>", "<end_of_turn>"],
        template="gemma3.jinja",
        spare=64,
    ),
    "Phi-3": Family(
        architecture="Phi3ForCausalLM",
        model_type="phi3",
        config=SIZES
        | {
            "num_key_value_heads": 4,
            "original_max_position_embeddings": CONTEXT // 2,
            "sliding_window": WINDOW,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [1.0, 2.0, 4.0, 8.0],
                "original_max_position_embeddings": CONTEXT // 2,
            },
        },
        tokenizer="llama",
        tokenizer_class="LlamaTokenizer",
        specials=["<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"],
        named={"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"},
        ends=["<|endoftext|>", "<|assistant|>", "<|end|>"],
        template="phi3.jinja",
        spare=53,
    ),
    "OLMo 2": Family(
        architecture="Olmo2ForCausalLM",
        model_type="olmo2",
        config=SIZES | {"tie_word_embeddings": False},
        tokenizer="bytes",
        tokenizer_class="GPT2Tokenizer",
        specials=["<|endoftext|>", "<|pad|>"],
        named={
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|pad|>",
            "unk_token": "<|endoftext|>",
        },
        ends=["<|endoftext|>"],
        template=OLMO2_TEMPLATE,
        spare=7,
    ),
    "SmolLM3": Family(
        architecture="SmolLM3ForCausalLM",
        model_type="smollm3",
        config=SIZES
        | {
            "num_hidden_layers": 4,
            "no_rope_layers": [1, 1, 1, 0],
            "use_sliding_window": False,
            "layer_types": ["full_attention"] * 4,
            "tie_word_embeddings": True,
        },
        tokenizer="bytes",
        tokenizer_class="PreTrainedTokenizerFast",
        specials=["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"],
        named={"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        ends=["<|im_end|>"],
        template=SMOLLM3_TEMPLATE,
        params=WITHOUT_THINKING,
    ),
    "Mixtral": Family(
        architecture="MixtralForCausalLM",
        model_type="mixtral",
        config=SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None, "tie_word_embeddings": False},
        tokenizer="llama",
        tokenizer_class="LlamaTokenizer",
        specials=["<unk>", "<s>", "</s>"],
        named=MISTRAL_NAMES,
        ends=["</s>"],
        template=MIXTRAL_TEMPLATE,
    ),
    "DeepSeek-V3": Family(
        architecture="DeepseekV3ForCausalLM",
        model_type="deepseek_v3",
        config=SIZES
        | EXPERTS
        | {
            "num_key_value_heads": 4,
            "kv_lora_rank": 16,
            "q_lora_rank": 24,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 12,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 40.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 256,
            },
        },
        tokenizer="bytes",
        tokenizer_class="LlamaTokenizerFast",
        specials=[
            "<｜begin▁of▁sentence｜>",
            "<｜end▁of▁sentence｜>",
            "<｜▁pad▁｜>",
            "<｜User｜>",
            "<｜Assistant｜>",
            "<think>",
            "</think>",
        ],
        named={
            "bos_token": "<｜begin▁of▁sentence｜>",
            "eos_token": "<｜end▁of▁sentence｜>",
            "pad_token": "<｜end▁of▁sentence｜>",
        },
        ends=["<｜end▁of▁sentence｜>"],
        template=DEEPSEEK_TEMPLATE,
        spare=9,
    ),
    "gpt-oss": Family(
        architecture="GptOssForCausalLM",
        model_type="gpt_oss",
        config=SIZES
        | {
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 150000.0,
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 256,
            },
        },
        tokenizer="bytes",
        tokenizer_class="PreTrainedTokenizerFast",
        specials=[
            "<|startoftext|>",
            "<|endoftext|>",
            "<|return|>",
            "<|start|>",
            "<|end|>",
            "<|message|>",
            "<|channel|>",
            "<|call|>",
        ],
        named={"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"},
        ends=["<|return|>", "<|endoftext|>", "<|call|>"],
        template="gptoss.jinja",
        spare=11,
    ),
}


def write_family(name: str, folder: Path) -> Path:
    """Write the directory of a family's model and return it."""
    family = FAMILIES[name]
    folder.mkdir(parents=True)
    _write_tokenizer(family, folder)
    _write_model(family, folder)
    return folder


def _write_tokenizer(family: Family, folder: Path) -> None:
    shutil.copy(trained_tokenizer(family.tokenizer, tuple(family.specials)), folder / "tokenizer.json")
    config = {"tokenizer_class": family.tokenizer_class, "clean_up_tokenization_spaces": False, **family.named}
    config |= {"model_max_length": CONTEXT, "chat_template": read_template(family)}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def read_template(family: Family) -> str:
    """Return the chat template as it is published."""
    import trl

    if not family.template.endswith(".jinja"):
        return family.template
    return (Path(trl.__file__).parent / "chat_templates" / family.template).read_text(encoding="utf-8")


def _write_model(family: Family, folder: Path) -> None:
    import torch
    import transformers

    ids = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    ends = [ids[token] for token in family.ends]
    shared = {"pad_token_id": None, "bos_token_id": ids.get(family.named.get("bos_token")), "eos_token_id": ends}
    size = {"vocab_size": len(ids) + family.spare}
    fields = family.config | shared | size
    if "text_config" in fields:
        fields["text_config"] = fields["text_config"] | shared | size
        fields["image_token_index"] = len(ids)
    config = transformers.AutoConfig.for_model(family.model_type, **fields)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, family.architecture)(config)
        for name, parameter in model.named_parameters():  # with the usual 0.02, a tiny model repeats one token for ever
            if parameter.dim() > 1:
                parameter.data.mul_(5 if "embed" in name else 20)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)


@cache
def trained_tokenizer(kind: str, specials: tuple[str, ...]) -> Path:
    """Return the path of a tokenizer.json of this kind, trained on the constitutions."""
    import tempfile

    made = {"bytes": _byte_level, "llama": _sentencepiece, "gemma": _sentencepiece}[kind](list(specials), kind == "llama")
    path = Path(tempfile.mkdtemp(prefix="tokenizer")) / "tokenizer.json"
    made.save(str(path))
    return path


def _train(tokenizer, first: list[str], alphabet: list[str]):
    from tokenizers import trainers

    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train([str(path) for path in sorted((ROOT / "constitutions").glob("*.yaml"))], trainer)
    return tokenizer


def _byte_level(specials: list[str], _):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, specials, pre_tokenizers.ByteLevel.alphabet())
    if specials[0] == "<|begin_of_text|>":  # Llama's begin each text with it
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{specials[0]} $A", pair=f"{specials[0]} $A {specials[0]} $B", special_tokens=[(specials[0], 0)]
        )
    return tokenizer


def _sentencepiece(specials: list[str], prefix: bool):
    """Return a SentencePiece model in the form to which transformers converts it: bytes for unknown letters, ▁ for spaces."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if prefix else "never")
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    _train(draft, [*specials, *bytes_], ["▁"])
    model = json.loads(draft.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    made = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = [normalizers.Replace(" ", "▁")]
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *spaces] if prefix else spaces)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    # Gemma's image token is one more than the embeddings of its text models have rows.
    made.add_special_tokens(specials if prefix else [*specials, "<image_soft_token>"])
    return made
