"""Directories of models as people have them: sharded, quantised, incomplete, of another kind. Each works, or is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import write_family
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

from character.core.errors import UserError
from character.core.weights import check_weights, list_weights, load_pretrained, load_weights
from stages.student import check_tokenizer, hash_model_files


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return a function that returns the directory of a family's model, which is written once."""
    folder, made = tmp_path_factory.mktemp("published"), {}

    def write(family):
        return made.get(family) or made.setdefault(family, write_family(family, folder / family))

    return write


@pytest.fixture
def copied(published, tmp_path):
    """Return a function that copies a family's directory."""
    return lambda family: Path(shutil.copytree(published(family), tmp_path / "model"))


def edit(file: Path, **changes) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in content.items() if value is not ...}
    file.write_text(json.dumps(kept), encoding="utf-8")


def check(folder: Path):
    """Check a student as its stage does."""
    model = check_weights(folder)
    check_tokenizer(load_pretrained(AutoTokenizer, folder), model.get_input_embeddings().weight.shape[0], folder)
    return model


def configure(**changes):
    return lambda folder: edit(folder / "config.json", **changes)


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 988097824\n"


def point_to_large_file(folder):
    (folder / "model.safetensors").write_text(POINTER, encoding="utf-8")


def edit_tokenizer(change):
    def edit_text(folder):
        file = folder / "tokenizer.json"
        file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")

    return edit_text


def name_class(folder):
    """Name the class of tokenizers without a family, which leaves the file to the library tokenizers."""
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def pickle_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def shard(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")


def lose_a_shard(folder):
    shard(folder)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def damage_the_index(folder):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}}', encoding="utf-8")


def store_as(kind):
    def convert(folder):
        weights = load_file(folder / "model.safetensors")
        save_file({name: tensor.to(kind) for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})

    return convert


def hold_another_model(folder):
    small = {"d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 16, "vocab_size": 640}
    T5ForConditionalGeneration(T5Config(**small)).save_pretrained(folder)


def hold_an_adapter(folder):
    content = {"peft_type": "LORA", "base_model_name_or_path": "some/base", "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")


def take_another_tokenizer(folder):
    added = {f"<extra_{number}>": 600 + number for number in range(100)}
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"] |= added
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def quantised(method):
    return configure(quantization_config={"quant_method": method, "bits": 4, "group_size": 128})


REMOTE = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
REFUSED = {
    "quantised by GPTQ": (
        quantised("gptq"),
        r"the weights are quantised \(gptq\), so no adapter can be merged into them; name",
    ),
    "quantised by AWQ": (quantised("awq"), r"quantised \(awq\)"),
    "quantised by bitsandbytes": (quantised("bitsandbytes"), r"quantised \(bitsandbytes\)"),
    "quantised by compressed-tensors": (quantised("compressed-tensors"), r"quantised \(compressed-tensors\)"),
    "quantised by something new": (quantised("int3-of-next-year"), r"quantised \(int3-of-next-year\)"),
    "FP8 without scales": (store_as(torch.float8_e5m2), r"model\.safetensors: weights are F8_E5M2, but config\.json has no"),
    "integers": (store_as(torch.int8), r"model\.safetensors: weights are I8, but config\.json has no quantization_config"),
    "pickled": (pickle_weights, "no weights here as safetensors, in model.safetensors or .*; convert them to one of these"),
    "only consolidated": (
        lambda folder: (folder / "model.safetensors").rename(folder / "consolidated.safetensors"),
        "no weights here as safetensors",
    ),
    "truncated": (truncate, r"model\.safetensors: not a whole file of safetensors \(.*\); fetch it again"),
    "a pointer of Git LFS": (point_to_large_file, r"model\.safetensors: not a whole file of safetensors"),
    "a shard is missing": (lose_a_shard, r"index\.json names model-00002-of-0000\d\.safetensors, which is missing; fetch it"),
    "an index without a map": (damage_the_index, r"index\.json has no weight_map from tensors to files; fetch it again"),
    "no output layer": (
        configure(tie_word_embeddings=False),
        r"1 weights of Qwen3ForCausalLM are missing, such as lm_head\.weight",
    ),
    "another size": (
        configure(intermediate_size=48),
        r"proj\.weight is \(\d+, \d+\) in the weights and \(\d+, \d+\) by config",
    ),
    "more layers": (configure(num_hidden_layers=3, layer_types=...), r"11 weights of Qwen3ForCausalLM are missing"),
    "an unknown type": (configure(model_type="frobnicate"), "transformers cannot load this .*model type `frobnicate`"),
    "no type": (configure(model_type=...), "transformers cannot load this .*`model_type` key"),
    "impossible settings": (configure(hidden_size="wide"), "transformers cannot load this .*hidden_size"),
    "its own code": (
        configure(model_type="own", auto_map=REMOTE),
        "needs code of its own, which is not run here; name another",
    ),
    "not JSON": (lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"), "transformers cannot load this"),
    "an encoder and a decoder": (hold_another_model, "holds no model that continues a text, but t5; name a chat model"),
    "an adapter as well": (hold_an_adapter, "holds an adapter next to the model; merge it into the weights"),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "no tokenizer that reads English"),
    "half a tokenizer": (remove("tokenizer.json"), "no tokenizer that reads English"),
    "a tokenizer cut in half": (
        edit_tokenizer(lambda text: text[: len(text) // 2]),
        r"transformers cannot load this \(.*\); correct the files",
    ),
    "a tokenizer of another class, cut in half": (
        lambda folder: [name_class(folder), edit_tokenizer(lambda text: text[:-300])(folder)],
        r"transformers cannot load this \(.*\); correct the files",
    ),
    "a tokenizer that is a pointer of Git LFS": (
        lambda folder: [name_class(folder), edit_tokenizer(lambda text: POINTER)(folder)],
        r"transformers cannot load this \(.*\); correct the files",
    ),
    "a tokenizer of next year": (
        edit_tokenizer(lambda text: text.replace('"BPE"', '"Morphemes"')),
        r"transformers cannot load this \(data did not match any variant .*\); correct the files",
    ),
    "a tokenizer's configuration that is a list": (
        lambda folder: (folder / "tokenizer_config.json").write_text("[]", encoding="utf-8"),
        r"transformers cannot load this \(.*\); correct the files",
    ),
    "another's tokenizer": (
        take_another_tokenizer,
        "the tokenizer has 700 tokens, the model 620; take the tokenizer of this model",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_later_stages_cannot_use_is_refused_in_one_sentence(change, sentence, copied):
    folder = copied("Qwen 3")
    check(folder)
    change(folder)
    with pytest.raises(UserError, match=sentence) as error:
        check(folder)
    assert str(folder) in error.value.message and "\n" not in error.value.message


def test_the_check_reads_no_weight_into_memory(published):
    assert {parameter.device.type for parameter in check(published("Qwen3-MoE")).parameters()} == {"meta"}


def test_sharded_weights_are_the_same_model_and_all_shards_are_hashed(copied):
    folder = copied("SmolLM3")
    before = load_weights(folder).state_dict()
    shard(folder)
    (folder / "consolidated.safetensors").write_bytes(b"a copy in another format")
    check(folder)
    shards = {path.name for path in folder.glob("model-*.safetensors")}
    assert len(shards) > 2 and {path.name for path in list_weights(folder)} == shards
    assert shards | {"model.safetensors.index.json", "config.json"} <= hash_model_files(folder).keys()
    assert "consolidated.safetensors" not in hash_model_files(folder)
    after = load_weights(folder).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before | after)


def test_a_model_without_a_generation_config_ends_where_its_config_says(copied):
    folder = copied("Llama 3.2")
    (folder / "generation_config.json").unlink()
    check(folder)
    model = load_weights(folder)
    assert model.generation_config.eos_token_id == AutoConfig.from_pretrained(folder).eos_token_id


def test_an_image_token_without_an_embedding_is_no_reason_to_refuse_a_text_model(published):
    folder = published("Gemma 3, text")
    assert len(AutoTokenizer.from_pretrained(folder)) > check(folder).get_input_embeddings().weight.shape[0]


# --- formats that become plain weights -------------------------------------------------------------


def quantise_to_fp8(folder: Path) -> dict:
    """Store the linear layers in FP8 with a scale for each block, as DeepSeek-V3 is published; return what they mean."""
    weights, means = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        weights[name] = tensor
        if "_proj" in name and tensor.dim() == 2:
            scale = tensor.abs().max() / 448
            weights[name] = (tensor / scale).to(torch.float8_e4m3fn)
            weights[f"{name}_scale_inv"] = scale.reshape(1, 1)
            means[name] = weights[name].float() * scale
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    settings = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    edit(folder / "config.json", quantization_config=settings)
    return means


FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def quantise_to_mxfp4(folder: Path) -> dict:
    """Store random experts in MXFP4, as gpt-oss is published; return what they mean."""
    weights, means, random = {}, {}, torch.Generator().manual_seed(0)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            weights[name] = tensor
            continue
        experts, inputs, outputs = tensor.shape
        blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=random)
        scales = torch.randint(121, 125, (experts, outputs, inputs // 32), dtype=torch.uint8, generator=random)
        weights |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        values = torch.stack([FP4[(blocks & 15).int()], FP4[(blocks >> 4).int()]], -1).flatten(-2)
        means[name] = (values * 2.0 ** (scales.float() - 127)[..., None]).flatten(-2).transpose(1, 2)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    return means


EXPANDED = [("Qwen 3", quantise_to_fp8), ("gpt-oss", quantise_to_mxfp4)]


@pytest.mark.parametrize(("family", "quantise"), EXPANDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_and_mxfp4_become_plain_weights_of_the_students_type(family, quantise, dtype, copied):
    folder = copied(family)
    means = quantise(folder)
    check(folder)
    model = load_weights(folder, dtype=dtype)
    found = model.state_dict()
    assert means and all(torch.equal(found[name], mean.to(dtype)) for name, mean in means.items())
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@pytest.mark.parametrize(("family", "quantise"), EXPANDED)
def test_a_model_in_fp8_or_mxfp4_is_saved_as_a_plain_one(family, quantise, copied, tmp_path):
    folder = copied(family)
    quantise(folder)
    model = load_weights(folder, dtype="float32")
    model.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text(encoding="utf-8"))
    again = load_weights(tmp_path / "plain").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_a_quantised_student_is_not_quantised_again_for_training(copied):
    folder = copied("Qwen 3")
    quantise_to_fp8(folder)
    with pytest.raises(UserError, match=r"quantised already; set load_in_4bit to false in params\.yaml"):
        load_weights(folder, quantization_config=object())
