"""The layout: packages import only from those below them, without cycles, and each thing has one name."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A package imports from itself and from those of lower rank; packages of one rank do not see each other.
RANKS = {
    "core": 0,
    "dataset": 1,
    "training": 1,
    "inference": 2,
    "evaluation": 3,
    "report": 4,
    "publish": 5,
    "stages": 5,
    "chat": 6,
    "study": 6,
    "cli": 7,
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for folder in ("character", "stages")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def package_of(module: str) -> str:
    """Return the part of the layout in which a module lies: a package of `character` ("" for its root), or `stages`."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "character" else first


def imports_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of each import of this repository's modules, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative imports are not followed"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield node.lineno, name


def climbing_imports(modules: dict[str, ast.AST]) -> list[str]:
    """Return each import that leads to a package which is not below its own, as `module, line N: imports other`."""
    found = []
    for module, tree in modules.items():
        own = package_of(module)
        for line, other in imports_of(tree):
            target = package_of(other)
            if target != own and target and RANKS[target] >= RANKS[own]:
                found.append(f"{module}, line {line}: imports {other}")
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the modules that import each other, by way of others too: components of more than one (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_every_module_lies_in_a_package_of_the_layout():
    assert {package_of(name) for name in MODULES} - {""} == set(RANKS)
    assert [path.name for path in (ROOT / "character").glob("*.py")] == ["__init__.py"]


def test_a_package_imports_only_from_packages_below_it():
    assert climbing_imports(MODULES) == []


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: {other for _, other in imports_of(tree)} - {module} for module, tree in MODULES.items()}
    assert circles(graph) == []


@pytest.mark.parametrize(
    ("module", "source", "named"),
    [
        ("character.core.models", "from character.training import run", "character.training.run"),
        (
            "character.dataset.prompts",
            "def act():\n    from character.training.run import train_adapter",
            "character.training.run",
        ),
        ("character.report.html", "import stages.report", "stages.report"),
        ("character.chat.session", "from character.study.recipes import list_recipes", "character.study.recipes"),
    ],
)
def test_an_import_that_climbs_is_named(module, source, named):
    line = source.count("\n") + 1
    assert climbing_imports({module: ast.parse(source)}) == [f"{module}, line {line}: imports {named}"]


def test_a_circle_is_found_however_long_it_is():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_a_package_has_four_to_twelve_modules():
    sizes = defaultdict(int)
    for path in (ROOT / "character").rglob("*.py"):
        sizes[str(path.parent.relative_to(ROOT))] += path.name != "__init__.py"
    assert {name: size for name, size in sizes.items() if not 4 <= size <= 12} == {"character": 0}


# --- names ------------------------------------------------------------------------------------------

# Ends in -ed, or is an irregular participle; read, put, set and the like are verbs too.
PARTICIPLE = re.compile(
    r"(?!(?:seed|need|feed|embed|speed)$)\w*[a-z]ed$|(?:told|said|drawn|shown|made|begun|known|written|dealt|found|kept|within"
    r"|gone|taken|given|chosen|built|hidden|held|lost|meant|sent|thought)$"
)


def defined_names() -> tuple[list[str], dict[str, set[str]]]:
    """Return the names of all functions and methods without leading underscores, and where each public name is defined."""
    functions, public = [], defaultdict(set)
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
                functions.append(node.name.lstrip("_"))
        for node in tree.body:
            bound = [node.name] if hasattr(node, "name") else []
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                bound = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            for name in bound:
                if not name.startswith("_"):
                    public[name].add(module)
    return functions, public


def test_functions_are_called_by_what_they_do_and_no_name_means_two_things():
    functions, public = defined_names()
    assert len(functions) > 500
    assert sum("_" not in name for name in functions) / len(functions) < 0.3
    assert sum("_" not in name and bool(PARTICIPLE.match(name)) for name in functions) / len(functions) < 0.01
    assert {name for name, modules in public.items() if len(modules) > 1} == {"main"}
