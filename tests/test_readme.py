"""What the README shows is what is there."""

import re
import subprocess
import sys
from pathlib import Path

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


def test_every_persona_is_named():
    for constitution in (ROOT / "constitutions").glob("*.yaml"):
        assert constitution.stem in README
