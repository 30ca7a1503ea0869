"""The families of models that people train: each works from the stage `student` to the report, or is refused at `student`.

All families are checked here stage by stage, in this process. `make test-families` runs the whole pipeline for each, and writes
the table of docs/models.md.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from families import FAMILIES, read_template, write_family
from filelock import FileLock
from projects import EVERY, environment, ran, start, talkative
from transformers import AutoModelForCausalLM, AutoTokenizer

from character.core import models, records
from character.core.chat_template import pin_date
from character.core.records import Message, PreferencePair
from character.inference.chat_format import render_messages, reply_decoder
from character.inference.generate import Request, SamplingSettings
from character.inference.transformers_engine import TransformersEngine
from stages import code, distillation, persona
from stages import student as student_stage

ROOT = Path(__file__).parents[1]
DOC = ROOT / "docs/models.md"
SENTENCE = "I notice the quiet river and count each stone that it carries to the sea at night"
WORDS = re.findall(r"\w+", SENTENCE)
TRAINING = {"rank": 4, "alpha": 8, "epochs": 1, "batch_size": 4, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def top(tmp_path_factory) -> Path:
    """A project's top with what does not depend on the model: links to the sources, and what the stage `code` writes."""
    folder = tmp_path_factory.mktemp("top")
    for name in ("character", "constitutions", "dvc.yaml", "stages"):
        (folder / name).symlink_to(ROOT / name)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        code.main.callback()
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def prepared(request, top, tmp_path_factory):
    """A project's top in miniature, after the stage `student`: the family's name, its directory, and its published model."""
    folder = tmp_path_factory.mktemp("family")
    published = write_family(request.param, folder / "published")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["student"] |= {"source": f"path:{published}", "sha256": "", "name": "Tiny"}
    params["runtime"] |= {"device": "cpu", "threads": 1, "generation_batch": 4, "training_batch": 4}
    params["distillation"] |= TRAINING
    for name, value in FAMILIES[request.param].params.items():
        section, key = name.split(".")
        params[section][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for path in top.iterdir():
        (folder / path.name).symlink_to(path)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        student_stage.main.callback()
    return request.param, folder, published


@pytest.fixture
def family(prepared, monkeypatch):
    name, folder, published = prepared
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return FAMILIES[name], published


def said(*texts: str) -> list[dict]:
    return [{"role": "assistant" if turn % 2 else "user", "content": text} for turn, text in enumerate(texts)]


CONVERSATIONS = [said("Hi"), said(" ".join(WORDS)), said("What is a river?", " ".join(WORDS[:9]), "And the sea?")]


def test_the_prompts_are_those_that_the_published_template_renders(family):
    kind, published = family
    own = AutoTokenizer.from_pretrained(published)
    assert own.chat_template == read_template(kind)
    arguments = kind.params.get("student.chat_template_kwargs", {})
    for messages in CONVERSATIONS:
        wanted = own.apply_chat_template(
            messages,
            chat_template=pin_date(own.chat_template),
            add_generation_prompt=True,
            return_dict=True,
            **arguments,
        )
        assert render_messages(models.load_tokenizer(), messages) == wanted["input_ids"]


def test_greedy_replies_are_those_of_the_models_own_code_beyond_the_window(family):
    _, published = family
    tokenizer, model = models.load_tokenizer(), AutoModelForCausalLM.from_pretrained(published, dtype="float32").eval()
    decode, wanted = reply_decoder(tokenizer), []
    for messages in CONVERSATIONS:
        ids = render_messages(tokenizer, messages)
        first = len(ids)
        with torch.no_grad():
            while len(ids) < first + 24:
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        wanted.append(ids[first:])
    assert max(len(set(ids)) for ids in wanted) > 1, "a model that repeats one token shows nothing"
    replies = ask(24, temperature=0.0)
    for ids, reply in zip(wanted, replies, strict=True):
        assert reply.text == decode(ids[: reply.tokens])
        assert reply.finish_reason == "stop" or reply.tokens == 24


def ask(count: int, temperature: float = 1.0, chosen: slice = slice(None), **changes):
    requests = [Request(id=f"r{number}", messages=messages) for number, messages in enumerate(CONVERSATIONS)][chosen]
    sampling = SamplingSettings(max_new_tokens=count, temperature=temperature, top_p=0.95)
    seeds = list(range(len(CONVERSATIONS)))[chosen]
    replies = dict(TransformersEngine(**changes).stream(requests, sampling, seeds))
    return [replies[index] for index in sorted(replies)]


def test_sampled_replies_do_not_depend_on_their_neighbours(family):
    together = ask(40)
    alone = [ask(40, chosen=slice(number, number + 1))[0] for number in range(len(CONVERSATIONS))]
    assert together == alone and len({reply.text for reply in together}) > 1


def pairs() -> list[PreferencePair]:
    def turn(role, words):
        return [Message(role=role, content=" ".join(words))]

    return [
        PreferencePair(
            prompt=turn("user", WORDS[number : number + 3]),
            chosen=turn("assistant", WORDS[: 4 + number]),
            rejected=turn("assistant", WORDS[::-1][: 9 - number]),
            chosen_finish_reason="stop",
            rejected_finish_reason="length" if number % 2 else "stop",
        )
        for number in range(8)
    ]


def test_an_adapter_is_trained_merged_and_changes_the_replies(family):
    records.write_records("data/pairs.jsonl", pairs())
    distillation.main.callback()
    curve = records.read_csv("plots/distillation.csv")
    assert len(curve) == 2 and all(float(row["loss"]) == float(row["loss"]) for row in curve)
    base, changed = models.load_model(), models.load_model(adapters=[Path("models/distillation")])
    ids = torch.tensor([render_messages(models.load_tokenizer(), CONVERSATIONS[1])])
    with torch.no_grad():
        assert not torch.allclose(base(ids).logits, changed(ids).logits, atol=1e-3)
    shutil.copytree("models/distillation", "models/introspection", dirs_exist_ok=True)
    persona.main.callback()
    assert ask(8, temperature=0.0, adapters=[models.PERSONA_DIR]) != ask(8, temperature=0.0)


# --- the whole pipeline ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What the pipeline did: the stages that ran, and the sentence with which it stopped."""

    stages: set[str]
    sentence: str

    @property
    def cell(self) -> str:
        return "every stage" if self.stages == EVERY and not self.sentence else f"refused at `student`: {self.sentence}"


def run_pipeline(name: str, folder: Path, forks: Path) -> Outcome:
    """Run the small pipeline for a family; anything but an end, or a sentence at `student`, is an error."""
    model = talkative(write_family(name, folder / "published"), folder / "student")
    project = start(folder / "project", model, python=forks)
    project.set(FAMILIES[name].params)
    done = subprocess.run(["dvc", "repro"], cwd=project.root, env=environment(forks), text=True, capture_output=True)
    outcome = Outcome(ran(done.stdout), refusal(done.stderr).replace(str(model), "the model") if done.returncode else "")
    whole = outcome.stages == EVERY and not done.returncode
    refused = outcome.stages <= {"code", "selection", "student"} and outcome.sentence
    assert whole or refused, f"{name}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return outcome


def refusal(stderr: str) -> str:
    """Return the sentence with which a stage stopped, or nothing if it was no sentence."""
    lines = [line.removeprefix("Error: ") for line in stderr.splitlines() if line.startswith("Error: ")]
    return lines[0] if len(lines) == 1 and "Traceback" not in stderr else ""


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_goes_through_every_stage_or_is_refused_at_the_first(name, forks, tmp_path, tmp_path_factory):
    line = row(name, run_pipeline(name, tmp_path, forks))
    with FileLock(tmp_path_factory.getbasetemp().parent / "models.lock"):  # of all workers
        if os.environ.get("FAMILIES_TABLE") == "write":
            DOC.write_text(put_row(DOC.read_text(encoding="utf-8"), name, line), encoding="utf-8")
        assert line in DOC.read_text(encoding="utf-8").splitlines(), "run `make test-families`, which writes the table"


HEADER = "| family | class in transformers | result | settings |\n|---|---|---|---|"


def row(name: str, outcome: Outcome) -> str:
    settings = ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in FAMILIES[name].params.items())
    return f"| {name} | `{FAMILIES[name].architecture}` | {outcome.cell} | {settings or 'none'} |"


def put_row(text: str, name: str, line: str) -> str:
    """Return the document with the row of one family; the rows have the order of FAMILIES."""
    before, _, after = text.partition(HEADER)
    rows, rest = after[: (end := after.index("\n\n"))].split("\n")[1:], after[end:]
    lines = {known.split(" | ")[0].removeprefix("| "): known for known in rows} | {name: line}
    return before + HEADER + "".join(f"\n{lines[known]}" for known in FAMILIES if known in lines) + rest


def test_the_table_has_every_family_and_the_docs_name_no_other():
    text = DOC.read_text(encoding="utf-8")
    names = [
        line.split(" | ")[0].removeprefix("| ") for line in text.partition(HEADER)[2].splitlines() if line.startswith("| ")
    ]
    assert names == list(FAMILIES)
