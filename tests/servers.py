"""A server for the openai engine that misbehaves on demand, and how tests ask it."""

import json
import socket
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from character.core.errors import UserError
from character.inference import endpoint_pool, openai_engine
from character.inference.generate import Request, SamplingSettings, generate
from character.inference.openai_engine import OpenAIEngine, RequestOptions

KEY = "sk-a-secret-of-ours"
NO_OPTIONS = RequestOptions(omit=[], rename={}, extra={})
WARM = SamplingSettings(max_new_tokens=12, temperature=0.7, top_p=0.95)


class Server(ThreadingHTTPServer):
    """Answers each prompt with "echo <prompt>"; `script` says how it fails before that, per prompt or for all ("*")."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: dict[str, list] = {}
        self.requests: list[dict] = []
        self.bodies: list[dict] = []  # of the requests that were answered
        self.headers: list[str] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def choose_act(self, body, prompt):
        todo = self.script.get(prompt) or self.script.get("*") or []
        return todo.pop(0) if todo else "answer"

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
            self.server.requests.append(body)
            act = self.server.choose_act(body, prompt)
        if isinstance(act, tuple):  # status, body and headers as they are
            self.send(act[0], act[1], **act[2] if len(act) > 2 else {})
        else:
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


def prepare_workspace(folder, monkeypatch):
    """Go to an empty directory, with a key in the environment and short waits."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint_pool, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(endpoint_pool, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(openai_engine, "LONGEST_BACKOFF", 0.1)


def write_settings(*urls, **changes):
    settings = {
        "endpoints": list(urls),
        "concurrency": 4,
        "timeout": 5,
        "patience": 60,
        "max_failures": 20,
        "prices": [0, 0],
    } | changes
    Path("params.yaml").write_text(json.dumps({"runtime": {"openai": settings}}))


def asking(*topics, **more):
    return [Request(f"id-{topic}", [{"role": "user", "content": topic}], **more) for topic in topics]


def replies_to(requests, sampling=WARM, options=NO_OPTIONS):
    return generate(OpenAIEngine("m", "teacher.source", options), requests, sampling, seed=0, desc="chosen")


def ask(requests, sampling=WARM):
    return [reply.text for reply in replies_to(requests, sampling)]


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
