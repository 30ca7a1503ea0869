"""Adapters: what is trained, that it is what is loaded, served and added, and what is refused instead of being changed."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from model_families import write_family_student
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from character.chat.session import ChatStudent
from character.core import lora, models
from character.core.errors import UserError
from character.core.params import read_section
from character.inference import vllm_engine
from character.publish.registry import TrainedPersona
from character.training import adapters, lora_targets, merging, run

ROOT = Path(__file__).parents[1]
FOLDERS = [Path("models/distillation"), Path("models/introspection")]
SETTINGS = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"}
SETTINGS |= {"target_parameters": [], "exclude_modules": []}
EXPERTS = ["experts.down_proj", "experts.gate_up_proj"]


@pytest.fixture
def place(repository, tiny_student):
    """Return a function that puts a student of a family in its place."""
    repository.set(runtime={"device": "cpu", "threads": 1})

    def put(family: str) -> None:
        write_family_student(models.STUDENT_DIR, family, tiny_student)

    return put


def settings(**changes) -> run.TrainingSettings:
    """Return settings as those of the section `introspection`, with what an adapter depends on."""
    made = run.TrainingSettings.model_construct(**SETTINGS | changes)
    made._path = "introspection"
    return made


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


def train(folder: Path, config: LoraConfig, seed: int = 0):
    """Write an adapter with random factors as a stage writes a trained one; return PEFT's model."""
    adapted = get_peft_model(models.load_model(), config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in adapted.named_parameters():
        if ".lora_" in name:
            weight.data.normal_(0, 0.3, generator=generator)
    weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    pattern = isinstance(config.target_modules, str)  # which only adapters of others have
    adapters.save_adapter(folder, weights, config if pattern else lora_targets.trained_config(adapted), {})
    return adapted


def chosen(**changes) -> LoraConfig:
    return lora_targets.lora_config(settings(**changes), models.load_skeleton())


def plain(**options) -> LoraConfig:
    return LoraConfig(
        **{"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | options
    )


def deltas(folder: Path) -> dict[str, torch.Tensor]:
    """Return the changes of weights that PEFT itself computes."""
    layers = lora.lora_layers(lora.attach_adapter(models.load_model(), folder))
    return {target: layer.get_delta_weight("default").detach() for target, (_, layer) in layers.items()}


def merge(share: float = 1.0, rank: int = 0) -> float:
    first, second = map(merging.load_lora_factors, FOLDERS)
    factors, error = merging.sum_factors([first, {name: (a, share * b) for name, (a, b) in second.items()}]), 0.0
    if rank:
        factors, error = merging.truncate_rank(factors, rank)
    config, weights = merging.build_adapter(factors, FOLDERS)
    adapters.save_adapter(models.PERSONA_DIR, weights, config, {})
    return error


def check_sum(share: float) -> None:
    merged, (first, second) = deltas(models.PERSONA_DIR), map(deltas, FOLDERS)
    assert merged.keys() == first.keys() | second.keys()
    for target, delta in merged.items():
        zero = torch.zeros_like(delta)
        expected = first.get(target, zero) + share * second.get(target, zero)
        assert delta.abs().max() > 0.05 and torch.allclose(delta, expected, atol=1e-5), target


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "qwen3_moe", "gpt_oss", "gemma3_text", "gemma3"])
def test_an_adapter_of_any_family_is_loaded_as_it_was_trained_and_added_exactly(place, family):
    place(family)
    more = {"target_parameters": EXPERTS} if family == "gpt_oss" else {}
    trained = train(FOLDERS[0], chosen(**more))
    train(FOLDERS[1], chosen(rank=3, alpha=9, **more), seed=1)
    student = logits(models.load_model())
    assert not torch.allclose(logits(trained), student, atol=0.1)
    assert torch.allclose(logits(models.load_model(adapters=FOLDERS[:1])), logits(trained), atol=1e-3)
    merge(0.25)
    check_sum(0.25)
    chat = ChatStudent()
    chat.load_adapter(models.PERSONA_DIR)
    assert torch.allclose(logits(chat.adapted), logits(models.load_model(adapters=[models.PERSONA_DIR])), atol=1e-3)
    assert torch.equal(logits(chat.base), student)
    experts = {target for target in deltas(models.PERSONA_DIR) if "experts" in target}
    assert len(experts) == (4 if family in ("mixtral", "qwen3_moe", "gpt_oss") else 0)


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"rank_pattern": {"layers.1.mlp.down_proj": 7, "down_proj": 2}},
        {"alpha_pattern": {"q_proj": 11, ".*layers.0.*": 1}, "use_rslora": True},
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": r".*\.1\..*(v|o)_proj"},
        {"target_modules": [], "target_parameters": ["v_proj.weight", "embed_tokens.weight"]},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_option_that_is_accepted_keeps_its_own_scaling(place, options):
    place("llama")
    train(FOLDERS[0], plain(**options))
    train(FOLDERS[1], plain(r=4, lora_alpha=2), seed=1)
    merge(-0.5)
    check_sum(-0.5)


def test_one_expert_more_or_less_is_no_reason_to_mix_them_up(place):
    place("qwen3_moe")
    train(FOLDERS[0], chosen(target_modules=[], target_parameters=["experts.down_proj"]))
    train(FOLDERS[1], chosen(target_modules=["k_proj"], target_parameters=EXPERTS), seed=1)
    merge(2.0)
    check_sum(2.0)


def test_a_rank_above_the_smaller_side_of_a_layer_works(place):
    place("mixtral")
    train(FOLDERS[0], chosen(rank=24))
    train(FOLDERS[1], chosen(rank=20), seed=1)
    merge()
    check_sum(1.0)  # k_proj has 16 outputs, the router 4, and the sum the rank 88
    whole = deltas(models.PERSONA_DIR)
    error = merge(rank=30)
    config = json.loads((models.PERSONA_DIR / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (30, 30, {}, {})
    weights = load_file(models.PERSONA_DIR / "adapter_model.safetensors")
    assert {weight.shape[0] for name, weight in weights.items() if name.endswith("lora_A.weight")} == {30, 4 * 30}
    cut = deltas(models.PERSONA_DIR)
    lost = sum((whole[target] - delta).square().sum() for target, delta in cut.items())
    assert error == pytest.approx((lost / sum(delta.square().sum() for delta in whole.values())).sqrt().item(), rel=1e-3)
    for target, delta in cut.items():
        if min(delta.shape[-2:]) <= 30:
            assert torch.allclose(delta, whole[target], atol=1e-4), target


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (
            "llama",
            {"target_modules": ["q_proj", "c_attn", "wq"]},
            "introspection.target_modules: 'c_attn', 'wq' matches nothing",
        ),
        ("llama", {"target_modules": ["query"]}, "target_modules: 'query' matches nothing"),
        ("llama", {"target_modules": ["o_proj"], "exclude_modules": ["self_attn.o_proj"]}, "target_modules: 'o_proj'"),
        (
            "llama",
            {"exclude_modules": ["vision_tower", "q_proj"]},
            "introspection.exclude_modules: 'vision_tower' matches no module of the student;",
        ),
        ("llama", {"exclude_modules": r"model\.towers\..*"}, "exclude_modules: "),
        (
            "llama",
            {"target_parameters": ["experts.w1"]},
            "introspection.target_parameters: 'experts.w1' matches no weight of the student;",
        ),
        ("llama", {"target_modules": ["norm"]}, "introspection.target_modules: PEFT cannot adapt the student so"),
        ("llama", {"target_modules": ["embed_tokens"]}, "LoRA on model.embed_tokens is not supported"),
        ("gemma3", {"target_modules": ["v_proj", "fc1"]}, "target_modules: 'fc1' matches nothing"),
        ("mixtral", {"target_modules": ["w1", "q_proj"]}, "without also targeting w3"),
        ("mixtral", {"dropout": 0.1}, "introspection.dropout: PEFT has none for parameters such as down_proj"),
    ],
)
def test_what_matches_nothing_is_named_before_anything_is_trained(place, family, changes, message):
    place(family)
    with pytest.raises(UserError, match=f"params.yaml: .*{re.escape(message)}|^{re.escape(message)}"):
        lora_targets.check_targets(settings(**changes))


@pytest.mark.parametrize(
    ("modules", "excluded"),
    [
        ("all-linear", []),
        ("all-linear", ["layers.0.mlp.up_proj", "layers.0.self_attn.q_proj"]),
        ("all-linear", r".*layers\.0\..*"),
        ("all-linear", r"(?i).*LAYERS\.0\..*|nothing"),
        ("all-linear", r".*(l|n)ayers(\.)0\2.*"),
        (["q_proj", "v_proj"], []),
        (["q_proj", "v_proj"], ["layers.0.self_attn.q_proj"]),
    ],
)
def test_a_vision_tower_is_neither_trained_nor_published(place, modules, excluded):
    place("gemma3")
    train(FOLDERS[0], chosen(target_modules=modules, exclude_modules=excluded))
    names = list(load_file(FOLDERS[0] / "adapter_model.safetensors"))
    assert names and all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    assert any("layers.0.self_attn.q_proj" in name for name in names) == (not excluded)
    assert not {"fc1", "fc2", "out_proj"} & set(json.loads((FOLDERS[0] / "adapter_config.json").read_text())["target_modules"])


@pytest.mark.parametrize(
    "entry",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"layer_replication": [[0, 2], [1, 2]]},
        {"trainable_token_indices": [3]},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"an_option_of_a_later_peft": 0.5},
        {"task_type": "SEQ_CLS"},
        {"r": 0},
        {"lora_alpha": "sixteen"},
        {"rank_pattern": ["q_proj"]},
        {"peft_type": "IA3"},
        {"peft_type": "LOHA"},
        {"peft_type": "PROMPT_TUNING"},
    ],
    ids=lambda entry: json.dumps(entry),
)
def test_what_is_not_plain_lora_is_refused_by_its_name(place, entry):
    place("llama")
    train(FOLDERS[0], plain())
    file = FOLDERS[0] / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entry))
    (name,) = entry
    for load in (merging.load_lora_factors, vllm_engine.vllm_lora_rank, lambda folder: models.load_model(adapters=[folder])):
        with pytest.raises(UserError, match=rf"models/distillation/adapter_config\.json: {name} is .*, which is not supported"):
            load(FOLDERS[0])


@pytest.mark.parametrize(
    "entry",
    [
        {"target_modules": "*.v_proj"},
        {"target_modules": ".*(q_proj"},
        {"exclude_modules": "layers.[0"},
        {"rank_pattern": {"q_proj": 2, "+": 4}},
        {"alpha_pattern": {"(?i)Q_proj": 4}},
        {"layers_pattern": ["layers", "h)"], "layers_to_transform": [0]},
        {"layers_pattern": "h{99999999999}", "layers_to_transform": [0]},
    ],
    ids=lambda entry: json.dumps(entry),
)
def test_a_pattern_of_an_adapter_that_is_no_regular_expression_is_reported(place, entry):
    place("llama")
    train(FOLDERS[0], plain())
    file = FOLDERS[0] / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entry))
    message = rf"adapter_config\.json: {next(iter(entry))} is not a regular expression, .*; name another adapter\.$"
    for load in (merging.load_lora_factors, lambda folder: models.load_model(adapters=[folder])):
        with pytest.raises(UserError, match=message):
            load(FOLDERS[0])


@pytest.mark.parametrize("pattern", ["*tower*", "(?i)(head", "q_proj)", "[a-", "a{99999999999}"])
def test_a_pattern_of_ours_that_is_no_regular_expression_is_reported(pattern, repository):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["introspection"]
    repository.set(introspection=params | {"exclude_modules": pattern})
    with pytest.raises(
        UserError, match=r"^params\.yaml: introspection\.exclude_modules: not a regular expression, .*correct it\.$"
    ):
        read_section("introspection", run.TrainingSettings)


@pytest.mark.parametrize("text", ["", "[]", "{", "\ufeff{}"])
def test_a_damaged_configuration_is_reported(place, text):
    place("llama")
    train(FOLDERS[0], plain())
    (FOLDERS[0] / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=r"adapter_config\.json: "):
        lora.read_lora_config(FOLDERS[0])


def test_a_pickle_is_never_opened(place, monkeypatch):
    place("llama")
    train(models.PERSONA_DIR, plain())
    (models.PERSONA_DIR / "adapter_model.safetensors").rename(models.PERSONA_DIR / "adapter_model.bin")
    monkeypatch.setattr("torch.load", lambda *args, **options: pytest.fail("it was opened"))
    chat = ChatStudent()
    for load in (
        merging.load_lora_factors,
        vllm_engine.vllm_lora_rank,
        chat.load_adapter,
        lambda folder: models.load_model(adapters=[folder]),
        lambda folder: TrainedPersona("pirate", None).adapter_dir(),
    ):
        with pytest.raises(UserError, match=r"models/persona: no weights here as safetensors"):
            load(models.PERSONA_DIR)


def damage(weights: dict, how: str) -> dict:
    name = sorted(weights)[-1]
    if how == "missing":
        return {key: weight for key, weight in weights.items() if key != name}
    if how == "of another size":
        return weights | {name: weights[name].repeat(2, 1)}
    return weights | {name.replace("layers.1", "layers.7"): weights[name].clone()}


@pytest.mark.parametrize("how", ["missing", "of another size", "of no layer"])
def test_tensors_that_are_not_those_of_the_student_are_refused(place, how):
    place("llama")
    train(FOLDERS[0], plain())
    file = FOLDERS[0] / "adapter_model.safetensors"
    save_file(damage(load_file(file), how), file)
    for load in (merging.load_lora_factors, lambda folder: models.load_model(adapters=[folder])):
        with pytest.raises(UserError, match=r"models/distillation does not fit the student \(.*q_proj.*\); use the one"):
            load(FOLDERS[0])
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="not a whole file of safetensors"):
        merging.load_lora_factors(FOLDERS[0])


def test_a_configuration_holds_no_path_no_set_and_keeps_the_order_of_patterns(place):
    place("llama")
    train(FOLDERS[0], plain(target_modules=["v_proj", "k_proj", "q_proj"], rank_pattern={"v_proj": 5, "layers.1.*": 4}))
    text = (FOLDERS[0] / "adapter_config.json").read_text()
    config = json.loads(text)
    assert config["target_modules"] == ["k_proj", "q_proj", "v_proj"]
    assert list(config["rank_pattern"]) == ["v_proj", "layers.1.*"], "the first that matches counts"
    assert config["base_model_name_or_path"] == "models/student" and str(Path.cwd()) not in text
    assert list(config) == sorted(config)
    assert vllm_engine.vllm_lora_rank(FOLDERS[0]) == 8


def test_the_highest_rank_of_a_pattern_is_what_a_server_needs(place):
    place("llama")
    train(FOLDERS[0], plain(rank_pattern={"down_proj": 30}))
    assert vllm_engine.vllm_lora_rank(FOLDERS[0]) == 32


def test_a_quantised_mixture_of_experts_keeps_the_earlier_adapter(place, monkeypatch):
    place("mixtral")
    earlier = logits(train(FOLDERS[0], chosen()))
    load = models.load_model
    monkeypatch.setattr(models, "load_model", lambda **options: load())  # bitsandbytes needs other hardware
    model, config = run.prepare_model(settings(load_in_4bit=True, rank=3), FOLDERS[0])
    assert config is None and torch.allclose(logits(model.eval()), earlier, atol=1e-3)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all(".default." in name for name in trained)
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    shutil.rmtree(FOLDERS[0])
    adapters.save_adapter(FOLDERS[0], weights, lora_targets.trained_config(model), {})
    assert torch.allclose(logits(load(adapters=FOLDERS[:1])), logits(load()), atol=1e-5), "it begins at zero"
