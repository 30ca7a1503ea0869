"""What the README shows is what is there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_graph_is_the_one_that_dvc_draws():
    drawn = subprocess.run(
        [Path(sys.executable).with_name("dvc"), "dag", "--mermaid"], cwd=ROOT, capture_output=True, text=True
    )
    shown = re.search(r"```mermaid\n(.*?)```", README, re.DOTALL)[1]
    assert shown.split() == drawn.stdout.split()


def test_every_local_link_leads_to_a_file():
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / link).exists(), link


def test_every_persona_is_named():
    for constitution in (ROOT / "constitutions").glob("*.yaml"):
        assert constitution.stem in README
