"""code: character/, stages/ -> code/<stage>.txt, the source code that each stage runs.

Each file holds the source of every module of this repository that the stage reaches through imports, without comments,
docstrings and blank lines. Stages depend on these files. An edited comment therefore reruns only this stage, and an edited line
of code reruns the stages that reach it. Text is removed by position, so the result is the same under every version of Python.
"""

import ast
import io
import shutil
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click

from character.core.errors import UserError
from character.core.safe_text import print_text

CODE_DIR = Path("code")
PACKAGES = ("character", "stages")


def reachable_files(script: Path) -> list[Path]:
    """Return the files of this repository that `script` runs, imports inside functions included, sorted by path."""
    found, waiting = set(), set(module_files(".".join(script.with_suffix("").parts)))
    while waiting:
        found.add(current := waiting.pop())
        waiting |= {file for module in imported_modules(current) for file in module_files(module)} - found
    return sorted(found)


def imported_modules(file: Path) -> Iterator[str]:
    """Yield the dotted names that `file` imports; the last part is a module or a name in one.

    Raises:
        UserError: an import is relative, or the file can import by text (`import_module`, `runpy`, `exec` and the like), so
            that its targets cannot be read from the source.
    """
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        used = {part for name in names for part in name.split(".")} | {getattr(node, "attr", "")}
        by_text = used & {"import_module", "runpy"} or getattr(node, "id", "") in {"__import__", "exec", "eval"}
        if by_text or getattr(node, "level", 0):
            raise UserError(
                f"{file}, line {node.lineno}: this import cannot be followed; write it as `from package import name`."
            )
        yield from names


def module_files(module: str) -> Iterator[Path]:
    """Yield the files that importing `module` runs: its own and the `__init__.py` of its packages."""
    parts = module.split(".")
    if parts[0] in PACKAGES:
        for depth in range(1, len(parts) + 1):
            base = Path(*parts[:depth])
            yield from (file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file())


def strip_source(source: str) -> str:
    """Return Python source without comments, docstrings, blank lines and trailing spaces.

    Strings are not changed. The result may be invalid Python, as of a function that consists only of its docstring.
    """
    lines, docstrings = source.split("\n"), list(_docstring_spans(source))
    outside, opened = set(range(len(lines))), []  # rows that end outside of strings; rows in which open f-strings begin
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, column), (end_row, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column]
        elif token.type in _STRING_STARTS:
            opened.append(row)
        elif token.type == tokenize.STRING or token.type in _STRING_ENDS:
            outside -= set(range((row if token.type == tokenize.STRING else opened.pop()) - 1, end_row - 1))
    for row, column, end_row, end_column in docstrings:
        lines[row] = lines[row][:column] + lines[end_row][end_column:]
        outside |= set(range(row, end_row))
        lines[row + 1 : end_row + 1] = [""] * (end_row - row)
    kept = []
    for row, line in enumerate(lines):
        continues = row > 0 and (
            row - 1 not in outside or lines[row - 1].endswith("\\")
        )  # a string, or a line with a backslash
        text = line.rstrip() if row in outside else line
        if text or row not in outside or continues:
            kept.append(text)
    return "".join(f"{line}\n" for line in kept)


# Since Python 3.12 an f-string consists of several tokens; Python 3.14 adds t-strings.
_STRING_STARTS = {getattr(tokenize, name, None) for name in ("FSTRING_START", "TSTRING_START")} - {None}
_STRING_ENDS = {getattr(tokenize, name, None) for name in ("FSTRING_END", "TSTRING_END")} - {None}


def _docstring_spans(source: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield the row and column of the start and of the end of each docstring, both from 0, columns in characters."""
    lines = source.split("\n")

    def characters(row: int, column: int) -> int:
        return len(lines[row].encode()[:column].decode())  # ast counts bytes

    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            text = node.body[0].value
            row, end_row = text.lineno - 1, text.end_lineno - 1
            yield row, characters(row, text.col_offset), end_row, characters(end_row, text.end_col_offset)


@click.command()
def main():
    """Write code/<stage>.txt for every stage."""
    scripts = [file for file in sorted(Path("stages").glob("*.py")) if file.stem not in ("__init__", "code")]
    if not scripts:
        raise UserError("stages/ is not in this directory; run this from the top of the repository.")
    if CODE_DIR.exists():
        shutil.rmtree(CODE_DIR)
    CODE_DIR.mkdir()
    for script in scripts:
        sources = {file: strip_source(file.read_text(encoding="utf-8")) for file in reachable_files(script)}
        text = "".join(f"# {file.as_posix()}\n{source}" for file, source in sources.items() if source.strip())
        (CODE_DIR / f"{script.stem}.txt").write_text(text, encoding="utf-8", newline="\n")
    print_text(f"code: source of {len(scripts)} stages")


if __name__ == "__main__":
    main()
