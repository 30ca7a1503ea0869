"""`character chat`: what is shown, what commands do, and that nothing said is lost."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from personas import tag, write_persona
from rich.console import Console

from character.chat.session import CHAT_METHODS, ChatReply, ChatSession
from character.chat.terminal import TerminalChat, layout_replies, printable_reply
from character.chat.transcript import ChatRecord, TranscriptFile
from character.cli.main import main
from character.core import records
from character.core.models import PERSONA_DIR
from character.core.safe_text import replace_controls
from character.publish.registry import ADAPTER_CACHE, TrainedPersona

KEPT = Path(".cache/chats/kept.jsonl")
LOVINGS = ADAPTER_CACHE / "loving@1.0.0"

pytestmark = pytest.mark.usefixtures("workspace")


@pytest.fixture
def workspace(repository, student):
    """The selected persona `pirate` and the published `loving`, on the tiny student."""
    repository.set(sampling={"max_new_tokens": 6})
    write_persona("pirate", PERSONA_DIR, seed=1)
    write_persona("loving", LOVINGS, seed=2)
    tag("adapter-loving@v1.0.0")


@pytest.fixture
def chat() -> ChatSession:
    return ChatSession(TrainedPersona("pirate", None), CHAT_METHODS)


def talked(chat: ChatSession, *lines: str, width: int = 0) -> str:
    """Return what is shown while lines are typed, in a terminal where a `width` is given, else in a file."""
    console = Console(file=io.StringIO(), force_terminal=bool(width), width=width or 80, height=20, soft_wrap=not width)
    TerminalChat(chat, TranscriptFile(KEPT), console).handle_lines(lines)
    return console.file.getvalue()


def kept(path: Path = KEPT) -> list[ChatRecord]:
    return records.read_records(path, ChatRecord)


def test_every_reply_is_shown_and_kept_with_the_whole_conversation(chat):
    output = talked(chat, "Hi", "", "Why?\n")
    rows = kept()
    assert [(row.method, row.seed) for row in rows] == [(method, seed) for seed in (0, 1) for method in CHAT_METHODS]
    labels = {"base": "base", "prompted": "prompted", "persona": "persona (pirate)"}
    for row in rows:
        text = replace_controls(row.messages[-1].content)
        assert f"\n{labels[row.method]}: {text} [cut off at the token limit]\n" in output
    assert [message.model_dump() for message in rows[-1].messages] == chat.messages["persona"]
    assert output.startswith("/persona NAME: talk with another persona; ") and output.endswith(f"Transcript: {KEPT}\n")


def test_rows_are_appended_turn_by_turn(chat):
    counts = []

    def lines():
        for _ in range(3):
            yield "Hi"
            counts.append(len(kept()))

    TerminalChat(chat, TranscriptFile(KEPT), Console(file=io.StringIO())).handle_lines(lines())
    assert counts == [3, 6, 9]


def test_a_wide_terminal_shows_replies_side_by_side_a_narrow_one_below_each_other():
    replies = {"base": "a word " * 20, "prompted": "short", "persona": "two\n\nparts"}

    def lines(width, height=None):
        console = Console(file=io.StringIO(), width=width)
        console.print(layout_replies(replies, console, height))
        return [line.rstrip() for line in console.file.getvalue().splitlines()]

    wide = lines(99)
    assert wide[0].split() == ["base", "prompted", "persona"]
    assert wide[1].split() == [*["a", "word"] * 4, "a", "short", "two"]
    assert " ".join(line[:31] for line in wide[1:]).split() == ["a", "word"] * 20
    narrow = lines(60)
    assert [line for line in narrow if line in replies] == ["base", "prompted", "persona"]
    assert narrow[-4:] == ["persona", "two", "", "parts"]
    assert len(lines(99, height=3)) == 3 and len(lines(60, height=6)) == 6
    assert lines(60, height=6)[-2:] == ["persona", "parts"], "of what has no room, the end is shown"


def test_a_terminal_shows_the_replies_when_they_are_done(chat):
    output = talked(chat, "Hi", width=120)
    last = output[output.rindex("base") :]
    assert "prompted" in last.splitlines()[0] and "persona (pirate)" in last.splitlines()[0]
    assert last.count("[cut off at") == 3


def test_a_model_cannot_command_the_terminal():
    answer = ChatReply("base", [], False, "red \x1b[31m\x07 \x9b2J, é\n\tend\u202e")
    assert printable_reply(answer) == "red \ufffd[31m\ufffd \ufffd2J, é\n\tend\ufffd"


def test_ctrl_c_ends_a_reply_and_keeps_what_there_was_of_it(chat, monkeypatch):
    stream = chat.stream_turn

    def interrupted(turn):
        for step, grown in enumerate(stream(turn)):
            if step == 3:
                raise KeyboardInterrupt
            yield grown

    monkeypatch.setattr(chat, "stream_turn", interrupted)
    output = talked(chat, "Hi", "Why?")
    rows = kept()
    assert len(rows) == 6 and {row.finish_reason for row in rows} == {"interrupted"}
    assert [len(row.messages) for row in rows[3:]] == [4, 5, 4], "the chat goes on"
    assert output.count(" [interrupted]") == 6


def test_ctrl_c_ends_the_search_for_a_persona(chat, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("character.chat.terminal.find_persona", interrupted)
    assert "\nInterrupted.\n" in talked(chat, "/persona loving", "Hi")
    assert kept()[0].persona == "pirate"


def test_another_persona_is_reported_and_begins_anew(chat):
    output = talked(chat, "Hi", "/personas", "/persona loving", "Hi", "/persona pirate")
    assert "\npirate (models/persona)\nloving 1.0.0\n" in output
    assert "\nPersona: loving 1.0.0\nAll conversations start again.\n" in output and "persona (loving): " in output
    assert output.count("start again") == 2
    assert [(row.persona, len(row.messages)) for row in kept()[2::3]] == [("pirate", 2), ("loving", 2)]


def test_doubts_about_an_adapter_are_reported(chat):
    write_persona("loving", PERSONA_DIR)
    write_persona("loving", LOVINGS)
    output = talked(chat, "/persona loving")
    assert "models/persona was trained on other traits than those of constitutions/pirate.yaml as it is now." in output
    assert "loving@1.0.0 was trained" not in output


def test_again_answers_the_last_turn_with_another_seed(chat):
    assert "There is no turn yet" in talked(chat, "/again", "Hi", "/again")
    assert [(row.seed, len(row.messages)) for row in kept()[::3]] == [(0, 2), (1, 2)]


def test_save_takes_the_whole_transcript_to_another_file(chat):
    assert "is now in other/chat.jsonl" in talked(chat, "Hi", "/save other/chat.jsonl", "Why?")
    assert len(kept()) == 3 and len(kept(Path("other/chat.jsonl"))) == 6


def test_what_cannot_be_written_is_kept_until_it_can(chat):
    Path("file").write_text("no folder")
    console = Console(file=io.StringIO(), width=200)
    TerminalChat(chat, TranscriptFile(Path("file/chat.jsonl")), console).handle_lines(
        ["Hi", "/save file/other.jsonl", "Hi", f"/save {KEPT}"]
    )
    output = console.file.getvalue()
    for name, times in (("chat", 2), ("other", 1)):
        message = f"file/{name}.jsonl cannot be written ([Errno 17] File exists: 'file'); name another file with /save FILE."
        assert output.count(message) == times
    assert len(kept()) == 6


@pytest.mark.parametrize("name", ["[/x]", "[red]", "a[b", "[link=x]\\x1b[2J"])
def test_a_name_is_no_markup(chat, name):
    for width in (0, 80):
        assert "is neither the selected persona nor" in talked(chat, f"/persona {name}", "/quit", width=width)


@pytest.mark.parametrize("line", ["/help", "/persona", "/save", "/quit now", "/again later"])
def test_what_is_no_command_is_reported_with_those_there_are(line, chat):
    output = talked(chat, line, "/persona nosuch", "/quit", "Hi")
    assert f"`{line}` is not a command; the commands are /persona NAME, /personas, /again, /save FILE, /quit." in output
    assert "'nosuch' is neither the selected persona nor a published one" in output
    assert not KEPT.exists(), "after /quit nothing is answered"


def test_the_command_talks_with_what_is_piped_in():
    done = CliRunner().invoke(main, ["chat", "--methods", "base,persona", "--save", str(KEPT)], input="Hi\n/quit\n")
    assert done.exit_code == 0, done.output
    assert "\nyou: Hi\nbase: " in done.output
    assert [row.method for row in kept()] == ["base", "persona"]


def test_a_transcript_without_a_name_lies_where_git_does_not_look():
    CliRunner().invoke(main, ["chat", "--persona", "loving", "--methods", "persona"], input="Hi")
    (path,) = Path(".cache/chats").iterdir()
    assert json.loads(path.read_text())["persona"] == "loving"


def test_a_method_that_does_not_exist_is_reported():
    done = CliRunner().invoke(main, ["chat", "--methods", "base,steered"])
    assert done.exit_code == 1
    assert done.output == "Error: --methods: 'steered' is not one of base, prompted, persona; correct it.\n"


def test_a_turn_that_does_not_fit_on_the_disk_leaves_whole_lines_and_is_written_later(tmp_path):
    sampling = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0}
    code = f"""
import resource
from character.chat.transcript import ChatRecord, TranscriptFile
from character.core.errors import UserError
from pathlib import Path
row = ChatRecord(time="t", persona="p", version=None, method="base", student="s", adapter=None, sampling={sampling}, seed=0,
                 finish_reason="stop", shortened=False, messages=[dict(role="user", content="x" * 900)])
file = TranscriptFile(Path("chat.jsonl"))
file.append_rows([row])
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
try:
    file.append_rows([row])
except UserError as error:
    print(error.message, Path("chat.jsonl").read_text().count("x" * 900))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.append_rows([row])
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, text=True, capture_output=True)
    assert done.stdout == "chat.jsonl cannot be written ([Errno 27] File too large); name another file with /save FILE. 1\n"
    assert len(records.read_records(tmp_path / "chat.jsonl", ChatRecord)) == 3
