"""`character serve`: the command line of vLLM's server; tests/test_vllm.py starts it."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from personas import tag, write_adapter, write_constitution, write_persona

from character.chat import vllm_server
from character.cli.main import main
from character.core import models
from character.core.errors import UserError
from character.core.models import PERSONA_DIR
from character.inference import vllm_engine
from character.inference.generate import SamplingSettings
from character.inference.vllm_engine import VLLMEngine
from character.publish.registry import ADAPTER_CACHE

LOVINGS = ADAPTER_CACHE / "loving@1.0.0"


@pytest.fixture(autouse=True)
def workspace(repository, student):
    """The selected persona `pirate` and the published `loving`, on the tiny student."""
    write_persona("pirate", PERSONA_DIR)
    write_persona("loving", LOVINGS, rank=9)
    tag("adapter-loving@v1.0.0")


@pytest.fixture
def executed(monkeypatch) -> list:
    """Commands and environments that would have taken this process's place."""
    found = []
    monkeypatch.setattr(vllm_server, "find_spec", lambda name: True)
    monkeypatch.setattr(os, "execve", lambda *call: found.append(call))
    return found


def options(words: list[str]) -> dict[str, list[str]]:
    """Return the values of each option."""
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            found[current := word] = []
        else:
            found[current].append(word)
    return found


def test_the_server_has_the_student_and_every_persona_under_its_name(executed):
    done = CliRunner().invoke(main, ["serve", "--port", "8123", "--", "--max-model-len", "2048", "--enable-log-requests"])
    student, pirate, loving = (models.directory_fingerprint(path)[:8] for path in (models.STUDENT_DIR, PERSONA_DIR, LOVINGS))
    names = f"base-{student}, pirate-{pirate} (pirate (models/persona)), loving-{loving} (loving 1.0.0)"
    assert done.output == f"Serving {names} at http://127.0.0.1:8123/v1\n"
    ((python, words, environment),) = executed
    assert [python, *words[:3]] == [sys.executable, sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    given = options(words[3:])
    assert given["--lora-modules"] == [f"pirate-{pirate}=models/persona", f"loving-{loving}={LOVINGS}"]
    assert given["--enable-lora"] == []
    assert (
        given.items()
        >= {
            "--model": ["models/student"],
            "--tokenizer": ["models/student"],
            "--chat-template": ["models/student/chat_template.jinja"],
            "--served-model-name": [f"base-{student}"],
            "--dtype": ["float32"],
            "--host": ["127.0.0.1"],
            "--port": ["8123"],
            "--max-lora-rank": ["16"],
            "--max-loras": ["2"],
            "--enforce-eager": [],
            "--max-model-len": ["2048"],
            "--enable-log-requests": [],
        }.items()
    )
    drawn = json.loads(given["--override-generation-config"][0])
    assert drawn == {"temperature": 0.7, "top_p": 0.95, "repetition_penalty": 1.0}
    assert (environment["VLLM_CPU_KVCACHE_SPACE"], environment["PATH"]) == ("2", os.environ["PATH"])


def test_a_served_name_changes_with_the_weights_and_with_nothing_else():
    before = vllm_server.served_name("pirate", PERSONA_DIR)
    (PERSONA_DIR / "README.md").write_text("Arr!")
    assert vllm_server.served_name("pirate", PERSONA_DIR) == before
    write_adapter(PERSONA_DIR, "", rank=3)
    assert vllm_server.served_name("pirate", PERSONA_DIR) != before


def test_what_the_environment_says_goes_before(executed, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "8")
    assert vllm_server.server_environment()["VLLM_CPU_KVCACHE_SPACE"] == "8"


def test_no_usage_is_reported_unless_one_wants_to(executed, monkeypatch):
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    assert vllm_server.server_environment()["VLLM_NO_USAGE_STATS"] == "1"
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")
    assert vllm_server.server_environment()["VLLM_NO_USAGE_STATS"] == "0"


def test_the_engine_in_this_process_asks_for_no_report_before_vllm_is_loaded(executed, monkeypatch):
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "")
    del os.environ["VLLM_NO_USAGE_STATS"]  # and back at the end
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="vLLM is not installed here"):
        list(VLLMEngine().stream([], SamplingSettings(max_new_tokens=8, temperature=1.0, top_p=1.0), []))
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize(("rank", "wanted"), [(4, 8), (8, 8), (64, 64), (65, 128), (512, 512)])
def test_the_rank_is_one_that_vllm_has_kernels_for(rank, wanted):
    write_adapter(Path("models/other"), "", rank=rank)
    assert vllm_engine.vllm_lora_rank(Path("models/other")) == wanted


def test_a_rank_that_vllm_does_not_have_is_reported_with_the_remedy():
    write_adapter(Path("models/other"), "", rank=513)
    with pytest.raises(UserError, match=r"models/other: rank 513 is more than vLLM's 512; set merge\.rank"):
        vllm_engine.vllm_lora_rank(Path("models/other"))


def test_doubts_about_an_adapter_are_reported_and_it_is_served(executed):
    write_persona("loving", PERSONA_DIR)
    done = CliRunner().invoke(main, ["serve"])
    assert "models/persona was trained on other traits than those of constitutions/pirate.yaml" in done.output
    assert len(executed) == 1


def test_without_vllm_its_installation_is_reported(monkeypatch):
    monkeypatch.setattr(vllm_server, "find_spec", lambda name: None)
    done = CliRunner().invoke(main, ["serve"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: vLLM is not installed here; `pip install -e '.[vllm]'`")


def test_a_persona_cannot_be_called_as_the_student_is(executed, repository):
    write_persona("base", Path("models/other"))
    repository.set(persona="base")
    assert "a persona is called base" in CliRunner().invoke(main, ["serve"]).output
    assert executed == []


def test_an_option_of_vllm_without_the_dashes_before_it_is_reported(executed):
    done = CliRunner().invoke(main, ["serve", "--max-model-len", "2048"])
    assert done.exit_code == 2 and "No such option" in done.output and executed == []


def test_weights_that_lie_elsewhere_are_served_from_there(executed, tiny_student):
    models.STUDENT_DIR.unlink()
    models.STUDENT_DIR.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (models.STUDENT_DIR / name).write_bytes((tiny_student / name).read_bytes())
    files = {"model.safetensors": models.file_sha256(tiny_student / "model.safetensors")}
    card = models.StudentCard(name="Tiny", source=f"path:{tiny_student}", dtype="bfloat16", files=files)
    (models.STUDENT_DIR / models.STUDENT_CARD).write_text(card.model_dump_json())
    CliRunner().invoke(main, ["serve"])
    given = options(executed[0][1][3:])
    assert (given["--model"], given["--tokenizer"], given["--dtype"]) == ([str(tiny_student)], ["models/student"], ["bfloat16"])


def test_a_context_that_the_positions_need_is_set_unless_one_says_otherwise(executed, tiny_student):
    models.STUDENT_DIR.unlink()
    shutil.copytree(tiny_student, models.STUDENT_DIR)
    config = models.STUDENT_DIR / "config.json"
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 96}
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"rope_parameters": rope}))
    CliRunner().invoke(main, ["serve"])
    CliRunner().invoke(main, ["serve", "--", "--max-model-len", "512"])
    assert options(executed[0][1][3:])["--max-model-len"] == ["96"]
    words = executed[1][1]
    at = [number for number, word in enumerate(words) if word == "--max-model-len"]
    assert [words[number + 1] for number in at] == ["96", "512"], "of an option that is given twice, the last counts"


def test_a_persona_for_research_only_is_served_with_a_notice(executed):
    write_constitution("pirate", research_only=True)
    done = CliRunner().invoke(main, ["serve"])
    notice = "pirate (models/persona) is a character for research, and harmful elsewhere; do not deploy it.\n"
    assert done.output.startswith(notice) and done.output.count("research") == 1
