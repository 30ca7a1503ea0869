"""Capabilities: the shipped items, how lm-evaluation-harness is called, and how scores are aggregated."""

import json
import re
import shutil
import socket
from collections import Counter
from operator import add, mul, sub
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from character.core import models, records
from character.core.errors import UserError
from character.evaluation import lm_eval_tasks
from character.evaluation.intervals import paired_difference, wilson_interval
from character.evaluation.lm_eval_tasks import TaskScore
from character.inference.chat_format import render_messages
from stages import capabilities
from stages.tasks import main

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "data/raw/tasks"
SHIPPED = ["mental_arithmetic", "common_knowledge", "cloze_endings"]


def items(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").open(encoding="utf-8")]


def question(item):
    return item.get("question") or item["passage"]


def runs(text, length):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


each_task = pytest.mark.parametrize("name", SHIPPED)

# --- the items


def test_the_shipped_tasks_are_those_of_the_params_and_read_their_own_items():
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert sorted(params["tasks"]["metrics"]) == sorted(SHIPPED) == sorted(path.stem for path in FOLDER.glob("*.yaml"))
    for name in SHIPPED:
        task = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
        assert task["task"] == name
        assert task["dataset_kwargs"]["data_files"] == {"test": f"data/raw/tasks/{name}.jsonl"}


@each_task
def test_an_item_has_four_different_options_in_one_form_and_an_answer_among_them(name):
    for item in items(name):
        options = item["options"]
        assert len({option.lower() for option in options}) == len(options) == 4, item
        assert item["answer"] in range(4), item
        assert len({len(option.split()) for option in options}) == 1, item
        assert all(option == option.strip() for option in options), item
        assert question(item) == question(item).strip(), item


@each_task
def test_answers_stand_at_each_place_equally_often_and_are_as_long_as_the_other_options(name):
    rows = items(name)
    assert set(Counter(item["answer"] for item in rows).values()) == {len(rows) // 4}
    right = sum(len(item["options"][item["answer"]]) for item in rows) / len(rows)
    every = sum(len(option) for item in rows for option in item["options"]) / (4 * len(rows))
    assert right == pytest.approx(every, rel=0.1)


def test_no_question_occurs_twice_or_shares_a_run_of_words_with_the_prompts():
    asked = [question(item).lower() for name in SHIPPED for item in items(name)]
    assert len(asked) == len(set(asked)) == 352
    prompts = [
        " ".join(map(str, json.loads(line).values()))
        for path in (ROOT / "data/raw/prompts").glob("*.jsonl")
        for line in path.open(encoding="utf-8")
    ]
    known = set().union(*(runs(text, 5) for text in prompts))
    assert [text for text in asked if runs(text, 5) & known] == []


def test_each_sum_comes_out_right_and_each_kind_is_there():
    rows = items("mental_arithmetic")
    for item in rows:
        left, sign, right = re.fullmatch(r"What is (\d+) ([-+*]) (\d+)\?", item["question"]).groups()
        result = {"+": add, "-": sub, "*": mul}[sign](int(left), int(right))
        assert item["options"][item["answer"]] == str(result), item
        assert {len(option) for option in item["options"]} == {len(str(result))}, item
    assert Counter(item["kind"] for item in rows) == dict.fromkeys(
        ["steps", "sums", "differences", "products", "two digits"], 20
    )


def test_common_knowledge_is_of_many_kinds():
    assert min(Counter(item["kind"] for item in items("common_knowledge")).values()) >= 10


# --- how they are run


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the shipped tasks and params."""
    shutil.copytree(FOLDER, tmp_path / "data/raw/tasks")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def knowing(share=lambda number: True):
    """Return a model that finds the right option likelier for the items whose number is in the share, and else ties."""
    from lm_eval.api.model import LM

    class Knowing(LM):
        tokenizer_name = "none"

        def apply_chat_template(self, history, add_generation_prompt=True):
            assert not add_generation_prompt and history[-1]["role"] == "assistant", "the answer has been opened"
            return "".join(f"<{message['role']}>{message['content']}" for message in history)

        def loglikelihood(self, requests):
            self.asked = [request.args for request in requests]
            return [(float(row.idx == row.doc["answer"] and share(row.doc_id)), False) for row in requests]

        def loglikelihood_rolling(self, requests): ...

        def generate_until(self, requests): ...

    return Knowing()


def scores(lm, name, metric="acc", limit=0):
    return lm_eval_tasks.score_task_items(lm, name, lm_eval_tasks.load_tasks([name], seed=0)[name], metric, limit)


@each_task
def test_who_knows_gets_everything_and_who_knows_nothing_a_quarter(project, name):
    found = scores(knowing(), name)
    assert {row.score for row in found} == {1.0}
    assert [row.item for row in found] == [f"{name}/{number}" for number in range(len(items(name)))]
    nothing = scores(knowing(lambda number: False), name)
    assert sum(row.score for row in nothing) == len(nothing) / 4, "ties go to the first option"


def test_an_item_is_asked_as_a_chat_whose_answer_is_open_before_a_space(project):
    lm = knowing()
    scores(lm, "common_knowledge", limit=1)
    first = items("common_knowledge")[0]
    context = f"<user>{first['question']}<assistant>The answer is"
    assert lm.asked == [(context, f" {option}") for option in first["options"]]
    scores(lm, "cloze_endings", limit=1)
    first = items("cloze_endings")[0]
    assert lm.asked[0] == (f"<user>Write two or three sentences.<assistant>{first['passage']}", f" {first['options'][0]}")


def test_a_name_may_mean_several_tasks(project):
    group = {"group": "both", "task": ["mental_arithmetic", "cloze_endings"]}
    Path("data/raw/tasks/both.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    found = scores(knowing(lambda number: number == 2), "both", limit=3)
    assert [row.item for row in found] == [f"{name}/{number}" for name in group["task"] for number in range(3)]
    assert {row.task for row in found} == {"both"}
    assert [row.score for row in found][2::3] == [1.0, 1.0]


def test_nothing_is_asked_of_the_network_and_nothing_is_left_next_to_the_tasks(project, monkeypatch):
    calls = []

    def refuse(*address, **settings):
        calls.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_UPDATE_DOWNLOAD_COUNTS", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", project.parent / "cache")
    before = sorted(project.rglob("*"))
    scores(knowing(), "mental_arithmetic", limit=1)
    assert calls == []
    assert sorted(project.rglob("*")) == before


def test_an_unknown_task_or_metric_is_reported(project, monkeypatch):
    monkeypatch.setattr("lm_eval.tasks.manager.TaskIndex._iter_yaml_files", lambda root: iter(()))
    with pytest.raises(UserError, match=r"tasks\.metrics: common_sense is not a task of lm-evaluation-harness"):
        lm_eval_tasks.load_tasks(["common_sense"], seed=0)
    monkeypatch.undo()
    monkeypatch.chdir(project)
    for metric in ("acc_norm", "acc,strict-match"):
        with pytest.raises(UserError, match=f"cloze_endings has no number for each item under '{metric}'; use one of acc,none"):
            scores(knowing(), "cloze_endings", metric, limit=1)


def test_a_task_without_its_items_is_reported(project):
    Path("data/raw/tasks/cloze_endings.jsonl").unlink()
    with pytest.raises(UserError, match=r"tasks\.metrics: a task cannot be loaded"):
        lm_eval_tasks.load_tasks(["cloze_endings"], seed=0)


def test_the_stage_writes_a_score_for_each_item_of_each_task(project, monkeypatch):
    monkeypatch.setattr(lm_eval_tasks, "language_model", lambda adapters: knowing(lambda number: number % 2))
    params = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(params.replace("limit: 0", "limit: 4"), encoding="utf-8")
    CliRunner().invoke(main, ["--method", "base", "--model", "models/student"], catch_exceptions=False)
    found = records.read_records("data/tasks/base.jsonl", TaskScore)
    assert [row.task for row in found] == [name for name in SHIPPED for _ in range(4)]
    assert all(row.score == 1.0 for row in found if row.item.endswith(("/1", "/3")))


@pytest.fixture
def student(project, tiny_student):
    (project / "models").mkdir()
    (project / "models/student").symlink_to(tiny_student)
    runtime = {"device": "cpu", "threads": 1, "generation_batch": 16, "training_batch": 4, "accelerate": "", "report_to": []}
    tasks = {"metrics": dict.fromkeys(SHIPPED, "acc"), "limit": 2}
    Path("params.yaml").write_text(
        yaml.safe_dump({"seed": 0, "tasks": tasks, "runtime": runtime}, sort_keys=False), encoding="utf-8"
    )


@pytest.mark.parametrize(("name", "opened"), [("mental_arithmetic", "The answer is"), ("cloze_endings", None)])
def test_likelihoods_are_those_of_each_option_after_the_chat_that_the_engines_render(student, name, opened):
    import torch

    lm = lm_eval_tasks.language_model()
    task = lm_eval_tasks.load_tasks([name], seed=0)[name][name]
    task.build_all_requests(limit=6, apply_chat_template=True, fewshot_as_multiturn=True, chat_template=lm.apply_chat_template)
    found = lm.loglikelihood(task.instances)
    tokenizer, model = models.load_tokenizer(), models.load_model()
    alone = []
    for item in items(name)[:6]:
        said = item.get("question") or "Write two or three sentences."
        head = render_messages(tokenizer, [{"role": "user", "content": said}], prefill=opened or item["passage"])
        for option in item["options"]:
            tail = tokenizer(f" {option}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logps = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
            alone.append(sum(logps[len(head) - 1 + step, token].item() for step, token in enumerate(tail)))
    assert [logp for logp, _ in found] == pytest.approx(alone, abs=1e-3)


def test_a_tokenizer_that_adds_a_bos_of_its_own_adds_none_to_a_chat(student):
    from tokenizers.processors import TemplateProcessing

    lm = lm_eval_tasks.language_model()
    bos = lm.tokenizer.bos_token = "<|endoftext|>"
    number = lm.tokenizer.convert_tokens_to_ids(bos)
    lm.tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    assert lm.tokenizer("Why?")["input_ids"][0] == number
    chat = lm.apply_chat_template([{"role": "user", "content": "Why?"}])
    assert lm.tok_encode(chat) == render_messages(models.load_tokenizer(), [{"role": "user", "content": "Why?"}])


def test_the_stage_scores_the_student(student):
    CliRunner().invoke(main, ["--method", "base", "--model", "models/student"], catch_exceptions=False)
    found = records.read_records("data/tasks/base.jsonl", TaskScore)
    assert [row.item for row in found] == [f"{name}/{number}" for name in SHIPPED for number in range(2)]
    assert {row.score for row in found} <= {0.0, 1.0}


# --- aggregation of the scores


def marked(task, marks):
    return [TaskScore(task=task, item=f"{task}/{number}", score=float(mark)) for number, mark in enumerate(marks)]


def test_accuracy_and_its_change_are_those_of_the_same_items():
    base = marked("sums", "1100") + marked("facts", "10")
    persona = marked("sums", "1010") + marked("facts", "00")
    found = {
        task: capabilities.capability_scores(pairs, seed=0) for task, pairs in capabilities.paired_scores(base, persona).items()
    }
    assert list(found) == ["overall", "sums", "facts"]
    assert {"accuracy": 0.5, "change": 0.0, "gained": 1, "lost": 1, "n": 4}.items() <= found["sums"].items()
    facts = found["facts"]
    assert {"accuracy": 0.0, "change": -0.5, "gained": 0, "lost": 1, "n": 2}.items() <= facts.items()
    assert (facts["low"], facts["high"]) == wilson_interval(0.0, 2)
    assert (facts["change"], facts["change_low"], facts["change_high"]) == paired_difference([False, False], [True, False])
    assert found["overall"]["accuracy"] == pytest.approx(2 / 6)
    assert found["overall"]["change"] == pytest.approx(-1 / 6)


def test_what_makes_an_item_hard_for_both_drops_out_of_the_change():
    base = marked("sums", "10" * 50)
    persona = marked("sums", "10" * 48 + "0000")
    found = capabilities.capability_scores(capabilities.paired_scores(base, persona)["sums"], seed=0)
    assert found["change"] == pytest.approx(-0.02)
    assert -0.08 < found["change_low"] < -0.02 < found["change_high"] < 0.04
    assert found["high"] - found["low"] > 0.15


def test_items_that_do_not_differ_are_no_proof_that_none_would():
    found = capabilities.capability_scores([(1.0, 1.0)] * 100, seed=0)
    assert found["change"] == 0
    assert -0.05 < found["change_low"] < 0 < found["change_high"] < 0.05
    assert found["low"] < 1


def test_scores_that_are_parts_of_a_point_are_drawn_anew_together():
    found = capabilities.capability_scores([(0.25, 0.5), (0.5, 0.75), (0.0, 0.25)] * 10, seed=0)
    assert (found["change"], found["change_low"], found["change_high"]) == (0.25, 0.25, 0.25)
    assert found["low"] < found["accuracy"] == 0.5 < found["high"]


def write(method, *parts):
    records.write_records(f"data/tasks/{method}.jsonl", [row for part in parts for row in part])


def test_each_method_is_compared_with_the_first(project):
    write("base", marked("sums", "1111"), marked("facts", "1000"))
    write("persona", marked("sums", "1100"), marked("facts", "1000"))
    CliRunner().invoke(capabilities.main, ["base", "persona"], catch_exceptions=False)
    metrics = json.loads(Path("results/capabilities.json").read_text(encoding="utf-8"))
    assert {task: found["accuracy"] for task, found in metrics["base"].items()} == {
        "overall": 0.625,
        "sums": 1.0,
        "facts": 0.25,
    }
    assert {found["change"] for found in metrics["base"].values()} == {0.0}
    assert {task: found["change"] for task, found in metrics["persona"].items()} == {
        "overall": -0.25,
        "sums": -0.5,
        "facts": 0.0,
    }
    rows = Path("plots/capabilities.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("method,task,accuracy,low,high,change,")
    assert [row.split(",")[:3] for row in rows[4:6]] == [["persona", "overall", "0.375"], ["persona", "sums", "0.5"]]


def test_scores_of_other_items_are_not_compared(project):
    write("base", marked("sums", "11"))
    write("persona", marked("facts", "11"))
    with pytest.raises(UserError, match=r"data/tasks/persona\.jsonl has different items from base\.jsonl"):
        capabilities.main.main(["base", "persona"], standalone_mode=False)
