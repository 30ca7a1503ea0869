"""The openai engine against a server that misbehaves on demand: nothing is lost, everything is counted, secrets stay secret."""

import re
import time
from collections import Counter
from email.utils import formatdate

import pytest
from servers import (
    KEY,
    NO_OPTIONS,
    WARM,
    Server,
    ask,
    asking,
    closed_port,
    ended,
    prepare_workspace,
    replies_to,
    write_settings,
)

from character.core.errors import UserError
from character.core.server_errors import retry_after_seconds
from character.inference import endpoint_pool
from character.inference.generate import SamplingSettings, generate
from character.inference.openai_engine import OpenAIEngine
from character.inference.reply_cache import default_cache_path


@pytest.fixture
def server():
    with Server() as running:
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    prepare_workspace(tmp_path, monkeypatch)
    return tmp_path


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
    assert 25 < retry_after_seconds({"retry-after": formatdate(time.time() + 30)})[0] <= 30
    assert retry_after_seconds({"retry-after": formatdate(time.time() - 30)}) == (0, "")


WAITS = {"0.25": 0.25, "-7": 0, "inf": float("inf"), "1e9": 1e9}


def test_a_wait_may_be_written_in_any_way():
    assert {value: retry_after_seconds({"retry-after": value})[0] for value in WAITS} == WAITS
    assert retry_after_seconds({}) == (0, "")
    assert retry_after_seconds({"retry-after": "9", "retry-after-ms": "1500"}) == (1.5, "")


@pytest.mark.parametrize(
    "value", ["presently", "nan", "2 minutes", "Thu, 99 Foo 0000 99:99:99", "Mon, 01 Jan 99999 00:00:00 GMT"]
)
def test_a_wait_that_cannot_be_read_is_none_and_named(value):
    assert retry_after_seconds({"retry-after": value}) == (0, f"retry-after: {value[:40]!r}")


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


@pytest.mark.parametrize(
    ("code", "remedy"), [(401, "OPENAI_API_KEY"), (402, "credit"), (404, "model's name"), (405, "address")]
)
def test_a_refusal_of_all_stops_at_once_without_showing_the_key(code, remedy, server):
    write_settings(server.url, concurrency=1)
    server.script = {"topic 2": [f"status {code}"]}
    message = ended(asking(*TOPICS))
    assert f"{server.url} refuses the request with HTTP {code}: no, and your key is ***; " in message and remedy in message
    assert sum(server.answered.values()) == 2


def test_an_empty_reply_is_asked_for_again_and_taken_at_the_third_time(server, capsys):
    write_settings(server.url)
    server.script = {"tea": ["empty"], "rain": ["empty"] * 9}
    assert ask(asking("tea", "rain")) == ["echo tea", ""]
    assert len(server.script["rain"]) == 6
    assert "retried after empty (3)" in capsys.readouterr().out


def test_a_filtered_reply_is_skipped_and_named(server, capsys):
    write_settings(server.url)
    server.script = {"tea": ["answer content_filter"] * 9}
    replies = replies_to(asking("rain", "tea"))
    assert [(reply.text, reply.finish_reason) for reply in replies] == [("echo rain", "stop"), ("", "skipped")]
    assert "1 of 2 requests got no reply: the server filtered the reply (id-tea)" in capsys.readouterr().out


def test_a_cut_off_reply_says_so_and_none_is_called_reproducible(server):
    write_settings(server.url)
    server.script = {"tea": ["answer length"]}
    replies = replies_to(asking("tea", "rain"))
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


def identity(source, *urls):
    write_settings(*urls)
    return OpenAIEngine(source, "teacher.source", NO_OPTIONS).identity


def test_replies_of_two_servers_that_share_a_models_name_are_kept_apart(server):
    write_settings(server.url)
    ask(asking("tea"))
    write_settings(closed_port(), max_failures=1)
    assert "failures in a row" in ended(asking("tea"))


def test_a_pool_of_servers_is_the_same_in_any_order_and_spelling():
    pool = identity("m", "http://GPU1:8000/v1", "https://gpu2/v1/", "http://gpu1:8000/v1/")
    assert pool == identity("m", "https://gpu2/v1", "http://gpu1:8000/v1")
    assert pool != identity("m", "https://gpu2/v1")
    assert identity("m", "http://gpu1:8000/V1") != identity("m", "http://gpu1:8000/v1")


def test_a_revision_stands_for_the_weights_wherever_they_are_served(server, monkeypatch):
    write_settings(server.url)
    engine = OpenAIEngine("m@home#12 May", "teacher.source", NO_OPTIONS)
    generate(engine, asking("tea"), WARM, seed=0)
    assert server.bodies[-1]["model"] == "m@home", "the server does not know of the revision"
    assert engine.identity == identity("m@home#12 May", "http://elsewhere/v1") == identity("m@home#12 May")
    assert engine.identity != identity("m@home#13 May", server.url)
    assert engine.identity != identity("m@home", server.url)


WRONG_URLS = ["localhost:8000", "http://me:secret@host/v1", "https://host/v1?key=secret", "http://[fe80::1:8000/v1"]
WRONG_URLS += ["http://host:secret/v1", "http://host:99999/v1", "http://host/v1/chat/completions", "http:///v1"]


@pytest.mark.parametrize("model", ["m", "m#12 May"])
@pytest.mark.parametrize("url", WRONG_URLS)
def test_an_address_with_a_secret_or_that_is_no_base_url_is_refused(url, model, server):
    write_settings(server.url, url)
    with pytest.raises(UserError, match=r"^params\.yaml: runtime\.openai\.endpoints: [^\n]*$") as error:
        generate(OpenAIEngine(model, "teacher.source", NO_OPTIONS), asking("tea"), WARM, seed=0)
    assert "secret" not in error.value.message


def test_no_endpoint_and_no_model_are_reported_by_their_fields(monkeypatch):
    write_settings()
    assert "runtime.openai.endpoints is empty" in ended(asking("tea"))
    with pytest.raises(UserError, match=r"teacher\.source is empty; write the model's name"):
        OpenAIEngine("#1", "teacher.source", NO_OPTIONS)


def test_an_endpoint_may_also_come_from_the_environment(server, monkeypatch):
    write_settings()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert ask(asking("tea")) == ["echo tea"]
