"""A generation stage in its own process: the same bytes for every batch size and order, however often it is killed."""

import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from character.core import records
from character.core.records import Prompt, RawPrompt, prompt_id
from character.inference.reply_cache import ReplyCache, default_cache_path

ROOT = Path(__file__).parents[1]
OUT = "data/rejected.jsonl"


@pytest.fixture
def project(tmp_path, tiny_student, monkeypatch):
    """A repository with the stage `rejected` and the tiny student, and prompts to answer for some seconds."""
    for name in ("character", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "models").mkdir()
    shutil.copytree(tiny_student, tmp_path / "models/student")
    monkeypatch.chdir(tmp_path)
    write_params(batch=32)
    questions = records.read_records(ROOT / "data/raw/prompts/general.jsonl", RawPrompt)
    write_prompts([f"{question.prompt} {part}" for part in ("", "Be brief.") for question in questions])
    return tmp_path


def write_params(batch):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["runtime"] |= {"device": "cpu", "threads": 1, "generation_batch": batch}
    params["sampling"]["max_new_tokens"] = 200
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def write_prompts(texts):
    rows = [Prompt(id=prompt_id(text), prompt=text, source="general", trait=None) for text in texts]
    records.write_records("data/prompts.jsonl", rows)


def environment():
    return {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}


def start():
    return subprocess.Popen(
        [sys.executable, "-m", "stages.rejected"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(fresh=True):
    """Run the stage, without the reply cache of earlier runs if `fresh`; return its output file's bytes and what it printed."""
    if fresh:
        shutil.rmtree(".cache", ignore_errors=True)
    process = start()
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return Path(OUT).read_bytes(), output


def test_the_batch_size_and_the_order_change_no_byte(project):
    wanted, _ = run()
    assert len(set(wanted.splitlines())) == 240
    write_params(batch=8)
    assert run()[0] == wanted
    write_params(batch=24)
    texts = [row.prompt for row in records.read_records("data/prompts.jsonl", Prompt)]
    random.Random(0).shuffle(texts)
    write_prompts(texts)
    assert sorted(run()[0].splitlines()) == sorted(wanted.splitlines())


def kept():
    if not default_cache_path().exists():
        return 0
    with ReplyCache() as cache:
        return cache.count_records()


def test_a_stage_that_is_killed_resumes_and_ends_with_the_same_bytes(project):
    wanted, _ = run()
    shutil.rmtree(".cache")
    Path(OUT).unlink()
    process = start()
    while not kept():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = kept()
    assert 0 < before < 240 and not Path(OUT).exists()
    found, output = run(fresh=False)
    assert found == wanted
    assert f"rejected: 240 replies, {before} of them from the reply cache" in output


def timed(call):
    """Return what `call` does, and the seconds it takes."""
    began = time.monotonic()
    return call(), time.monotonic() - began


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_byte(project):
    (wanted, _), whole = timed(run)
    _, start_up = timed(partial(run, fresh=False))  # all replies are in the cache
    shutil.rmtree(".cache")
    Path(OUT).unlink()
    dice, running = random.Random(0), 0
    for _ in range(20):
        process = start()
        # Each process does a part of the work at most, and leaves some for the others.
        time.sleep(dice.uniform(0, start_up + (whole - start_up) / 6))
        running += process.poll() is None
        process.kill()
        process.communicate()
        assert not Path(OUT).exists() or Path(OUT).read_bytes() == wanted, "what is there is whole"
    assert running >= 10
    assert run(fresh=False)[0] == wanted
