"""The docs that show figures. Each is written from a template in docs/templates and the figures in docs/figures.

Git tracks only the hashes of most results, in dvc.lock. The docs therefore take their figures from copies in git, and dvc.lock
shows whether a copy still equals the result. docs/figures holds

- `personas/<persona>/`: results of a persona that the docs show, as its stages wrote them, and `hashes.yaml`, the MD5 in its
  dvc.lock of each output that `cold_runs.yaml` lists;
- `benchmarks/` and `study.json`: the last output of `make bench` and `character study`;
- `durations.yaml`: times, entered by hand;
- `cold_runs.yaml`: the hashes that two cold runs shared, entered by hand;
- `sources.yaml`: copies that are not files of a run, with their source.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import yaml

from character.cli.figure_formats import FILTERS
from character.core.errors import UserError
from character.core.params import read_value
from character.core.safe_text import shorten_text

RESULTS_DIR = Path("results")  # <stage>.json, the results of each stage
RATINGS = Path("plots/preferences.csv")  # rating and change of each trait, by method
BENCHMARKS_DIR, STUDY = Path("benchmarks"), Path("reports/study.json")
LOCK = Path("dvc.lock")
DOCS_DIR = Path("docs")
FIGURES_DIR, DOC_TEMPLATES_DIR = DOCS_DIR / "figures", DOCS_DIR / "templates"
PERSONAS_DIR, SOURCES, COLD_RUNS = FIGURES_DIR / "personas", FIGURES_DIR / "sources.yaml", FIGURES_DIR / "cold_runs.yaml"
RATINGS_COPY, HASHES_COPY = "ratings.csv", "hashes.yaml"  # names in the folder of a persona
ROOT_DOC = "README.md"  # the other docs are in docs/

PARSERS = {
    ".json": json.loads,
    ".yaml": yaml.safe_load,
    ".csv": lambda text: list(csv.DictReader(text.splitlines())),
}


def locked_hashes() -> dict[Path, str]:
    """Return the MD5 of every output in dvc.lock, by its path; the MD5 of a folder ends in `.dir`."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader takes a tenth of the time
    stages = yaml.load(LOCK.read_text(encoding="utf-8"), Loader=loader)["stages"]
    return {Path(out["path"]): out["md5"] for stage in stages.values() for out in stage.get("outs", ())}


def result_copies(persona: str, locked: dict[Path, str]) -> dict[Path, Path]:
    """Return the path of each result in dvc.lock that the docs copy, by the path of the copy."""
    results = {path.name: path for path in locked if path.parent == RESULTS_DIR and path.suffix == ".json"}
    results |= {RATINGS_COPY: RATINGS} if RATINGS in locked else {}
    return {PERSONAS_DIR / persona / name: path for name, path in results.items()}


def cold_run_hashes(locked: dict[Path, str]) -> str:
    """Return the MD5 in dvc.lock of each output that `cold_runs.yaml` lists, as YAML; empty if it lists none of them."""
    listed = yaml.safe_load(COLD_RUNS.read_text(encoding="utf-8")) if COLD_RUNS.exists() else None
    hashes = {path: locked[Path(path)] for path in listed or () if Path(path) in locked}
    return yaml.safe_dump(hashes, sort_keys=False) if hashes else ""


def is_shown(persona: str) -> bool:
    """Return whether the docs show this persona's results."""
    return (PERSONAS_DIR / persona).is_dir()


def record_figures() -> list[Path]:
    """Copy the results, benchmarks and study tables that exist to docs/figures; return the copies that changed.

    Results are those of the persona of params.yaml. They, and the hashes of its outputs, are recorded only if the docs show
    this persona; the hashes not if its copies were not taken from a run.

    Raises:
        UserError: a result differs from the one in dvc.lock.
    """
    persona, locked = read_value("persona"), locked_hashes()
    copies = result_copies(persona, locked) if is_shown(persona) else {}
    for path in copies.values():
        if path.exists() and _md5(path) != locked[path]:
            raise UserError(f"{path} differs from the one in {LOCK}; run `dvc repro`, then `character docs`.")
    copies |= _workspace_copies()
    contents = {copy: path.read_bytes() for copy, path in copies.items() if path.exists()}
    hashes = PERSONAS_DIR / persona / HASHES_COPY
    if is_shown(persona) and not _has_other_source(hashes) and (text := cold_run_hashes(locked)):
        contents[hashes] = text.encode()
    changed = [copy for copy, content in contents.items() if not copy.exists() or copy.read_bytes() != content]
    for copy in changed:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(contents[copy])
    return changed


def load_figures(folder: Path = FIGURES_DIR) -> dict:
    """Return the recorded figures as nested dictionaries, by the names of folders and files without suffixes."""
    return {
        path.stem: load_figures(path) if path.is_dir() else PARSERS[path.suffix](path.read_text(encoding="utf-8"))
        for path in sorted(folder.iterdir())
    }


def render_docs() -> dict[Path, str]:
    """Return the text of each doc that has a template, by its path.

    Raises:
        UserError: a template uses a figure that is not recorded, or is invalid.
    """
    from jinja2 import TemplateError

    environment, rendered = _environment(), {}
    for template in sorted(DOC_TEMPLATES_DIR.glob("*.md.j2")):
        path = Path(template.stem) if template.stem == ROOT_DOC else DOCS_DIR / template.stem
        try:
            text = environment.get_template(template.name).render()
        except (TemplateError, LookupError, TypeError, ValueError) as error:
            where, fault = _template_line(error, template), f"no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{template}{where}: {fault}; correct it, or record the figure with `character docs`.") from None
        rendered[path] = f"<!-- Written by `character docs` from {template}: edit that file. -->\n{text}"
    return rendered


def write_docs() -> list[Path]:
    """Write the docs that have a template; return the paths of those that changed."""
    rendered = render_docs()
    changed = [path for path, text in rendered.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(rendered[path], encoding="utf-8", newline="\n")
    return changed


def stale_docs() -> Iterator[str]:
    """Yield a sentence about each doc that differs from what its template and the recorded figures give."""
    for path, text in render_docs().items():
        current = path.read_text(encoding="utf-8") if path.exists() else ""
        if current != text:
            yield f"{path}, {_first_difference(current, text)}"


def stale_figures() -> Iterator[str]:
    """Yield a sentence about each recorded result that differs from dvc.lock, and about each wrong entry of `sources.yaml`.

    Only results of the selected persona can be compared, and only those that are not in `sources.yaml`. The copies of
    benchmarks and of the study can be compared only while their originals are in the workspace.
    """
    yield from _wrong_sources()
    persona, locked = read_value("persona"), locked_hashes()
    if not is_shown(persona):
        return
    copies, hashes, text = result_copies(persona, locked), PERSONAS_DIR / persona / HASHES_COPY, cold_run_hashes(locked)
    for copy in sorted({*copies, *(PERSONAS_DIR / persona).iterdir(), *([hashes] if text else [])}):
        if copy == hashes:
            same = copy.exists() and copy.read_text(encoding="utf-8") == text
            if not same and not _has_other_source(copy):
                yield f"{copy} differs from the hashes in {LOCK}; run `character docs`."
            continue
        if copy not in copies:
            original = RATINGS if copy.name == RATINGS_COPY else RESULTS_DIR / copy.name
            yield f"{copy}: {LOCK} has no {original}; delete the copy."
            continue
        same = copy.exists() and _md5(copy) == locked[copies[copy]]
        if same and _has_other_source(copy):
            yield f"{copy} equals the {copies[copy]} of {LOCK} now; remove it from {SOURCES}."
        if not same and not _has_other_source(copy):
            yield f"{copy} differs from the {copies[copy]} of {LOCK}; run `dvc pull` or `dvc repro`, then `character docs`."


def _wrong_sources() -> Iterator[str]:
    """Yield a sentence about each entry of `sources.yaml` without a copy, or whose copy equals the workspace's original."""
    originals = _workspace_copies()
    for copy in (FIGURES_DIR / entry for entry in _other_sources()):
        if not copy.exists():
            yield f"{copy} does not exist; remove it from {SOURCES}."
        elif copy in originals and _same_bytes(originals[copy], copy):
            yield f"{copy} equals {originals[copy]} now; remove it from {SOURCES}."


def _workspace_copies() -> dict[Path, Path]:
    """Return the outputs of `make bench` and `character study` that the docs copy, by the path of the copy."""
    benchmarks = {FIGURES_DIR / "benchmarks" / path.name: path for path in BENCHMARKS_DIR.glob("*.json")}
    return benchmarks | {FIGURES_DIR / "study.json": STUDY}


def _other_sources() -> dict[str, str]:
    """Return the entries of `sources.yaml`: where a copy, or a folder of copies, that is not of a run was taken from."""
    return yaml.safe_load(SOURCES.read_text(encoding="utf-8")) or {}


def _has_other_source(copy: Path) -> bool:
    """Return whether `sources.yaml` lists a copy, or its folder, as not taken from a run."""
    listed = _other_sources()
    return any(str(path.relative_to(FIGURES_DIR)) in listed for path in (copy, copy.parent))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def _same_bytes(first: Path, second: Path) -> bool:
    return first.exists() and first.read_bytes() == second.read_bytes()


def _environment():
    """Return Jinja's environment with the recorded figures by name and the filters that format them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(DOC_TEMPLATES_DIR),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= load_figures() | {"results": str(RESULTS_DIR)}
    environment.filters |= FILTERS
    return environment


def _template_line(error: Exception, template: Path) -> str:
    """Return the line of a template in which an error was raised, as `, line 12`."""
    lines, trace = [], error.__traceback__
    while trace:
        if Path(trace.tb_frame.f_code.co_filename).name == template.name:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f", line {lines[-1]}" if lines else ""


def _first_difference(current: str, expected: str) -> str:
    """Return the first line in which two texts differ, with the words that differ."""
    lines = zip_longest(current.splitlines(), expected.splitlines(), fillvalue="")
    different = [(number, *pair) for number, pair in enumerate(lines, start=1) if pair[0] != pair[1]]
    if not different:
        return "at the end of the file: a line break differs"
    number, old, new = different[0]
    words = [pair for pair in zip_longest(old.split(), new.split(), fillvalue="") if pair[0] != pair[1]] or [(old, new)]
    old_words, new_words = (shorten_text(" ".join(column), 60) for column in zip(*words, strict=True))
    more = f"; {len(different) - 1} more lines differ" if len(different) > 1 else ""
    return f"line {number}: “{old_words}” instead of “{new_words}”{more}"
