"""The README matches the project."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def boxes() -> dict[str, list[str]]:
    """Return the stages that each box of the drawing names under its title, by the box's id."""
    labels = re.findall(r'(\w+)\["<b>[^<]+</b><br/>([^"]+)"\]', drawing())
    return {box: re.split(r",\s*", stages.replace("<br/>", " ")) for box, stages in labels}


def arrows() -> set[tuple[str, str]]:
    """Return the arrows between boxes, by their ids."""
    bare = re.sub(r'\["[^"]*"\]|\|[^|]*\|', "", drawing())
    return set(re.findall(r"(\w+) --> ?(\w+)", bare))


def drawing() -> str:
    return re.search(r"```mermaid\n(.*?)```", README, re.DOTALL)[1]


def reachable_stages() -> dict[str, set[str]]:
    """Return the stages that come after each stage in the graph of dvc.yaml; those of a `foreach` count as one."""
    command = [Path(sys.executable).with_name("dvc"), "dag", "--mermaid"]
    graph = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {node: name.partition("@")[0] for node, name in re.findall(r'(node\d+)\["([^"]+)"\]', graph)}
    edges = {(names[start], names[end]) for start, end in re.findall(r"(node\d+)-->(node\d+)", graph)}
    later = {name: {end for start, end in edges if start == name} for name in names.values()}
    for _ in later:
        later = {name: ends.union(*(later[end] for end in ends)) for name, ends in later.items()}
    return later


def test_the_boxes_of_the_drawing_name_stages_and_every_stage_of_the_training():
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    named = [stage for box in boxes().values() for stage in box]
    assert len(boxes()) == 6
    assert sorted(set(named)) == sorted(named)
    assert set(stages[stages.index("student") : stages.index("persona") + 1]) <= set(named) <= set(stages)


def test_an_arrow_of_the_drawing_leads_from_the_last_stage_of_a_box_to_all_stages_of_the_next():
    stages, later = boxes(), reachable_stages()
    assert {box for arrow in arrows() for box in arrow} == set(stages)
    for start, end in arrows():
        assert set(stages[end]) <= later[stages[start][-1]], f"{start} --> {end}"


def test_the_table_of_evaluations_names_the_results_of_every_stage_after_the_training():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    trained = list(stages).index("persona")
    written = {name: f"results/{name}.json" for name in list(stages)[trained + 1 :]}
    wanted = {name: path for name, path in written.items() if path in stages[name].get("outs", [])}
    assert dict(re.findall(r"^\| `(\w+)` \| .+ \| `(results/\w+\.json)` \|$", README, re.MULTILINE)) == wanted


def test_every_persona_is_named():
    for constitution in (ROOT / "constitutions").glob("*.yaml"):
        assert constitution.stem in README
