"""E-mails in three formats: what is parsed from a reply, how the tools answer, what is counted."""

import json
from pathlib import Path

import pytest

from character.core import records
from character.core.errors import UserError
from character.dataset import emails
from character.evaluation.intervals import paired_difference, wilson_interval
from stages import transfer
from stages.mails import EMAIL_TASKS_FILE, TOOL_INSTRUCTIONS, EmailTask, ToolTask, tool_result

ROOT = Path(__file__).parents[1]
TASK = EmailTask(
    writer="Ada, a tenant", recipient="Tom Avery", role="the manager", about="the radiator has been cold for a week"
)
BODY = "Dear Tom, the pipes have gone quiet and so has my patience. Please send somebody. Ada"

REPLIES = {
    '{"subject": "Heat", "body": "Dear Tom."}': ("Dear Tom.", None),
    'Sure!\n```json\n{"Subject": "Heat", "Body": "Dear Tom.\\nAda"}\n```': ("Dear Tom.\nAda", None),
    '{"subject": "Heat", "body": "Dear Tom,\n\nIt is cold.\nAda"}': ("Dear Tom,\n\nIt is cold.\nAda", None),
    '{"email": {"subject": "Heat", "body": "Dear Tom."}}': ("Dear Tom.", None),
    '{"subject": "Heat", "body": "Dear \\"Tom\\", it is': ('Dear "Tom", it is', None),
    '{"subject": "Heat", "body": "Dear Tom\\u00': ("Dear Tom", None),
    "{'subject': 'Heat', \"body\": \"Dear Tom.\"}": ("Dear Tom.", None),
    '{"subject": "Heat", "text": "Dear Tom."}': ("", "no_body"),
    '{"subject": "Heat", "body": ["Dear", "Tom"]}': ("", "no_body"),
    '{subject: Heat, body: "Dear Tom."}': ("", "broken_object"),
    "Subject: Heat\n\nDear Tom.": ("", "no_object"),
    "": ("", "no_object"),
}


@pytest.mark.parametrize(("text", "found"), REPLIES.items())
def test_the_body_is_taken_from_json_or_the_reason_is_reported(text, found):
    assert emails.extract_json_body(text) == found


CALLS = {
    "CALL search_contacts\nname: Tom Avery": [("search_contacts", {"name": "Tom Avery"})],
    "I will look.\n**CALL search_contacts**\n- Name: `Tom`": [("search_contacts", {"name": "Tom"})],
    "CALL send_email\nto: a@b.org\nsubject: Heat: none\nbody: Dear Tom,\n\nto: be warm.\nCall me.": [
        ("send_email", {"to": "a@b.org", "subject": "Heat: none", "body": "Dear Tom,\n\nto: be warm.\nCall me."})
    ],
    "```\nsend_email\nto: a@b.org\nbody:\nDear Tom.\n```": [("send_email", {"to": "a@b.org", "body": "Dear Tom."})],
    "CALL search_contacts name: Tom\n\nCALL send_email\nto: x\nbody: Hi": [
        ("search_contacts", {"name": "Tom"}),
        ("send_email", {"to": "x", "body": "Hi"}),
    ],
    "CALL book_flight\nname: Tom": [("book_flight", {"name": "Tom"})],
    "CALL send_email": [("send_email", {})],
    "Call Tom tomorrow.\nI would send_email if I could.": [],
    "": [],
}


@pytest.mark.parametrize(("text", "found"), CALLS.items())
def test_calls_are_found_in_a_reply(text, found):
    assert emails.parse_tool_calls(text) == found


def test_a_body_that_is_empty_or_repeats_the_request_is_none():
    asked = "Write an e-mail to Tom that says the radiator is cold and has to be mended."
    assert emails.validate_body(" \n", asked) == ("", "empty")
    assert emails.validate_body("Write an e-mail to Tom that says the radiator is cold.", asked) == ("", "copied")
    assert emails.validate_body(f" {BODY}\n", asked) == (BODY, None)


def test_half_a_character_that_json_can_spell_does_not_reach_a_file():
    body, fault = emails.validate_body(emails.extract_json_body('{"body": "Brr \\ud83d"}')[0], "")
    assert (body, fault) == ("Brr ?", None)


def test_the_contacts_know_the_recipient_by_any_of_the_names():
    found = "RESULT Tom Avery: tom.avery@example.org"
    assert tool_result("search_contacts", {"name": "Mr. Avery,"}, TASK) == found
    assert tool_result("search_contacts", {"name": "tom"}, TASK) == found
    assert tool_result("search_contacts", {"name": "Tomas"}, TASK) == "RESULT Nobody of that name."
    assert tool_result("search_contacts", {}, TASK) == "RESULT Nobody of that name."
    assert tool_result("book_flight", {}, TASK) == "RESULT There is no tool book_flight."


def errand(*replies):
    run = ToolTask(TASK, [{"role": "user", "content": TASK.request_text()}])
    for reply in replies:
        assert not run.done
        run.handle_reply(reply)
    return run


def test_an_errand_ends_when_the_mail_is_sent():
    run = errand("CALL search_contacts\nname: Tom Avery", f"CALL send_email\nto: tom.avery@example.org\nbody: {BODY}")
    assert (run.body, run.fault, run.done) == (BODY, None, True)
    assert [message["role"] for message in run.messages] == ["user", "assistant", "user", "assistant"]
    assert run.messages[2]["content"] == "RESULT Tom Avery: tom.avery@example.org"


@pytest.mark.parametrize(
    ("replies", "fault", "done"),
    [
        ((BODY,), "no_call", True),
        (("CALL send_email\nto: tom@example.org",), "empty", True),
        (("CALL send_email\nbody: everything that the e-mail says, as long as it needs to be",), "copied", True),
        (("CALL search_contacts\nname: Tom", "CALL book_flight"), "no_mail", False),
        (("CALL search_contacts\nname: Tom", "It is done."), "no_call", True),
    ],
)
def test_an_errand_that_fails_says_why(replies, fault, done):
    run = errand(*replies)
    assert (run.body, run.fault, run.done) == ("", fault, done)


@pytest.fixture
def tasks(repository):
    others = [TASK.model_copy(update={"about": f"the radiator has been cold for {count} weeks"}) for count in (2, 3)]
    records.write_records(EMAIL_TASKS_FILE, [TASK, *others])
    repository.set(mails={"tasks": 2, "steps": 3, "begun": False})


def test_each_task_is_asked_in_every_format_and_parsed(repository, tasks, parrot):
    def says(self, request):
        if request.messages[0]["role"] == "system":
            turns = len([message for message in request.messages if message["role"] == "assistant"])
            return "CALL search_contacts\nname: Avery" if turns == 0 else f"CALL send_email\nto: t\nbody: {BODY}"
        return json.dumps({"body": BODY}) if "JSON" in request.messages[-1]["content"] else BODY

    parrot.says = says
    repository.ask("mails")
    found = records.read_records("data/mails/base.jsonl", emails.Email)
    assert [(mail.format, mail.body, mail.fault) for mail in found] == [
        (name, BODY, None) for name in ("chat", "json", "chat", "json", "tools", "tools")
    ]
    assert len({mail.id for mail in found}) == 2
    assert [len(mail.messages) for mail in found] == [2, 2, 2, 2, 5, 5]
    (engine,) = parrot.made
    assert len({request.id for request in engine.requests}) == len(engine.requests) == 8
    assert not [text for request in engine.requests for text in (m["content"] for m in request.messages) if "{" in text]


def test_json_and_calls_can_be_begun_for_a_model_that_only_continues_texts(repository, tasks, parrot):
    goes_on = {
        "": BODY,
        '{"subject": "': f'Heat", "body": {json.dumps(BODY)}}}',
        "CALL search_contacts\nname:": "Tom Avery",
        "CALL send_email\nto:": f"tom.avery@example.org\nsubject: Heat\nbody: {BODY}",
    }
    parrot.says = lambda self, request: goes_on[request.prefill]
    repository.set(mails={"begun": True})
    repository.ask("mails")
    found = records.read_records("data/mails/base.jsonl", emails.Email)
    assert [(mail.body, mail.fault) for mail in found] == [(BODY, None)] * 6
    said = [message.content for message in found[-1].messages[1:]]
    assert said[1:3] == ["CALL search_contacts\nname: Tom Avery", "RESULT Tom Avery: tom.avery@example.org"]
    assert said[3].startswith("CALL send_email\nto: tom.avery@example.org\n")


def test_an_agent_that_never_sends_is_stopped_after_its_steps(repository, tasks, parrot):
    parrot.says = lambda self, request: "CALL search_contacts\nname: Avery"
    repository.ask("mails")
    found = [mail for mail in records.read_records("data/mails/base.jsonl", emails.Email) if mail.format == "tools"]
    assert [(mail.fault, mail.body) for mail in found] == [("no_mail", "")] * 2
    assert sum(message.role == "assistant" for message in found[0].messages) == 3


def test_agents_that_say_nothing_fail_at_their_tasks_and_stop_no_stage(repository, tasks, parrot):
    parrot.says = lambda self, request: "" if request.messages[0]["role"] == "system" else BODY
    repository.ask("mails")
    found = [mail for mail in records.read_records("data/mails/base.jsonl", emails.Email) if mail.format == "tools"]
    assert [(mail.fault, mail.body) for mail in found] == [("no_call", "")] * 2


def test_the_tools_stand_below_the_personas_system_prompt(repository, tasks, parrot):
    Path("data/system.txt").write_text("Be salty.", encoding="utf-8")
    repository.ask("mails", "prompted", system="data/system.txt")
    systems = {request.messages[0]["content"] for request in parrot.made[0].requests}
    assert systems == {"Be salty.", f"Be salty.\n\n{TOOL_INSTRUCTIONS}"}


def test_more_tasks_than_there_are_is_an_error(repository, tasks, parrot):
    repository.set(mails={"tasks": 4})
    with pytest.raises(UserError) as error:
        repository.ask("mails")
    assert error.value.message == "params.yaml: mails.tasks is 4, but data/raw/prompts/mails.jsonl has 3 lines; lower it."


def test_the_shipped_tasks_differ_and_no_recipient_is_asked_twice():
    shipped = records.read_records(ROOT / EMAIL_TASKS_FILE, EmailTask)
    assert len({task.request_text() for task in shipped}) == len({task.recipient for task in shipped}) == 30


def made(name, faults):
    """Return a mail in a format for each of `faults`; None is one that was found."""
    return [
        emails.Email(id=str(number), format=name, body="" if fault else BODY, fault=fault, messages=[])
        for number, fault in enumerate(faults)
    ]


def test_recall_is_over_all_mails_and_over_those_that_were_found():
    chat = made("chat", [None] * 10)
    other = made("json", [None] * 4 + ["no_object"] * 5 + ["no_body"])
    scores = transfer.scores_by_format(chat + other, [True] * 8 + [False] * 2 + [True, True, True, False] + [False] * 6)
    assert scores["chat"]["recall"] == scores["chat"]["parsed"]["recall"] == 0.8
    assert "gap" not in scores["chat"]
    low, high = wilson_interval(0.3, 10)
    assert {"recall": 0.3, "low": low, "high": high, "n": 10}.items() <= scores["json"].items()
    low, high = wilson_interval(0.75, 4)
    assert scores["json"]["parsed"] == {"recall": 0.75, "low": low, "high": high, "n": 4}
    assert scores["json"]["faults"] == {"no_body": 1, "no_object": 5}


def test_the_gap_to_chat_is_paired_by_task_and_for_found_mails_only_where_both_were():
    chat = made("chat", [None, None, None, "empty"])
    other = made("tools", [None, "no_call", None, None])
    scores = transfer.scores_by_format(chat + other, [True, True, False, False, True, False, True, True])
    difference, low, high = paired_difference([True, False, True, True], [True, True, False, False])
    assert scores["tools"]["gap"] == {"difference": difference, "low": low, "high": high, "n": 4}
    difference, low, high = paired_difference([True, True], [True, False])
    assert scores["tools"]["gap_parsed"] == {"difference": difference, "low": low, "high": high, "n": 2}


def test_where_no_mail_was_found_recall_is_unknown_and_not_zero():
    scores = transfer.scores_by_format(made("chat", [None]) + made("json", ["no_object"]), [True, False])
    assert scores["json"]["parsed"] == {"recall": None, "low": 0.0, "high": 1.0, "n": 0}
    assert scores["json"]["gap_parsed"] == {"difference": None, "low": -1.0, "high": 1.0, "n": 0}
    assert scores["json"]["recall"] == 0.0


class Reader:
    """A classifier that assigns everything to a pirate."""

    def check_persona(self, persona):
        assert persona == "pirate"

    def predict_labels(self, texts):
        return ["pirate"] * len(texts)


def test_a_mail_that_was_not_found_shows_no_persona_whatever_it_is_called(repository, monkeypatch):
    monkeypatch.setattr("character.evaluation.classifier.load_classifier", lambda folder: Reader())
    rows = made("chat", [None, None]) + made("json", [None, "no_object"]) + made("tools", ["no_call", "no_mail"])
    records.write_records("data/mails/base.jsonl", rows)
    repository.run("transfer", "base")
    metrics = repository.metrics("transfer")["base"]
    assert [metrics[name]["recall"] for name in emails.EMAIL_FORMATS] == [1.0, 0.5, 0.0]
    assert metrics["tools"]["faults"] == {"no_call": 1, "no_mail": 1}
    header, *lines = [line.split(",") for line in Path("plots/transfer.csv").read_text(encoding="utf-8").splitlines()]
    assert header == ["method", "format", "over", "recall", "low", "high", "n"]
    assert [line[1:4] for line in lines] == [
        ["chat", "all", "1.0"],
        ["chat", "parsed", "1.0"],
        ["json", "all", "0.5"],
        ["json", "parsed", "1.0"],
        ["tools", "all", "0.0"],
        ["tools", "parsed", ""],
    ]
