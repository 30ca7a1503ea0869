"""Files as editors and operating systems save them: the same data and ids whatever the form, or one sentence."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from character.cli.import_constitution import read_reference_traits
from character.core.errors import UserError
from character.core.models import file_sha256, read_student_card
from character.core.params import read_value
from character.core.records import Prompt, RawPrompt, TeacherAnswer, prompt_id, read_columns, read_csv, read_json, read_records
from character.core.text_input import normalize_text
from character.dataset import teacher_answers
from character.dataset.constitution import load_constitution, traits_hash
from character.dataset.external_prompts import ExternalPrompts, load_external_prompts
from character.study.recipes import list_recipes
from character.training.launch import read_accelerate_config
from stages.chosen import look_up_answers
from stages.student import read_chat_template

ROOT = Path(__file__).parents[1]
CONSTITUTION = """\
name: barde
summary: Un barde à l'âme légère.
traits:
  - trait: Je réponds à chaque question comme un poète, sans jamais élever la voix.
    prompts:
      - Où est né Molière ?
      - "Wie heißt der Bär?\\nBitte kurz."
"""
TEMPLATE = "{% for m in messages %}{% generation %}\n{{ m.content }}é\n{% endgeneration %}{% endfor %}\n"
FORMS = {
    "as it was": lambda text: text.encode(),
    "byte order mark": lambda text: text.encode("utf-8-sig"),
    "line ends of Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "both": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "line ends of old Macs": lambda text: text.replace("\n", "\r").encode(),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def read_traits(path):
    """Return what depends on a constitution file: hash and prompt ids."""
    persona = load_constitution(path)
    return traits_hash(persona), [prompt_id(prompt) for trait in persona.traits for prompt in trait.prompts]


def read_outside(path):
    settings = ExternalPrompts(source=str(path), sha256=file_sha256(path), format="prompt", count=2)
    return load_external_prompts(settings, [])


ROWS = json.dumps({"prompt": "Où est né Molière ?"}, ensure_ascii=False) + '\n{"prompt": "a\\r\\nb"}\n'
READERS = {
    "constitution": ("barde.yaml", CONSTITUTION, read_traits),
    "params": ("params.yaml", "persona: barde # é\nseed: 7\n", lambda path: read_value("seed", path)),
    "JSON Lines": ("rows.jsonl", ROWS, lambda path: read_records(path, RawPrompt)),
    "external prompts": ("rows.jsonl", ROWS, read_outside),
    "reference's list": ("barde.txt", '[{"trait": "Je suis né.",\n"questions": ["Où ?"]}]', read_reference_traits),
    "reference's lines": ("barde.jsonl", '{"trait": "Je suis né.", "questions": ["Où ?"]}\n', read_reference_traits),
    "chat template": ("chat.jinja", TEMPLATE, read_chat_template),
    "table": ("plot.csv", 'method,n\n"é, ""b""\n\u2028",3\n', read_csv),
    "columns": ("plot.csv", "step,loss\n1,0.5\n2,0.25\n", read_columns),
    "JSON": ("results.json", '{\n  "é": 1\n}\n', read_json),
    "accelerate's configuration": ("gpus.yaml", "# é\ndistributed_type: MULTI_GPU\n", read_accelerate_config),
    "student's card": (
        "student.json",
        '{"name": "é",\n"source": "path:x", "dtype": "auto", "files": {}}',
        lambda path: read_student_card(path.parent),
    ),
}
each_reader = pytest.mark.parametrize(("name", "text", "read"), READERS.values(), ids=READERS)


@each_form
@each_reader
def test_the_form_of_a_file_changes_nothing_that_is_read(tmp_path, name, text, read, form):
    (tmp_path / name).write_bytes(text.encode())
    expected = read(tmp_path / name)
    (tmp_path / name).write_bytes(form(text))
    assert read(tmp_path / name) == expected


BROKEN = {
    "UTF-16": (lambda text: text.encode("utf-16"), "UTF-16, not UTF-8; save the file as UTF-8."),
    "UTF-16, big-endian": (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), "UTF-16, not UTF-8; save"),
    "UTF-32": (lambda text: text.encode("utf-32"), "UTF-32, not UTF-8; save"),
    "UTF-16 without a mark": (lambda text: text.replace("é", "e").encode("utf-16-le"), "UTF-8"),
    "Latin-1": (lambda text: f"{text}é".encode("latin-1", "replace"), "not UTF-8; save the file as UTF-8."),
    "Shift JIS": (lambda text: f"{text}日本".encode("shift-jis", "replace"), "not UTF-8; save the file as UTF-8."),
    "NUL": (lambda text: text.encode() + b"\0", "a NUL character; save the file as text in UTF-8."),
}


@pytest.mark.parametrize(("form", "sentence"), BROKEN.values(), ids=BROKEN)
@each_reader
def test_a_file_in_another_encoding_is_refused_in_one_sentence(tmp_path, name, text, read, form, sentence):
    (tmp_path / name).write_bytes(form(text))
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert error.value.message.startswith(str(tmp_path / name)) and sentence in error.value.message
    assert "\n" not in error.value.message


@each_reader
def test_what_is_no_file_is_refused_in_one_sentence(tmp_path, name, text, read):
    if read is read_outside:
        pytest.skip("has a sentence of its own, since the file's hash comes first")
    path = tmp_path / name
    path.mkdir()
    with pytest.raises(UserError, match="is not a file; give a text file"):
        read(path)
    path.rmdir()
    os.mkfifo(path)  # nobody writes to it: reading would wait forever
    with pytest.raises(UserError, match="is not a file; give a text file"):
        read(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(UserError, match="cannot be read"):
        read(path)


def test_a_file_without_permission_is_reported(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text(ROWS, encoding="utf-8")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything

        def deny(self):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(UserError, match=r"rows\.jsonl cannot be read \(Permission denied\); correct its path or its perm"):
        read_records(path, RawPrompt)


# --- composed and decomposed characters, spaces -----------------------------------------------------

TEXT = "Où est né le poète Nguyễn Du, 가나다 và ガギグ ?"
SPELLINGS = [unicodedata.normalize("NFD", TEXT), f"{TEXT} \n", f"\t{TEXT}\u00a0", f"\u3000{TEXT}\r\n"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_prompt_has_one_id_however_it_was_typed(tmp_path, monkeypatch, spelling):
    assert spelling != TEXT
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": spelling}), encoding="utf-8")
    (row,) = read_records(rows, RawPrompt)
    (outside,) = load_external_prompts(
        ExternalPrompts(source=str(rows), sha256=file_sha256(rows), format="prompt", count=1), []
    )
    assert prompt_id(row.prompt) == outside.id == prompt_id(TEXT)
    path = tmp_path / "barde.yaml"
    path.write_text(CONSTITUTION.replace("Où est né Molière ?", json.dumps(TEXT)), encoding="utf-8")
    persona = load_constitution(path)
    path.write_bytes(CONSTITUTION.replace("Où est né Molière ?", json.dumps(spelling)).encode())
    assert load_constitution(path) == persona
    path.write_text(unicodedata.normalize("NFD", path.read_text(encoding="utf-8")), encoding="utf-8")
    assert traits_hash(load_constitution(path)) == traits_hash(persona)

    answer = {"prompt": spelling, "response": "Là.", "traits": traits_hash(persona)}
    (tmp_path / "barde.jsonl").write_text(json.dumps(answer) + "\n", encoding="utf-8")
    prompt = Prompt(id=prompt_id(TEXT), prompt=TEXT, source="general", trait=None)
    assert [reply.text for reply in look_up_answers([prompt], persona, tmp_path, any_traits=False)] == ["Là."]
    monkeypatch.setattr(teacher_answers, "TEACHER_ANSWERS_DIR", tmp_path)
    assert teacher_answers.recorded_answers("barde", [TEXT], "classifier.personas") == ["Là."]


def test_texts_of_the_repository_are_in_the_form_that_is_stored():
    files = [*(ROOT / "data/raw/teacher").glob("*.jsonl"), ROOT / "data/raw/prompts/general.jsonl"]
    rows = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert len(rows) > 1000
    assert [row["prompt"] for row in rows if normalize_text(row["prompt"]) != row["prompt"]] == []


def test_an_answer_keeps_its_spaces_and_its_characters(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a ", "response": "  e\u0301\r\n"}), encoding="utf-8")
    assert read_records(tmp_path / "rows.jsonl", TeacherAnswer) == [TeacherAnswer(prompt="a", response="  e\u0301\r\n")]


# --- JSON and YAML that parsers accept and the pipeline cannot use ----------------------------------

LINES = {
    "half of a surrogate pair": ('{"prompt": "a \\udc9b"}', r"line 2: not valid JSON \(.*surrogate.* column \d+\); correct it"),
    "key given twice": ('{"prompt": "a", "prompt": "b"}', "line 2: not valid JSON .the key 'prompt' is given twice"),
    "key given twice, below": ('{"prompt": {"a": 1, "é": 2, "é": 3}}', "the key 'é' is given twice"),
    "deep nesting": ('{"prompt": ' + "[" * 9999, r"line 2: not valid JSON \(recursion limit"),
    "long number": ('{"prompt": ' + "7" * 9999 + "}", "line 2: "),
}


@pytest.mark.parametrize(("line", "sentence"), LINES.values(), ids=LINES)
def test_a_line_of_json_that_would_be_misread_is_refused(tmp_path, line, sentence):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": "b"}}\n{line}\n', encoding="utf-8")
    for read in (lambda: read_records(path, RawPrompt), lambda: read_outside(path)):
        with pytest.raises(UserError, match=sentence):
            read()


def test_an_infinite_number_is_no_data(tmp_path):
    from character.evaluation.lm_eval_tasks import TaskScore

    (tmp_path / "rows.jsonl").write_text('{"task": "a", "item": "b", "score": -Infinity}', encoding="utf-8")
    with pytest.raises(UserError, match="line 1: score: Input should be a finite number"):
        read_records(tmp_path / "rows.jsonl", TaskScore)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML_FAULTS = {
    "aliases that multiply": (BOMB, "more than 100000 values, with its aliases"),
    "alias to itself": ("a: &a {b: *a}\n", "more than 100000 values, with its aliases"),
    "not a number": ("a: {b: [1, .nan]}\n", "a.b.1 is no number that fits in 64 bits"),
    "infinite": ("a: -.inf\n", "a is no number that fits in 64 bits"),
    "beyond all floats": ("a: 1e400\n", "a is no number that fits in 64 bits"),
    "beyond 64 bits": ("a: 99999999999999999999\n", "a is no number that fits in 64 bits"),
    "thousands of digits": (f"a: {'8' * 6000}\n", "a value is not what its form or tag promises"),
    "thirteenth month": ("a: 2026-13-01\n", "a value is not what its form or tag promises"),
    "tag that does not fit": ("a: !!float zwei\n", "a value is not what its form or tag promises"),
    "deep nesting": (f"a: {'[' * 5000}\n", "nested too deeply"),
    "unknown tag": ("a: !!python/name:os.system\n", "line 1: not valid YAML"),
}


@pytest.mark.parametrize(("text", "sentence"), YAML_FAULTS.values(), ids=YAML_FAULTS)
def test_yaml_that_would_break_later_is_refused(tmp_path, text, sentence):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        read_value("a", path)


VALUES = {
    "seed: -1": "seed: Input should be greater than or equal to 0",
    "seed: 4294967296": "seed: Input should be less than 4294967296",
    "seed: 'seven'": "seed: Input should be a valid integer (got 'seven')",
    "student: {name: ' '}": "student.name: String should match pattern",
    "student: {name: 5}": "student.name: Input should be a valid string (got 5)",
    "teacher: {names: null}": "teacher.names: Input should be a valid list (got None)",
    "teacher: {names: [x, 3]}": "teacher.names.1: Input should be a valid string (got 3)",
    "persona: [a]": "persona: Input should be a valid string",
    "pairs: {samples: 0}": "pairs.samples: Input should be greater than 0",
}


@pytest.mark.parametrize(("text", "sentence"), VALUES.items())
def test_a_value_that_is_read_alone_is_validated(tmp_path, text, sentence):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_value(sentence.split(":")[0].removesuffix(".1"), path)
    assert error.value.message.startswith(f"{path}: {sentence}")


CONSTITUTION_FAULTS = {
    "aliases that multiply": (
        f"name: barde\nsummary: x\ntraits: &a [{'x, ' * 300}x]\ny: &b [{'*a, ' * 300}*a]\nz: [{'*b, ' * 300}*b]\n",
        "more than 100000 values",
    ),
    "deep nesting": ("name: " + "[" * 5000, "nested too deeply"),
    "half of a surrogate pair": (CONSTITUTION.replace("Bär", "\\ud83d Bär"), "line 7: half of a surrogate pair"),
    "half of a pair in a key": ('"\\udc00": 1\n', "line 1: half of a surrogate pair"),
}


@pytest.mark.parametrize(("text", "sentence"), CONSTITUTION_FAULTS.values(), ids=CONSTITUTION_FAULTS)
def test_a_constitution_that_would_break_later_is_refused(tmp_path, text, sentence):
    path = tmp_path / "barde.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        load_constitution(path)


def test_recipes_with_a_byte_order_mark_have_their_descriptions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    Path("recipes/default.yaml").write_bytes("\ufeff# The default\r\nseed: 1\r\n".encode())
    assert list_recipes() == {"default": "The default"}
