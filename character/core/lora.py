"""LoRA adapters in PEFT's format: reading their configuration, and putting them on a model.

Weights are safetensors; nothing is unpickled. Only adapters that add scaling * B A to weights are accepted, since everything
here relies on it: adding two of them, merging one into a model, serving several on the same model.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from character.core.errors import UserError
from character.core.safe_text import shorten_text
from character.core.text_input import read_json_object

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # of the names of an adapter's tensors
DESCRIPTIVE_FIELDS = {  # entries of adapter_config.json that do not change what a trained adapter computes
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "lora_dropout",
    "peft_version",
    "revision",
}


def check_pattern(value: list[str] | str | None):
    """Return `value`, which is names of modules or a regular expression of them.

    Raises:
        ValueError: It is a string, but no regular expression.
    """
    if isinstance(value, str):
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"not a regular expression, {error}") from None
    return value


def group_pattern(pattern: str) -> str:
    """Return a regular expression as a part of a longer one; its flags, such as (?i), hold for it alone."""
    flags = re.match(r"\(\?([aimsux]+)\)", pattern)
    return f"(?{flags[1]}:{pattern[flags.end() :]})" if flags else f"(?:{pattern})"


def _check_parts(value: dict | list[str] | str | None):
    for pattern in [value] if isinstance(value, str) else value or []:
        check_pattern(f"({pattern})")  # PEFT puts it into a longer one
    return value


NamesOrPattern = Annotated[list[str] | str, AfterValidator(check_pattern)]


class LoraOptions(BaseModel):
    """The options of PEFT's LoraConfig that are supported."""

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    r: int = Field(gt=0)
    lora_alpha: int | float = Field(gt=0)
    use_rslora: bool = False
    rank_pattern: Annotated[dict[str, int] | None, AfterValidator(_check_parts)] = None
    alpha_pattern: Annotated[dict[str, int | float] | None, AfterValidator(_check_parts)] = None
    target_modules: NamesOrPattern | None = None
    target_parameters: list[str] | None = None
    exclude_modules: NamesOrPattern | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: Annotated[list[str] | str | None, AfterValidator(_check_parts)] = None
    fan_in_fan_out: bool = False
    init_lora_weights: bool | Literal["gaussian", "eva", "orthogonal"] = True  # others change the model's own weights


def check_adapter_files(folder: Path) -> None:
    """Check that a folder holds an adapter.

    Raises:
        UserError: There is no adapter, or its weights are not safetensors.
    """
    if not (Path(folder) / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder}: no adapter here; run `dvc repro` to make it, or `dvc pull` to fetch it.")
    if not (Path(folder) / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"{folder}: no weights here as safetensors; convert them, or name another adapter.")


def read_lora_config(folder: Path):
    """Return PEFT's configuration of an adapter, after checking that it is supported and that its weights are there.

    Raises:
        UserError: There is no adapter, its weights are not safetensors, or it is not plain LoRA.
    """
    from peft import LoraConfig

    check_adapter_files(folder)
    content = read_json_object(Path(folder) / ADAPTER_CONFIG, "name another adapter")
    try:
        options = LoraOptions.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        if fault := problem.get("ctx", {}).get("error"):  # a check of ours
            raise UserError(f"{Path(folder) / ADAPTER_CONFIG}: {name} is {fault}; name another adapter.") from None
        raise UserError(_unsupported(folder, f"{name} is {content.get(name)!r}")) from None
    defaults = LoraConfig().to_dict()
    others = content.keys() - LoraOptions.model_fields.keys() - DESCRIPTIVE_FIELDS
    for name in sorted(others):
        if content[name] and content[name] != defaults.get(name):
            raise UserError(_unsupported(folder, f"{name} is {content[name]!r}"))
    fields = options.model_dump(exclude={"peft_type", "init_lora_weights"}, exclude_none=True)
    return LoraConfig(**fields | {"task_type": "CAUSAL_LM", "inference_mode": True})


def _unsupported(folder: Path, what: str) -> str:
    what = shorten_text(what, 100)
    return f"{folder / ADAPTER_CONFIG}: {what}, which is not supported; name an adapter of plain LoRA."


def read_lora_weights(folder: Path) -> dict:
    """Return an adapter's tensors by PEFT's names.

    Raises:
        UserError: The file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(folder) / ADAPTER_WEIGHTS
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file}: not a whole file of safetensors ({error}); fetch it again.") from None


def lora_layers(adapted, name: str = "default") -> dict[str, tuple]:
    """Return {target: (prefix, layer)} of an adapter on a model.

    A target is a module, or a parameter that holds the weights of several experts; `prefix` begins the names of its tensors.
    PEFT wraps a module once for each of its parameters, so the prefix does not say which parameter is meant.

    Raises:
        UserError: The adapter changes something other than linear layers.
    """
    from peft.tuners.lora import LoraLayer

    layers = {}
    for prefix, module in adapted.named_modules():
        if not isinstance(module, LoraLayer) or name not in {*module.lora_A, *module.lora_embedding_A}:
            continue
        target = re.sub(r"(\.base_layer)+$", "", prefix).removeprefix(PEFT_PREFIX)
        if name not in module.lora_A or module.lora_A[name].weight.ndim != 2:
            raise UserError(f"LoRA on {target} is not supported, only on linear layers; leave it out of the target modules.")
        parameter = getattr(module, "parameter_name", None)
        layers[f"{target}.{parameter}" if parameter else target] = prefix, module
    return layers


def check_lora_weights(adapted, weights: dict, folder: Path) -> None:
    """Check that an adapter's tensors are exactly those of its layers.

    Raises:
        UserError: A tensor is missing, has no layer, or has another shape.
    """
    wanted = {}
    for prefix, layer in lora_layers(adapted).values():
        for part in ("lora_A", "lora_B"):
            wanted[f"{prefix}.{part}.weight"] = tuple(getattr(layer, part)["default"].weight.shape)
    found = {key: tuple(weight.shape) for key, weight in weights.items()}
    if wrong := sorted(wanted.items() ^ found.items()):
        key = wrong[0][0]
        raise UserError(does_not_fit(folder, f"{key} is {found.get(key, 'missing')} and not {wanted.get(key, 'expected')}"))


def does_not_fit(folder: Path, reason: object) -> str:
    return f"{folder} does not fit the student ({shorten_text(str(reason), 240)}); use the one that it was trained on."


def attach_adapter(model, folder: Path, name: str = "default"):
    """Return PEFT's model with an adapter on `model`, whose layers it replaces.

    Raises:
        UserError: There is no adapter, it is not supported, or it does not fit the model.
    """
    from peft import get_peft_model, set_peft_model_state_dict

    config, weights = read_lora_config(folder), read_lora_weights(folder)
    try:
        adapted = get_peft_model(model, config, adapter_name=name)
        loaded = set_peft_model_state_dict(adapted, weights, adapter_name=name)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(does_not_fit(folder, error)) from None
    missing = [key for key in loaded.missing_keys if ".lora_" in key and f".{name}." in key]
    if wrong := sorted([*loaded.unexpected_keys, *missing]):
        raise UserError(does_not_fit(folder, f"{wrong[0]} is {'missing' if wrong[0] in missing else 'not expected'}"))
    lora_layers(adapted, name)
    return adapted
