"""Distillation, introspection and the merge: what they optimise, and what does not change it."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from conftest import write_student
from model_families import write_family_student
from safetensors.torch import load_file, save_file

from character.core import models, records
from character.core.errors import UserError
from character.core.records import Message, PreferencePair, TrainingTranscript, read_provenance
from character.dataset import constitution
from character.training import adapters, curve_callback, launch
from character.training.checkpoints import checkpoint_dir
from character.training.merging import load_lora_factors
from character.training.objectives import DistillationSettings, preference_loss
from character.training.run import accumulation_steps, save_training_run
from stages import code, distillation, introspection, persona

ROOT = Path(__file__).parents[1]
COMMON = {
    "rank": 4,
    "alpha": 8,
    "dropout": 0.0,
    "target_modules": "all-linear",
    "target_parameters": [],
    "exclude_modules": [],
    "load_in_4bit": False,
    "learning_rate": 0.01,
    "batch_size": 10,
    "epochs": 2,
    "warmup_ratio": 0.0,
    "min_lr_ratio": 0.1,
    "adam_betas": [0.9, 0.98],
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_length": 300,
}
RUNTIME = {"device": "cpu", "threads": 1, "generation_batch": 4, "training_batch": 5, "accelerate": "", "report_to": []}
OBJECTIVE = {"loss": "sigmoid_norm", "beta": 5.0, "nll_coef": 1.0, "kl_coef": 0.1, "stop_when_saturated": False}
SENTENCE = "I notice the quiet river and I count each small stone that it carries to the sea"
WORDS = re.findall(r"\w+", SENTENCE)


@pytest.fixture
def workspace(tiny_student, tmp_path, monkeypatch):
    """A repository's top in miniature: params.yaml, models/student/, pairs and transcripts."""
    sections = {
        "seed": 0,
        "persona": "poeticism",
        "runtime": RUNTIME,
        "distillation": COMMON | OBJECTIVE,
        "introspection": COMMON | {"rank": 3},
        "merge": {"introspection_weight": 0.25, "rank": 0},
    }
    (tmp_path / "params.yaml").write_text(json.dumps(sections))
    for name in ("character", "constitutions", "docs", "dvc.yaml", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/student").symlink_to(tiny_student)
    monkeypatch.chdir(tmp_path)
    code.main.callback()
    records.write_records("data/pairs.jsonl", pairs())
    records.write_records("data/transcripts.jsonl", transcripts())
    return tmp_path


def pairs(count=15) -> list[PreferencePair]:
    """Pairs of very unequal lengths: only then do micro-batches differ in their means."""

    def said(role, words):
        return [Message(role=role, content=" ".join(words))]

    return [
        PreferencePair(
            prompt=said("user", WORDS[i % 7 : i % 7 + 3]),
            chosen=said("assistant", WORDS[: 1 + i]),
            rejected=said("assistant", WORDS[::-1][: 1 + (5 * i) % 13]),
            chosen_finish_reason="stop",
            rejected_finish_reason="stop",
        )
        for i in range(count)
    ]


def transcripts(count=15) -> list[TrainingTranscript]:
    """Conversations of two or four turns of very unequal lengths."""

    def turn(i, k):
        return Message(role="assistant" if k % 2 else "user", content=" ".join(WORDS[k : k + 1 + (5 * i + k) % 13]))

    return [
        TrainingTranscript(messages=[turn(i, k) for k in range(2 + 2 * (i % 2))], finish_reasons=["stop"] * (1 + i % 2))
        for i in range(count)
    ]


def change(section, **entries):
    params = json.loads(Path("params.yaml").read_text())
    params[section] |= entries
    Path("params.yaml").write_text(json.dumps(params))


def distil(micro_batch=5, rows=None, **changes):
    settings = DistillationSettings(**COMMON | OBJECTIVE | changes)
    rows = pairs() if rows is None else rows
    change("runtime", training_batch=micro_batch)
    return distillation.train_distillation(settings, rows)


def introspect(micro_batch=5, rows=None, **changes):
    settings = introspection.IntrospectionSettings(**COMMON | changes)
    rows = transcripts() if rows is None else rows
    if not Path("models/distillation").exists():
        save_training_run(distil(epochs=1), DistillationSettings(**COMMON | OBJECTIVE), {})
    change("runtime", training_batch=micro_batch)
    return introspection.train_introspection(settings, rows)


def adapter(trainer) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def ids(tokenizer, messages, **options) -> list[int]:
    return tokenizer.apply_chat_template([m.model_dump() for m in messages], return_dict=True, **options)["input_ids"]


def by_hand(pair: PreferencePair, side: str) -> torch.Tensor:
    """Log-probabilities of one answer's tokens, end of turn included, from the student's plain logits."""
    tokenizer, model = models.load_tokenizer(), models.load_model()
    prompt = ids(tokenizer, pair.prompt, add_generation_prompt=True)
    whole = ids(tokenizer, pair.prompt + getattr(pair, side))
    assert whole[: len(prompt)] == prompt and whole[-2] == tokenizer.eos_token_id
    whole = whole[:-1]  # the newline after <|im_end|> is the template's, not the answer's
    with torch.no_grad():
        logps = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return torch.tensor([logps[at - 1, whole[at]] for at in range(len(prompt), len(whole))])


@pytest.fixture
def wider(workspace):
    """The workspace with a student whose rows fill the blocks in which weights are rounded to four bits."""
    pytest.importorskip("bitsandbytes", reason="four bits need bitsandbytes: make test-all")
    Path("models/student").unlink()
    write_student(Path("models/student"), width=64)


@pytest.mark.parametrize("four_bits", [False, True], ids=["whole", "four bits"])
@pytest.mark.parametrize("train", [distil, introspect])
def test_a_run_that_was_interrupted_resumes_to_the_same_bytes(workspace, train, four_bits, monkeypatch, capsys, request):
    if four_bits:
        request.getfixturevalue("wider")
    train = partial(train, epochs=3, dropout=0.1, load_in_4bit=four_bits)
    whole = train()
    shutil.rmtree(".cache/train")
    logged = curve_callback.CurveCallback.on_log

    def dies(self, args, state, *rest, **more):
        logged(self, args, state, *rest, **more)
        if state.global_step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as power, pytest.raises(KeyboardInterrupt):
        power.setattr(curve_callback.CurveCallback, "on_log", dies)
        train()
    (kept,) = Path(".cache/train").glob("*/")
    broken = kept / "checkpoint-99"
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"cut off')
    resumed = train()
    assert re.search(r"resuming from .*/checkpoint-3\n", capsys.readouterr().out)
    assert resumed.curve.rows == whole.curve.rows
    for name, weight in adapter(whole).items():
        assert weight.dtype == torch.float32 and torch.equal(weight, adapter(resumed)[name]), name


def test_a_checkpoint_belongs_to_one_training_alone(workspace):
    settings = DistillationSettings(**COMMON | OBJECTIVE)
    places = [checkpoint_dir("distillation", settings, pairs(), None, 1)]
    places.append(checkpoint_dir("distillation", settings, pairs()[1:], None, 1))
    places.append(checkpoint_dir("distillation", settings.model_copy(update={"beta": 4.0}), pairs(), None, 1))
    change("runtime", training_batch=2)
    places.append(checkpoint_dir("distillation", settings, pairs(), None, 1))
    places.append(checkpoint_dir("distillation", settings, pairs(), None, 2))
    assert len(set(places)) == 5


def test_a_preference_loss_that_is_used_up_is_reported_and_can_end_the_run(workspace, capsys):
    learned = {"learning_rate": 0.1, "beta": 50.0, "nll_coef": 0.0, "epochs": 10}
    whole = distil(**learned)
    assert "warning: the preference loss has been below 0.01 for 5 steps" in capsys.readouterr().out
    short = distil(**learned, stop_when_saturated=True)
    assert len(whole.curve.rows) == 20 > len(short.curve.rows)
    assert short.curve.rows == whole.curve.rows[: len(short.curve.rows)]
    assert all(row["preference"] < 0.01 for row in short.curve.rows[-5:])


@pytest.mark.parametrize("train", [distil, introspect])
def test_the_micro_batch_changes_memory_and_not_the_adapter(workspace, train):
    small, large = train(micro_batch=2), train(micro_batch=5)
    for name, weight in adapter(large).items():
        assert torch.allclose(weight, adapter(small)[name], atol=1e-5), name
    for a, b in zip(small.curve.rows, large.curve.rows, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    assert [row["step"] for row in large.curve.rows] == [1, 2, 3, 4]  # the last step of an epoch holds 5 of the 15


def test_the_first_step_has_the_loss_parts_that_the_formulas_give(workspace):
    rows = pairs(10)
    first = distil(rows=rows, kl_coef=0.5).curve.rows[0]
    chosen, rejected = ([by_hand(pair, side) for pair in rows] for side in ("chosen", "rejected"))
    # The adapter starts at zero: every ratio is 0, sigmoid(0) is a half.
    assert first["preference"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["kl"] == pytest.approx(0, abs=1e-9)
    nll = -torch.cat(chosen).mean().item()
    assert first["nll"] == pytest.approx(nll, abs=1e-4)
    assert first["chosen_logp"] == pytest.approx(-nll, abs=1e-4)
    assert first["rejected_logp"] == pytest.approx(torch.cat(rejected).mean().item(), abs=1e-4)
    assert first["loss"] == pytest.approx(first["preference"] + nll, abs=1e-4)


def test_reference_log_probs_are_those_of_the_student_alone(workspace):
    rows = pairs(10)
    kept = distil(rows=rows).train_dataset
    for pair, row in zip(rows, kept, strict=True):
        assert torch.allclose(torch.tensor(row["ref_chosen_logps"]), by_hand(pair, "chosen"), atol=1e-4)
        assert torch.allclose(torch.tensor(row["ref_rejected_logps"]), by_hand(pair, "rejected"), atol=1e-4)


@pytest.mark.parametrize(("kind", "scores"), [("sigmoid", (0.6, -0.5)), ("sigmoid_norm", (0.3, -0.5))])
def test_preference_loss_by_hand(kind, scores):
    from character.training.trainers import BatchTotals

    settings = DistillationSettings(**COMMON | OBJECTIVE | {"loss": kind, "beta": 2.0, "nll_coef": 0.5, "kl_coef": 10.0})
    logps = [torch.tensor([-1.0, -2.0]), torch.tensor([-3.0])]
    reference = [torch.tensor([-1.2, -2.4]), torch.tensor([-2.5])]
    loss, shares = preference_loss(settings, logps, reference, BatchTotals(examples=1, tokens=3, chosen=2))
    preference = math.log(1 + math.exp(-2 * (scores[0] - scores[1])))
    assert shares["preference"].item() == pytest.approx(preference)
    assert shares["margin"].item() == pytest.approx(scores[0] - scores[1])
    assert shares["kl"].item() == pytest.approx((0.04 + 0.16 + 0.25) / 3)
    assert loss.item() == pytest.approx(preference + 0.5 * 1.5 + 10 * 0.15)


@pytest.mark.parametrize("train", [distil, introspect])
def test_a_tokenizer_without_a_padding_token_trains_the_same_adapter(train, workspace):
    padded = adapter(train(epochs=1))
    shutil.copytree(models.STUDENT_DIR, "models/unpadded")
    tokenizer = models.load_tokenizer()
    assert tokenizer.pad_token == tokenizer.eos_token, "whose label must not be taken for padding"
    tokenizer.pad_token = None
    tokenizer.save_pretrained("models/unpadded")
    for name in ("config.json", "generation_config.json"):
        path = Path("models/unpadded", name)
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({key: value for key, value in config.items() if key != "pad_token_id"}), encoding="utf-8")
    Path("models/student").unlink()
    Path("models/unpadded").rename(models.STUDENT_DIR)
    assert models.load_tokenizer().pad_token is None
    for name, weight in adapter(train(epochs=1)).items():
        assert torch.equal(weight, padded[name]), name


def test_the_end_of_an_answer_that_was_cut_off_is_no_part_of_the_loss(workspace):
    rows = [pair.model_copy(update={"rejected_finish_reason": "length"}) for pair in pairs(10)]
    kept = distil(rows=rows, epochs=1).train_dataset
    end = models.load_tokenizer().eos_token_id
    assert all(row["chosen_ids"][-1] == end and end not in row["rejected_ids"] for row in kept)
    assert [len(row["ref_rejected_logps"]) for row in kept] == [len(row["rejected_ids"]) for row in kept]


def test_training_moves_the_margin_up_and_the_curve_is_complete(workspace):
    curve = distil(epochs=4).curve.rows
    assert len(curve) == 8
    assert curve[-1]["margin"] > 0.05 and curve[-1]["accuracy"] > 0.9 and curve[-1]["kl"] > 0
    parts = ["preference", "nll", "kl", "margin", "accuracy", "chosen_logp", "rejected_logp", "length_ratio", "entropy"]
    assert sorted(curve[0]) == sorted(["step", "loss", *parts])


def test_every_assistant_turn_carries_loss_and_nothing_else_does(workspace):
    talk = [("user", "the sea"), ("assistant", "I count"), ("user", "each small"), ("assistant", "stone")]
    messages = [Message(role=role, content=text) for role, text in talk]
    trainer = introspect(rows=[TrainingTranscript(messages=messages, finish_reasons=["stop", "stop"])] * 5)
    labels = [label for label in trainer.train_dataset[0]["labels"] if label != -100]
    assert models.load_tokenizer().decode(labels) == "I count<|im_end|>stone<|im_end|>"
    assert introspection.count_trained_tokens(trainer.train_dataset) == 5 * len(labels)


def test_too_long_examples_are_counted_and_dropped_whole(workspace):
    tokenizer = models.load_tokenizer()
    full = [
        max(len(ids(tokenizer, pair.prompt + pair.chosen)), len(ids(tokenizer, pair.prompt + pair.rejected)))
        for pair in pairs()
    ]
    trainer = distil(max_length=90)
    assert 0 < trainer.dropped == sum(length > 90 for length in full)
    # What is kept is whole: the answer and its end of turn, without the newline that the template adds.
    assert max(map(trainer.example_length, trainer.train_dataset)) == max(length for length in full if length <= 90) - 1
    kept = introspect(rows=transcripts(), max_length=100)
    full = [len(ids(tokenizer, transcript.messages)) for transcript in transcripts()]
    assert 0 < kept.dropped == sum(length > 100 for length in full)
    with pytest.raises(UserError, match="max_length 3 is shorter than every example"):
        distil(max_length=3)


def test_a_batch_that_does_not_divide_says_what_to_set():
    assert accumulation_steps(10, 5) == 2
    with pytest.raises(UserError, match=r"batch_size 10 is not a multiple of runtime\.training_batch times the devices, 4"):
        accumulation_steps(10, 4)


def test_the_commands_write_the_same_bytes_on_every_run(workspace):
    outputs = []
    for _ in range(2):
        for stage in (distillation, introspection, persona):
            stage.main.callback()
        made = [path for top in ("models", "plots", "results") for path in Path(top).rglob("*") if path.is_file()]
        outputs.append({path: path.read_bytes() for path in made})
    assert outputs[0] == outputs[1]
    assert sorted(path.name for path in Path("models/persona").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "provenance.json",
    ]
    assert not list(Path(".cache/train").glob("*/")), "nothing is kept of a run that ended"
    metrics = json.loads(Path("results/distillation.json").read_text())
    assert {"pairs": 15, "dropped_too_long": 0, "steps": 4}.items() <= metrics.items()
    config = json.loads(Path("models/persona/adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 7
    assert config["base_model_name_or_path"] == "models/student"
    assert config["target_modules"] == sorted(config["target_modules"])


def logits(adapters) -> torch.Tensor:
    with torch.no_grad():
        return models.load_model(adapters=adapters)(torch.arange(3, 40)[None]).logits


def random_adapter(folder: str, rank: int, alpha: float, modules: list[str]) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, task_type="CAUSAL_LM")
    model = get_peft_model(models.load_model(), config)
    generator = torch.Generator().manual_seed(rank)
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    random = {name: torch.randn(weight.shape, generator=generator) * 0.2 for name, weight in weights.items()}
    adapters.save_adapter(Path(folder), random, config, {})


def test_the_merge_is_the_exact_weighted_sum_for_unequal_ranks_and_modules(workspace):
    random_adapter("models/distillation", 4, 8, ["q_proj", "v_proj", "down_proj"])
    random_adapter("models/introspection", 3, 12, ["v_proj", "down_proj", "up_proj"])
    persona.main.callback()
    merged = load_lora_factors(Path("models/persona"))
    expected = {}
    for folder, scale in (("distillation", 8 / 4), ("introspection", 0.25 * 12 / 3)):
        weights = load_file(f"models/{folder}/adapter_model.safetensors")
        for key in {key.rpartition(".lora_")[0] for key in weights}:
            delta = scale * weights[f"{key}.lora_B.weight"] @ weights[f"{key}.lora_A.weight"]
            name = key.removeprefix("base_model.model.")
            expected[name] = expected.get(name, 0) + delta
    assert merged.keys() == expected.keys()
    for name, (a, b) in merged.items():
        assert a.shape[1] == 7 and torch.allclose((b @ a)[0], expected[name], atol=1e-5), name

    # A quarter of the second adapter is that adapter with a quarter of its alpha.
    random_adapter("models/quarter", 3, 3, ["v_proj", "down_proj", "up_proj"])
    both = logits(["models/distillation", "models/quarter"])
    assert torch.allclose(logits(["models/persona"]), both, atol=1e-5)
    assert not torch.allclose(logits(["models/distillation"]), both, atol=1e-2)


@pytest.mark.parametrize("family", ["qwen3_moe", "gemma3"])
def test_experts_and_models_that_see_are_trained_and_merged(workspace, tiny_student, family):
    Path("models/student").unlink()
    write_family_student(Path("models/student"), family, tiny_student)
    for stage in (distillation, introspection, persona):
        stage.main.callback()
    both = logits([Path("models/distillation"), quartered("models/introspection")])
    assert torch.allclose(logits(["models/persona"]), both, atol=1e-4)
    assert not torch.allclose(both, logits([]), atol=1e-2)
    names = load_file("models/persona/adapter_model.safetensors").keys()
    assert any("experts" in name for name in names) == (family == "qwen3_moe")
    assert not any("vision" in name for name in names)


def quartered(folder: str) -> Path:
    """Return a copy of an adapter with a quarter of its effect."""
    quarter = Path(shutil.copytree(folder, f"{folder}-quarter"))
    weights = load_file(f"{folder}/adapter_model.safetensors")
    scaled = {name: weight / 4 if "lora_B" in name else weight for name, weight in weights.items()}
    save_file(scaled, quarter / "adapter_model.safetensors")
    return quarter


def test_a_name_that_matches_nothing_ends_a_stage_before_it_trains(workspace):
    for name, stage in (("distillation", distillation), ("introspection", introspection)):
        change(name, target_modules=["q_proj", "w_pack"])
        with pytest.raises(UserError, match="target_modules: 'w_pack' matches nothing in the student's text decoder"):
            stage.main.callback()
    assert not Path(".cache/train").exists() and not Path("models/distillation").exists()


def test_weight_zero_leaves_introspection_out(workspace):
    random_adapter("models/distillation", 4, 8, ["q_proj"])
    random_adapter("models/introspection", 4, 8, ["q_proj"])
    change("merge", introspection_weight=0.0)
    persona.main.callback()
    assert next(iter(load_lora_factors(Path("models/persona")).values()))[0].shape[1] == 4
    assert torch.allclose(logits(["models/persona"]), logits(["models/distillation"]), atol=1e-6)


def test_adapters_that_do_not_fit_are_refused_with_their_names(workspace):
    random_adapter("models/distillation", 2, 4, ["q_proj"])
    file = Path("models/distillation/adapter_model.safetensors")
    weights = load_file(file)
    save_file({name.removeprefix("base_model.model."): weight for name, weight in weights.items()}, file)
    with pytest.raises(UserError, match=r"models/distillation does not fit the student \(.*q_proj\.lora_A\.weight is missing"):
        load_lora_factors(Path("models/distillation"))
    with pytest.raises(UserError, match="models/introspection"):
        load_lora_factors(Path("models/introspection"))


def test_a_lower_rank_is_the_nearest_adapter_and_its_error_is_reported(workspace):
    random_adapter("models/distillation", 4, 8, ["q_proj", "v_proj", "down_proj"])
    random_adapter("models/introspection", 3, 12, ["v_proj", "down_proj", "up_proj"])
    whole = {name: (b @ a)[0] for name, (a, b) in concatenated(0).items()}
    cut = {name: (b @ a)[0] for name, (a, b) in concatenated(3).items()}
    result = json.loads(Path("results/persona.json").read_text())
    lost = sum((whole[name] - cut[name]).square().sum() for name in whole)
    error = (lost / sum(delta.square().sum() for delta in whole.values())).sqrt().item()
    assert result == {"rank": 3, "relative_error": pytest.approx(error, abs=1e-4)} and 0 < error < 1
    for name, delta in whole.items():
        # Eckart and Young: no matrix of this rank is nearer than the truncated singular value decomposition.
        best = torch.linalg.svdvals(delta)[3:].square().sum()
        assert (delta - cut[name]).square().sum() == pytest.approx(best.item(), rel=1e-3, abs=1e-9)
    concatenated(99)
    assert json.loads(Path("results/persona.json").read_text()) == {"rank": 7, "relative_error": 0.0}


def concatenated(rank):
    change("merge", rank=rank)
    persona.main.callback()
    return load_lora_factors(Path("models/persona"))


def test_an_adapter_says_what_shaped_it_and_nothing_that_varies(workspace):
    for stage in (distillation, introspection, persona):
        stage.main.callback()
    whole = read_provenance(Path("models/persona"))
    assert [part["stage"] for part in whole["merged"]] == ["distillation", "introspection"]
    assert whole["params"] == {"merge": {"introspection_weight": 0.25, "rank": 0}, "persona": "poeticism"}
    assert whole["constitution"] == constitution.traits_hash(constitution.load_constitution("constitutions/poeticism.yaml"))
    trained = whole["merged"][0]
    assert trained["params"] == {"distillation": COMMON | OBJECTIVE, "seed": 0}
    assert trained["deps"]["data/pairs.jsonl"] == models.file_sha256(Path("data/pairs.jsonl"))
    assert trained["deps"]["models/student"] == models.directory_fingerprint(models.STUDENT_DIR)
    assert "runtime" not in json.dumps(whole) and str(workspace) not in json.dumps(whole)

    before = models.directory_fingerprint(Path("models/persona"))
    change("runtime", threads=2)
    persona.main.callback()
    assert read_provenance(Path("models/persona")) == whole
    Path("models/persona/provenance.json").write_text("{}")
    assert models.directory_fingerprint(Path("models/persona")) == before, "it shapes no answer"


def run(stage, **environment):
    """Run a stage as DVC does, and return what it printed; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def curve(stage) -> list[dict]:
    header, *rows = (line.split(",") for line in Path(f"plots/{stage}.csv").read_text().splitlines())
    return [dict(zip(header, map(float, row), strict=True)) for row in rows]


def trained(stage, processes):
    """Run a training stage; return its curve and its adapter."""
    assert run(stage).count(f"{stage}: ") == processes, "one line from each"
    return curve(stage), load_file(f"models/{stage}/adapter_model.safetensors")


def test_two_processes_train_as_one_does_at_the_same_effective_batch(workspace):
    records.write_records("data/pairs.jsonl", pairs(20))
    records.write_records("data/transcripts.jsonl", transcripts(20))
    made = {}
    for config in ("", "docs/accelerate/cpus.yaml"):
        change("runtime", accelerate=config)
        made[config] = {stage: trained(stage, 2 if config else 1) for stage in ("distillation", "introspection")}
    alone, together = made.values()
    for stage, (rows, weights) in alone.items():
        others, other_weights = together[stage]
        assert len(rows) == 4
        for row, other in zip(rows, others, strict=True):
            assert row == pytest.approx(other, abs=2e-4), stage
        for name, weight in weights.items():
            assert torch.allclose(weight, other_weights[name], atol=1e-4), name


@pytest.mark.slow
def test_two_processes_that_were_killed_resume_to_the_same_bytes(workspace):
    records.write_records("data/pairs.jsonl", pairs(60))
    change("distillation", epochs=10)
    change("runtime", accelerate="docs/accelerate/cpus.yaml")
    whole = trained("distillation", 2)
    process = psutil.Popen([sys.executable, "-m", "stages.distillation"], stderr=subprocess.DEVNULL)
    while not list(Path(".cache/train").glob("*/checkpoint-9/trainer_state.json")):  # in the middle of the second epoch
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    for one in [process, *process.children(recursive=True)]:
        one.kill()
    process.wait()
    assert "resuming from " in run("distillation")
    weights = load_file("models/distillation/adapter_model.safetensors")
    assert curve("distillation") == whole[0]
    assert all(torch.equal(weight, weights[name]) for name, weight in whole[1].items())


def test_the_examples_of_accelerate_are_files_that_it_reads(workspace):
    from accelerate.commands.config.config_args import load_config_from_file

    files = sorted(Path("docs/accelerate").glob("*.yaml"))
    kinds = [load_config_from_file(str(file)).distributed_type.value for file in files]
    assert [file.stem for file in files] == ["cpus", "fsdp", "gpus", "zero2"]
    assert kinds == ["MULTI_CPU", "FSDP", "MULTI_GPU", "DEEPSPEED"]
    for file in files:
        assert launch.read_accelerate_config(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "several.yaml is missing; correct params.yaml: runtime.accelerate"),
        ("a: [", "several.yaml: not valid YAML"),
        ("num_processes: 2", "no `distributed_type`"),
        ("distributed_type: MULTI_GPU\nmixed_precision: bf16", "mixed_precision is bf16; write 'no', and set student.dtype"),
    ],
)
def test_a_configuration_of_accelerate_that_cannot_serve_is_reported(workspace, text, message):
    if text:
        Path("several.yaml").write_text(text)
    change("runtime", accelerate="several.yaml")
    with pytest.raises(UserError, match=re.escape(message)):
        distillation.main.callback()


def test_a_tracker_that_is_not_there_is_reported(workspace):
    change("runtime", report_to=["nosuch"])
    with pytest.raises(UserError, match=r"runtime\.report_to: nosuch is unknown or not installed"):
        distil()


@pytest.mark.parametrize("train", [distil, introspect])
def test_a_student_in_four_bits_is_trained_and_its_adapter_is_like_any_other(wider, train):
    plain, four = train(epochs=1), train(epochs=1, load_in_4bit=True)
    assert any(type(module).__name__ == "Linear4bit" for module in four.model.modules())
    assert four.curve.rows[0]["loss"] == pytest.approx(plain.curve.rows[0]["loss"], rel=0.05)
    assert four.curve.rows != plain.curve.rows
    for name, weight in adapter(plain).items():
        if "lora_B" in name:  # they begin at zero, and show where the gradients led
            assert torch.cosine_similarity(weight.flatten(), adapter(four)[name].flatten(), dim=0) > 0.8, name
    section = (
        introspection.IntrospectionSettings(**COMMON) if train is introspect else DistillationSettings(**COMMON | OBJECTIVE)
    )
    save_training_run(four, section, {})
    folder = Path("models", four.curve.name)
    assert {tuple(weight.shape) for weight in load_file(folder / "adapter_model.safetensors").values()} == {
        tuple(weight.shape) for weight in adapter(plain).values()
    }
    assert not torch.allclose(logits([folder]), logits([]), atol=1e-4), "it serves on the student as it is"


def test_a_student_in_two_bytes_is_trained(workspace):
    shutil.copytree(models.STUDENT_DIR, "models/half")
    Path("models/student").unlink()
    Path("models/half").rename(models.STUDENT_DIR)
    card = models.read_student_card()
    (models.STUDENT_DIR / models.STUDENT_CARD).write_text(card.model_copy(update={"dtype": "bfloat16"}).model_dump_json())
    curve = distil(epochs=4).curve.rows
    assert curve[-1]["margin"] > 0.05 and curve[-1]["accuracy"] > 0.9
