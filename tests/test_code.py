"""What counts as the code of a stage: what it reaches, without anything that changes no behaviour."""

import ast
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import click
import pytest

from character.core.errors import UserError
from stages import code
from stages.code import imported_modules, reachable_files, strip_source

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("character", "stages", "tests") for path in (ROOT / folder).rglob("*.py"))

EDITED = '''
"""What a module is about, in other words."""

# A comment of its own.

import os  # why it is here


class Thing:
    """A thing."""

    size: int = 3   \t

    # Between methods.
    def area(self):
        """
        Of several lines,

        with "quotes" and a # sign.
        """

        text = "no # comment"  # but this is one
        return f"{text} # {self.size}"


async def wait(): "A docstring on the line of its function, né Ü."
'''

LEFT = """import os
class Thing:
    size: int = 3
    def area(self):
        text = "no # comment"
        return f"{text} # {self.size}"
async def wait():
"""


def test_comments_docstrings_and_blank_lines_are_no_code():
    assert strip_source(EDITED) == LEFT


KEPT = '''
TEXT = """first  \t

# no comment

last"""
ROW = f"""{TEXT}

  # neither   
{len(TEXT)}  
"""
def act():
    TEXT
    "a string that is no docstring"
    return {"a": """
"""}
ENDED = 1 \\

(2)
'''


def test_strings_stay_as_they_are():
    assert strip_source(KEPT) == KEPT.lstrip("\n")


def test_characters_of_several_bytes_before_a_docstring_move_nothing():
    assert strip_source("class Ünï:\n    'Größe'; größe = 'Ü'\n") == "class Ünï:\n    ; größe = 'Ü'\n"


def words_of(source: str) -> list[str]:
    """Return what Python reads of a source: its tokens without comments, docstrings, line ends and indentation."""
    layout = {"COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"}
    read = tokenize.generate_tokens(io.StringIO(source).readline)
    found = [(token.string, token.start) for token in read if tokenize.tok_name[token.type] not in layout]
    docstrings = {
        (node.body[0].lineno, node.body[0].col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node)
    }
    return [text for text, place in found if place not in docstrings]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_comments_docstrings_and_blank_lines_of_any_module_are_no_code_and_all_else_is(path):
    source = path.read_text(encoding="utf-8")
    left = strip_source(source)
    read = tokenize.generate_tokens(io.StringIO(left).readline)
    kept = [token for token in read if token.string and not token.string.isspace()]
    assert [token.string for token in kept] == words_of(source)
    assert strip_source(f"{source}\n\n# A remark.\n") == left
    assert strip_source(f"{source}\nEDITED = True\n") == f"{left}EDITED = True\n"


def test_every_line_of_a_function_can_be_commented_and_documented_without_a_change():
    documented = EDITED.replace("def area(self):", "def area(self):  # in square metres").replace(
        "    size", "    # Of it.\n    size"
    )
    documented = documented.replace("Of several lines,", "Of several other lines,\n\n\n        and more of them,")
    assert documented != EDITED and strip_source(documented) == strip_source(EDITED)


def other_interpreters() -> list[str]:
    """Return interpreters of other supported versions than this one, as far as they are here."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for minor in range(11, 15):
        places = [shutil.which(f"python3.{minor}"), *sorted(pyenv.glob(f"3.{minor}.*/bin/python"))]
        for python in filter(None, places):
            asked = subprocess.run([python, "-c", "import sys; print(sys.version_info.minor)"], capture_output=True, text=True)
            if asked.stdout.strip() == str(minor) != str(sys.version_info.minor):
                found[minor] = str(python)
    return list(found.values())


DIGEST = """
import hashlib, pathlib
from stages.code import strip_source
files = sorted(path for path in pathlib.Path(".").rglob("*.py") if path.parts[0] != "libraries")
texts = [strip_source(path.read_text(encoding="utf-8")) for path in files]
print(hashlib.sha256("".join(texts).encode()).hexdigest())
"""


def test_the_code_has_the_same_bytes_under_other_versions_of_python(tmp_path):
    pythons = other_interpreters()
    if not pythons:
        pytest.skip("no other supported version of Python is here")
    for folder in ("character", "stages", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "kept.py").write_text(EDITED + KEPT, encoding="utf-8")
    texts = [strip_source(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.rglob("*.py"))]
    ours = hashlib.sha256("".join(texts).encode()).hexdigest()
    # Of what is installed here only click is needed, which is pure Python.
    shutil.copytree(Path(click.__file__).parent, tmp_path / "libraries/click")
    env = os.environ | {"PYTHONPATH": str(tmp_path / "libraries"), "PYTHONDONTWRITEBYTECODE": "1"}
    for python in pythons:
        done = subprocess.run([python, "-c", DIGEST], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.stdout.strip() == ours, f"{python}\n{done.stderr}"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A library and a stage that imports one of its modules at the top, another in a function, and a third through that one."""
    files = {
        "character/__init__.py": "",
        "character/top.py": "import json\n",
        "character/inner/__init__.py": "READY = True\n",
        "character/inner/late.py": "def act():\n    from character import deep\n",
        "character/deep.py": "import character.top\n",
        "character/idle.py": "",
        "stages/__init__.py": "",
        "stages/only.py": "from character import top\n\ndef main():\n    from character.inner.late import act\n",
    }
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")


def test_imports_inside_functions_count_and_packages_run_too(tree):
    names = {path.as_posix() for path in reachable_files(Path("stages/only.py"))}
    assert names == {
        "character/__init__.py",
        "character/top.py",
        "character/inner/__init__.py",
        "character/inner/late.py",
        "character/deep.py",
        "stages/__init__.py",
        "stages/only.py",
    }


@pytest.mark.parametrize(
    "line",
    [
        "from . import top",
        "import importlib; importlib.import_module('character.top')",
        "from importlib import import_module as load",
        "import runpy",
        "__import__('character.top')",
        "run = exec",
    ],
)
def test_an_import_that_cannot_be_followed_is_an_error(tree, line):
    Path("stages/only.py").write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"^stages/only.py, line 2: this import cannot be followed"):
        list(imported_modules(Path("stages/only.py")))


def test_run_elsewhere_it_deletes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("code").mkdir()
    Path("code/mine.txt").write_text("Not of this project.")
    with pytest.raises(UserError, match="run this from the top of the repository"):
        code.main.callback()
    assert Path("code/mine.txt").exists()
