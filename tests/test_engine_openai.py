"""The openai engine against a server that misbehaves on demand: nothing is lost, everything is counted, secrets stay secret."""

import json
import re
import socket
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from character.core.errors import UserError
from character.inference import endpoint_pool
from character.inference.endpoint_pool import _retry_after_seconds
from character.inference.generate import Request, SamplingSettings, generate
from character.inference.openai_engine import OpenAIEngine
from character.inference.reply_cache import default_cache_path

KEY = "sk-a-secret-of-ours"
WARM = SamplingSettings(max_new_tokens=12, temperature=0.7, top_p=0.95)


class Server(ThreadingHTTPServer):
    """Answers each prompt with "echo <prompt>"; `script` says how it fails before that, per prompt or for all ("*")."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: dict[str, list] = {}
        self.bodies: list[dict] = []
        self.headers: list[str] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def answered(self):
        return Counter(body["messages"][-1]["content"] for body in self.bodies)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = next(message["content"] for message in body["messages"] if message["role"] == "user")
        with self.server.lock:
            self.server.headers.append(self.headers.get("authorization"))
            todo = self.server.script.get(prompt) or self.server.script.get("*") or []
            act = todo.pop(0) if todo else "answer"
        getattr(self, act.partition(" ")[0])(body, prompt, act.partition(" ")[2])

    def send(self, status, payload, **headers):
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": len(raw), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(raw)

    def answer(self, body, prompt, finish="stop", text=None):
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.at_once, self.server.most_at_once)
        time.sleep(0.01)
        with self.server.lock:
            self.server.at_once -= 1  # before the reply goes out, or the next request might be here already
            self.server.bodies.append(body)
        message = {"role": "assistant", "content": f"echo {prompt}" if text is None else text}
        choice = {"index": 0, "message": message, "finish_reason": finish or "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        self.send(
            200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        )

    def empty(self, body, prompt, _):
        self.answer(body, prompt, text="")

    def status(self, body, prompt, code):
        self.send(int(code), {"error": {"message": f"no, and your key is {KEY}"}})

    def busy(self, body, prompt, seconds):
        self.send(429, {"error": {"message": "slow down"}}, retry_after=seconds)

    def hang(self, body, prompt, seconds):
        time.sleep(float(seconds))

    def half(self, body, prompt, _):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "500")
        self.end_headers()
        self.wfile.write(b'{"id": "x", "choices": [{"ind')
        self.close_connection = True

    def wrong(self, body, prompt, payload):
        self.send(200, payload.encode())

    def reset(self, body, prompt, _):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()


@pytest.fixture
def server():
    with Server() as running:
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint_pool, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(endpoint_pool, "LONGEST_PAUSE", 0.2)
    return tmp_path


def write_settings(*urls, **changes):
    settings = {"endpoints": list(urls), "concurrency": 4, "timeout": 5, "max_failures": 20, "prices": [0, 0]} | changes
    Path("params.yaml").write_text(json.dumps({"runtime": {"openai": settings}}))


def asking(*topics, **more):
    return [Request(f"id-{topic}", [{"role": "user", "content": topic}], **more) for topic in topics]


def ask(requests, sampling=WARM):
    return [reply.text for reply in generate(OpenAIEngine("m", "teacher.source"), requests, sampling, seed=0, desc="chosen")]


def ended(requests):
    """Return the sentence with which the run ends."""
    with pytest.raises(UserError) as error:
        ask(requests)
    assert "\n" not in error.value.message and KEY not in error.value.message
    return error.value.message


def closed_port():
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


TOPICS = [f"topic {number}" for number in range(20)]
ECHOES = [f"echo {topic}" for topic in TOPICS]

FAULTS = {
    "a storm of 429": ["busy 0"] * 8,
    "429 without a header": ["status 429"] * 3,
    "500": ["status 500"] * 3,
    "503 then 502": ["status 503", "status 502"],
    "half a body": ["half"] * 3,
    "a body that is no JSON": ["wrong <html>bad gateway</html>"] * 3,
    "JSON of another kind": ['wrong {"detail": "hm"}', "wrong []", 'wrong {"choices": []}', 'wrong {"choices": null}'],
    "an unknown finish reason": ["answer tool_calls"] * 2,
    "a connection that is reset": ["reset"] * 3,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_passes_loses_nothing(fault, server, capsys):
    write_settings(server.url)
    server.script = {"topic 0": ["answer"], "*": list(fault)}
    assert ask(asking("topic 0")) == ["echo topic 0"], "an endpoint that has answered is given more time"
    assert ask(asking(*TOPICS)) == ECHOES
    output = capsys.readouterr().out
    assert sum(map(int, re.findall(r"\((\d+)\)", output.rpartition("retried after ")[2]))) == len(fault), output


def test_a_hanging_request_is_given_up_and_asked_again(server, capsys):
    write_settings(server.url, timeout=0.3)
    server.script = {"topic 3": ["hang 1"]}
    assert ask(asking(*TOPICS)) == ECHOES
    assert "retried after timeout (1)" in capsys.readouterr().out


def test_retry_after_is_obeyed(server):
    write_settings(server.url, concurrency=1)
    server.script = {"*": ["busy 0.7"]}
    began = time.monotonic()
    ask(asking("tea"))
    assert 0.7 <= time.monotonic() - began < 5


def test_retry_after_may_be_a_date():
    from email.utils import formatdate

    assert 25 < _retry_after_seconds(formatdate(time.time() + 30)) <= 30
    assert [
        _retry_after_seconds(None),
        _retry_after_seconds("soon"),
        _retry_after_seconds("-3"),
        _retry_after_seconds("1.5"),
    ] == [0, 0, 0, 1.5]


def test_no_more_requests_are_in_flight_than_allowed(server):
    write_settings(server.url, concurrency=3)
    ask(asking(*TOPICS))
    assert 1 < server.most_at_once <= 3


def test_endpoints_are_used_in_turn_and_a_dead_one_is_left_out_and_tried_again(server, capsys):
    with Server() as other:
        write_settings(server.url, other.url)
        server.script = {"*": ["status 500"] * 4}
        assert ask(asking(*TOPICS)) == ECHOES
        assert sum(other.answered.values()) > sum(server.answered.values()) >= 1, "it came back after four failures"
        assert server.answered + other.answered == Counter(TOPICS)
        other.shutdown()
    write_settings(server.url, closed_port())
    more = [f"more {number}" for number in range(10)]
    assert ask(asking(*more)) == [f"echo {topic}" for topic in more]


def test_a_dead_endpoint_ends_in_one_sentence(capsys):
    url = closed_port()
    write_settings(url)
    message = ended(asking(*TOPICS))
    assert f"5 failures in a row ({url}: " in message
    assert "check the endpoints" in message and "run again to continue" in message


def test_after_max_failures_the_run_stops_and_keeps_what_is_finished(server):
    write_settings(server.url, max_failures=3, concurrency=2)
    server.script = {topic: ["status 503"] * 50 for topic in TOPICS[10:]}
    assert "3 failures in a row" in ended(asking(*TOPICS))
    kept = sum(server.answered.values())
    assert kept == 10
    server.script = {}
    assert ask(asking(*TOPICS)) == ECHOES
    assert server.answered == Counter(TOPICS), "nothing is paid for twice"


def test_the_reason_of_a_stop_is_reported_even_where_other_requests_end_before_it(server, monkeypatch):
    write_settings(server.url, concurrency=4)
    server.script = {"topic 0": ["status 404"]}
    ask_endpoint = endpoint_pool.EndpointPool.send_request

    def slow_to_fail(self, body):
        try:
            return ask_endpoint(self, body)
        except UserError:
            self.closed.set()
            time.sleep(0.3)  # the others see that the run is closed, and end
            raise

    monkeypatch.setattr(endpoint_pool.EndpointPool, "send_request", slow_to_fail)
    assert "refuses the request with HTTP 404" in ended(asking(*TOPICS))


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_a_refusal_stops_at_once_without_telling_the_key(code, server):
    write_settings(server.url, concurrency=1)
    server.script = {"topic 2": [f"status {code}"]}
    message = ended(asking(*TOPICS))
    assert f"{server.url} refuses the request with HTTP {code}" in message and "OPENAI_API_KEY" in message
    assert sum(server.answered.values()) == 2


def test_an_empty_reply_is_asked_for_again_and_taken_at_the_third_time(server, capsys):
    write_settings(server.url)
    server.script = {"tea": ["empty"], "rain": ["empty"] * 9}
    assert ask(asking("tea", "rain")) == ["echo tea", ""]
    assert len(server.script["rain"]) == 6
    assert "retried after empty (3)" in capsys.readouterr().out


def test_what_the_server_filters_is_an_empty_reply_and_counted(server, capsys):
    write_settings(server.url)
    server.script = {"tea": ["answer content_filter"] * 9}
    replies = generate(OpenAIEngine("m", "teacher.source"), asking("tea"), WARM, seed=0)
    assert [(reply.text, reply.finish_reason) for reply in replies] == [("", "stop")]


def test_a_cut_off_reply_says_so_and_none_is_called_reproducible(server):
    write_settings(server.url)
    server.script = {"tea": ["answer length"]}
    replies = generate(OpenAIEngine("m", "teacher.source"), asking("tea", "rain"), WARM, seed=0)
    assert [(reply.finish_reason, reply.tokens, reply.reproducible) for reply in replies] == [
        ("length", 3, False),
        ("stop", 3, False),
    ]


def test_the_request_carries_model_sampling_and_a_seed_of_its_own(server):
    write_settings(server.url)
    sampling = SamplingSettings(max_new_tokens=5, temperature=0.5, top_p=0.9, repetition_penalty=1.1)
    ask([*asking("tea"), *asking("tea", sample=1)], sampling)
    first, second = sorted(server.bodies, key=lambda body: body["seed"])
    assert first.pop("seed") != second.pop("seed")
    assert (
        first
        == second
        == {
            "model": "m",
            "messages": [{"role": "user", "content": "tea"}],
            "max_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.9,
            "repetition_penalty": 1.1,
        }
    )


def test_a_prefill_opens_the_assistants_turn(server):
    write_settings(server.url)
    ask(asking("tea", prefill="<think>\n"))
    body = server.bodies[0]
    assert body["messages"][-1] == {"role": "assistant", "content": "<think>\n"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_tokens_and_cost_are_reported_at_the_end(server, capsys):
    write_settings(server.url, prices=[1000, 100000])
    ask(asking(*TOPICS))
    assert "openai: 20 replies, 140 tokens read, 60 written, cost 6.14\n" in capsys.readouterr().out


def test_the_key_goes_to_the_endpoint_and_nowhere_else(server, capsys, workspace):
    write_settings(server.url)
    server.script = {"*": ["status 500"]}
    ask(asking("tea"))
    assert set(server.headers) == {f"Bearer {KEY}"}
    assert KEY not in "".join(capsys.readouterr())
    assert default_cache_path().exists()
    files = [path.read_bytes() for path in workspace.rglob("*") if path.is_file()]
    assert len(files) > 1 and not [content for content in files if KEY.encode() in content]


def test_the_endpoints_are_no_part_of_what_identifies_a_reply(server):
    write_settings(server.url)
    ask(asking("tea"))
    write_settings(closed_port())
    assert ask(asking("tea")) == ["echo tea"]


@pytest.mark.parametrize("url", ["localhost:8000", "http://me:secret@host/v1", "https://host/v1?key=secret"])
def test_a_base_url_with_a_secret_or_without_a_scheme_is_refused(url):
    write_settings(url)
    message = ended(asking("tea"))
    assert "runtime.openai.endpoints" in message and "secret" not in message


def test_no_endpoint_and_no_model_are_reported_by_their_fields(monkeypatch):
    write_settings()
    assert "runtime.openai.endpoints is empty" in ended(asking("tea"))
    with pytest.raises(UserError, match=r"teacher\.source is empty; write the model's name"):
        OpenAIEngine("", "teacher.source")


def test_an_endpoint_may_also_come_from_the_environment(server, monkeypatch):
    write_settings()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert ask(asking("tea")) == ["echo tea"]
