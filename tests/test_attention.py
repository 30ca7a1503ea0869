"""The transformers engine runs models of other families as their own code does, or refuses them in one sentence."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from character.core.errors import UserError
from character.inference import kv_cache, log_probs, transformers_engine
from character.inference.chat_format import usable_context
from character.inference.generate import SamplingSettings
from character.inference.log_probs import build_trie
from character.inference.token_sampling import sample_top_p
from character.inference.transformers_engine import TransformersEngine, prepare_decoding, sample_continuations
from stages.steering import save_control_vector

WARM = SamplingSettings(max_new_tokens=24, temperature=1, top_p=0.9)
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12}
OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 512, "n_ctx": 512}

RUN = {
    "cohere2": SLIDING,
    "deepseek_v3": LATENT
    | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 32}
    | {"num_key_value_heads": 4, "first_k_dense_replace": 1},
    "gemma2": SLIDING | {"head_dim": 16, "attn_logit_softcapping": 2.0},
    "gemma3_text": SLIDING | {"head_dim": 16},
    "gpt_oss": SLIDING | EXPERTS | {"head_dim": 16},
    "llama4_text": EXPERTS | {"attention_chunk_size": 16, "head_dim": 16, "intermediate_size_mlp": 64},
    "mistral": {"sliding_window": 16},
    "mixtral": EXPERTS,
    "olmo2": {},
    "phi3": {"sliding_window": 16},
    "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "qwen3_moe": EXPERTS | {"head_dim": 16},
    "smollm3": {},
}
REFUSED = {
    "bloom": {"n_layer": 2, "n_head": 4},
    "codegen": OLD,
    "gptj": OLD,
    "mamba": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    "qwen3_5_text": {"head_dim": 16},
    "qwen3_next": EXPERTS | {"head_dim": 16},
}


def tiny(kind, dtype=torch.float32, **changes):
    """A random model whose next token depends on all before."""
    sizes = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **sizes | {"tie_word_embeddings": False, "eos_token_id": None} | changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval().to(dtype)


def random_tokens(*lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 600, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")


def sampled(model, prompts, seeds, slots=64):
    replies = {number: ids for number, ids, _ in sample_continuations(model, prompts, WARM, seeds, set(), slots)}
    return [replies[number] for number in range(len(prompts))]


def sampled_plainly(model, prompt, seed):
    """Sample with the model's eager attention, the whole text anew for each token."""
    sampler = transformers_engine.TokenSampler(model, WARM, 1, WARM.max_new_tokens)
    sampler.add_row(0, prompt, seed, WARM.max_new_tokens)
    ids = list(prompt)
    for step in range(WARM.max_new_tokens):
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), use_cache=False).logits[:, -1].float()
        ids += sampler.sample_tokens(logits, [step])
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", RUN)
def test_sampled_replies_longer_than_any_window_are_those_of_the_models_own_forward(kind):
    prefix, *tails = random_tokens(9, 5, 30)
    prompts = [prefix + tail for tail in tails]
    model = tiny(kind, **RUN[kind])
    model.set_attn_implementation("eager")
    wanted = [sampled_plainly(model, prompt, seed) for seed, prompt in enumerate(prompts)]
    prepare_decoding(model, *random_tokens(40), "a student")
    assert sampled(model, prompts, range(2)) == wanted


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_with_attention_or_a_cache_of_its_own_is_refused(kind):
    with pytest.raises(UserError, match=r"^a student: the transformers engine cannot run \w+ \(.*\); choose .* `vllm`\.$"):
        prepare_decoding(tiny(kind, **REFUSED[kind]), *random_tokens(40), "a student")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_lack_of_memory_says_nothing_about_the_model(error, monkeypatch):
    model = tiny("llama")

    def fail(*_, **__):
        raise error("CUDA error: out of memory")

    monkeypatch.setattr(model.model.layers[1].mlp, "forward", fail)
    with pytest.raises(error):
        prepare_decoding(model, *random_tokens(40), "a student")


@pytest.mark.parametrize(
    ("steered", "remedy"), [(True, "no other engine steers .* `dvc repro persona`"), (False, "choose the engine `vllm`")]
)
def test_a_steered_model_is_not_referred_to_an_engine_that_cannot_steer(steered, remedy, student, monkeypatch):
    save_control_vector(Path("models/steering"), torch.zeros(2, 32))
    monkeypatch.setattr(transformers_engine, "MAX_DIFFERENCE", 0)
    with pytest.raises(UserError, match=rf"^a student: the transformers engine cannot run .*\); {remedy}"):
        TransformersEngine(adapters=["models/steering"] if steered else []).load("a student")


def test_an_argument_of_attention_that_is_not_known_is_refused(monkeypatch):
    model = tiny("llama")
    attend = model.model.layers[1].self_attn.forward
    monkeypatch.setattr(model.model.layers[1].self_attn, "forward", lambda *given, **more: attend(*given, **more, indices=3))
    with pytest.raises(UserError, match="of another kind: its attention needs indices"):
        prepare_decoding(model, *random_tokens(40), "a student")


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 0.98), (torch.bfloat16, 0.5)])
def test_attention_that_computes_something_else_is_refused_by_its_logits(dtype, scale, monkeypatch):
    attend = kv_cache._grouped_attention
    monkeypatch.setattr(
        kv_cache, "_grouped_attention", lambda module, query, *given, **more: attend(module, query * scale, *given, **more)
    )
    with pytest.raises(UserError, match=r"its logits would be wrong by \d+%"):
        prepare_decoding(tiny("llama", dtype), *random_tokens(40), "a student")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kind", "heads"), [("llama", 2), ("mixtral", 2), ("qwen2", 1)])
def test_a_reply_does_not_depend_on_longer_prompts_beside_it(kind, heads, dtype):
    changes = RUN.get(kind, {}) | {"hidden_size": 128, "initializer_range": 0.1, "num_key_value_heads": heads}
    model = tiny(kind, dtype, **changes)
    prompts = random_tokens(150, 250, 37, 300, 450)
    prepare_decoding(model, prompts[0], "a student")
    together = sampled(model, prompts, range(5))
    assert [sampled(model, [prompt], [seed])[0] for seed, prompt in enumerate(prompts)] == together


LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0}
ROPES = {
    "llama": {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}, "max_position_embeddings": 48},
    "phi3": {"rope_parameters": LONG, "original_max_position_embeddings": 48},
}


@pytest.mark.parametrize("kind", ROPES)
def test_positions_that_depend_on_the_longest_text_are_used_up_to_the_original_context(kind):
    model = tiny(kind, **ROPES[kind])
    assert usable_context(model.config, "a student") == 48
    assert usable_context(tiny("llama").config, "a student") == 512
    prompts = random_tokens(3, 7)
    prepare_decoding(model, *random_tokens(40), "a student")
    assert sampled(model, prompts, range(2)) == [sampled(model, [prompt], [seed])[0] for seed, prompt in enumerate(prompts)]


# --- numbers that are not finite -------------------------------------------------------------------


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("temperature", [0, 0.7])
def test_logits_that_are_not_finite_end_in_a_sentence_about_the_dtype(number, temperature):
    model = tiny("llama", torch.float16)
    sampling = SamplingSettings(max_new_tokens=4, temperature=temperature, top_p=0.9)
    sampler = transformers_engine.TokenSampler(model, sampling, 2, 4)
    logits = torch.zeros(2, 600)
    logits[1] = number
    model.name_or_path = "a/teacher"
    with pytest.raises(
        UserError, match=r"^a/teacher: the model computes logits in float16 that are not finite numbers; check "
    ):
        sampler.sample_tokens(logits, [0, 0])
    logits[1, 1:] = 0  # one token that cannot be chosen is no fault
    if number == -float("inf"):
        assert 0 not in sampler.sample_tokens(logits, [0, 0])[1:]


def test_a_model_that_overflows_is_refused_before_it_replies():
    model = tiny("llama", torch.float16)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    with pytest.raises(UserError, match=r"^a student: .* not finite .*student\.dtype in params\.yaml to bfloat16\.$"):
        prepare_decoding(model, *random_tokens(40), "a student")


def test_the_smallest_settings_there_are_still_draw_the_likeliest_token():
    logits = torch.tensor([[0.5, 80.0, 79.999, -3e4]])
    uniform = torch.tensor([0.99], dtype=torch.float64)
    assert sample_top_p(logits, 1e-6, 1.0, uniform).tolist() == [1]
    assert sample_top_p(logits, 1.0, 1e-60, uniform).tolist() == [1]
    for temperature in (1e-30, 9e-7):
        with pytest.raises(ValueError, match="0 decodes greedily"):
            SamplingSettings(max_new_tokens=1, temperature=temperature, top_p=1)


# --- endings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gemma3_text", "mistral", "qwen2", "llama"])
def test_endings_see_no_further_than_the_windows_of_the_model(kind):
    model = tiny(kind, **RUN.get(kind, {}))
    head, *endings = random_tokens(40, 3, 7)
    trie = build_trie(endings)
    with torch.inference_mode():
        (nodes,) = log_probs._node_log_probs(model, [(head, trie)])
        alone = log_probs._token_log_probs(model, [(head, ending) for ending in endings])
    for path, wanted in zip(trie.paths, alone, strict=True):
        assert [nodes[node] for node in path] == pytest.approx(wanted, abs=1e-3)
