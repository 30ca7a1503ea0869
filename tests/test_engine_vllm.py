"""The vllm engine without vLLM: what it tells vLLM, and what it makes of the answers. tests/test_vllm.py runs the real one."""

import json
import shutil
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
from transformers import AutoTokenizer

from character.core import models
from character.core.errors import UserError
from character.inference import vllm_engine
from character.inference.generate import Request, SamplingSettings
from character.inference.vllm_engine import VLLMEngine

WARM = SamplingSettings(max_new_tokens=8, temperature=0.8, top_p=0.9)
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0}


class Speaker:
    """In place of AsyncLLM: it says "Arr" to every prompt, and ends as `finish` says."""

    finish = "stop"

    def __init__(self, arguments):
        self.arguments, self.settings = arguments, []
        self.model_config = SimpleNamespace(max_model_len=arguments.max_model_len or 2048)

    from_engine_args = classmethod(lambda kind, arguments: kind(arguments))

    async def generate(self, prompt, settings, name, lora_request=None):
        self.settings.append(settings)
        tokens = AutoTokenizer.from_pretrained(models.STUDENT_DIR)("Arr")["input_ids"]
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens, finish_reason=self.finish)])

    def shutdown(self):
        pass


@pytest.fixture
def speaker(repository, tiny_student, monkeypatch):
    """vLLM's classes that the engine imports, with a student in its place; returns the class in place of AsyncLLM."""
    repository.set(runtime={"device": "cpu", "threads": 1})
    shutil.copytree(tiny_student, models.STUDENT_DIR)
    kind = type("AsyncLLM", (Speaker,), {})
    contents = {
        "vllm": {"AsyncEngineArgs": SimpleNamespace, "SamplingParams": SimpleNamespace},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {"AsyncLLM": kind},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": SimpleNamespace},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY=2)},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return kind


def asking(count):
    return [Request(f"id-{number}", [{"role": "user", "content": f"topic {number}"}]) for number in range(count)]


def change_config(**changes):
    path = models.STUDENT_DIR / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({name: value for name, value in config.items() if name != "rope_scaling"} | changes))


def opened():
    """Return an engine that has replied once, so that it has started."""
    engine = VLLMEngine()
    list(engine.stream(asking(1), WARM, [0]))
    return engine


def test_vllm_stops_where_the_template_ends_a_turn_whatever_the_models_own_end(speaker):
    change_config(eos_token_id=0)
    engine = opened()
    (settings,) = engine._llm.settings
    assert settings.stop_token_ids == [engine._tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert (settings.max_tokens, settings.temperature, settings.top_p) == (8, 0.8, 0.9)
    engine.close()


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_that_depend_on_the_longest_text_limit_the_context(kind, speaker):
    rope = LONG if kind == "longrope" else {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    change_config(rope_parameters=rope | {"original_max_position_embeddings": 96})
    engine = opened()
    assert engine._llm.arguments.max_model_len == 96
    (_, reply), *_ = engine.stream([Request("long", [{"role": "user", "content": "word " * 200}])], WARM, [0])
    assert reply.skipped and "96 tokens less" in reply.reason
    engine.close()


def test_the_context_of_other_models_is_left_to_vllm(speaker):
    engine = opened()
    assert engine._llm.arguments.max_model_len is None
    engine.close()


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_reply_ends_as_vllm_says(finish, speaker):
    speaker.finish = finish
    replies = dict(VLLMEngine().stream(asking(3), WARM, [0, 1, 2]))
    assert {(reply.text, reply.finish_reason) for reply in replies.values()} == {("Arr", finish)} and len(replies) == 3


@pytest.mark.parametrize("finish", ["abort", "error", None])
def test_a_reply_that_vllm_gave_up_is_none(finish, speaker):
    speaker.finish = finish
    with pytest.raises(UserError, match=rf"models/student: vLLM gave up a reply \({finish}\); .* Finished replies are kept"):
        list(VLLMEngine().stream(asking(3), WARM, [0, 1, 2]))


def test_an_interrupt_keeps_what_is_finished(speaker, monkeypatch):
    class InterruptedQueue(list):
        """A queue at which the wait for the second of three outcomes is interrupted when all are there."""

        put, interrupts = list.append, iter([False, True])

        def get(self):
            while len(self) + len(kept) < 3:
                time.sleep(0.01)
            if next(self.interrupts, False):
                raise KeyboardInterrupt
            return self.pop(0)

        def empty(self):
            return not self

    monkeypatch.setattr(vllm_engine, "SimpleQueue", InterruptedQueue)
    kept = []
    with pytest.raises(KeyboardInterrupt):
        for number, _ in VLLMEngine().stream(asking(3), WARM, range(3)):
            kept.append(number)
    assert kept == [0, 1, 2]
