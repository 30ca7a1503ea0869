"""Servers that are nearly OpenAI's: what they leave out, call differently, refuse, or break; and 200 mutated answers."""

import copy
import json
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from servers import (
    KEY,
    NO_OPTIONS,
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
from character.core.params import read_section
from character.core.server_errors import server_reason
from character.inference import endpoint_pool, openai_engine
from character.inference.generate import SamplingSettings
from character.inference.openai_engine import OpenAIEngine, RequestOptions
from stages import chosen

GREEDY = SamplingSettings(max_new_tokens=12, temperature=0, top_p=1)
TOPICS = [f"topic {number}" for number in range(12)]


@pytest.fixture
def server():
    with Server() as running:
        write_settings(running.url)
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    prepare_workspace(tmp_path, monkeypatch)
    return tmp_path


def answer_with(content="warm words", finish="stop", message=None, **more):
    """Return a status and an answer with a message and other fields."""
    message = {"role": "assistant", "content": content} | (message or {})
    return 200, {"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


def error_with(status, message, /, **more):
    return status, {"error": {"message": message, **more}}


def reply_to(server, *acts, **asked):
    server.script = {"tea": list(acts)}
    return replies_to(asking("tea", **asked))[0]


# --- answers ---------------------------------------------------------------------------------------

USAGES = {
    "null": (None, 0),
    "empty": ({}, 0),
    "half": ({"completion_tokens": 4}, 4),
    "text": ("nine", 0),
    "negative": ({"prompt_tokens": -1, "completion_tokens": -5}, 0),
    "endless": ({"prompt_tokens": 1e300, "completion_tokens": 10**30}, 0),
    "with a point": ({"prompt_tokens": 3.0, "completion_tokens": 4.0}, 4),
}


@pytest.mark.parametrize(("usage", "tokens"), USAGES.values(), ids=USAGES)
def test_a_usage_that_is_not_whole_does_not_matter(usage, tokens, server, capsys):
    reply = reply_to(server, answer_with(usage=usage))
    assert (reply.text, reply.finish_reason, reply.tokens) == ("warm words", "stop", tokens)
    uncounted = tokens == 0 or "prompt_tokens" not in usage
    assert ("without 1 replies whose tokens the server did not count" in capsys.readouterr().out) == uncounted


def test_an_answer_without_usage_is_taken(server):
    assert reply_to(server, answer_with()).text == "warm words"


CONTENTS = {
    "parts": ([{"type": "text", "text": "warm "}, {"type": "output_text", "text": "words"}], {}),
    "parts without a type": ([{"text": "warm words"}], {}),
    "texts in a list": (["warm", " words"], {}),
    "a thinking part": (
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "warm words"}],
        {},
    ),
    "reasoning of its own": ("warm words", {"reasoning_content": "hm"}),
    "reasoning by another name": ("\n\nwarm words\n", {"reasoning": "hm", "tool_calls": None}),
    "a refusal that is none": ("warm words", {"refusal": None}),
}


@pytest.mark.parametrize(("content", "more"), CONTENTS.values(), ids=CONTENTS)
def test_the_text_is_the_text_of_the_answer_alone(content, more, server):
    assert reply_to(server, answer_with(content, message=more)).text == "warm words"


def test_no_content_is_an_empty_reply_that_may_have_used_up_its_tokens(server):
    server.script = {"tea": [answer_with(None, "max_tokens", {"reasoning_content": "long"})]}
    reply, other = replies_to(asking("tea", "rain"))
    assert (reply.text, reply.finish_reason, other.text) == ("", "length", "echo rain")


def test_halves_of_characters_are_replaced_and_bytes_that_are_no_text_too(server):
    raw = json.dumps(answer_with("caf\u00e9 \ud83d\ude00 \ud83d.")[1]).encode()
    assert reply_to(server, (200, raw)).text == "café 😀 \ufffd."
    server.script = {"rain": [(200, b"\xef\xbb\xbf" + raw.replace(b"caf\\u00e9", b"caf\xe9"))]}
    assert ask(asking("rain")) == ["caf\ufffd 😀 \ufffd."]


FINISHES = {"END_TURN": "stop", "eos": "stop", "Stop_Sequence": "stop", "COMPLETE": "stop", "": "stop"}
FINISHES |= {"MAX_TOKENS": "length", "max_output_tokens": "length", "model_length": "length"}
FINISHES |= {"SAFETY": "skipped", "Refusal": "skipped", "sensitive": "skipped"}


@pytest.mark.parametrize(("name", "finish"), FINISHES.items())
def test_the_end_of_a_reply_has_many_names(name, finish, server):
    server.script = {"rain": [answer_with(finish=name)]}
    assert replies_to(asking("tea", "rain"))[1].finish_reason == finish


@pytest.mark.parametrize(("tokens", "finish"), [(11, "stop"), (12, "length"), (None, "stop")])
def test_an_end_that_is_not_given_follows_from_the_tokens(tokens, finish, server):
    usage = {"prompt_tokens": 1, "completion_tokens": tokens}
    assert reply_to(server, answer_with(finish=None, usage=usage)).finish_reason == finish


def test_an_unknown_end_is_retried_and_then_named(server):
    write_settings(server.url, max_failures=2)
    server.script = {"*": [answer_with(finish="Sudden\u202e_Silence")] * 9}
    assert re.search(r"finish_reason 'Sudden.*_Silence'", ended(asking("tea")))


def test_an_empty_reply_is_asked_for_with_another_seed_and_a_greedy_one_only_once(server):
    server.script = {"tea": [answer_with("")] * 2, "rain": [answer_with(None)] * 9}
    assert ask(asking("tea")) == ["echo tea"]
    seeds = [body["seed"] for body in server.requests]
    assert len(set(seeds)) == 3
    assert [reply.text for reply in replies_to(asking("rain", "tea"), GREEDY)] == ["", "echo tea"]
    assert len(server.script["rain"]) == 8


# --- errors ----------------------------------------------------------------------------------------

EMBEDDED = {
    "an object": {"error": {"message": "the kettle fell", "code": 502}},
    "a text": {"error": "the kettle fell"},
    "a list around it": [{"error": {"message": "the kettle fell", "status": "UNAVAILABLE"}}],
    "an old object": {"object": "error", "message": "the kettle fell", "type": "internal"},
    "within a choice": {
        "choices": [{"error": {"message": "the kettle fell"}, "message": {"content": "half"}, "finish_reason": "error"}]
    },
    "beside choices": {"error": {"detail": "the kettle fell"}, "choices": []},
}


@pytest.mark.parametrize("payload", EMBEDDED.values(), ids=EMBEDDED)
def test_an_error_with_status_200_is_an_error(payload, server):
    assert reply_to(server, (200, payload), (200, payload)).text == "echo tea"
    write_settings(server.url, max_failures=2)
    server.script = {"*": [(200, payload)] * 9}
    assert "the kettle fell" in ended(asking("rain"))


REASONS = {
    "message": {"error": {"message": "the lake froze", "type": "x"}},
    "detail": {"detail": "the lake froze"},
    "details": {"detail": [{"loc": ["body"], "msg": "the lake froze"}]},
    "text": b"the lake froze",
    "page": b"<html><style>p {}</style><body><h1>500</h1><p>the lake froze</p></body></html>",
}


@pytest.mark.parametrize("payload", REASONS.values(), ids=REASONS)
@pytest.mark.parametrize("status", [401, 500, 422])
def test_the_servers_own_reason_reaches_the_user(status, payload, server):
    write_settings(server.url, max_failures=2)
    server.script = {"*": [(status, payload)] * 9}
    message = ended(asking(*TOPICS))
    assert "the lake froze" in message and f"HTTP {status}" in message and "<" not in message


@pytest.mark.parametrize(
    "payload",
    [
        error_with(429, "Account: you are done", code="insufficient_quota"),
        error_with(429, "done", type="exceeded_current_quota_error"),
        error_with(200, "Insufficient Balance"),
        error_with(402, "pay first"),
        error_with(400, "Your credit balance is too low to access this model", type="invalid_request_error"),
        error_with(403, "Your organisation is out of credits"),
    ],
)
def test_a_used_up_credit_stops_at_once(payload, server):
    server.script = {"*": [payload] * 9}
    write_settings(server.url, concurrency=1)
    assert payload[1]["error"]["message"] in (message := ended(asking(*TOPICS))) and "add credit" in message
    assert len(server.script["*"]) == 8


def test_a_limit_per_minute_is_no_lack_of_credit(server):
    busy = error_with(
        429, "You exceeded your current quota, please check your plan and billing details", status="RESOURCE_EXHAUSTED"
    )
    assert reply_to(server, (busy[0], [busy[1]]), busy).text == "echo tea"


REFUSALS = {
    "a policy": error_with(400, "flagged by the policy", code="content_policy_violation"),
    "a long prompt": error_with(400, "maximum context length is 64 tokens", param="messages"),
    "forbidden": error_with(403, "moderation"),
    "unreadable": (422, {"detail": [{"msg": "invalid characters"}]}),
    "too large": (413, b"<h1>Too Large</h1>"),
    "with status 200": error_with(200, "flagged", type="invalid_request_error"),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("first", [True, False])
def test_a_refused_prompt_is_skipped_and_named_and_the_others_are_kept(refusal, first, server, capsys):
    server.script = {"bad": [refusal] * 2, "worse": [refusal] * 2}
    prompts = ["bad", "worse", *TOPICS] if first else [*TOPICS, "bad", "worse"]
    write_settings(server.url, concurrency=1)
    replies = replies_to(asking(*prompts))
    assert {reply.text for reply in replies if not reply.skipped} == {f"echo {topic}" for topic in TOPICS}
    assert "2 of 14 requests got no reply: the server refuses the request with HTTP 4" in (output := capsys.readouterr().out)
    assert "(id-bad, id-worse)" in output
    assert sum(reply.skipped for reply in replies_to(asking(*prompts))) == 2, "and they are asked again, not stored"
    assert sum(server.answered[topic] for topic in TOPICS) == 12


@pytest.mark.parametrize("prompts", [["tea"], TOPICS])
def test_a_server_that_refuses_everything_is_found_out_early(prompts, server):
    server.script = {"*": [error_with(400, "Unrecognized request argument: top_p", param="top_p")] * 99}
    write_settings(server.url, concurrency=1)
    message = ended(asking(*prompts))
    assert "refuses every request, also a harmless one, with HTTP 400: Unrecognized request argument: top_p" in message
    assert len(server.script["*"]) == 97


@pytest.mark.parametrize("answers", [1, 4, 11])
def test_a_server_that_begins_to_refuse_everything_is_found_out_with_the_first_refusal(answers, server):
    write_settings(server.url, concurrency=1)
    server.script = {"*": ["answer"] * answers + [error_with(403, "no more access")] * 99}
    assert "harmless" in ended(asking(*TOPICS))
    assert len(server.script["*"]) == 97 and sum(server.answered.values()) == answers


def test_a_test_that_fails_is_repeated_with_the_next_refusal(server):
    write_settings(server.url, concurrency=1)
    script = ["answer", error_with(403, "no more access"), error_with(503, "busy")] + [error_with(403, "no more access")] * 99
    server.script = {"*": script}
    assert "harmless" in ended(asking(*TOPICS))
    assert len(server.script["*"]) == 97


def test_refusals_in_a_row_cost_few_harmless_requests(server):
    write_settings(server.url, concurrency=1, max_failures=5)
    server.script = {topic: [error_with(400, "policy")] for topic in TOPICS[1:]}
    assert sum(reply.skipped for reply in replies_to(asking(*TOPICS))) == 11
    asked = [body["messages"][-1]["content"] for body in server.requests]
    assert asked.count("Hello.") == 5, "with the refusals 1, 5, 6, 10 and 11"


def test_prompts_that_a_server_refuses_one_after_the_other_stay_about_these_prompts(server):
    write_settings(server.url, max_failures=2)
    server.script = {topic: [error_with(400, "policy")] for topic in TOPICS[:11]}
    assert sum(reply.skipped for reply in replies_to(asking(*TOPICS))) == 11


def test_an_address_without_v1_gets_a_hint(server):
    for reply in [(404, b"<h1>Not Found</h1>"), (200, b"<!doctype html><title>Chat</title>")]:
        write_settings(server.url.removesuffix("/v1"), max_failures=1)
        server.script = {"*": [reply] * 9}
        assert f"(a base URL usually ends in /v1: {server.url})" in ended(asking("tea"))
    server.script = {"*": [error_with(404, "The model `m` does not exist")]}
    assert "/v1:" not in (message := ended(asking("tea"))) and "The model `m` does not exist" in message


def test_a_redirect_is_not_followed_but_named(server):
    with Server() as other:
        server.script = {"*": [(308, b"", {"location": f"{other.url}/chat/completions"})] * 9}
        assert f"redirects to {other.url}/chat/completions; write the right address" in ended(asking("tea"))
        assert not other.headers


def test_the_reason_of_a_failed_connection_is_shown(server, monkeypatch):
    write_settings(closed_port())
    assert "refused" in ended(asking("tea"))
    write_settings(server.url.replace("http:", "https:"))
    assert "SSL" in ended(asking("tea"))
    monkeypatch.setenv("HTTP_PROXY", "gopher://me:hidden-word@proxy:70")
    monkeypatch.setenv("NO_PROXY", "")
    write_settings(server.url)
    assert "check the proxy" in (message := ended(asking("tea"))) and "hidden-word" not in message


# --- waits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", ["7200", "inf", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_wait_beyond_the_patience_stops_and_keeps_what_is_finished(wait, server):
    write_settings(server.url, concurrency=1)
    server.script = {"topic 3": [(429, {"error": "come back tomorrow"}, {"retry_after": wait})]}
    message = ended(asking(*TOPICS))
    assert "come back tomorrow" in message and "runtime.openai.patience" in message and "Finished replies are kept" in message
    server.script = {}
    assert len(ask(asking(*TOPICS))) == 12
    assert set(server.answered.values()) == {1}


def test_a_wait_of_one_endpoint_leaves_the_work_to_the_other(server):
    with Server() as other:
        write_settings(server.url, other.url)
        server.script = {"*": [(429, {}, {"retry_after": "86400"})] * 9}
        assert len(ask(asking(*TOPICS))) == 12
        assert sum(other.answered.values()) == 12


def test_a_long_wait_is_printed_and_a_wait_that_is_no_time_is_named(server, capsys, monkeypatch):
    monkeypatch.setattr(endpoint_pool, "PRINTED_WAIT", 0.1)
    reply_to(server, (503, {"detail": "brewing"}, {"retry_after_ms": "300"}))
    assert "asks to wait 0 s (HTTP 503: brewing)" in capsys.readouterr().out
    write_settings(server.url, max_failures=1)
    server.script = {"*": [(503, {"detail": "brewing"}, {"retry_after": "soonish"})] * 9}
    assert "HTTP 503: brewing, and its retry-after: 'soonish' is not a time" in ended(asking("rain"))


LOADING = [error_with(503, "Loading model", type="unavailable_error"), (503, {"error": "Model m is currently loading"})]


@pytest.mark.parametrize("loading", LOADING)
def test_a_server_that_loads_its_model_is_waited_for_with_one_line(loading, server, capsys):
    server.script = {"*": [loading] * 40}
    assert len(ask(asking(*TOPICS))) == 12, "more often than failures are allowed"
    assert capsys.readouterr().out.count(f"{server.url} is loading its model (HTTP 503: ") == 1


def test_the_wait_for_a_model_has_an_end(server):
    write_settings(server.url, patience=0.3)
    server.script = {"*": LOADING * 99}
    assert re.search(r"no model is loaded after .* s .*oading.*raise runtime\.openai\.patience", ended(asking(*TOPICS)))


def test_an_interrupt_keeps_finished_replies_and_does_not_wait_for_the_others(server, capsys):
    write_settings(server.url, concurrency=12, timeout=60)
    server.script = {topic: ["hang 5"] for topic in TOPICS[8:]}
    main = threading.main_thread().ident
    threading.Timer(1.5, signal.pthread_kill, (main, signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask(asking(*TOPICS))
    assert time.monotonic() - began < 4
    assert "Finished replies are kept" in capsys.readouterr().out
    server.script = {}
    ask(asking(*TOPICS))
    assert {server.answered[topic] for topic in TOPICS[:8]} == {1}


def test_what_is_finished_at_an_interrupt_comes_before_it():
    calls = openai_engine.run_in_threads(lambda number: number**2, 3, 3)
    found = [next(calls)]
    time.sleep(0.3)
    found.append(calls.throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        while True:
            found.append(next(calls))
    assert sorted(found) == [(0, 0), (1, 1), (2, 4)]


# --- replies that have begun -----------------------------------------------------------------------

NO_PREFILL = {
    "llama.cpp": error_with(400, "Cannot have 2 or more assistant messages at the end of the list."),
    "llama.cpp, thinking": error_with(500, "Assistant response prefill is incompatible with enable_thinking."),
    "a strict server": error_with(400, "Unrecognized request arguments: add_generation_prompt, continue_final_message"),
    "Mistral": (422, {"detail": [{"msg": "Expected last role User or Tool for serving"}]}),
}


class PrefillServer(Server):
    """Refuses requests whose last message is the assistant's."""

    def __init__(self, refusal):
        super().__init__()
        self.refusal = refusal

    def choose_act(self, body, prompt):
        return self.refusal if body["messages"][-1]["role"] == "assistant" else super().choose_act(body, prompt)


@pytest.mark.parametrize("refusal", NO_PREFILL.values(), ids=NO_PREFILL)
def test_a_server_that_refuses_a_begun_reply_is_asked_without_the_beginning(refusal, capsys):
    with PrefillServer(refusal) as server:
        write_settings(server.url)
        server.script = {"topic 5": [error_with(400, "flagged")] * 3}
        replies = replies_to(asking(*TOPICS, prefill="<think>\nHm"))
        server.shutdown()
    assert [reply.text for reply in replies if not reply.skipped] == [f"echo {topic}" for topic in TOPICS if topic != "topic 5"]
    assert not any(reply.continues_prefill for reply in replies if not reply.skipped)
    reason = re.escape(server_reason(refusal[1], "")[:30])
    assert len(re.findall(rf"refuses to continue a reply .*{reason}.*asking without", capsys.readouterr().out)) == 1
    assert not any("continue_final_message" in body for body in server.bodies)


def test_a_server_that_begins_as_it_is_asked_keeps_the_beginning_whatever_it_refuses_later(server):
    write_settings(server.url, concurrency=1)
    server.script = {"topic 4": [error_with(400, "flagged")]}
    replies = replies_to(asking(*TOPICS, prefill="Well, "))
    assert [reply.continues_prefill for reply in replies if not reply.skipped] == [True] * 11
    ends = [body["messages"][-1]["content"] for body in server.bodies]
    assert replies[4].skipped and set(ends) == {"Well, ", "Hello."} and ends.count("Hello.") == 1


def test_a_repeated_beginning_is_removed_and_separate_reasoning_ends_it(server):
    reply = reply_to(server, answer_with("<think>\nHm. Yes.</think>So."), prefill="<think>\nHm.")
    assert (reply.text, reply.continues_prefill) == ("Yes.</think>So.", True)
    server.script = {"rain": [answer_with("So.", message={"reasoning_content": "Yes."})]}
    reply = replies_to(asking("rain", prefill="<think>\nHm."))[0]
    assert (reply.text, reply.continues_prefill) == ("So.", False)
    assert chosen.strip_reasoning(reply.text, reply.continues_prefill) == "So."


# --- fields of a request ---------------------------------------------------------------------------


def options(**changes):
    return RequestOptions(**{"omit": [], "rename": {}, "extra": {}} | changes)


def test_fields_can_be_left_out_renamed_and_added(server):
    changed = options(
        omit=["seed", "add_generation_prompt"],
        rename={"max_tokens": "max_completion_tokens"},
        extra={"min_p": 0.1, "stop": ["\n\n"], "chat_template_kwargs": {"enable_thinking": False}},
    )
    replies_to(asking("tea", prefill="So"), options=changed)
    messages = [{"role": "user", "content": "tea"}, {"role": "assistant", "content": "So"}]
    sampling = {"max_completion_tokens": 12, "temperature": 0.7, "top_p": 0.95}
    extra = {"min_p": 0.1, "stop": ["\n\n"], "chat_template_kwargs": {"enable_thinking": False}, "continue_final_message": True}
    assert server.bodies == [{"model": "m", "messages": messages} | sampling | extra]


def test_a_reply_is_identified_by_the_model_its_revision_and_the_changed_fields(server):
    assert OpenAIEngine("m#1", "f", NO_OPTIONS).identity == {"engine": "openai", "model": "m", "revision": "1"}
    identities = [OpenAIEngine("m", "f", options(extra={"top_k": k})).identity for k in (1, 2)]
    assert identities[0] != identities[1] != OpenAIEngine("m", "f", options(omit=["seed"])).identity


INVALID = {
    "an unknown field": ({"omit": ["top_k"]}, "openai.omit: 'top_k' is not one of add_generation_prompt, "),
    "a needed field": ({"rename": {"messages": "input"}}, "openai.rename: 'messages' is not one of"),
    "a field in both": ({"omit": ["seed"], "rename": {"seed": "random_seed"}}, "'seed' is both in omit and in rename"),
    "the model": ({"extra": {"model": "x"}}, "'model' is set by the engine"),
    "a new name in use": ({"rename": {"max_tokens": "n"}}, "'n' is set by the engine"),
    "two of one name": ({"rename": {"seed": "s"}, "extra": {"s": 1}}, "must be different and not empty"),
    "no name": ({"rename": {"seed": ""}}, "must be different and not empty"),
    "the client's word": ({"extra": {"extra_body": {"top_k": 5}}}, "'extra_body' is set by the engine"),
    "a value that is no JSON": ({"extra": {"top_k": float("inf")}}, "openai.extra.top_k is no number that fits in 64 bits"),
    "a number for a name": ({"rename": {"seed": 3}}, "openai.rename.seed: Input should be a valid string"),
}


@pytest.mark.parametrize(("changes", "message"), INVALID.values(), ids=INVALID)
def test_an_invalid_section_is_reported_in_one_sentence(changes, message):
    Path("params.yaml").write_text(
        json.dumps({"openai": {"omit": [], "rename": {}, "extra": {}} | changes}).replace("Infinity", ".inf")
    )
    with pytest.raises(UserError) as error:
        read_section("openai", RequestOptions)
    assert message in error.value.message and "\n" not in error.value.message


# --- the key ---------------------------------------------------------------------------------------


def test_a_key_with_a_line_end_is_used_without_it(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\r\n")
    ask(asking("tea"))
    assert server.headers == [f"Bearer {KEY}"]


@pytest.mark.parametrize("key", [f"{KEY}\u200b", f"sk-é{KEY}", f"{KEY} {KEY}", f"{KEY}\n{KEY}", f"{KEY}\x7f", f"{KEY}\udcff"])
def test_a_key_that_is_none_is_refused_without_showing_it(key, server, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds a space, a control character or one outside ASCII") as error:
        ask(asking("tea"))
    assert shown(error.value).find(KEY) < 0 and KEY not in "".join(capfd.readouterr())
    assert not server.headers


def test_other_headers_of_the_environment_end_in_one_sentence_too(server, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "ürg")
    assert "the request cannot be sent" in ended(asking("tea"))


def shown(error: BaseException | None) -> str:
    """Return the texts of an error and of all those that led to it."""
    texts = []
    while error:
        texts += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@pytest.mark.parametrize("act", [f"status {code}" for code in (400, 401, 403, 429, 500, 503)])
def test_a_server_that_repeats_the_key_reveals_it_on_no_path(act, server, capfd):
    write_settings(server.url, max_failures=1)
    server.script = {"*": [act] * 9}
    with pytest.raises(UserError) as error:
        ask(asking("tea"))
    assert "your key is ***" in error.value.message
    assert KEY not in shown(error.value) + "".join(capfd.readouterr())


# --- 200 mutated answers ---------------------------------------------------------------------------

BATCHES, PER_BATCH = 20, 10
VALUES = [None, True, 0, -1, 10**40, 1e308, float("nan"), "", "MAX_TOKENS", "\ud800", "\u202e", [], {}, [None], [[]], {"a": {}}]
VALUES += [{"error": {"message": {"error": KEY}}}, [{"type": "text"}], [{"type": "text", "text": 5}], "x" * 5000]
HEADERS = ["inf", "-inf", "nan", "-5", "0.01", "1e999", "later", "\t", "Wed, 21 Oct 2015 07:28:00", "9" * 400, "86400", "1,5"]
STATUSES = [
    100,
    201,
    204,
    206,
    301,
    304,
    400,
    401,
    403,
    404,
    409,
    413,
    418,
    422,
    425,
    429,
    451,
    499,
    500,
    501,
    502,
    503,
    529,
    599,
]
BASE = {
    "id": "x",
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "mutated"}, "finish_reason": "stop", "logprobs": None}
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
PAGES = [
    b"",
    b"null",
    b"<html>" + KEY.encode(),
    b"\xff\xfe{",
    b"{" * 3000,
    b"[" * 200000,
    b'{"a":' * 3000,
    b'{"error":' + b"[" * 900 + b"]" * 900 + b"}",
    b"data: {}\n\ndata: [DONE]",
]
ERRORS = [
    {"error": {"message": f"bad key {KEY}", "code": 10**30}},
    {"error": {"message": None, "type": ["x"], "code": {}}},
    {"error": [KEY]},
    {"error": {"error": {"error": f"Bearer {KEY}"}}},
    {"detail": [{"loc": [1], "msg": f"{KEY}"}]},
    {"error": {"message": f"insufficient_quota of {KEY}"}},
    {"error": {"message": "Loading model"}},
    {"message": f"\x1b[31m{KEY}\n\n\u202e", "object": "error"},
]


def paths_in(value, above=()):
    """Yield the path to each value within a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield (*above, name)
        yield from paths_in(child, (*above, name))


def mutated_json(rng):
    answer = copy.deepcopy(BASE)
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "mutated"}]
    answer["choices"][0]["message"]["content"] = rng.choice(["mutated", "mut\ud83dated", parts])
    for _ in range(rng.choice([1, 1, 2, 4])):
        *above, last = rng.choice(list(paths_in(answer)) or [("id",)])
        parent = answer
        for name in above:
            parent = parent[name]
        if rng.random() < 0.3:
            del parent[last]
        else:
            parent[last] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(answer).encode()


def mutated_answer(rng):
    """Return status, body and headers of an answer with a fault, or the name of a fault below HTTP."""
    kind = rng.choice(["json", "json", "json", "status", "status", "error", "cut", "bytes", "page", "type", "below"])
    if kind == "below":
        return rng.choice(["reset", "half", "wrong " + "\x00", "empty"])
    headers = {"retry_after": rng.choice(HEADERS)} if rng.random() < 0.5 else {}
    body = mutated_json(rng)
    if kind == "status":
        return rng.choice(STATUSES), rng.choice([*PAGES, *ERRORS]), headers | {"location": f"http://me:{KEY}@x/"}
    if kind == "error":
        return 200, rng.choice(ERRORS), headers
    if kind == "cut":
        return 200, body[: rng.randrange(len(body))], headers | {"connection": "close"}
    if kind == "bytes":
        place = rng.randrange(len(body))
        return 200, body[:place] + rng.randbytes(3) + body[place + 1 :]
    if kind == "type":
        types = ["text/html; charset=utf-16", "application/json; charset=klingon", "", "text/event-stream", "image/png"]
        return 200, body, {"content_type": rng.choice(types), "content_encoding": rng.choice(["identity", "gzip", "br", "x"])}
    return 200, (rng.choice(PAGES) if kind == "page" else body), headers


@pytest.mark.parametrize("seed", range(BATCHES))
def test_mutated_answers_end_in_replies_or_one_sentence_and_lose_nothing(seed, server, capfd):
    rng = random.Random(seed)
    bad = [f"bad {number}" for number in range(PER_BATCH)]
    prompts = rng.sample([*bad, *TOPICS], len(bad) + len(TOPICS))
    write_settings(server.url, patience=1, timeout=3, max_failures=5)
    server.script = {prompt: [mutated_answer(rng)] for prompt in bad}
    texts = {}
    for _ in range(PER_BATCH + 1):  # each run that stops has used up a mutated answer
        try:
            texts = {prompt: reply.text for prompt, reply in zip(prompts, replies_to(asking(*prompts)), strict=True)}
            break
        except UserError as error:
            assert "\n" not in error.message and error.message.isprintable()
            assert KEY not in shown(error)
    assert {topic: texts[topic] for topic in TOPICS} == {topic: f"echo {topic}" for topic in TOPICS}
    assert {server.answered[topic] for topic in TOPICS} == {1}, "what was answered well is asked for once, whatever came after"
    "".join(texts.values()).encode()
    output = "".join(capfd.readouterr())
    assert KEY not in output and "Traceback" not in output
