"""dvc.yaml is complete and exact: every stage lists the code, params and data that it reaches, and nothing else."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from stages import code

ROOT = Path(__file__).parents[1]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES = {name: stage.get("do", stage) for name, stage in PIPELINE.items()}
PATH = re.compile(r"(data|models|metrics|plots|reports|results)/[\w./-]*\w")
CONSTITUTION = "constitutions/${persona}.yaml"

each_stage = pytest.mark.parametrize("name", STAGES)


@cache
def tree(file: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))))


def first_party(module: str) -> Iterator[str]:
    """Yield the files here that importing `module` runs: its own, and those of its packages where they hold code."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        base = "/".join(parts[:depth])
        if (ROOT / f"{base}.py").is_file():
            yield f"{base}.py"
        elif (ROOT / base / "__init__.py").is_file():
            yield f"{base}/__init__.py"


def imported(file: str) -> Iterator[str]:
    """Yield every module that `file` names in an import, inside functions too."""
    for node in tree(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}, line {node.lineno}: write the import in full, so that this test can follow it"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(file: str) -> set[str]:
    """Return the files of this repository that run when `file` does."""
    found, waiting = set(), {file, *first_party(file.removesuffix(".py").replace("/", "."))}
    while waiting:
        found.add(current := waiting.pop())
        waiting |= {other for module in imported(current) for other in first_party(module)} - found
    return found


def script(name: str) -> str:
    return f"stages/{name}.py"


def params_read(file: str) -> Iterator[str]:
    """Yield what `file` takes from params.yaml: `section`, or `section.key` where it is subscripted on the spot."""
    readers = set()
    for node in tree(file):
        if isinstance(node, ast.ImportFrom) and node.module == "character.core.params":
            readers |= {alias.asname or alias.name for alias in node.names if alias.name in {"read_section", "read_value"}}
    calls = {id(node): name for node in tree(file) if (name := section(node, readers))}
    for node in tree(file):
        if isinstance(node, ast.Subscript) and id(node.value) in calls and isinstance(node.slice, ast.Constant):
            yield f"{calls.pop(id(node.value))}.{node.slice.value}"
    yield from calls.values()


def section(node: ast.AST, readers: set[str]) -> str | None:
    """Return the literal that a call of `read_section` or `read_value` asks for."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in readers:
        first = node.args[0]
        # read_section itself passes its argument on.
        return first.value if isinstance(first, ast.Constant) else None
    return None


def listed_params(name: str) -> set[str]:
    return {entry for entry in STAGES[name].get("params", []) if isinstance(entry, str)}


def listed(name: str, *kinds: str) -> set[str]:
    """Return the paths of a stage's deps, outs and the like, whatever flags they carry."""
    entries = [entry for kind in kinds for entry in STAGES[name].get(kind, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def covers(entry: str, wanted: str) -> bool:
    return wanted == entry or wanted.startswith(f"{entry}.")


def test_every_stage_has_its_module_and_every_module_its_stage():
    modules = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert set(STAGES) == modules
    assert {name: stage["cmd"].split()[:3] for name, stage in STAGES.items()} == {
        name: ["python", "-m", f"stages.{name}"] for name in modules
    }


@each_stage
def test_a_stage_depends_on_its_code_and_on_no_other(name):
    code = {
        path
        for path in listed(name, "deps")
        if path.startswith("code/") or path.endswith(".py") or path in ("character", "stages")
    }
    assert code == ({"character", "stages"} if name == "code" else {f"code/{name}.txt"})


@each_stage
def test_the_code_of_a_stage_is_that_of_the_modules_that_it_reaches(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert {path.as_posix() for path in code.reachable_files(Path(script(name)))} == reached(script(name))


@each_stage
def test_a_stage_lists_exactly_the_params_that_it_and_its_modules_read(name):
    wanted = {param for file in reached(script(name)) for param in params_read(file)}
    wanted = {param for param in wanted if not covers("runtime", param)}
    entries = listed_params(name)
    assert {param for param in wanted if not any(covers(entry, param) for entry in entries)} == set(), "read, not listed"
    assert {entry for entry in entries if not any(covers(entry, param) for param in wanted)} == set(), "listed, not read"


@each_stage
def test_a_stage_that_loads_the_constitution_depends_on_its_traits_and_on_the_summary_if_it_shows_it(name):
    used = {getattr(node, "attr", getattr(node, "id", "")) for node in tree(script(name))}
    loads = "selected_constitution" in used or any(
        ast.unparse(node) == "constitution.load_constitution" for node in tree(script(name)) if isinstance(node, ast.Attribute)
    )
    keys = ["summary", "traits"] if "summary" in used else ["traits"]
    files = [entry for entry in STAGES[name].get("params", []) if isinstance(entry, dict)]
    assert files == ([{CONSTITUTION: keys}] if loads else [])


@each_stage
def test_the_files_that_a_stage_names_are_its_deps_and_outs(name):
    texts = {node.value for node in tree(script(name)) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {text for text in texts if PATH.fullmatch(text)}
    entries = listed(name, "deps", "outs", "metrics")
    assert {text for text in named if not any(text == entry or text.startswith(f"{entry}/") for entry in entries)} == set()


def test_how_to_run_is_no_part_of_what_is_run():
    for name, stage in STAGES.items():
        assert not [param for param in listed_params(name) if covers("runtime", param)]
        assert "runtime" not in stage["cmd"]


def test_no_output_path_contains_the_persona():
    paths = {path for name in STAGES for path in listed(name, "outs", "metrics", "plots")}
    assert not [path for path in paths if "${persona}" in path]
