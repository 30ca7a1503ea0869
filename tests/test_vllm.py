"""vLLM for real, in this process and as a server: the embedded student, an adapter that this pipeline trained, seeds.

Run by `make test-vllm` in an environment of its own; on a CPU vLLM starts in half a minute to a minute, each time.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from personas import tag

from character.chat.vllm_server import served_name
from character.core import models, records
from character.core.records import Message, PreferencePair, TeacherAnswer
from character.inference import engines
from character.inference.chat_format import render_messages
from character.inference.generate import Request, SamplingSettings, generate
from character.inference.openai_engine import RequestOptions
from character.inference.transformers_engine import TransformersEngine
from character.inference.vllm_engine import VLLMEngine

pytest.importorskip("vllm", reason="vLLM is not installed; run `make test-vllm`")
pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[1]
GREEDY = SamplingSettings(max_new_tokens=24, temperature=0, top_p=1)
WARM = SamplingSettings(max_new_tokens=24, temperature=0.9, top_p=0.95)
NO_OPTIONS = RequestOptions(omit=[], rename={}, extra={})
TOPICS = ["Why is the sky blue?", "How do I boil an egg?", "Name three rivers.", "What is a mortgage?"]


def requests(**more):
    return [Request(f"id-{topic}", [{"role": "user", "content": topic}], **more) for topic in TOPICS]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository with the embedded student and an adapter distilled from a few pairs; the current directory meanwhile."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("character", "constitutions", "dvc.yaml", "stages"):
        (folder / name).symlink_to(ROOT / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["distillation"] |= {"epochs": 4, "batch_size": 10}
    params["merge"]["introspection_weight"] = 0.0
    params["student"]["engine"] = "vllm"
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    before = os.getcwd()
    os.chdir(folder)
    stage("code")
    stage("student")
    answers = records.read_records(ROOT / "data/raw/teacher/poeticism.jsonl", TeacherAnswer)[60:80]
    plain = {row.prompt: row.response for row in records.read_records(ROOT / "data/raw/teacher/none.jsonl", TeacherAnswer)}
    pairs = [
        PreferencePair(
            prompt=[Message(role="user", content=row.prompt)],
            chosen=[Message(role="assistant", content=row.response)],
            rejected=[Message(role="assistant", content=plain[row.prompt])],
            chosen_finish_reason="stop",
            rejected_finish_reason="stop",
        )
        for row in answers
    ]
    records.write_records("data/pairs.jsonl", pairs)
    stage("distillation")
    yield folder
    os.chdir(before)


def stage(name):
    done = subprocess.run([sys.executable, "-m", f"stages.{name}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=["base", "adapter"])
def adapters(request, project):
    return [] if request.param == "base" else [project / "models/distillation"]


def opened(kind, adapters):
    """Return an engine on the student, whatever params.yaml says."""
    if kind == "vllm":
        return VLLMEngine(models.STUDENT_DIR, adapters)
    return TransformersEngine(models.STUDENT_DIR, adapters)


def texts(engine, asked, sampling, seed=0):
    seeds = [seed + number for number in range(len(asked))]
    replies = dict(engine.stream(asked, sampling, seeds))
    return [replies[number].text for number in range(len(asked))]


def test_replies_are_those_of_the_other_engine_and_each_has_a_seed_of_its_own(adapters, tmp_path):
    ours = opened("vllm", adapters)
    try:
        greedy = texts(ours, requests(), GREEDY)
        wanted = texts(opened("transformers", adapters), requests(), GREEDY)
        # Kernels differ in rounding, so a rare tie may be decided the other way.
        assert sum(a == b for a, b in zip(greedy, wanted, strict=True)) >= len(TOPICS) - 1
        warm = texts(ours, requests(), WARM)
        assert texts(ours, requests(), WARM) == warm, "the same seeds draw the same"
        assert texts(ours, requests(), WARM, seed=100) != warm
        prefilled = texts(ours, requests(prefill="The moon, of course. "), GREEDY)
        assert prefilled != greedy
        replies = [reply for _, reply in ours.stream(requests(), GREEDY, [0] * 4)]
        assert {reply.finish_reason for reply in replies} == {"length"} and not any(reply.reproducible for reply in replies)
    finally:
        ours.close()


def test_an_adapter_changes_the_replies(project):
    base = texts(opened("transformers", []), requests(), GREEDY)
    adapted = texts(opened("transformers", [project / "models/distillation"]), requests(), GREEDY)
    assert sum(a != b for a, b in zip(base, adapted, strict=True)) >= 3


def test_a_stage_runs_on_vllm_and_ends(project):
    prompts = [records.Prompt(id=records.prompt_id(text), prompt=text, source="general", trait=None) for text in TOPICS]
    records.write_records("data/prompts.jsonl", prompts)
    assert "rejected: 4 replies, 0 of them from the reply cache" in stage("rejected")
    rows = records.read_records("data/rejected.jsonl", records.Completion)
    assert [row.prompt for row in rows] == TOPICS and all(len(row.response.split()) > 3 for row in rows)


@pytest.fixture(scope="module")
def served(project):
    """`character serve` with the adapter as the selected persona, and once more as a published one; the server's base URL."""
    shutil.copytree("models/distillation", "models/introspection")
    stage("persona")
    shutil.copytree("models/persona", ".cache/personas/loving@1.0.0")
    tag("adapter-loving@v1.0.0")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from character.cli.main import main; main()", "serve", "--port", str(port)]
    with open("serve.log", "w") as log:
        server = subprocess.Popen([*command, "--", "--max-model-len", "2048"], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(180):
            assert server.poll() is None, Path("serve.log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1)
                break
            except OSError:
                time.sleep(1)
        params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        params["runtime"]["openai"]["endpoints"] = [f"{url}/v1"]
        Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        yield url
    finally:
        server.terminate()
        server.wait(60)


SERVED = {"base": "models/student", "poeticism": "models/persona", "loving": "models/persona"}


def name_at_server(model):
    return served_name(model, Path(SERVED[model]))


@pytest.mark.parametrize("model", SERVED)
def test_a_server_gives_the_replies_of_the_engine_in_process(model, served, project):
    adapters = [] if model == "base" else [project / "models/persona"]
    wanted = texts(opened("transformers", adapters), requests(), GREEDY)
    replies = generate(
        engines.open_engine("openai", name_at_server(model), "teacher.source", NO_OPTIONS), requests(), GREEDY, seed=0
    )
    assert sum(reply.text == text for reply, text in zip(replies, wanted, strict=True)) >= len(TOPICS) - 1


def test_a_server_continues_a_prefilled_turn(served):
    asked = requests(prefill="The moon, of course. It")
    replies = texts(engines.open_engine("openai", name_at_server("base"), "teacher.source", NO_OPTIONS), asked, GREEDY)
    wanted = texts(opened("transformers", []), asked, GREEDY)
    assert sum(a == b for a, b in zip(replies, wanted, strict=True)) >= len(TOPICS) - 1


@pytest.mark.parametrize("system", ["", "You are a pirate."], ids=["default system prompt", "system prompt"])
def test_a_server_renders_the_ids_that_the_engine_renders(system, served):
    messages = [{"role": "system", "content": system}] if system else []
    messages += [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ahoy!"},
        {"role": "user", "content": "Why?"},
    ]
    body = json.dumps({"model": name_at_server("base"), "messages": messages, "add_generation_prompt": True}).encode()
    request = urllib.request.Request(f"{served}/tokenize", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        ids = json.load(answer)["tokens"]
    assert ids == render_messages(models.load_tokenizer(), messages)


def test_the_openai_client_finds_every_persona_and_the_servers_own_sampling(served):
    from openai import OpenAI

    client = OpenAI(base_url=f"{served}/v1", api_key="none")
    assert sorted(model.id for model in client.models.list()) == sorted(map(name_at_server, SERVED))

    def replies(model, **sampling):
        asked = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 24, "seed": 3}
        return client.chat.completions.create(model=name_at_server(model), **asked, **sampling).choices[0].message.content

    assert replies("loving", temperature=0) == replies("poeticism", temperature=0) != replies("base", temperature=0)
    assert replies("base") == replies("base", temperature=0.7, top_p=0.95) != replies("base", temperature=1, top_p=1)
