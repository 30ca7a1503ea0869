"""The estimate: what it counts, against what the stages do and what runs took."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from character.cli.main import main
from character.core.errors import UserError
from character.study import rates, recipes
from character.study.estimate import EstimateOptions, estimate_recipe, stage_hours
from character.study.workload import WorkloadModel

ROOT = Path(__file__).parents[1]
EMBEDDED = 0.135

# Sizes with which the minutes of docs/results.md were measured, where they are others than the default's now.
MEASURED_WITH = {
    "answers": {"prompts": 64},
    "attacks": {"prompts": 32},
    "probes": {"pairs": 24},
    "coherence": {"prompts": 24},
    "judge": {"texts": 30},
}
MINUTES = {
    ("distillation",): 14,
    ("reflections", "interactions"): 4.6,
    ("introspection",): 2.1,
    ("classifier",): 1.8,
    ("judge",): 4.1,
    ("answers",): 4.4,
    ("attacks",): 3.0,
    ("mails",): 4.3,
    ("probes",): 1.5,
    ("choices",): 4.9,
    ("preferences",): 3.2,
}
ALL_MINUTES = 58


@pytest.fixture(autouse=True)
def top(monkeypatch):
    monkeypatch.chdir(ROOT)


def params(recipe: str, **changes: dict) -> dict:
    found = recipes.apply_recipe(recipe)[0]
    return found | {name: found[name] | section for name, section in changes.items()}


def works(recipe: str, **changes: dict) -> dict:
    return {work.stage: work for work in WorkloadModel(params(recipe, **changes), rates.load_rates()).stage_workloads()}


def asked(machine="cpu-2-cores", parameters=None, written=None, trained=None) -> EstimateOptions:
    return EstimateOptions(machine, parameters, written, trained)


def test_the_measured_hour_is_met():
    known, found = rates.load_rates(), works("default", **MEASURED_WITH)
    machine = known.find_machine("cpu-2-cores")
    hours = {stage: stage_hours(work, machine, EMBEDDED, known) for stage, work in found.items()}
    ratios = {stages: 60 * sum(hours[stage] for stage in stages) / minutes for stages, minutes in MINUTES.items()}
    assert all(0.5 <= ratio <= 2 for ratio in ratios.values()), ratios
    assert 60 * sum(hours.values()) == pytest.approx(ALL_MINUTES, rel=0.25)


def test_the_papers_counts_are_met():
    found = works("paper-llama")
    samples = {stage: found[stage].samples for stage in ("reflections", "interactions", "introspection", "choices")}
    assert samples == {"reflections": 10_000, "interactions": 20_000, "introspection": 12_000, "choices": 50_400}
    prompts = 10 * (5 + 45) + 120 + 1000  # ten traits, general ones, LIMA
    assert found["prompts"].samples == 10 * 45
    assert found["chosen"].samples == found["rejected"].samples == found["distillation"].samples == 5 * prompts
    assert found["introspection"].trained == pytest.approx(8e6, rel=0.1)


def test_samples_multiply_what_is_asked_and_trained_and_no_prompts():
    once, thrice = works("paper"), works("paper", pairs={"samples": 15})
    assert thrice["rejected"].written == 3 * once["rejected"].written
    assert thrice["distillation"].trained == 3 * once["distillation"].trained
    assert thrice["prompts"] == once["prompts"]


def test_a_limit_below_the_usual_length_counts():
    usual, short = works("paper"), works("paper", sampling={"max_new_tokens": 33})
    assert usual["rejected"].written / usual["rejected"].samples == rates.load_rates().lengths.answer
    assert short["rejected"].written / short["rejected"].samples == 33


def test_a_recorded_teacher_costs_nothing():
    chosen = works("default")["chosen"]
    assert (chosen.samples, chosen.read, chosen.written) == (170, 0, 0)


def test_every_stage_is_in_the_table():
    import yaml

    from character.study.workload import LIGHT_STAGES

    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {*works("default"), *LIGHT_STAGES} - {"the others"} == set(stages)


def test_hours_are_tokens_over_the_rates_that_are_given():
    table = estimate_recipe("paper-llama", asked(written=1000.0, trained=2000.0))
    row = next(line.split() for line in table.splitlines() if line.startswith("rejected"))
    read, written = (float(cell.replace(",", "")) for cell in row[2:4])
    assert float(row[-1]) == pytest.approx((read / (3 * 2000) + written / 1000) / 3600, abs=0.006)
    assert "measured" not in table


def test_a_model_takes_the_hours_that_its_size_says():
    def total(parameters):
        return float(
            estimate_recipe("paper-qwen", asked(parameters=parameters))
            .split("\nsum")[1]
            .split("\n")[0]
            .split()[-1]
            .replace(",", "")
        )

    assert total(14.0) == pytest.approx(2 * total(7.0), rel=0.01)


def test_what_endpoints_answer_costs_money_and_no_hours(tmp_path, monkeypatch):
    text = Path("params.yaml").read_text(encoding="utf-8").replace("    - 0\n    - 0\n", "    - 1\n    - 2\n")
    for name in ("recipes", "constitutions", "data/raw", "dvc.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert "set runtime.openai.prices in params.yaml to see what they cost" in estimate_recipe("paper", asked())
    monkeypatch.chdir(tmp_path)
    remote = [work for work in works("paper").values() if work.engine == "openai"]
    assert {work.stage for work in remote} == {"prompts", "chosen", "judge", "preferences", "coherence"}
    table = estimate_recipe("paper", asked())
    cost = sum(work.read + 2 * work.written for work in remote) / 1e6
    assert f": {cost:,.2f} by runtime.openai.prices." in table
    assert all(
        line.endswith("endpoint") for line in table.splitlines() if line.split(" ")[0] in {work.stage for work in remote}
    )


def test_a_teacher_in_this_process_takes_hours_by_its_own_size():
    source = {"engine": "vllm", "source": "hub:zai-org/GLM-4.5-Air@0"}
    known, student = rates.load_rates(), 1.0
    chosen = works("paper", teacher=params("paper")["teacher"] | source)["chosen"]
    machine = known.find_machine("cpu-2-cores").model_copy(update={"start": 0.0})
    alone = chosen.read / machine.read + chosen.written / machine.written
    assert stage_hours(chosen, machine, student, known) == pytest.approx(alone / 3600 * 12 / machine.parameters)


FAULTS = {
    "unknown machine": ({"machine": "abacus"}, "--machine: abacus is not in recipes/rates.yaml, which has cpu-2-cores; add it"),
    "one rate": ({"written": 5.0}, "--written-per-second and --trained-per-second belong together; give both."),
}


@pytest.mark.parametrize(("given", "message"), FAULTS.values(), ids=FAULTS)
def test_a_machine_that_is_not_known_is_reported(given, message):
    with pytest.raises(UserError) as error:
        estimate_recipe("default", asked(**given))
    assert error.value.message.startswith(message)


def test_an_unknown_model_or_task_is_reported_with_the_file_to_add_it_to():
    known = rates.load_rates()
    with pytest.raises(
        UserError, match=r"recipes/rates\.yaml: models: 'path:mine' matches none of them; add its parameters, or give"
    ):
        known.billion_parameters("path:mine")
    with pytest.raises(UserError, match=r"recipes/rates\.yaml: tasks: chess is missing; add its number of items"):
        known.find_task("chess")


def test_the_command_needs_no_torch_and_no_network():
    code = "import sys; from character.study.estimate import EstimateOptions, estimate_recipe; "
    code += "estimate_recipe('paper', EstimateOptions('cpu-2-cores', *[None] * 3))"
    heavy = "assert not {'torch', 'transformers', 'huggingface_hub', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], check=True)


def test_the_command_prints_the_table_and_what_it_rests_on():
    done = CliRunner().invoke(main, ["estimate", "smoke"])
    assert done.exit_code == 0
    assert done.output.startswith("smoke for poeticism: a student of 0.135 billion parameters on two cores of an AMD EPYC")
    assert "Rates: measured with 0.135 billion parameters" in done.output
    assert "Reported by others" not in done.output
    assert "Reported by others: about 4 hours on one A100" in CliRunner().invoke(main, ["estimate", "paper-gemma"]).output
