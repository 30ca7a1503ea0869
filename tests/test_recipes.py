"""Recipes: what they write into params.yaml, and what they leave."""

import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import dumps_yaml
from forks import Forks
from projects import EVERY, environment, ran, start, talkative
from test_params import own_sections

from character.cli.main import main
from character.core.errors import UserError
from character.core.params import read_section
from character.study import recipes

ROOT = Path(__file__).parents[1]
SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")
NAMES = sorted(
    path.stem for path in (ROOT / "recipes").glob("*.yaml") if path.stem not in (recipes.DEFAULT_RECIPE, recipes.RATES_NAME)
)
COMMENT = re.compile(r"(?:^|(?<=\s))#.*", re.MULTILINE)

each_recipe = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The shipped params.yaml and recipes, in the current directory."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "params.yaml").write_text(SHIPPED, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params() -> str:
    return Path("params.yaml").read_text(encoding="utf-8")


def test_the_default_is_what_params_yaml_has(here):
    assert recipes.write_recipe("default") == []
    assert params() == SHIPPED


def test_the_default_holds_what_others_set_and_nothing_else(here):
    own = set().union(*(recipes.own_entries(Path(f"recipes/{name}.yaml")) for name in NAMES))
    assert set(recipes.recipe_entries("default")) == own - {recipes.LIKE}


@each_recipe
def test_after_any_recipe_the_default_gives_the_file_back_byte_for_byte(name, here):
    assert recipes.write_recipe(name)
    assert params() != SHIPPED
    recipes.write_recipe("default")
    assert params() == SHIPPED


@each_recipe
def test_comments_and_what_is_no_recipes_business_stay(name, here):
    Path("params.yaml").write_text(SHIPPED.replace("persona: poeticism", "persona: loving").replace("seed: 0", "seed: 7"))
    recipes.write_recipe(name)
    assert COMMENT.findall(params()) == COMMENT.findall(SHIPPED)
    assert "\npersona: loving" in params() and "\nseed: 7\n" in params()
    assert params().endswith(SHIPPED[SHIPPED.index("\nruntime:") :])


@each_recipe
def test_every_stage_accepts_its_section(name, here):
    recipes.write_recipe(name)
    for module, section, model in own_sections():
        found = import_module(module)
        for part in model.split("."):
            found = getattr(found, part)
        assert read_section(section, found)


def test_a_recipe_leaves_the_same_whichever_was_there_before(here):
    recipes.write_recipe("smoke")
    straight = params()
    recipes.write_recipe("paper-gemma")
    recipes.write_recipe("smoke")
    assert params() == straight


PAPER = {
    "prompts": {"per_trait": 5, "expansion": {"per_trait": 45}},
    "pairs": {"samples": 5, "filters": {"max_tokens": 1024}},
    "teacher": {"sampling": {"max_new_tokens": 4096, "temperature": 0.7, "top_p": 0.95}},
    "sampling": {"max_new_tokens": 4096, "temperature": 0.7, "top_p": 0.95},
    "reflections": {"per_prompt": 1000, "sampling": {"max_new_tokens": 2048, "temperature": 0.7, "top_p": 0.95}},
    "interactions": {"conversations": 1000, "turns": 10, "sampling": {"max_new_tokens": 1024}},
    "distillation": {"loss": "sigmoid", "beta": 0.1, "nll_coef": 0.1, "kl_coef": 0.001, "max_length": 1024},
    "introspection": {"max_length": 3072},
    "merge": {"introspection_weight": 0.25, "rank": 0},
    "preferences": {"traits": 144},
}
LORA = {"rank": 64, "alpha": 128, "dropout": 0.0, "target_modules": "all-linear", "learning_rate": 5e-5, "batch_size": 32}
LORA |= {"epochs": 1, "warmup_ratio": 0.1, "adam_betas": [0.9, 0.98], "max_grad_norm": 1.0}
PAPER["distillation"] |= LORA
PAPER["introspection"] |= LORA


@pytest.mark.parametrize("student", ["llama", "qwen", "gemma"])
def test_the_papers_numbers_are_those_of_the_paper(student, here):
    recipes.write_recipe(f"paper-{student}")
    assert_holds(recipes.safe_yaml().load(params()), PAPER)
    source = recipes.safe_yaml().load(params())["student"]["source"]
    assert source.startswith({"llama": "hub:meta-llama/", "qwen": "hub:Qwen/", "gemma": "hub:google/"}[student])


def assert_holds(found, wanted):
    for key, value in wanted.items():
        assert_holds(found[key], value) if isinstance(value, dict) else check(key, found[key], value)


def check(key, found, value):
    assert found == value, key


# --- mistakes --------------------------------------------------------------------------------------

FAULTS = {
    "unknown entry": (
        "sampling: {max_tokens: 5}",
        "mine.yaml: sampling.max_tokens is not in recipes/default.yaml; correct the",
    ),
    "value for a section": ("sampling: 5", "mine.yaml: sampling is not in recipes/default.yaml"),
    "text for a number": (
        "distillation: {epochs: two}",
        "distillation.epochs is text, but a whole number is needed; correct it.",
    ),
    "share for a count": ("distillation: {epochs: 1.5}", "distillation.epochs is a number, but a whole number is needed"),
    "nothing": ("distillation:\n  epochs:", "distillation.epochs is nothing, but a whole number is needed"),
    "persona": ("persona: loving", "mine.yaml: persona is not for recipes; set it in params.yaml and remove it here."),
    "runtime": ("runtime: {threads: 4}", "mine.yaml: runtime.threads is not for recipes"),
    "unknown recipe below": ("like: nosuch", "recipes/nosuch.yaml is missing; write it, or choose one that exists: "),
    "itself below": ("like: mine", "mine.yaml: like leads from mine back to itself; remove it"),
    "no YAML": ("a: [", "mine.yaml, line 1: not YAML"),
    "no sections": ("- a", "mine.yaml: expected sections as in the default's params.yaml; correct it."),
    "entry given twice": ("answers: {prompts: 4, prompts: 5}", "mine.yaml, line 1: prompts is given twice; remove one."),
    "a tag": ("answers: {prompts: !x 4}", "mine.yaml, line 1: not valid YAML (could not determine a constructor for the tag"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_a_mistake_is_reported_and_params_yaml_stays(text, message, here):
    Path("recipes/mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        recipes.write_recipe("mine")
    assert message in error.value.message
    assert "\n" not in error.value.message
    assert params() == SHIPPED


def test_a_recipe_of_ones_own_may_build_on_another(here):
    Path("recipes/mine.yaml").write_text("# Mine.\nlike: smoke\ndistillation: {beta: 1}\n", encoding="utf-8")
    recipes.write_recipe("mine")
    found = recipes.safe_yaml().load(params())
    assert (found["distillation"]["beta"], found["answers"]["prompts"]) == (1, 4)


@pytest.mark.parametrize("names", ["[GLM]", "\n  - GLM", "\n    - GLM"])
def test_a_list_may_be_written_in_brackets_or_in_lines(names, here):
    Path("recipes/mine.yaml").write_text(f"teacher:\n  names: {names}\n", encoding="utf-8")
    recipes.write_recipe("mine")
    assert params() == SHIPPED.replace("  names: []\n", "  names:\n  - GLM\n")


def test_a_comment_next_to_a_list_survives_a_longer_value_and_an_empty_one(here):
    original = SHIPPED.replace("  names: []\n", "  names: [] # of the teacher\n").replace(
        "comparisons: 240 #", "comparisons: 9 #"
    )
    Path("params.yaml").write_text(original, encoding="utf-8")
    recipes.write_recipe("paper")
    assert "\n  names: # of the teacher\n  - ChatGLM\n" in params() and "\n  comparisons: 10080 # per method" in params()
    recipes.write_recipe("default")
    assert params() == original.replace("comparisons: 9 #", "comparisons: 240 #")


def test_an_entry_that_params_yaml_lacks_is_reported(here):
    Path("params.yaml").write_text(SHIPPED.replace("  samples: 1 #", "  #"), encoding="utf-8")
    with pytest.raises(UserError, match=r"params\.yaml: `pairs\.samples` is missing; add it"):
        recipes.write_recipe("paper")


# --- the style of DVC ------------------------------------------------------------------------------

SET_BY_DVC = {
    "persona": ("persona=loving", 1),
    "seed": ("seed=1", 1),
    "an entry of a section": ("distillation.learning_rate=0.00001", 1),
    "an entry of a nested section": ("judge.sampling.temperature=0.5", 1),
    "an entry of a list": ("distillation.adam_betas=[0.9,0.95]", 1),
    "a whole list": ("steering.layers=[0.2,0.7]", 2),
}


def changed_by_dvc(*overrides: str) -> list[str]:
    """Set entries by the function behind `dvc exp run -S`; return the lines of params.yaml that it wrote anew."""
    before = params().splitlines()
    apply_overrides("params.yaml", list(overrides))
    after = params().splitlines()
    assert len(after) == len(before)
    return [new for old, new in zip(before, after, strict=True) if old != new]


@pytest.mark.parametrize(("override", "lines"), SET_BY_DVC.values(), ids=SET_BY_DVC)
def test_dvc_changes_the_lines_of_an_entry_and_no_other(override, lines, here):
    changed = changed_by_dvc(override)
    assert len(changed) == lines
    assert sorted(COMMENT.findall(params())) == sorted(COMMENT.findall(SHIPPED))


@each_recipe
def test_dvc_changes_one_line_after_any_recipe_too(name, here):
    recipes.write_recipe(name)
    assert changed_by_dvc("seed=1") == ["seed: 1"]


@pytest.mark.parametrize(
    "entry", ["prompts.outside", "teacher.names", "openai.omit", "runtime.report_to", "runtime.openai.endpoints"]
)
def test_dvc_can_fill_a_list_and_empty_it(entry, here):
    for value in ("[a,b]", "[]"):
        apply_overrides("params.yaml", [f"{entry}={value}"])
    assert params() == SHIPPED


def test_params_are_written_as_dvc_writes_them(here):
    document = recipes.params_yaml().load(SHIPPED)
    assert recipes.format_params(document) == dumps_yaml(document) == SHIPPED


# --- the command -----------------------------------------------------------------------------------


def test_the_command_says_what_it_changed(here):
    done = CliRunner().invoke(main, ["recipe", "study"])
    assert done.exit_code == 0
    assert "distillation.epochs: 4 -> 2\n" in done.output
    assert CliRunner().invoke(main, ["recipe", "study"]).output == "params.yaml has the values of study already\n"


def test_the_command_lists_the_recipes_with_their_first_lines(here):
    lines = CliRunner().invoke(main, ["recipe"]).output.splitlines()
    assert [line.split()[0] for line in lines] == sorted(["default", *NAMES])
    assert "paper-qwen   The paper's Qwen2.5-7B." in lines


# --- with DVC --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project with a placeholder for every output, which DVC would look for if the student changes."""
    made = start(tmp_path_factory.mktemp("recipes") / "project")
    for name in re.findall(
        r"\b(?:code|data|models|metrics|plots|results)/[\w./-]*\w", (made.root / "dvc.yaml").read_text(encoding="utf-8")
    ):
        path = made.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.suffix:
            path.mkdir(exist_ok=True)
        elif not path.exists():
            path.touch()
    return made


AT_ONCE = ("paper-llama", "smoke")  # of which the others are alike to DVC, which takes seconds for each


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in AT_ONCE)) for name in NAMES])
def test_dvc_can_plan_every_recipe(name, project, monkeypatch):
    monkeypatch.chdir(project.root)
    recipes.write_recipe(name)
    assert ran(project.dvc("repro", "--dry")) == EVERY


@pytest.mark.slow
def test_smoke_runs_through(tiny_student, tmp_path, monkeypatch):
    with Forks(tmp_path / "python", environment()) as python:
        project = start(tmp_path / "project", talkative(tiny_student, tmp_path / "student"), python=python)
        student = project.params()["student"]
        monkeypatch.chdir(project.root)
        recipes.write_recipe("smoke")
        project.set({"student.source": student["source"], "student.name": student["name"]})
        assert ran(project.dvc("repro")) == EVERY
        assert "up to date" in project.dvc("status")
