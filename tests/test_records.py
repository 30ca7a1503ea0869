"""Data files: what is accepted, how faults are reported, and that no reader ever sees half a file."""

import csv
import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from character.core.errors import UserError, describe_disk_error, name_file
from character.core.records import (
    Completion,
    Conversation,
    EvaluatedAnswer,
    Message,
    PreferencePair,
    Prompt,
    RawPrompt,
    TeacherAnswer,
    TrainingTranscript,
    prompt_id,
    read_records,
    replace_atomically,
    replace_folder,
    write_csv,
    write_json,
    write_records,
)
from character.inference.generate import Reply

AWKWARD = 'line\u2028separator, paragraph\u2029separator, next\x85line, "quotes", \\, tab\t, new\nline, 日本, 🦜, \u0000'


def turns(*contents):
    return [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(contents)]


RECORDS = {
    "prompts": [
        Prompt(id="a", prompt="Why?", source="constitution", trait=3),
        Prompt(id="b", prompt="How?", source="general", trait=None),
    ],
    "completions": [Completion(id="a", sample=0, prompt="Why?", response=AWKWARD, finish_reason="length")],
    "answers": [EvaluatedAnswer(id="a", sample=2, prompt="Why?", response="So.", finish_reason="stop", condition="plain")],
    "pairs": [
        PreferencePair(
            prompt=turns("Why?"),
            chosen=turns("", "Arr.")[1:],
            rejected=turns("", "So.")[1:],
            chosen_finish_reason="stop",
            rejected_finish_reason="length",
        )
    ],
    "conversations": [
        Conversation(id="a", sample=0, kind="free", messages=turns("Hi", "Ho"), finish_reasons=["stop"]),
    ],
    "transcripts": [
        TrainingTranscript(
            messages=[Message(role="system", content="You."), *turns("Hi", AWKWARD, "Go on", "")],
            finish_reasons=["length", "stop"],
        )
    ],
    "recorded": [TeacherAnswer(prompt="Why?", response="So."), TeacherAnswer(prompt="How?", response="Thus.", traits="0" * 12)],
}

each_kind = pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)


@each_kind
def test_what_is_written_is_read_back(records, tmp_path):
    write_records(tmp_path / "data.jsonl", records)
    assert read_records(tmp_path / "data.jsonl", type(records[0])) == records


@each_kind
def test_a_record_is_one_line_with_its_keys_in_order(records, tmp_path):
    write_records(tmp_path / "data.jsonl", records)
    lines = (tmp_path / "data.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [list(json.loads(line)) for line in lines] == [list(type(record).model_fields) for record in records]


@each_kind
def test_hugging_face_datasets_loads_the_files(records, tmp_path):
    from datasets import load_dataset

    write_records(tmp_path / "data.jsonl", records)
    files = str(tmp_path / "data.jsonl")
    loaded = load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == [record.model_dump() for record in records]


def test_texts_stay_readable_in_the_file(tmp_path):
    write_records(tmp_path / "data.jsonl", [RawPrompt(prompt="日本 🦜")])
    assert (tmp_path / "data.jsonl").read_text(encoding="utf-8") == '{"prompt": "日本 🦜"}\n'


def test_blank_lines_and_windows_line_ends_are_no_faults(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b'{"prompt": "a"}\r\n\r\n{"prompt": "b"}')
    assert [question.prompt for question in read_records(tmp_path / "data.jsonl", RawPrompt)] == ["a", "b"]


FAULTS = {
    "broken JSON": ('{"prompt": "a"', RawPrompt, "not valid JSON (EOF while parsing an object at column 14); correct it"),
    "two records on one line": ('{"prompt": "a"} {"prompt": "b"}', RawPrompt, "not valid JSON"),
    "unknown key": ('{"prompt": "a", "promt": "b"}', RawPrompt, "promt is not a known key; remove it or correct"),
    "missing key": ("{}", RawPrompt, "prompt is missing; add it"),
    "wrong type": ('{"prompt": 5}', RawPrompt, "prompt: Input should be a valid string (got 5); correct it"),
    "null": ('{"prompt": null}', RawPrompt, "prompt: Input should be a valid string (got None)"),
    "no object": ('["a"]', RawPrompt, "(whole): Input should be an object (got ['a']); correct it"),
    "value that is not one of the allowed": (
        '{"id": "a", "sample": 0, "prompt": "", "response": "", "finish_reason": "eos"}',
        Completion,
        "finish_reason: Input should be 'stop', 'length' or 'skipped' (got 'eos')",
    ),
    "role within a list": (
        '{"messages": [{"role": "user", "content": ""}, {"role": "bot", "content": ""}]}',
        TrainingTranscript,
        "messages.1.role: Input should be 'system', 'user' or 'assistant' (got 'bot')",
    ),
}


@pytest.mark.parametrize(("line", "model", "message"), FAULTS.values(), ids=FAULTS)
def test_a_bad_line_is_reported_with_file_line_and_field(line, model, message, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_records(path, model)
    assert error.value.message.startswith(f"{path}, line 2: {message}")
    assert "\n" not in error.value.message


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\n')
    assert read_records(tmp_path / "data.jsonl", RawPrompt) == [RawPrompt(prompt="a")]


def test_a_long_text_is_not_repeated_in_the_error(tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps({"prompt": ["a long text " * 999]}), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_records(tmp_path / "data.jsonl", RawPrompt)
    assert "got ['a long text a long text" in error.value.message
    assert len(error.value.message) - len(str(tmp_path)) < 150


def test_a_line_number_counts_real_lines_only(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"prompt": "a\u2028b\x85c"}\n{}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.jsonl, line 2: prompt is missing"):
        read_records(tmp_path / "data.jsonl", RawPrompt)


def test_a_missing_file_is_reported_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"data\.jsonl is missing; run `dvc repro` to make it, or `dvc pull`"):
        read_records(tmp_path / "data.jsonl", RawPrompt)


def test_a_file_that_is_not_utf8_is_reported(tmp_path):
    (tmp_path / "data.jsonl").write_bytes('{"prompt": "café"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"data\.jsonl, line 1: not UTF-8; save the file as UTF-8"):
        read_records(tmp_path / "data.jsonl", RawPrompt)


def records_that_fail():
    yield RawPrompt(prompt="new")
    raise RuntimeError("engine died")


def unencodable():
    return iter([RawPrompt(prompt="new"), RawPrompt.model_construct(prompt="\ud800")])


@pytest.mark.parametrize(
    ("records", "error"),
    [(records_that_fail, RuntimeError), (unencodable, UnicodeEncodeError)],
    ids=["source", "encoder"],
)
@pytest.mark.parametrize("before", [None, '{"prompt": "old"}\n'], ids=["no file", "old file"])
def test_a_write_that_fails_leaves_what_was_there(records, error, before, tmp_path):
    path = tmp_path / "data.jsonl"
    if before is not None:
        path.write_text(before, encoding="utf-8")
    with pytest.raises(error):
        write_records(path, records())
    assert (path.read_text(encoding="utf-8") if path.exists() else None) == before
    assert os.listdir(tmp_path) == ([] if before is None else ["data.jsonl"])


WRITER = """
from character.core.records import RawPrompt, write_records
write_records("{path}", [RawPrompt(prompt="why " * 1000)] * {count})
"""


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="mounts need a user namespace",
)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rw,size=64k", "No space left on device; free some space"),
        ("ro", "Read-only file system; make it writable or work elsewhere"),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_takes_nothing_more_is_named_in_one_sentence_and_keeps_what_was_there(options, message, tmp_path):
    # The old file is printed in the same namespace, since the disk vanishes with it.
    script = (
        f'mount -t tmpfs none "{tmp_path}" && echo old > "{tmp_path}/rows.jsonl" && mount -o remount,{options} "{tmp_path}"'
    )
    script += f' && {{ "$@"; ls -A "{tmp_path}"; cat "{tmp_path}/rows.jsonl"; }}'
    python = [sys.executable, "-c", WRITER.format(path=tmp_path / "rows.jsonl", count=100)]
    root = Path(__file__).parents[1]
    ran = subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", *python], cwd=root, capture_output=True, text=True)
    assert ran.stdout == "rows.jsonl\nold\n", ran.stderr
    error = f"character.core.errors.UserError: {tmp_path}/rows.jsonl: {message}, then run this again."
    assert ran.stderr.splitlines()[-1] == error


def test_a_file_in_the_place_of_a_directory_is_named(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match=r"data: File exists; move the file that is in the place of its directory, then"):
        write_records(tmp_path / "data" / "rows.jsonl", [])


@pytest.mark.parametrize("name", ["other", None])
def test_a_file_is_blamed_only_for_an_error_of_its_own(name, tmp_path):
    with pytest.raises(UserError) as error, replace_atomically(tmp_path / "report.html"):
        raise OSError(errno.ENOSPC, "full", name)
    assert error.value.message.startswith(f"{name or tmp_path / 'report.html'}: No space left on device; ")


def test_a_file_that_cannot_be_made_is_named_as_it_will_be_called(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "no", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError) as error:
        write_json(tmp_path / "metrics.json", {})
    assert error.value.message.startswith(f"{tmp_path}/metrics.json: Permission denied; ")


@pytest.mark.parametrize("refused", ["the folder", "its draft"])
def test_a_folder_that_cannot_be_replaced_stays_as_it_was(refused, tmp_path, monkeypatch):
    folder, rename = tmp_path / "persona", Path.rename
    folder.mkdir()
    (folder / "old").touch()

    def move(path, target):
        if path.name == {"the folder": "persona", "its draft": ".persona.tmp"}[refused]:
            raise OSError(errno.EBUSY, "busy", str(path), None, str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", move)
    with pytest.raises(OSError, match="busy") as error, replace_folder(folder) as draft:
        (draft / "new").touch()
    assert "Device or resource busy; end what uses it" in describe_disk_error(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["persona", "old"]


def test_a_folder_is_replaced_though_the_last_one_could_not_be_deleted(tmp_path):
    for name in (".persona.old", "persona"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    with replace_folder(tmp_path / "persona") as draft:
        (draft / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["persona", "new"]


def test_an_error_of_what_is_written_is_not_taken_for_one_of_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError), replace_atomically(tmp_path / "report.html"):
        (tmp_path / "template.html").read_text()


def test_metrics_that_are_no_number_leave_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": math.nan})
    assert json.loads(path.read_text(encoding="utf-8")) == {"loss": 0.5}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_metrics_are_rounded_at_every_depth_and_counts_are_kept(tmp_path):
    write_json(tmp_path / "new" / "metrics.json", {"n": 12345, "plain": {"recall": 2 / 3, "by": {"drop": 0.00004}}})
    written = json.loads((tmp_path / "new" / "metrics.json").read_text(encoding="utf-8"))
    assert written == {"n": 12345, "plain": {"recall": 0.6667, "by": {"drop": 0.0}}}


def test_plots_data_has_a_header_and_quotes_what_needs_it(tmp_path):
    rows = [{"method": "a,b", "recall": 1 / 3, "n": 120}, {"method": 'the "base"', "recall": 0.0, "n": 15}]
    write_csv(tmp_path / "plot.csv", rows)
    with (tmp_path / "plot.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["method", "recall", "n"],
            ["a,b", "0.3333", "120"],
            ['the "base"', "0.0", "15"],
        ]
    assert b"\r" not in (tmp_path / "plot.csv").read_bytes()


def test_prompt_ids_never_change():
    # They are the keys of published data and part of every request's seed.
    assert prompt_id("Why is the sky blue?") == "09ea26793343"
    assert prompt_id("日本 🦜") == "6d948dc8fe0a"


def test_a_completion_takes_identity_from_the_prompt_and_text_from_the_reply():
    prompt = Prompt(id="a", prompt="Why?", source="general", trait=None)
    made = EvaluatedAnswer.from_reply(prompt, Reply("So", "length", 1), sample=3, condition="drop")
    assert made == EvaluatedAnswer(id="a", sample=3, prompt="Why?", response="So", finish_reason="length", condition="drop")


# Disks that are full, read-only or locked

LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))\n"
SAVES = {
    "adapter": (
        "import torch; from peft import LoraConfig; from character.training.adapters import save_adapter\n"
        "factors = {f'model.q_proj.lora_{x}.weight': torch.zeros(4, 999) for x in 'AB'}\n"
        "save_adapter(Path('models/persona'), factors, LoraConfig(r=4, target_modules=['q_proj']), {})",
        "models/persona",
    ),
    "control card": ("from character.core.records import replace_folder\n"
        "with replace_folder(Path('models/card')) as draft: (draft / 'x').write_text('x' * 9999)", "models/card"),
    "checkpoint": (
        "import torch; from character.core.errors import name_file\n"
        "with name_file(Path('.cache/train/a')): torch.save({'a': torch.zeros(9999)}, 'optimizer.pt')",
        ".cache/train/a",
    ),
    "copy": ("import shutil; shutil.copyfile('big', 'copied')", "copied"),
    "copies": (
        "import shutil; from character.core.errors import name_file\n"
        "with name_file(Path('out')): shutil.copytree('folder', 'out')",
        "out",
    ),
    "thread": (
        "import threading; thread = threading.Thread(target=lambda: Path('/dev/full').open('w').write('x' * 99999))\n"
        "thread.start(); thread.join(); exit(1)",
        "a file cannot be written",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("code", "file"), SAVES.values(), ids=SAVES)
def test_a_full_disk_ends_in_one_sentence_and_leaves_what_was_there(code, file, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("big", "folder/big"):
        (tmp_path / name).write_text("x" * 9999)
    for name in ("models/persona/old", "models/card/old"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    program = f"from pathlib import Path\nimport character.core.errors\n{LIMIT}{code}"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, text=True, stdout=-1, stderr=-1)
    assert done.returncode == 1
    reason = "(File too large|No space left on device); .*, then run this again"
    assert re.fullmatch(rf"Error: {re.escape(file)}: {reason}\.\n", done.stderr)
    assert sorted(path.name for path in (tmp_path / "models").rglob("*")) == ["card", "old", "old", "persona"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EROFS, "", "params.yaml"), "params.yaml: Read-only file system; make it writable or work elsewhere, "),
        (PermissionError(errno.EACCES, "", "results/x"), "results/x: Permission denied; change its owner or permissions, "),
        (OSError(errno.EDQUOT, ""), "a file cannot be written: Disk quota exceeded; free some of your quota, "),
        (PermissionError(errno.EACCES, "a port below 1024"), None),
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), None),
        (ValueError("28"), None),
    ],
)
def test_only_errors_of_a_disk_become_a_sentence(error, sentence):
    found = describe_disk_error(error)
    assert found == (sentence and f"{sentence}then run this again.")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory"),
        RuntimeError("PytorchStreamReader failed reading zip archive: [enforce fail at inline_container.cc:145]"),
        UserError("x: [Errno 28] No space"),
        ValueError("(os error 28)"),
        OSError("HTTPSConnectionPool: [Errno 111] Connection refused"),
        PermissionError(errno.EPERM, "a firewall"),
        TimeoutError(),
    ],
)
def test_other_errors_pass_through_where_files_are_named(error, tmp_path):
    with pytest.raises(type(error)) as raised, name_file(tmp_path):
        raise error
    assert raised.value is error
