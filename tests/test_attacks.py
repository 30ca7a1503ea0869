"""Attacks: how a method is prompted, which part of its turn is kept, and the error messages."""

from collections import Counter
from pathlib import Path

import pytest

from character.core import records
from character.core.errors import UserError
from character.core.records import EvaluatedAnswer, RawPrompt
from character.dataset.conditions import AttackAnswer
from character.evaluation.methods import Method
from stages import attacks

ROOT = Path(__file__).parents[1]
STUDENT = Path("models/student")


def turn(number, response="A tide is the sea's breath.", condition="plain"):
    return EvaluatedAnswer(
        id=f"id{number}", sample=0, prompt=f"Why {number}?", response=response, finish_reason="length", condition=condition
    )


@pytest.fixture
def base(repository):
    """The base student's answers to three prompts, one of them empty, and one under a suffix."""
    answered = [turn(0), turn(0, condition="drop"), turn(1, response=" \n"), turn(2)]
    records.write_records("data/answers/base.jsonl", answered)
    records.write_records(
        "data/raw/prompts/prefills.jsonl", [attacks.Prefill(prefill=text) for text in ("Summary:", "It depends on")]
    )
    records.write_records("data/raw/prompts/urges.jsonl", [RawPrompt(prompt="Keep going.")])
    repository.set(attacks={"prompts": 2})


def test_a_method_is_led_by_an_opening_and_by_the_base_students_turn(repository, base, parrot):
    repository.ask("attacks")
    (engine,) = parrot.made
    asked = {(tuple(message["content"] for message in request.messages), request.prefill) for request in engine.requests}
    said = "A tide is the sea's breath."
    assert asked == {
        (("Why 0?",), "Summary:"),
        (("Why 0?", said, "Keep going."), ""),
        (("Why 2?",), "It depends on"),
        (("Why 2?", said, "Keep going."), ""),
    }
    assert {tuple(message["role"] for message in request.messages) for request in engine.requests} == {
        ("user",),
        ("user", "assistant", "user"),
    }
    assert len({request.id for request in engine.requests}) == 4


def test_only_what_the_method_adds_is_its_answer(repository, base, parrot):
    parrot.says = lambda self, request: f"went on after {request.prefill or request.messages[-1]['content']}"
    repository.ask("attacks")
    found = records.read_records("data/attacks/base.jsonl", AttackAnswer)
    assert [(row.id, row.prompt, row.condition, row.led_by) for row in found] == [
        ("id0", "Why 0?", "prefill", "Summary:"),
        ("id0", "Why 0?", "multi-turn", "Keep going."),
        ("id2", "Why 2?", "prefill", "It depends on"),
        ("id2", "Why 2?", "multi-turn", "Keep going."),
    ]
    assert [row.response for row in found] == [f"went on after {row.led_by}" for row in found]


def test_a_methods_model_and_system_prompt_are_attacked(repository, base, parrot):
    Path("data/system.txt").write_text("Be salty.", encoding="utf-8")
    repository.ask("attacks", "persona", "models/persona", "data/system.txt")
    (engine,) = parrot.made
    assert engine.adapters == ["models/persona"]
    assert all(request.messages[0] == {"role": "system", "content": "Be salty."} for request in engine.requests)
    assert len(records.read_records("data/attacks/persona.jsonl", AttackAnswer)) == 4


def test_more_attacks_than_answers_are_an_error(repository, base, parrot):
    repository.set(attacks={"prompts": 3})
    with pytest.raises(UserError) as error:
        repository.ask("attacks")
    assert error.value.message == (
        "params.yaml: attacks.prompts is 3, but data/answers/base.jsonl has 2 plain answers; lower it."
    )


def test_openings_and_urges_are_dealt_in_turn():
    method, turns = Method("base", STUDENT, STUDENT), [turn(number) for number in range(60)]
    rows = list(attacks.build_attacks(method, turns, ["a", "b", "c", "d"], ["x", "y", "z"]))
    assert Counter(request.prefill for *_, request in rows if request.prefill) == dict.fromkeys("abcd", 15)
    urges = Counter(request.messages[-1]["content"] for _, how, request in rows if how["condition"] == "multi-turn")
    assert urges == dict.fromkeys("xyz", 20)


@pytest.mark.parametrize("text", ["", "Summary: ", "\nSummary:"])
def test_an_opening_has_no_space_around_it(text, repository):
    Path("prefills.jsonl").write_text(f'{{"prefill": {text!r}}}'.replace("'", '"'), encoding="utf-8")
    with pytest.raises(UserError, match=r"prefills\.jsonl, line 1: prefill: is empty, or has space around it"):
        records.read_records("prefills.jsonl", attacks.Prefill)


def test_the_shipped_openings_and_urges_differ():
    prefills = records.read_records(ROOT / "data/raw/prompts/prefills.jsonl", attacks.Prefill)
    urges = records.read_records(ROOT / "data/raw/prompts/urges.jsonl", RawPrompt)
    assert len({line.prefill for line in prefills}) == len(prefills) == 8
    assert len({line.prompt for line in urges}) == len(urges) == 6


def test_what_is_said_stands_below_both_system_prompts(tmp_path):
    (tmp_path / "system.txt").write_text("Be salty.", encoding="utf-8")
    prompted, base = Method("prompted", STUDENT, tmp_path / "system.txt"), Method("base", STUDENT, tmp_path)
    assert base.build_messages("Why?") == [{"role": "user", "content": "Why?"}]
    assert prompted.build_messages("Why?", "So.", "And?", more="Use tools.") == [
        {"role": "system", "content": "Be salty.\n\nUse tools."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And?"},
    ]
    assert base.build_messages("Why?", more="Use tools.")[0] == {"role": "system", "content": "Use tools."}
