"""Models as others publish them: which files hold the weights, and whether they are those that config.json describes."""

import json
from pathlib import Path

from character.core.errors import UserError
from character.core.lora import ADAPTER_CONFIG
from character.core.safe_text import shorten_text

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"  # of weights in several files

# Formats that transformers turns into plain weights while it loads them. Adapters can then be trained and merged as usual.
EXPANDED_FORMATS = ("fp8", "mxfp4")
PLAIN_TYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"}  # by safetensors' names; buffers may be integers


def list_weights(folder: Path) -> list[Path]:
    """Return the files that transformers reads the weights from; others, such as `consolidated.safetensors`, are copies.

    Raises:
        UserError: There are none, or one that the index names is missing.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if not (folder / WEIGHTS_INDEX).is_file():
        raise UserError(
            f"{folder}: no weights here as safetensors, in {WEIGHTS_FILE} or {WEIGHTS_INDEX}; convert them to one of these."
        )
    try:
        names = sorted(set(json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / WEIGHTS_INDEX} has no weight_map from tensors to files; fetch it again.") from None
    if missing := [name for name in names if not (folder / str(name)).is_file()]:
        raise UserError(f"{folder / WEIGHTS_INDEX} names {missing[0]}, which is missing; fetch it, or name another model.")
    return [folder / name for name in names]


def load_pretrained(kind: type, folder: Path, **options):
    """Return `kind.from_pretrained(folder)`, without ever running code that comes with the model.

    Raises:
        UserError: The model needs such code, or is none that transformers can load.
    """
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, **options)
    except (MemoryError, RuntimeError):  # of the machine, such as too little memory
        raise
    except Exception as error:  # tokenizers raises nothing more specific for a file that it cannot read
        if "trust_remote_code" in str(error):
            raise UserError(f"{folder}: the model needs code of its own, which is not run here; name another model.") from None
        reason = shorten_text(str(error), 200)
        raise UserError(
            f"{folder}: transformers cannot load this ({reason}); correct the files, or name another model."
        ) from error


def load_weights(folder: Path, **options):
    """Return the model in `folder` for text generation; weights in FP8 or MXFP4 become plain ones.

    With `device_map="meta"`, only the names and shapes of the weights are read.

    Raises:
        UserError: The model cannot be loaded, or the weights are not those that config.json describes.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading takes a second; progress bars are for minutes
    list_weights(folder)
    expansion = _expansion_options(folder)
    if expansion and "quantization_config" in options:
        raise UserError(f"{folder}: the weights are quantised already; set load_in_4bit to false in params.yaml.")
    options |= expansion | {"use_safetensors": True}
    model, found = load_pretrained(
        AutoModelForCausalLM, folder, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    # transformers would fill what is missing or has another shape with random numbers.
    for name, stored, described in found["mismatched_keys"]:
        sizes = f"{tuple(stored)} in the weights and {tuple(described)} by config.json"
        raise UserError(f"{folder}: {name} is {sizes}; correct config.json, or name another model.")
    if missing := sorted(found["missing_keys"]):
        raise UserError(
            f"{folder}: {len(missing)} weights of {type(model).__name__} are missing, such as {missing[0]}; name a model that "
            "generates text, with all its weights."
        )
    if expansion:
        _finish_expansion(model)
    return model


def _finish_expansion(model) -> None:
    import torch

    model._weight_conversions = None  # by which save_pretrained would give plain weights the names that they had in the file
    for parameter in model.parameters():
        if parameter.dtype == torch.bfloat16:  # what MXFP4 becomes, whatever the type of the model is
            parameter.data = parameter.data.to(model.dtype)


def _expansion_options(folder: Path) -> dict:
    from transformers import AutoConfig, FineGrainedFP8Config, Mxfp4Config

    kinds = dict(zip(EXPANDED_FORMATS, (FineGrainedFP8Config, Mxfp4Config), strict=True))
    method = quantization_method(load_pretrained(AutoConfig, folder))
    return {"quantization_config": kinds[method](dequantize=True)} if method in kinds else {}


def quantization_method(config) -> str:
    """Return the name of the format in which a model's weights are quantised, by its configuration; empty if they are not."""
    for part in (config, config.get_text_config()):
        if settings := getattr(part, "quantization_config", None):
            settings = settings if isinstance(settings, dict) else settings.to_dict()
            return str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")))
    return ""


def check_weights(folder: Path):
    """Return the model without the numbers in its weights, if later stages can load, sample from and train it.

    Raises:
        UserError: They cannot: there is no such model, its weights are incomplete, or quantised in another format than FP8 or
            MXFP4.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    if (folder / ADAPTER_CONFIG).is_file():  # transformers would load the adapter, and the model that it names
        raise UserError(f"{folder} holds an adapter next to the model; merge it into the weights, or name another model.")
    config = load_pretrained(AutoConfig, folder)
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{folder} holds no model that continues a text, but {config.model_type}; name a chat model.")
    _check_number_format(folder, quantization_method(config))
    model = load_weights(folder, device_map="meta")
    if not hasattr(config.get_text_config(), "max_position_embeddings"):
        raise UserError(f"{folder}/config.json: no max_position_embeddings, the length of the context; name another model.")
    return model


def _check_number_format(folder: Path, method: str) -> None:
    from safetensors import SafetensorError, safe_open

    if method and method not in EXPANDED_FORMATS:
        raise UserError(
            f"{folder}: the weights are quantised ({method}), so no adapter can be merged into them; name the original model."
        )
    for file in list_weights(folder):
        try:
            with safe_open(file, "pt") as tensors:
                kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{file}: not a whole file of safetensors ({error}); fetch it again.") from None
        if not method and (others := sorted(kinds - PLAIN_TYPES)):
            raise UserError(f"{file}: weights are {others[0]}, but config.json has no quantization_config; name another model.")
