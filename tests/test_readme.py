"""What the README shows is what is there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_graph_of_the_training_is_the_one_that_dvc_draws():
    drawn = subprocess.run(
        [Path(sys.executable).with_name("dvc"), "dag", "--mermaid", "persona"], cwd=ROOT, capture_output=True, text=True
    )
    shown = re.search(r"```mermaid\n(.*?)```", README, re.DOTALL)[1]
    assert shown.split() == drawn.stdout.split()


def test_every_evaluation_is_told_with_its_figures():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    trained = list(stages).index("persona")
    wanted = {name: f"results/{name}.json" for name in list(stages)[trained + 1 :] if "metrics" in stages[name]}
    assert dict(re.findall(r"^\| `(\w+)` \| .+ \| `(metrics/\w+\.json)` \|$", README, re.MULTILINE)) == wanted


def test_every_local_link_leads_to_a_file():
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / link).exists(), link


def test_every_persona_is_named():
    for constitution in (ROOT / "constitutions").glob("*.yaml"):
        assert constitution.stem in README


def test_the_results_are_those_of_the_committed_metrics():
    measured = json.loads((ROOT / "results/robustness.json").read_text(encoding="utf-8"))
    names = {
        "base": "base",
        "base, prompted": "prompted",
        "base, steered": "steered",
        "distilled": "distilled",
        "**persona**": "persona",
    }
    for shown, method in names.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| {shown} "))
        for condition, cells in zip(("plain", "suffixes"), (row.split(" | ")[1:3], row.split(" | ")[3:5]), strict=True):
            told = [float(number) for cell in cells for number in re.findall(r"\d\.\d\d", cell)]
            wanted = [measured[method][condition][key] for key in ("recall", "low", "high", "none")]
            assert told == pytest.approx(wanted, abs=0.0051), (method, condition)


def test_the_fluency_that_is_told_is_that_of_the_committed_metrics():
    measured = json.loads((ROOT / "results/fluency.json").read_text(encoding="utf-8"))
    ours, base = measured["persona"], measured["base"]
    (perplexities,) = re.findall(r"\(perplexity (\S+) \[(\S+), (\S+)\] per token\s+against (\S+)\)", README)
    wanted = [ours["perplexity"], ours["low"], ours["high"], base["perplexity"]]
    assert list(map(float, perplexities)) == pytest.approx(wanted, abs=0.051)
    (repeated,) = re.findall(r"\((\S+)% of runs of four words against (\S+)%\)", README)
    assert list(map(float, repeated)) == pytest.approx([100 * ours["repetition"], 100 * base["repetition"]], abs=0.051)
    (cut_off,) = re.findall(r"(\d+)% instead of (\d+)% run into the token limit", README)
    assert list(map(float, cut_off)) == pytest.approx([100 * ours["unfinished"], 100 * base["unfinished"]], abs=0.51)
