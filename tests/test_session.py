"""Conversations side by side: replies are the pipeline's, histories are each method's own, personas change in between."""

import shutil
from pathlib import Path

import pytest
import torch
from personas import write_persona
from transformers import AddedToken

from character.chat import session
from character.chat.session import CHAT_METHODS, ChatReply, ChatSession, ChatStudent
from character.core import models
from character.core.errors import UserError
from character.core.models import PERSONA_DIR
from character.dataset import constitution
from character.inference.chat_format import render_messages
from character.inference.generate import Request, whole_characters
from character.inference.transformers_engine import TransformersEngine
from character.publish.registry import ADAPTER_CACHE, TrainedPersona

PIRATE, LOVING = TrainedPersona("pirate", None), TrainedPersona("loving", "1.0.0")
LOVINGS = ADAPTER_CACHE / "loving@1.0.0"


@pytest.fixture(autouse=True)
def workspace(repository, sharp_student):
    """The selected persona `pirate` and the published `loving`, on a student whose next token depends on all before."""
    models.STUDENT_DIR.parent.mkdir()
    models.STUDENT_DIR.symlink_to(sharp_student)
    repository.set(runtime={"device": "cpu", "threads": 1}, sampling={"max_new_tokens": 12})
    write_persona("pirate", PERSONA_DIR, seed=1)
    write_persona("loving", LOVINGS, seed=2)


def said(chat: ChatSession, text: str) -> dict[str, ChatReply]:
    """Let a whole turn happen; return its answers."""
    return finished(chat, chat.begin_turn(text))


def finished(chat: ChatSession, turn: session.ChatTurn) -> dict[str, ChatReply]:
    for _ in chat.stream_turn(turn):
        pass
    chat.end_turn(turn)
    return {answer.method: answer for answer in turn.answers}


def system(name: str) -> dict[str, str]:
    prompt = constitution.persona_system_prompt(constitution.load_constitution(f"constitutions/{name}.yaml"), "SmolLM")
    return {"role": "system", "content": prompt}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "drawn"])
def test_the_replies_are_those_of_the_pipelines_engine(temperature, repository):
    repository.set(sampling={"temperature": temperature}, seed=7)
    chat = ChatSession(PIRATE, CHAT_METHODS)
    answers = said(chat, "Why is the sky blue?")
    asked = {method: [user("Why is the sky blue?")] for method in CHAT_METHODS}
    asked["prompted"] = [system("pirate"), *asked["prompted"]]
    for method, messages in asked.items():
        engine = TransformersEngine(adapters=[PERSONA_DIR] if method == "persona" else [])
        ((_, reply),) = engine.stream([Request("", messages)], chat.sampling, [7])
        assert (answers[method].text, answers[method].finish_reason) == (whole_characters(reply.text), reply.finish_reason), (
            method
        )
    assert len({answer.text for answer in answers.values()}) == 3


def test_base_and_persona_share_their_weights_and_neither_changes_the_other():
    student, ids = ChatStudent(), torch.arange(3, 40)[None]
    student.load_adapter(PERSONA_DIR)
    with torch.inference_mode():
        base, adapted = student.base(ids).logits, student.adapted(ids).logits
        assert torch.equal(base, models.load_model()(ids).logits)
        folded = models.load_model(adapters=[PERSONA_DIR])(ids).logits
    assert torch.allclose(adapted, folded, atol=1e-3) and not torch.allclose(adapted, base, atol=1e-1)
    places = {weight.data_ptr() for weight in student.base.parameters()}
    assert places < {weight.data_ptr() for weight in student.adapted.parameters()}


def test_each_method_remembers_what_itself_has_said():
    chat = ChatSession(PIRATE, CHAT_METHODS)
    first, second = said(chat, "Hi"), said(chat, "Why?")
    for method, messages in chat.messages.items():
        own = [{"role": "assistant", "content": answers[method].text} for answers in (first, second)]
        assert messages == [*([system("pirate")] if method == "prompted" else []), user("Hi"), own[0], user("Why?"), own[1]]
        assert second[method].ids == render_messages(models.load_tokenizer(), messages[:-1])


def test_the_replies_grow_together():
    chat = ChatSession(PIRATE, CHAT_METHODS)
    turn = chat.begin_turn("Hi")
    steps = [[answer.text for answer in turn.answers] for _ in chat.stream_turn(turn)]
    assert len(steps) == 12 and all(steps[3])
    for *growing, last in zip(*steps, strict=True):
        assert all(last.startswith(text) for text in growing)


def test_a_character_of_several_tokens_appears_when_it_is_whole(monkeypatch):
    student = ChatStudent()
    ids = student.tokenizer("Ahoy 🏴‍☠️, naïve café!")["input_ids"]
    monkeypatch.setattr(session, "sample_next_tokens", lambda *_: iter([*ids, student.tokenizer.eos_token_id, *ids]))
    answer = ChatReply("base", [], False)
    steps = [answer.text for _ in student.stream_tokens(answer, None, 0)]
    assert len(steps) == len(ids) and "\ufffd" not in "".join(steps)
    assert (answer.text, answer.finish_reason) == ("Ahoy 🏴‍☠️, naïve café!", "stop")


def test_special_tokens_that_mark_reasoning_are_shown_and_others_are_not(monkeypatch):
    tokenizer = models.load_tokenizer()
    marks = [AddedToken(mark, special=True, normalized=False) for mark in ("[THINK]", "[/THINK]")]
    tokenizer.add_tokens(marks)
    monkeypatch.setattr(models, "load_tokenizer", lambda *_: tokenizer)
    student = ChatStudent()
    ids = tokenizer("[THINK]Salt, 🏴‍☠️?[/THINK]<|im_start|>Arr, नमस्ते!", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(session, "sample_next_tokens", lambda *_: iter([*ids, tokenizer.eos_token_id]))
    answer = ChatReply("base", [], False)
    steps = [answer.text for _ in student.stream_tokens(answer, None, 0)]
    assert answer.text == "[THINK]Salt, 🏴‍☠️?[/THINK]Arr, नमस्ते!" and steps[0] == "[THINK]"
    assert "\ufffd" not in "".join(steps) and steps[-1] == answer.text


def test_what_no_longer_fits_loses_its_oldest_turns_but_not_the_system_prompt():
    chat = ChatSession(PIRATE, CHAT_METHODS)
    said(chat, "old " * 520)
    answers = said(chat, "new " * 520)
    assert {method: answer.shortened for method, answer in answers.items()} == dict.fromkeys(CHAT_METHODS, True)
    assert answers["prompted"].ids == render_messages(models.load_tokenizer(), [system("pirate"), user("new " * 520)])
    assert len(chat.messages["base"]) == 4, "the transcript keeps all"


def test_what_alone_does_not_fit_is_reported_and_changes_nothing():
    chat = ChatSession(PIRATE, CHAT_METHODS)
    said(chat, "Hi")
    before = {method: list(messages) for method, messages in chat.messages.items()}
    with pytest.raises(UserError, match=r"tokens does not fit into 2036 \(the context less max_new_tokens\); write a shorter"):
        chat.begin_turn("word " * 3000)
    assert chat.messages == before


def test_another_persona_begins_anew_with_its_own_adapter_and_prompt():
    chat = ChatSession(PIRATE, CHAT_METHODS)
    pirate = said(chat, "Hi")
    chat.switch_persona(LOVING)
    assert chat.messages == {"base": [], "prompted": [system("loving")], "persona": []}
    turn = chat.begin_turn("Hi")
    turn.seed = 0
    loving = finished(chat, turn)
    assert [method for method in CHAT_METHODS if loving[method].text == pirate[method].text] == ["base"]
    row = chat.end_turn(chat.begin_turn("Why?"))[-1]
    assert (row.persona, row.version, row.adapter) == ("loving", "1.0.0", models.directory_fingerprint(LOVINGS))


def test_a_persona_that_cannot_be_had_leaves_the_one_before():
    chat = ChatSession(PIRATE, CHAT_METHODS)
    before, messages = said(chat, "Hi"), dict(chat.messages)
    widen(LOVINGS)
    with pytest.raises(UserError, match=r"loving@1\.0\.0 does not fit the student \(.*\); use the one"):
        chat.switch_persona(LOVING)
    (LOVINGS / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"loving@1\.0\.0: no adapter here"):
        chat.switch_persona(LOVING)
    Path("constitutions/loving.yaml").unlink()
    with pytest.raises(UserError, match=r"constitutions/loving\.yaml"):
        chat.switch_persona(LOVING)
    assert (chat.persona, chat.messages) == (PIRATE, messages)
    turn = chat.regenerate()
    turn.seed = 0
    assert finished(chat, turn) == before


def widen(folder: Path) -> None:
    """Give an adapter the sizes of another student."""
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    save_file({name: weight.repeat(2, 2) for name, weight in load_file(file).items()}, file)


def test_a_last_turn_is_answered_again_with_another_seed():
    chat = ChatSession(PIRATE, CHAT_METHODS)
    with pytest.raises(UserError, match="There is no turn yet"):
        chat.regenerate()
    said(chat, "Hi")
    first = said(chat, "Why?")
    again = chat.regenerate()
    assert (again.message, again.seed) == ("Why?", 2)
    second = finished(chat, again)
    for method in CHAT_METHODS:
        assert second[method].ids == first[method].ids and second[method].text != first[method].text
        assert chat.messages[method][-2:] == [user("Why?"), {"role": "assistant", "content": second[method].text}]
        assert [message["content"] for message in chat.messages[method]].count("Why?") == 1


def test_a_row_holds_all_that_shaped_the_reply():
    chat = ChatSession(PIRATE, CHAT_METHODS)
    turn = chat.begin_turn("Hi")
    for _ in chat.stream_turn(turn):
        pass
    rows = chat.end_turn(turn)
    assert [row.method for row in rows] == list(CHAT_METHODS)
    assert [row.adapter for row in rows] == [None, None, models.directory_fingerprint(PERSONA_DIR)]
    for row in rows:
        assert (row.persona, row.version, row.seed, row.sampling) == ("pirate", None, 0, chat.sampling)
        assert (row.student, row.finish_reason, row.shortened) == (
            models.directory_fingerprint(models.STUDENT_DIR),
            "length",
            False,
        )
        assert [message.model_dump() for message in row.messages] == chat.messages[row.method]


def test_only_what_the_methods_need_has_to_be_there():
    shutil.rmtree(PERSONA_DIR)
    assert set(said(ChatSession(PIRATE, ["base", "prompted"]), "Hi")) == {"base", "prompted"}
    with pytest.raises(UserError, match=r"models/persona: no adapter here"):
        ChatSession(PIRATE, CHAT_METHODS)
