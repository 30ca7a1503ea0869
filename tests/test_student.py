"""The student: fetched with its hash checked, written with its template checked, and never swapped unnoticed."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from servers import NO_OPTIONS
from templates import SMOLLM2_TEMPLATE
from transformers import AutoTokenizer

from character.core import models
from character.core.chat_template import template_variables
from character.core.errors import UserError
from character.inference.engines import open_engine
from character.inference.transformers_engine import TransformersEngine
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
  chat_template_kwargs: {{}}
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
    assert models.load_tokenizer().chat_template == SMOLLM2_TEMPLATE
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
    run(
        "the chat template ends answers with no special token",
        "name a template that does in params.yaml: student.chat_template",
    )
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

OWN = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|im_end|>{{ '\n' }}{% endfor %}"
THINKING = (
    OWN + "{% if add_generation_prompt %}[assistant] {% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think></think>' }}{% endif %}{% endif %}"
)


def settings(**entries):
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["student"] |= entries
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def with_template(tiny_student, template):
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    tokenizer.chat_template = template
    return tokenizer


def text(messages, **options):
    return models.load_tokenizer().apply_chat_template(messages, tokenize=False, **options)


ASKED = [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize("own", [True, False], ids=["instead of its own", "for a model that has none"])
def test_a_template_file_serves(own, pointed):
    if not own:
        (pointed / "chat_template.jinja").unlink()
    Path("own.jinja").write_text(OWN, encoding="utf-8")
    settings(chat_template="own.jinja")
    run()
    assert models.load_tokenizer().chat_template == OWN


def test_a_template_file_that_was_edited_stops_all_that_load_the_student(pointed):
    run()
    assert "template_file" not in json.loads((models.STUDENT_DIR / models.STUDENT_CARD).read_text(encoding="utf-8"))
    file = Path("templates/own.jinja")
    file.parent.mkdir()
    file.write_text(OWN, encoding="utf-8")
    settings(chat_template=str(file))
    run()
    models.load_model()
    file.write_text(f"A chat. {OWN}", encoding="utf-8")
    message = r"^templates/own\.jinja is not the file that models/student/student\.json was made from; .* --force student`"
    with pytest.raises(UserError, match=message):
        models.load_model()
    run()
    models.load_model()
    file.unlink()
    models.load_model()  # what was made from it works where only that was fetched


def test_of_several_templates_the_one_called_default_serves(pointed):
    folder = pointed / "additional_chat_templates"
    folder.mkdir()
    (folder / "tool_use.jinja").write_text("{{ raise_exception('for tools') }}", encoding="utf-8")
    run()
    assert models.load_tokenizer().chat_template == SMOLLM2_TEMPLATE
    assert not [path for path in models.STUDENT_DIR.iterdir() if path.is_dir()]


def move_template(folder, name, content):
    (folder / "chat_template.jinja").unlink()
    path = folder / name
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(before | {"chat_template": content}), encoding="utf-8")


NAMED = [{"name": "rag", "template": "{{ documents }}"}, {"name": "default", "template": OWN}]


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer_config.json", OWN), ("tokenizer_config.json", NAMED), ("chat_template.json", OWN)],
    ids=["one in the tokenizer's configuration", "named ones", "that of a processor"],
)
def test_a_template_is_found_wherever_models_keep_it(file, content, pointed):
    move_template(pointed, file, content)
    run()
    assert models.load_tokenizer().chat_template == OWN


@pytest.mark.parametrize("content", ["{'chat_template': 1}", '["a"]', "", "[" * 100_000])
def test_a_damaged_template_file_is_named(content, pointed):
    (pointed / "chat_template.jinja").unlink()
    (pointed / "chat_template.json").write_text(content, encoding="utf-8")
    run("chat_template.json: not a JSON object; restore the file")


def test_named_templates_without_a_default_are_none(pointed):
    move_template(pointed, "tokenizer_config.json", NAMED[:1])
    run("no chat template; choose a chat model, or name a file in student.chat_template")


def test_arguments_become_defaults_that_a_caller_may_still_change(pointed):
    (pointed / "chat_template.jinja").write_text(THINKING, encoding="utf-8")
    settings(chat_template_kwargs={"enable_thinking": False})
    run()
    rendered = "[user] Why?<|im_end|>\n[assistant] "
    assert text(ASKED, add_generation_prompt=True) == rendered + "<think></think>"
    assert text(ASKED, add_generation_prompt=True, enable_thinking=True) == rendered


@pytest.mark.parametrize("value", [True, 3, 0.5, 'say "no"\n{{ }}', "thé 🍵"])
def test_an_argument_reaches_the_template_as_it_is(value, pointed):
    (pointed / "chat_template.jinja").write_text("\n{{ mood }}" + OWN, encoding="utf-8")
    settings(chat_template_kwargs={"mood": value})
    run()
    assert text(ASKED) == f"\n{value}[user] Why?<|im_end|>\n"


@pytest.mark.parametrize("name", ["enable_thinkng", "messages", "tools", "content", "for", "m", "raise_exception", "dict"])
def test_an_argument_that_the_template_does_not_have_is_reported(name, pointed):
    template = THINKING + "{% if false %}{{ raise_exception(dict(tools=tools)) }}{% endif %}"
    (pointed / "chat_template.jinja").write_text(template, encoding="utf-8")
    settings(chat_template_kwargs={name: False})
    run(f"student.chat_template_kwargs: the chat template has no argument '{name}'; correct or remove it")
    sentence = f"teacher.chat_template_kwargs: the chat template has no argument '{name}'"
    with pytest.raises(UserError, match=sentence):
        models.load_tokenizer(pointed, {name: False})


@pytest.mark.parametrize(
    "template",
    [
        "{% generation %}{{ mood }}{%- endgeneration -%}",
        "{% for m in messages %}{% if mood %}{% break %}{% endif %}{% endfor %}",
        "{% if mood is not defined %}{% set mood = true %}{% endif %}",
        "{% set mood = mood | default('calm') %}",
    ],
)
def test_an_argument_is_found_wherever_a_template_reads_it(template):
    assert "mood" in template_variables(template)


def test_arguments_for_what_is_no_template_are_reported(pointed):
    (pointed / "chat_template.jinja").write_text(THINKING + "{% endfor %}", encoding="utf-8")
    settings(chat_template_kwargs={"enable_thinking": False})
    run("the chat template is no valid one (Encountered unknown tag 'endfor'")


def test_a_template_that_opens_an_answer_in_two_ways_is_reported(pointed):
    (pointed / "chat_template.jinja").write_text(THINKING, encoding="utf-8")
    run()
    settings(chat_template_kwargs={"enable_thinking": False})
    printed = run().output
    remedies = (
        "student.chat_template_kwargs (often enable_thinking: false) can make both equal, or another student.chat_template"
    )
    assert remedies in printed


def test_the_template_of_a_teacher_takes_arguments_and_system_prompts_and_has_a_fixed_date(pointed):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    (pointed / "chat_template.jinja").write_text(refusing + "{{ strftime_now('%Y') }}" + THINKING, encoding="utf-8")
    plain, silent = (models.load_tokenizer(pointed, given) for given in ({}, {"enable_thinking": False}))
    asked = [{"role": "system", "content": "Be kind."}, *ASKED]
    rendered = "2024[user] Be kind.\n\nWhy?<|im_end|>\n[assistant] "
    assert plain.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == rendered
    assert silent.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == rendered + "<think></think>"
    engines = [TransformersEngine(pointed, (), given).identity for given in ({}, {"enable_thinking": False})]
    assert engines[0] != engines[1]


def test_template_arguments_for_a_model_at_a_server_are_refused():
    with pytest.raises(UserError, match=r"teacher\.chat_template_kwargs is for .*; write it into openai\.extra\.chat"):
        open_engine("openai", "m", "teacher.source", NO_OPTIONS, {"enable_thinking": False})


@pytest.mark.parametrize("token", ["<|turn|>", "<end_of_turn>"])
def test_a_template_with_a_token_that_has_no_embedding_is_reported(token, pointed):
    tokenizer = AutoTokenizer.from_pretrained(pointed)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", token]})
    tokenizer.save_pretrained(pointed)
    template = OWN.replace("[", token, 1) if token == "<|turn|>" else OWN.replace("<|im_end|>", token)
    (pointed / "chat_template.jinja").write_text(template, encoding="utf-8")
    run(f"{pointed}: the chat template writes {token}, the token {rows + 1}, but the model has embeddings of {rows} tokens")
    assert not models.STUDENT_DIR.exists()
    (pointed / "chat_template.jinja").write_text(OWN, encoding="utf-8")
    run()


def test_a_token_of_the_prompt_alone_needs_an_embedding_too(pointed):
    tokenizer = AutoTokenizer.from_pretrained(pointed)
    tokenizer.add_tokens(["<answer>"])
    tokenizer.save_pretrained(pointed)
    (pointed / "chat_template.jinja").write_text(OWN + "{% if add_generation_prompt %}<answer>{% endif %}", encoding="utf-8")
    run("the chat template writes <answer>, ")


BAD_TEMPLATES = {
    "that ends answers with no special token": (OWN.replace("<|im_end|>", ""), "ends answers with no special token"),
    "that leaves out answers": (
        OWN.replace("{{ m['content'] }}", "{{ m['content'] if m['role'] != 'assistant' }}"),
        "leaves out, repeats or reorders answers",
    ),
    "that changes answers": (OWN.replace("['content'] }}", "['content'] | replace('a', 'e') }}"), "changes an answer"),
    "that refuses every conversation": ("{{ raise_exception('not today') }}", "refuses a conversation (not today)"),
}


@pytest.mark.parametrize(("template", "message"), BAD_TEMPLATES.values(), ids=BAD_TEMPLATES)
def test_a_template_that_cannot_serve_is_reported(template, message, pointed):
    (pointed / "chat_template.jinja").write_text(template, encoding="utf-8")
    run(message)
    assert not models.STUDENT_DIR.exists()


def test_a_template_file_that_is_missing_is_reported(pointed):
    settings(chat_template="own.jinja")
    run("own.jinja is missing; correct params.yaml: student.chat_template")


def test_a_tokenizer_without_offsets_is_reported(tiny_student, tmp_path):
    tokenizer = with_template(tiny_student, OWN)
    slow = type("Slow", (type(tokenizer),), {"is_fast": False})
    tokenizer.__class__ = slow
    with pytest.raises(UserError, match=r"no tokenizer\.json; convert the tokenizer, or choose another model"):
        write_tokenizer(tokenizer, tmp_path / "out", OWN, {})


def test_a_tokenizer_is_the_same_file_whether_or_not_the_hub_is_reached(tiny_student, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    written = []
    for offline in (True, False):
        tokenizer.init_kwargs["local_files_only"] = offline  # as transformers notes it
        write_tokenizer(tokenizer, tmp_path / str(offline), SMOLLM2_TEMPLATE, {})
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
