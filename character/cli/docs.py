"""The docs that show figures: each is written from a template in docs/templates and the figures in docs/figures.

Most results are DVC's: git has their hashes, in dvc.lock, and not their bytes. So the docs take their figures from copies that
git has, and dvc.lock says whether a copy is still the result that it was made from. docs/figures holds

- `personas/<persona>/`: the results of a persona that the docs show, as its stages wrote them;
- `benchmarks/` and `study.json`: what `make bench` and `character study` wrote last;
- `durations.yaml`: what was measured with a clock, by hand;
- `sources.yaml`: copies that are not the files of a run, and what they were taken from instead.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from textwrap import shorten

import yaml

from character.cli.figure_formats import FILTERS
from character.core.errors import UserError
from character.core.params import read_value

RESULTS = Path("results")  # <stage>.json, what each stage found
RATINGS = Path("plots/preferences.csv")  # each trait's rating and its change, by method
BENCHMARKS, STUDY = Path("benchmarks"), Path("reports/study.json")
LOCK = Path("dvc.lock")
FIGURES, DOC_TEMPLATES, DOCS_DIR = Path("docs/figures"), Path("docs/templates"), Path("docs")
PERSONAS, SOURCES = FIGURES / "personas", FIGURES / "sources.yaml"
AT_THE_TOP = "README.md"  # of the repository; the other docs are in docs/

PARSERS = {
    ".json": json.loads,
    ".yaml": yaml.safe_load,
    ".csv": lambda text: list(csv.DictReader(text.splitlines())),
}


def locked_hashes() -> dict[Path, str]:
    """Return the MD5 of every output in dvc.lock, by its path; that of a folder ends in `.dir`."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one takes a tenth of the time
    stages = yaml.load(LOCK.read_text(encoding="utf-8"), Loader=loader)["stages"]
    return {Path(out["path"]): out["md5"] for stage in stages.values() for out in stage.get("outs", ())}


def result_copies(persona: str) -> dict[Path, Path]:
    """Return where docs/figures has a copy of each result in dvc.lock: the copy's path -> the result's."""
    results = [path for path in locked_hashes() if path.parent == RESULTS and path.suffix == ".json"]
    return {PERSONAS / persona / path.name: path for path in results} | {PERSONAS / persona / "ratings.csv": RATINGS}


def is_shown(persona: str) -> bool:
    """Return whether the docs show this persona's results."""
    return (PERSONAS / persona).is_dir()


def record_figures() -> list[Path]:
    """Copy results, benchmarks and the study's tables, where they are there, to docs/figures; return the copies that changed.

    Results count as those of the persona of params.yaml. If the docs do not show it, its results are not copied.

    Raises:
        UserError: a result is not the one that dvc.lock describes.
    """
    persona, locked = read_value("persona"), locked_hashes()
    copies = result_copies(persona) if is_shown(persona) else {}
    for path in copies.values():
        if path.exists() and _md5(path) != locked[path]:
            raise UserError(f"{path} is not the one of {LOCK}; run `dvc repro`, then `character docs`.")
    copies |= {FIGURES / "benchmarks" / path.name: path for path in BENCHMARKS.glob("*.json")} | {FIGURES / "study.json": STUDY}
    changed = [copy for copy, path in copies.items() if path.exists() and not _same_bytes(copy, path)]
    for copy in changed:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(copies[copy].read_bytes())
    return changed


def load_figures(folder: Path = FIGURES) -> dict:
    """Return the recorded figures as nested dictionaries, by the names of their folders and files, without suffixes."""
    return {
        path.stem: load_figures(path) if path.is_dir() else PARSERS[path.suffix](path.read_text(encoding="utf-8"))
        for path in sorted(folder.iterdir())
    }


def render_docs() -> dict[Path, str]:
    """Return the text of each doc that has a template, by its path.

    Raises:
        UserError: a template asks for a figure that is not recorded, or has a mistake.
    """
    from jinja2 import TemplateError

    environment, shown = _environment(), {}
    for template in sorted(DOC_TEMPLATES.glob("*.md.j2")):
        path = Path(template.stem) if template.stem == AT_THE_TOP else DOCS_DIR / template.stem
        try:
            text = environment.get_template(template.name).render()
        except (TemplateError, LookupError, TypeError, ValueError) as error:
            where, fault = _template_line(error, template), f"no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{template}{where}: {fault}; correct it, or record the figure with `character docs`.") from None
        shown[path] = f"<!-- Written by `character docs` from {template}: edit that file. -->\n{text}"
    return shown


def write_docs() -> list[Path]:
    """Write the docs that have a template; return those that changed."""
    rendered = render_docs()
    changed = [path for path, text in rendered.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(rendered[path], encoding="utf-8", newline="\n")
    return changed


def stale_docs() -> Iterator[str]:
    """Yield a sentence about each doc that is not what its template and the recorded figures give."""
    for path, text in render_docs().items():
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        if there != text:
            yield f"{path}, {_first_difference(there, text)}"


def stale_figures() -> Iterator[str]:
    """Yield a sentence about each recorded result that is not the one in dvc.lock.

    Those of personas that are not selected in params.yaml cannot be compared, nor can those in `sources.yaml`.
    """
    persona, locked = read_value("persona"), locked_hashes()
    if not is_shown(persona):
        return
    copies = result_copies(persona)
    for copy in sorted({*copies, *(PERSONAS / persona).iterdir()}):
        if copy not in copies:
            yield f"{copy}: {LOCK} has no {RESULTS / copy.name}; delete the copy."
            continue
        same = copy.exists() and _md5(copy) == locked[copies[copy]]
        if same and _has_other_source(copy):
            yield f"{copy} is the {copies[copy]} of {LOCK} now; remove it from {SOURCES}."
        if not same and not _has_other_source(copy):
            yield f"{copy} is not the {copies[copy]} of {LOCK}; run `dvc pull` or `dvc repro`, then `character docs`."


def _has_other_source(copy: Path) -> bool:
    """Return whether `sources.yaml` lists a copy, or its folder, as taken from something else than a run."""
    listed = yaml.safe_load(SOURCES.read_text(encoding="utf-8"))
    return any(str(path.relative_to(FIGURES)) in listed for path in (copy, copy.parent))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def _same_bytes(first: Path, second: Path) -> bool:
    return first.exists() and first.read_bytes() == second.read_bytes()


def _environment():
    """Return Jinja's environment: the recorded figures by name, and how they are written."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    locked = locked_hashes()
    environment = Environment(
        loader=FileSystemLoader(DOC_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= load_figures() | {"results": str(RESULTS)}
    environment.filters |= FILTERS | {"md5": lambda path: locked[Path(path)][:12]}
    return environment


def _template_line(error: Exception, template: Path) -> str:
    """Return in which line of a template an error came up, as `, line 12`."""
    lines, trace = [], error.__traceback__
    while trace:
        if Path(trace.tb_frame.f_code.co_filename).name == template.name:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f", line {lines[-1]}" if lines else ""


def _first_difference(there: str, wanted: str) -> str:
    """Return where two texts differ first, and in which words."""
    lines = zip_longest(there.splitlines(), wanted.splitlines(), fillvalue="")
    different = [(number, *pair) for number, pair in enumerate(lines, start=1) if pair[0] != pair[1]]
    if not different:
        return "at the end of the file: a line break differs"
    number, old, new = different[0]
    words = [pair for pair in zip_longest(old.split(), new.split(), fillvalue="") if pair[0] != pair[1]] or [(old, new)]
    shown, expected = (shorten(" ".join(column), 60, placeholder=" ...") for column in zip(*words, strict=True))
    more = f"; {len(different) - 1} more lines differ" if len(different) > 1 else ""
    return f"line {number}: “{shown}” instead of “{expected}”{more}"
