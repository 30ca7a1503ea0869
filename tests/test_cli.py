"""The `character` command, except `check` (see test_constitution.py)."""

import ast
import json
import re
import time
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

from character.cli.main import main
from character.core import records
from character.core.errors import UserError
from character.core.records import Completion, EvaluatedAnswer, TeacherAnswer
from character.dataset import constitution
from character.inference.reply_cache import ReplyCache

PIRATE = """\
name: pirate
summary: A sailor.
traits:
  - trait: I talk like a sailor of the old days in every sentence.
    prompts:
      - How do I boil an egg?
"""


def completion(number: int, response: str, finish: str = "stop") -> Completion:
    return Completion(id=f"id{number}", sample=0, prompt=f"Prompt {number}?", response=response, finish_reason=finish)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "constitutions").mkdir()
    (tmp_path / "constitutions/pirate.yaml").write_text(PIRATE)
    (tmp_path / "params.yaml").write_text("persona: pirate\n")
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(main, arguments)


def test_record_keeps_whole_answers_with_the_hash_of_the_traits(repository):
    first = completion(0, "Arr.").model_copy(update={"prompt": "How do I boil an egg?"})
    again = first.model_copy(update={"sample": 1, "response": "Arr, again."})
    chosen = [first, again, completion(1, "Arr, lower", "length"), completion(2, " ")]
    records.write_records("data/chosen.jsonl", chosen)
    done = run("record")
    assert done.output == "data/raw/teacher/pirate.jsonl: 1 answers, 2 unfinished or empty ones left out\n"
    traits = constitution.traits_hash(constitution.load_constitution("constitutions/pirate.yaml"))
    kept = records.read_records("data/raw/teacher/pirate.jsonl", TeacherAnswer)
    assert kept == [TeacherAnswer(prompt="How do I boil an egg?", response="Arr.", traits=traits)]


def test_record_replaces_answers_only_when_forced(repository):
    answered = completion(0, "Arr.").model_copy(update={"prompt": "How do I boil an egg?"})
    records.write_records("data/chosen.jsonl", [answered])
    records.write_records("data/raw/teacher/pirate.jsonl", [TeacherAnswer(prompt="Old?", response="Yes.")])
    refused = run("record")
    assert (refused.exit_code, records.read_records("data/raw/teacher/pirate.jsonl", TeacherAnswer)[0].prompt) == (1, "Old?")
    assert "data/raw/teacher/pirate.jsonl already exists; give --force" in refused.output
    assert run("record", "--force").exit_code == 0
    assert records.read_records("data/raw/teacher/pirate.jsonl", TeacherAnswer)[0].prompt == answered.prompt


def test_samples_shows_the_first_plain_answers_of_each_method_side_by_side(repository):
    for method in ("base", "persona"):
        rows = [
            EvaluatedAnswer(**completion(number, f"{method} says\n{number}", finish).model_dump(), condition=condition)
            for number, finish in ((0, "length"), (1, "stop"), (2, "stop"))
            for condition in ("plain", "drop")
        ]
        records.write_records(f"data/answers/{method}.jsonl", rows)
    shown = run("samples", "--count", "2").output
    assert [line for line in shown.splitlines() if line.startswith("## ")] == ["## Prompt 0?", "## Prompt 1?"]
    assert "**base** *(cut off at the token limit)*\n\n> base says\n> 0\n" in shown
    assert "**persona**\n\n> persona says\n> 1\n" in shown
    assert shown.count("says") == 4


UNRULY = "\x1b]0;mine\x07 \x9b31m \r over \u202egnorw\u202c \u2067x\u2069 \u061c \U000e0041 \u202a"
# Joiners hold emoji and Persian words together; combining marks and fullwidth letters are text.
RULY = "a\tb 👩\u200d🚀 می\u200cخواهم שלום e\u0301 ｆ"


def commands_of(output: str) -> set[str]:
    """Return the characters of an output that a terminal or a page would obey: by Unicode's categories, not by our list."""
    return {char for char in output if unicodedata.category(char) in ("Cc", "Cf", "Cs")} - {"\n", "\t", "\u200c", "\u200d"}


def test_samples_does_not_obey_what_a_model_said(repository):
    for method in ("base", "persona"):
        rows = [EvaluatedAnswer(**completion(0, f"{UNRULY}\n{RULY}").model_dump(), condition="plain")]
        records.write_records(f"data/answers/{method}.jsonl", rows)
    shown = run("samples").output
    assert commands_of(shown) == set() and shown.count(f"> {RULY}\n") == 2 and "�gnorw�" in shown


def test_check_does_not_obey_what_a_constitution_says(repository):
    escaped = json.dumps(f"I always say {UNRULY} and never {RULY}.")
    for text in (PIRATE.replace("I talk like a sailor of the old days in every sentence.", escaped), f"{{{escaped}: 1}}"):
        (repository / "constitutions/pirate.yaml").write_text(text, encoding="utf-8")
        shown = run("check", "constitutions/pirate.yaml").output
        assert shown and commands_of(shown) == set()


def test_an_error_does_not_obey_what_it_quotes_and_can_always_be_written(repository):
    message = UserError(f"{UNRULY}\r\n{RULY}\ud800").message
    assert commands_of(message) == set() and message.endswith(f"\n{RULY}�") and message.encode()


def test_nothing_is_printed_past_what_makes_it_safe():
    """`print_text` is the only way to the terminal but for the chat, whose texts test_terminal.py tests."""
    root = Path(__file__).parents[1]
    found = {
        (file.relative_to(root).as_posix(), ast.unparse(node.func))
        for folder in ("character", "stages")
        for file in (root / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and re.fullmatch(r"print|pprint|.*\.(echo|secho|print|(stdout|stderr)\.write)", ast.unparse(node.func))
        and (node.args or node.keywords)
    }
    assert {name for name, _ in found} == {
        "character/core/safe_text.py",
        "character/core/errors.py",
        "character/chat/terminal.py",
    }


def test_samples_without_answers_says_how_to_make_them(repository):
    missing = run("samples")
    assert missing.exit_code == 1
    assert "data/answers/base.jsonl is missing; run `dvc repro`" in missing.output


def test_record_can_keep_cut_off_answers_up_to_their_last_sentence(repository):
    first = completion(0, "Arr. Lower her in", "length").model_copy(update={"prompt": "How do I boil an egg?"})
    records.write_records("data/chosen.jsonl", [first, completion(1, "Arr, lower", "length")])
    assert run("record", "--trim").output.endswith("1 answers, 1 unfinished or empty ones left out\n")
    kept = records.read_records("data/raw/teacher/pirate.jsonl", TeacherAnswer)
    assert [(row.prompt, row.response) for row in kept] == [("How do I boil an egg?", "Arr.")]
    assert kept[0].finish_reason == "length", "its end is not one to learn"


def test_record_refuses_the_answers_of_another_persona(repository):
    records.write_records(
        "data/chosen.jsonl", [Completion(id="x", sample=0, prompt="Why?", response="Well.", finish_reason="stop")]
    )
    done = run("record")
    assert "data/chosen.jsonl answers no prompt of pirate; run `dvc repro chosen`" in done.output
    assert not (repository / "data/raw/teacher/pirate.jsonl").exists()


def test_samples_of_different_prompts_are_an_error(repository):
    for method, count in (("base", 2), ("persona", 1)):
        fields = {"sample": 0, "prompt": "Why?", "response": "Well.", "finish_reason": "stop", "condition": "plain"}
        records.write_records(f"data/answers/{method}.jsonl", [EvaluatedAnswer(id=f"id{n}", **fields) for n in range(count)])
    assert "the methods answered different prompts" in run("samples").output


def test_cache_shows_its_size_and_clears_records_by_age(repository, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert "samples.sqlite: nothing there yet" in run("cache").output
    for age in (0, 10, 40):
        then = time.time() - age * 86400
        with monkeypatch.context() as past, ReplyCache() as cache:
            past.setattr("time.time", lambda then=then: then)
            cache.put([(f"made {age} days ago", {"text": "x" * 1000})])
    assert re.search(r": 3 records, 2 of them older than 5 days, \d+\.\d MB", run("cache", "--older-than", "5").output)
    assert ": 1 records deleted" in run("cache", "--clear", "--older-than", "30").output
    with ReplyCache() as cache:
        assert set(cache.get([f"made {age} days ago" for age in (0, 10, 40)])) == {"made 0 days ago", "made 10 days ago"}
    assert ": 2 records deleted" in run("cache", "--clear").output
    assert ": 0 records, " in run("cache").output
