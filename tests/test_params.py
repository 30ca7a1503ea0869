"""params.yaml: what a stage reads from it, and how faults in it are reported."""

import importlib
from pathlib import Path

import pytest
from pydantic import Field

from character.core.errors import UserError
from character.core.params import ParamsSection, read_section, read_value

ROOT = Path(__file__).parents[1]
GOOD = """\
persona: pirate
seed: 7
training:
  learning_rate: 0.0003
  epochs: 2
  layers: [q, k]
  filters:
    share: 1
"""


class Filters(ParamsSection):
    share: float = Field(gt=0)


class Training(ParamsSection):
    learning_rate: float
    epochs: int
    layers: list[str]
    filters: Filters


@pytest.fixture
def params(tmp_path):
    """Return a function that writes the good file with one text replaced, and gives its path."""

    def write(old="", new=""):
        assert old in GOOD
        path = tmp_path / "params.yaml"
        path.write_text(GOOD.replace(old, new, 1) if old else GOOD, encoding="utf-8")
        return path

    return write


def test_a_section_is_read_whole(params):
    training = read_section("training", Training, params())
    assert training.model_dump() == {
        "learning_rate": 0.0003,
        "epochs": 2,
        "layers": ["q", "k"],
        "filters": {"share": 1.0},
    }


@pytest.mark.parametrize("written", ["1e-05", "1e-5", "1E-5", "1.0e-05", "0.00001"])
def test_a_small_number_is_one_however_dvc_writes_it(written, params):
    assert read_section("training", Training, params("0.0003", written)).learning_rate == 1e-5


def test_a_whole_number_serves_as_a_share(params):
    share = read_section("training", Training, params()).filters.share
    assert share == 1
    assert isinstance(share, float)


def test_single_entries_are_read(params):
    assert read_value("persona", params()) == "pirate"
    assert read_value("seed", params()) == 7


def test_a_section_cannot_be_changed(params):
    training = read_section("training", Training, params())
    with pytest.raises(ValueError, match="frozen"):
        training.epochs = 3


FAULTS = {
    "unknown key": (
        "  epochs: 2",
        "  epochs: 2\n  epoch: 3",
        "training.epoch is not a known key; remove it or correct",
    ),
    "missing key": ("  epochs: 2\n", "", "training.epochs is missing; add it."),
    "unknown key below": ("    share: 1", "    share: 1\n    n: 3", "training.filters.n is not a known key"),
    "text for a number": ("epochs: 2", "epochs: two", "training.epochs: Input should be a valid integer (got 'two')"),
    "quoted number": ("epochs: 2", 'epochs: "2"', "training.epochs: Input should be a valid integer (got '2')"),
    "share for a whole number": (
        "epochs: 2",
        "epochs: 2.0",
        "training.epochs: Input should be a valid integer (got 2.0)",
    ),
    "yes for a number": ("epochs: 2", "epochs: true", "training.epochs: Input should be a valid integer (got True)"),
    "nothing for a number": ("epochs: 2", "epochs:", "training.epochs: Input should be a valid integer (got None)"),
    "text for a list": ("[q, k]", "q", "training.layers: Input should be a valid list (got 'q'); correct it."),
    "number in a list of texts": ("[q, k]", "[q, 5]", "training.layers.1: Input should be a valid string (got 5)"),
    "number out of range": ("share: 1", "share: 0", "training.filters.share: Input should be greater than 0 (got 0)"),
    "section that is no mapping": (GOOD[GOOD.index(":\n  learning") :], ": 5\n", "training.(whole): Input should be"),
    "missing section": (
        "training:",
        "trainin:",
        "`training` is missing; add it (`git diff",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_reported_with_section_field_and_remedy(old, new, message, params):
    path = params(old, new)
    with pytest.raises(UserError) as error:
        read_section("training", Training, path)
    assert error.value.message.startswith(f"{path}: {message}")
    assert "\n" not in error.value.message


def test_a_missing_file_is_reported_with_the_likely_reason(tmp_path):
    with pytest.raises(UserError, match=r"params\.yaml is missing; run this from the top of the repository"):
        read_value("seed", tmp_path / "params.yaml")


UNREADABLE = {
    "unclosed list": (GOOD.replace("[q, k]", "[q, k"), r"params\.yaml, line 7: not valid YAML \(.+\); correct it"),
    "key given twice": (GOOD + "seed: 8\n", r"params\.yaml, line 9: not valid YAML \(found duplicate key"),
    "tab": (GOOD.replace("  epochs", "\tepochs"), r"params\.yaml, line 5: not valid YAML"),
    "text alone": ("just words\n", r"params\.yaml: expected `key: value` lines \(`git diff"),
    "nothing": ("", "params.yaml: expected `key: value` lines"),
}


@pytest.mark.parametrize(("text", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_is_no_mapping_in_yaml_is_reported(text, message, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_value("seed", path)


def test_a_file_that_is_not_utf8_is_reported(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes("persona: é\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"params\.yaml, line 1: not UTF-8; save the file as UTF-8"):
        read_value("persona", path)


def own_sections():
    """Yield each Section model that a module of the repository reads, with the section's name, as its call says."""
    import ast

    for path in sorted([*(ROOT / "stages").glob("*.py"), *(ROOT / "character").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in {"read_section", "params.read_section"}
                and len(node.args) == 2
            ):
                name, model = node.args
                if isinstance(name, ast.Constant):
                    yield ".".join(path.relative_to(ROOT).with_suffix("").parts), name.value, ast.unparse(model)


@pytest.mark.parametrize(("module", "section", "model"), list(own_sections()))
def test_the_shipped_file_is_valid_for_every_stage(module, section, model):
    found = importlib.import_module(module)
    for part in model.split("."):
        found = getattr(found, part)
    assert isinstance(read_section(section, found, ROOT / "params.yaml"), found)


def test_every_entry_of_the_shipped_file_is_read_by_someone():
    from ruamel.yaml import YAML

    entries = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    read_somewhere = {section for _, section, _ in own_sections()}
    assert set(entries) - read_somewhere == {"persona", "seed"}
