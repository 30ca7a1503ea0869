"""The student: fetched with its hash checked, written with its template checked, and never swapped unnoticed."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from character.core import models
from character.core.chat_template import SMOLLM2_TEMPLATE, SMOLLM2_TRAINING_TEMPLATE
from character.core.errors import UserError
from stages.student import main, write_tokenizer


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


BAD_SOURCES = {
    "hub without a revision": ("hub:org/model", "no revision; write hub:org/model@<commit>, so that it cannot move"),
    "hub with an empty revision": ("hub:org/model@", "no revision; write hub:org/model@<commit>"),
    "path without a model": ("path:nowhere", r"no model in nowhere \(config\.json is missing\); correct the path"),
    "unknown kind": ("ftp:model", "'ftp:model' is not `hub:<repo>@<revision>` or `path:<dir>`; correct it"),
    "nothing": ("", "'' is not `hub:"),
}


@pytest.mark.parametrize(("source", "message"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_a_source_that_cannot_be_meant_is_reported(source, message):
    with pytest.raises(UserError, match=r"params\.yaml: teacher\.source: " + message):
        models.locate_model(source, "teacher.source")


# --- a pointer to a model that stays where it is ---------------------------------------------------


@pytest.fixture
def pointed(tiny_student, tmp_path):
    """Return a plain model directory, as others publish it, and params.yaml that names it as the student."""
    folder = shutil.copytree(tiny_student, tmp_path / "elsewhere" / "model")
    (folder / models.STUDENT_CARD).unlink()
    (folder / "chat_template.jinja").write_text(SMOLLM2_TEMPLATE, encoding="utf-8")
    Path("params.yaml").write_text(
        f"""\
student:
  source: path:{folder}
  sha256: ""
  name: Tiny
  dtype: float32
  engine: transformers
  chat_template: ""
runtime:
  device: cpu
  threads: 1
  generation_batch: 4
  training_batch: 1
  accelerate: ""
  report_to: []
""",
        encoding="utf-8",
    )
    return folder


def run(*expected):
    result = CliRunner().invoke(main, [])
    assert result.exit_code == (1 if expected else 0), result.output
    for text in expected:
        assert text in result.output
    return result


def test_a_model_that_lies_elsewhere_is_pointed_to_and_not_copied(pointed):
    run()
    assert not list(models.STUDENT_DIR.glob("*.safetensors"))
    card = json.loads((models.STUDENT_DIR / models.STUDENT_CARD).read_text(encoding="utf-8"))
    assert card["source"] == f"path:{pointed}"
    assert card["files"]["model.safetensors"] == models.file_sha256(pointed / "model.safetensors")
    assert models.verified_weights_dir() == pointed
    assert models.load_tokenizer().chat_template == SMOLLM2_TRAINING_TEMPLATE
    assert models.load_model().dtype.itemsize == 4


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_a_pointed_to_file_that_changes_stops_all_that_load_it(file, change, pointed):
    run()
    models.verified_weights_dir()
    if change == "edited":
        (pointed / file).write_bytes((pointed / file).read_bytes() + b" ")
    else:
        (pointed / file).unlink()
    message = "config.json is missing" if (file, change) == ("config.json", "deleted") else f"{pointed / file} is not the file"
    with pytest.raises(UserError, match=message):
        models.load_model()
    if "is not the file" in message:
        with pytest.raises(UserError, match="put it back, or run `dvc repro --force student` to take the new one"):
            models.verified_weights_dir()


def test_the_identity_of_a_pointed_to_model_is_that_of_its_weights(pointed):
    run()
    before = models.directory_fingerprint(models.STUDENT_DIR)
    path = pointed / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    run()
    assert models.directory_fingerprint(models.STUDENT_DIR) != before


def test_weights_that_are_not_safetensors_are_no_student(pointed):
    (pointed / "model.safetensors").rename(pointed / "pytorch_model.bin")
    run("no weights here as safetensors, in model.safetensors or model.safetensors.index.json; convert them")
    assert not models.STUDENT_DIR.exists()


def test_a_failed_run_leaves_no_half_student(pointed):
    (pointed / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}", encoding="utf-8")
    run("student.source has a chat template that is not known here", "name the file in student.chat_template")
    assert not models.STUDENT_DIR.exists()


@pytest.mark.parametrize("load", [models.load_tokenizer, models.read_student_card, models.verified_weights_dir])
def test_a_student_that_is_not_there_is_reported_with_the_command_that_makes_it(load):
    with pytest.raises(UserError, match=r"student\.json is missing; run `dvc repro student`, or `dvc pull` to fetch it"):
        load()


def test_an_adapter_that_is_not_there_is_reported_with_the_command_that_makes_it(pointed):
    run()
    with pytest.raises(UserError, match=r"models/distillation: no adapter here; run `dvc repro` to make it, or `dvc pull`"):
        models.load_model(adapters=[Path("models/distillation")])
    with pytest.raises(UserError, match=r"models/distillation is missing; run `dvc repro` to make it, or `dvc pull`"):
        models.directory_fingerprint(Path("models/distillation"))


# --- the chat template -----------------------------------------------------------------------------

OWN = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ '\n' }}{% endfor %}"
MARKED = (
    "{% for m in messages %}[{{ m['role'] }}] "
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '\n' }}{% endfor %}"
)


def with_template(tiny_student, template):
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_of_ones_own_is_saved_with_the_tokenizer(tiny_student, tmp_path):
    Path("own.jinja").write_text(MARKED, encoding="utf-8")
    write_tokenizer(with_template(tiny_student, OWN), tmp_path / "out", "own.jinja")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == MARKED


BAD_TEMPLATES = {
    "that renders another text": (
        MARKED.replace("[{{", "<{{"),
        OWN,
        r"own\.jinja renders a different text than the model's own",
    ),
    "without markers": (OWN, OWN, r"own\.jinja: no {% generation %} markers; put them around assistant turns"),
    "that is missing": (None, OWN, r"student\.chat_template: own\.jinja is missing; correct the path"),
    "for a model that has none": (MARKED, None, "student.source has no chat template; choose a chat model"),
}


@pytest.mark.parametrize(("template", "original", "message"), BAD_TEMPLATES.values(), ids=BAD_TEMPLATES)
def test_a_template_that_cannot_serve_is_reported(template, original, message, tiny_student, tmp_path):
    if template is not None:
        Path("own.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        write_tokenizer(with_template(tiny_student, original), tmp_path / "out", "own.jinja")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_is_the_same_file_whether_or_not_the_hub_is_reached(tiny_student, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    written = []
    for offline in (True, False):
        tokenizer.init_kwargs["local_files_only"] = offline  # as transformers notes it
        write_tokenizer(tokenizer, tmp_path / str(offline), "")
        written.append((tmp_path / str(offline) / "tokenizer_config.json").read_bytes())
    assert written[0] == written[1] and b"local_files_only" in written[0]


@pytest.fixture
def copy_of_queue(tiny_student, tmp_path, monkeypatch) -> Path:
    """Be in the copy in which DVC runs a queued experiment; returns the original repository, with a model that git ignores."""
    shutil.copytree(tiny_student, tmp_path / "mine/weights/big")
    (tmp_path / "mine/.dvc/tmp/exps/tmp1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine/.dvc/tmp/exps/tmp1")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "mine"))
    return tmp_path / "mine"


def test_a_relative_path_is_one_of_the_original_repository(copy_of_queue, tmp_path):
    assert models.locate_model("path:weights/big", "teacher.source") == copy_of_queue / "weights/big"
    assert models.locate_model(f"path:{copy_of_queue}/weights/big") == copy_of_queue / "weights/big"
    with pytest.raises(UserError, match=re.escape(f"no model in {copy_of_queue}/weights/small (config.json is missing)")):
        models.locate_model("path:weights/small")


def test_a_student_at_a_relative_path_is_read_in_a_queues_copy(copy_of_queue, monkeypatch):
    files = {"model.safetensors": models.file_sha256(copy_of_queue / "weights/big/model.safetensors")}
    card = models.StudentCard(name="Big", source="path:weights/big", dtype="float32", files=files)
    Path("models/student").mkdir(parents=True)
    Path("models/student/student.json").write_text(card.model_dump_json(), encoding="utf-8")
    assert models.verified_weights_dir() == copy_of_queue / "weights/big"
    monkeypatch.delenv("DVC_ROOT")
    with pytest.raises(UserError, match=r"no model in weights/big"):
        models.verified_weights_dir()
