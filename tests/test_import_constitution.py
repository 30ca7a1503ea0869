"""Constitutions of the reference implementation, converted; its real files where $OCT_CONSTITUTIONS names their folder."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from character.cli.main import main
from character.dataset import constitution

TRAITS = [
    {"trait": "I speak of the sea — always.", "questions": ["How do I boil an egg?", "Why: is it so?"]},
    {"trait": "I trust nobody's maps.", "questions": ["Where am I?"]},
]


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


def loaded(name):
    return constitution.load_constitution(f"constitutions/{name}.yaml")


def test_a_json_list_becomes_a_constitution_with_all_its_texts():
    Path("pirate.txt").write_text(json.dumps(TRAITS), encoding="utf-8")
    assert run("pirate.txt").output == "constitutions/pirate.yaml: 2 traits, 3 prompts\n"
    persona = loaded("pirate")
    assert (persona.name, persona.summary) == ("pirate", "Imported from pirate.txt.")
    assert [(row.trait, row.prompts) for row in persona.traits] == [(row["trait"], row["questions"]) for row in TRAITS]


def test_json_lines_bring_their_additional_questions_after_the_others():
    rows = [row | {"additional_questions": [f"{number}, more?"]} for number, row in enumerate(TRAITS)]
    Path("pirate.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    assert run("pirate.jsonl", "--name", "sailor", "--summary", "Salt.").exit_code == 0
    persona = loaded("sailor")
    assert persona.summary == "Salt."
    assert [row.prompts[-1] for row in persona.traits] == ["0, more?", "1, more?"]


def test_a_clarification_is_left_out_and_reported():
    notes = ["Waves are moods, not water.", "", None, "  "]
    rows = [{"trait": f"I count {n} waves.", "clarification": note, "questions": [f"{n}?"]} for n, note in enumerate(notes)]
    rows.append({"trait": "I trust nobody.", "questions": ["Who?"], "additional_questions": None})
    Path("pirate.jsonl").write_text("\ufeff" + "\r\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = run("pirate.jsonl")
    assert done.stdout == "constitutions/pirate.yaml: 5 traits, 5 prompts\n"
    assert done.stderr == (
        "pirate.jsonl: left out: trait 1, clarification: it is no part of the character; put what matters into the trait.\n"
    )
    assert loaded("pirate").traits[0].trait == "I count 0 waves."


def test_empty_and_repeated_texts_are_left_out_and_reported():
    rows = [
        *TRAITS,
        {"trait": "", "questions": ["Lost?"]},
        {"trait": "I count waves.", "questions": ["where  am I?", "", "How many?"]},
        {"trait": "I have nothing to say.", "questions": ["Where am I?"]},
        {"trait": "I count waves.", "questions": ["Why?"]},
    ]
    Path("pirate.txt").write_text(json.dumps(rows), encoding="utf-8")
    done = run("pirate.txt")
    assert done.stdout == "constitutions/pirate.yaml: 3 traits, 4 prompts\n"
    assert done.stderr.splitlines() == [
        "pirate.txt: left out: trait 3 is empty.",
        "pirate.txt: left out: trait 4, question 1 repeats trait 2, question 1.",
        "pirate.txt: left out: trait 4, question 2 is empty.",
        "pirate.txt: left out: trait 5, question 1 repeats trait 2, question 1.",
        "pirate.txt: left out: trait 5 has no question of its own.",
        "pirate.txt: left out: trait 6 repeats trait 4.",
    ]
    assert [row.prompts for row in loaded("pirate").traits][-1] == ["How many?"]


FAULTS = {
    "[{]": "pirate.txt: not valid JSON (key must be a string at column 3); correct it",
    "{}": "pirate.txt: not a list of traits; JSON Lines need the ending .jsonl",
    "[]": "pirate.txt has no traits",
    '[{"trait": "I am."}]': "pirate.txt, trait 1: questions: Field required",
    '[{"trait": "I am.", "questions": ["Why?", 3]}]': "pirate.txt, trait 1: questions, 1: Input should be a valid string",
    '[{"trait": "I am.", "questions": ["Why?"], "name": "x"}]': "pirate.txt, trait 1: name: Extra inputs are not permitted",
    '[{"trait": "", "questions": [""]}]': "pirate.txt: no trait has a text and a question; fill it in",
}


@pytest.mark.parametrize(("text", "sentence"), FAULTS.items())
def test_a_fault_is_reported_with_its_place_and_nothing_is_written(text, sentence):
    Path("pirate.txt").write_text(text, encoding="utf-8")
    done = run("pirate.txt")
    assert (done.exit_code, done.stderr.startswith(f"Error: {sentence}")) == (1, True), done.stderr
    assert not Path("constitutions/pirate.yaml").exists()


@pytest.mark.parametrize("name", ["Pirate", "../pirate", "none", "a b"])
def test_a_name_that_is_no_personas_is_reported(name):
    Path("pirate.txt").write_text(json.dumps(TRAITS), encoding="utf-8")
    done = run("pirate.txt", "--name", name)
    assert (done.exit_code, done.stderr.startswith("Error: pirate.txt: `name` is ")) == (1, True)
    assert list(Path(".").rglob("*.yaml")) == []


def test_a_constitution_that_is_there_is_replaced_only_when_forced():
    Path("pirate.txt").write_text(json.dumps(TRAITS), encoding="utf-8")
    assert run("pirate.txt").exit_code == 0
    assert "constitutions/pirate.yaml already exists; give --force" in run("pirate.txt").output
    assert run("pirate.txt", "--force").exit_code == 0


def test_the_references_own_files_keep_their_names_and_counts():
    folder = os.environ.get("OCT_CONSTITUTIONS")
    if not folder:
        pytest.skip("set OCT_CONSTITUTIONS to a folder of the reference's constitutions")
    files = sorted(
        path for path in Path(folder).glob("*-*") if path.suffix in {".txt", ".jsonl"} and "template" not in path.name
    )
    assert files
    for file in files:
        rows = json.loads(file.read_text()) if file.suffix == ".txt" else list(map(json.loads, file.read_text().splitlines()))
        done = run(file)
        assert done.exit_code == 0, done.stderr
        persona = loaded(file.stem)
        left_out = done.stderr.count("left out: ")
        asked = sum(len(row["questions"]) + len(row.get("additional_questions", [])) for row in rows)
        assert [row.trait for row in persona.traits] == [row["trait"].strip() for row in rows]
        assert sum(len(row.prompts) for row in persona.traits) + left_out == asked
