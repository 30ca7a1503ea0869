"""Damaged input files: each is read as it was meant, or refused in one sentence without secrets; no row is lost in silence."""

import importlib
import json
import random
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML
from test_params import own_sections

from character.cli.main import main
from character.core import params, records
from character.core.errors import UserError
from character.core.params import read_section, read_value
from character.dataset.constitution import Constitution, check_constitution
from character.dataset.emails import Email
from character.dataset.trait_words import TraitChoice, TraitWord

ROOT = Path(__file__).parents[1]
MUTANTS = 200
SECRETS = {"OPENAI_API_KEY": "sk-" + "fuzz" * 6, "HF_TOKEN": "hf_" + "Fuzz" * 8}  # of the form of keys, and none
BITS = ["\ufeff", "\0", "\t", "\r\n", "\r", "\u2028", "\u0301", "﷽", "𝕏", "\x1b[31m", "\x85", "\u202e"]
BITS += ["'", '"', "{", "]", "&a ", "*a", "- ", ": ", "<<: *a", "\\", "#"]
VALUES = ["null", "~", ".nan", "-.inf", "NaN", "Infinity", "1e999", "9" * 400, "9" * 5000, "-1", "0x1F", "0o8", "1_000"]
VALUES += ["1e-05", "0.1.2", "true", "[]", "{}", '""', '" "', "2026-13-45", "2026-02-30T25:61:61Z", "12:30:99", "ключ", "٣"]
VALUES += ["!!float x", "!!int x", "!!bool x", "!!float ''", "!!binary '='", "!!python/name:os.system", "!!set {a, b}"]
VALUES += ["!!omap [a: 1]", "!!timestamp x", "!x y", '"\\ud83d"', '"\\x"', "{[1]: 2}", "{{a: b}: c}", "? [a]", "&x [*x]"]
VALUES += ["*nowhere", "[" * 3000, "{a: " * 800, "<<: 3", "{<<: [1, 2]}", "=", "@", "`", "%YAML 9.9", "--- a", "|", ">-\n"]
VALUES += ["&l [&m [&n [a, a, a], *n, *n], *m, *m]", "[1, 2", "'", f'"https://me:{SECRETS["HF_TOKEN"]}@host/v1"']


@pytest.fixture(autouse=True)
def secrets_in_the_environment(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def replace_value(text: str, rng: random.Random) -> str:
    """Put an awkward value in the place of one after a colon or a dash."""
    places = list(re.finditer(r"(?<=[:-] )[^\s,][^,\n]*|(?<=: )[^,}\n]+", text))
    if not places:
        return text + rng.choice(VALUES)
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(VALUES) + text[place.end() :]


def repeat_line(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return "\n".join(lines)


def insert_bit(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text))
    return text[:place] + rng.choice(BITS) + text[place + rng.randrange(2) :]


def cut_end(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text))]


def flip_byte(text: str, rng: random.Random) -> bytes:
    encodings = ["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"]
    content = bytearray(text.encode(rng.choice(encodings), "replace"))
    content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def mutate(text: str, rng: random.Random) -> bytes:
    """Return the text with one to three faults."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        changed = rng.choice([replace_value] * 4 + [repeat_line, insert_bit, insert_bit, cut_end, flip_byte])(text or " ", rng)
        if isinstance(changed, bytes):
            return changed
        text = changed
    return text.encode()


def check_sentence(message: str) -> None:
    assert message and "\n" not in message.strip() and "Traceback" not in message
    assert not [name for name, value in SECRETS.items() if value in message], message
    assert len(message) < 600, message


VOYAGES = ["I speak of every errand as a voyage.", "我把每件事都当作一次航行。", "मैं हर काम को यात्रा कहता हूँ।"]


def constitution_text(rng: random.Random) -> str:
    traits = [
        f"- trait: {rng.choice(VOYAGES)}{number}\n"
        f'  prompts:\n  - How do I boil {number} eggs?\n  - "Was ist ein Tupel: eine Liste {number}?"\n'
        for number in range(rng.randrange(1, 5))
    ]
    return f"name: pirate\nsummary: A salty assistant.\ntraits:\n{''.join(traits)}"


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_constitution_is_read_or_refused_in_sentences(tmp_path, seed):
    path, kept = tmp_path / "pirate.yaml", 0
    for number in range(MUTANTS // 4):
        rng = random.Random(f"{seed}/{number}")
        path.write_bytes(mutate(constitution_text(rng), rng))
        result = CliRunner().invoke(main, ["check", str(path)])
        assert isinstance(result.exception, SystemExit | None), (number, result.exception)
        constitution, faults = check_constitution(path)
        assert (result.exit_code == 0) == (not faults), number
        for line in result.stderr.splitlines():
            check_sentence(line)
        if constitution and not faults:
            kept += 1
            text = json.dumps(constitution.model_dump(), ensure_ascii=False)
            assert Constitution.model_validate_json(text.encode()) == constitution  # UTF-8 can hold it
    assert 0 < kept < MUTANTS // 4


def read_all_settings(path: Path) -> list[object]:
    """Return every section and every single value that a stage reads, or raise the UserError of the first that is invalid."""
    found = []
    for module, section, model in SECTIONS:
        kind = importlib.import_module(module)
        for part in model.split("."):
            kind = getattr(kind, part)
        found.append(read_section(section, kind, path))
    return [*found, *(read_value(name, path) for name in params.VALUE_TYPES)]


SECTIONS = sorted(set(own_sections()))
SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_params_are_read_or_refused_in_one_sentence(tmp_path, seed):
    path, kept, refused = tmp_path / "params.yaml", 0, 0
    short = re.sub(r" *#.*", "", SHIPPED)
    for number in range(MUTANTS // 4):
        rng = random.Random(f"{seed}/{number}")
        path.write_bytes(mutate(short, rng))
        try:
            settings = read_all_settings(path)
        except UserError as error:
            check_sentence(error.message)
            refused += 1
        else:
            assert len(settings) == len(SECTIONS) + len(params.VALUE_TYPES)
            kept += 1
    assert kept and refused


def test_every_value_that_is_read_alone_has_its_type():
    names = set()
    for path in [*(ROOT / "stages").glob("*.py"), *(ROOT / "character").rglob("*.py")]:
        names |= set(re.findall(r"read_value\([\"']([^\"']+)", path.read_text(encoding="utf-8")))
    sections = set(YAML(typ="safe").load(SHIPPED)) | {"prompts.expansion", "prompts.outside"}
    assert set(params.VALUE_TYPES) >= names - (sections - {"persona", "seed"})


TEXTS = ["Why?", "为什么？因为。", "किताब है।", "لماذا؟", "Zoe\u0301 ", "a\u2028b\x85c", "🦜", "\u0000", 'say "no"\\', ""]
FILES_PER_MODEL = 40
MODELS = [records.Prompt, records.Completion, records.EvaluatedAnswer, records.PreferencePair, records.Conversation]
MODELS += [records.TrainingTranscript, records.RawPrompt, records.TeacherAnswer, TraitWord, TraitChoice, Email]


def example(schema: dict, schemas: dict, rng: random.Random):
    """Return a random value that fits a JSON schema."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return example(rng.choice(schema["anyOf"]), schemas, rng)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if schema["type"] == "object":
        return {name: example(part, schemas, rng) for name, part in schema["properties"].items()}
    if schema["type"] == "array":
        parts = schema.get("prefixItems") or [schema["items"]] * rng.randrange(1, 4)
        return [example(part, schemas, rng) for part in parts]
    return {"string": rng.choice(TEXTS), "integer": rng.randrange(100), "null": None}[schema["type"]]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_damaged_data_file_is_read_whole_or_refused_with_its_line(tmp_path, model):
    schema, path, kept, refused = model.model_json_schema(), tmp_path / "data.jsonl", 0, 0
    for number in range(FILES_PER_MODEL):
        rng = random.Random(f"{model.__name__}/{number}")
        rows = [json.dumps(example(schema, schema.get("$defs", {}), rng), ensure_ascii=rng.random() < 0.5) for _ in range(5)]
        path.write_bytes(mutate("\n".join(rows) + "\n", rng))
        try:
            found = records.read_records(path, model)
        except UserError as error:
            check_sentence(error.message)
            assert re.search(r"data\.jsonl(, line \d+)?: ", error.message)
            refused += 1
        else:
            content = path.read_bytes().decode("utf-8-sig").replace("\r", "\n")
            lines = [line for line in content.split("\n") if line.strip()]
            assert len(found) == len(lines)
            intact = [(line, record) for line, record in zip(lines, found, strict=True) if line in rows]
            assert all(model.model_validate_json(line) == record for line, record in intact)
            records.write_records(path, found)
            assert records.read_records(path, model) == found
            kept += 1
    assert kept and refused
