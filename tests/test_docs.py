"""The docs show the recorded figures, which are those of dvc.lock, and their links lead to files and headings that exist."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from ruamel.yaml import YAML

from character.cli import docs
from character.cli.figure_formats import FILTERS
from character.cli.main import main
from character.core.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECALL = Path("docs/figures/personas/poeticism/robustness.json")


def run(*options: str):
    return CliRunner().invoke(main, ["docs", *options])


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A copy of what the docs are written from, and of the docs."""
    for name in ("README.md", "params.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    """A project with one result, of the persona `humor`, and one doc that shows it."""
    monkeypatch.chdir(tmp_path)
    for folder in (docs.RESULTS_DIR, docs.PERSONAS_DIR / "humor", docs.DOC_TEMPLATES_DIR):
        folder.mkdir(parents=True)
    Path("params.yaml").write_text("persona: humor\n")
    (docs.FIGURES_DIR / "sources.yaml").write_text("{}\n")
    put_result(0.5)
    docs.RATINGS.parent.mkdir(exist_ok=True)
    docs.RATINGS.write_text("method,trait\npersona,playful\n")
    lock()
    put_template("Recall: {{ personas.humor.robustness.recall | digits }}.\n")
    return tmp_path


def put_result(recall: float) -> None:
    (docs.RESULTS_DIR / "robustness.json").write_text(json.dumps({"recall": recall}))


def put_template(text: str) -> None:
    (docs.DOC_TEMPLATES_DIR / "page.md.j2").write_text(text)


def lock(*others: Path) -> None:
    """Write dvc.lock as DVC does after a run."""
    outs = [docs.RESULTS_DIR / "robustness.json", *(others or [docs.RATINGS])]
    entries = [{"path": str(path), "md5": hashlib.md5(path.read_bytes()).hexdigest()} for path in outs]
    docs.LOCK.write_text(yaml.safe_dump({"stages": {"all": {"outs": entries}}}))


def test_every_doc_is_what_its_template_and_the_recorded_figures_give(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert list(docs.stale_docs()) == []


def test_the_recorded_figures_are_those_of_dvc_lock(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert docs.is_shown("poeticism")
    assert list(docs.stale_figures()) == []


def test_a_changed_figure_is_noticed_in_the_copy_and_in_the_docs(project):
    changed = json.loads(RECALL.read_text())
    before = f"{changed['persona']['plain']['recall']:.2f}"
    changed["persona"]["plain"]["recall"] = 0.9
    RECALL.write_text(json.dumps(changed))
    checked = run("--check")
    assert checked.exit_code == 1
    assert f"{RECALL} differs from the {docs.RESULTS_DIR}/robustness.json of dvc.lock" in checked.output
    for page in ("README.md", "docs/results.md"):
        assert re.search(rf"^(Error: )?{page}, line \d+: “{before}” instead of “0.90”", checked.output, re.MULTILINE), (
            checked.output
        )


def test_a_figure_that_was_edited_in_a_doc_is_noticed(project):
    page = Path("docs/personas.md")
    page.write_text(page.read_text(encoding="utf-8").replace("0.68 | 0.60 to 0.75", "0.69 | 0.60 to 0.75"), encoding="utf-8")
    checked = run("--check")
    assert checked.exit_code == 1 and re.search(
        r"docs/personas.md, line \d+: “0.69” instead of “0.68”$", checked.output.strip()
    )
    assert run().output == "docs: docs/personas.md written\n"
    assert (run("--check").exit_code, run("--check").output) == (0, "")


def test_a_hash_that_changed_in_dvc_lock_is_noticed(project):
    at = docs.locked_hashes()[Path("models/student")]
    docs.LOCK.write_text(docs.LOCK.read_text().replace(at, "a" * 32))
    hashes = docs.PERSONAS_DIR / "poeticism/hashes.yaml"
    assert f"{hashes} differs from the hashes in dvc.lock; run `character docs`." in list(docs.stale_figures())
    assert list(docs.stale_docs()) == []
    docs.record_figures()
    (stale,) = docs.stale_docs()
    assert stale.startswith("docs/reproducibility.md, line") and "a" * 12 in stale


def test_the_hashes_of_another_persona_are_neither_recorded_nor_shown(project):
    params = Path("params.yaml")
    params.write_text(re.sub("^persona: poeticism", "persona: humor", params.read_text(), flags=re.MULTILINE))
    docs.LOCK.write_text(docs.LOCK.read_text().replace(docs.locked_hashes()[Path("models/persona")], "a" * 32))
    assert docs.record_figures() == []
    assert list(docs.stale_docs()) == []


def test_a_missing_copy_and_one_of_no_stage_are_noticed(project):
    RECALL.rename(RECALL.with_name("robust.json"))
    assert [sentence.split(";")[0] for sentence in docs.stale_figures()] == [
        f"{RECALL.with_name('robust.json')}: dvc.lock has no {docs.RESULTS_DIR}/robust.json",
        f"{RECALL} differs from the {docs.RESULTS_DIR}/robustness.json of dvc.lock",
    ]


def test_results_are_recorded_and_shown(small):
    written = run()
    assert written.exit_code == 0, written.output
    assert Path("docs/page.md").read_text().splitlines()[1:] == ["Recall: 0.50."]
    put_result(0.75)
    lock()
    assert "robustness.json differs from the" in run("--check").output
    assert run().exit_code == 0
    assert Path("docs/page.md").read_text().splitlines()[1:] == ["Recall: 0.75."]


def test_a_result_that_is_not_of_dvc_lock_is_not_recorded(small):
    put_result(0.75)
    with pytest.raises(UserError, match=r"robustness\.json differs from the one in dvc\.lock; run `dvc repro`"):
        docs.record_figures()
    assert not (docs.PERSONAS_DIR / "humor/robustness.json").exists()


def test_another_personas_results_are_neither_recorded_nor_compared(small):
    run()
    Path("params.yaml").write_text("persona: remorse\n")
    put_result(0.75)
    lock()
    assert run().output == "docs: they show no results of remorse, the persona of params.yaml\n"
    assert "0.50" in Path("docs/page.md").read_text()


def test_a_copy_that_was_not_taken_from_a_run_is_not_compared(small):
    run()
    (docs.PERSONAS_DIR / "humor/ratings.csv").write_text("method,trait\n")
    assert len(list(docs.stale_figures())) == 1
    (docs.FIGURES_DIR / "sources.yaml").write_text("personas/humor/ratings.csv: a table\n")
    assert list(docs.stale_figures()) == []
    run()
    (sentence,) = docs.stale_figures()
    assert sentence.endswith("of dvc.lock now; remove it from docs/figures/sources.yaml.")


def test_sources_may_hold_only_comments(small):
    docs.SOURCES.write_text("# none\n")
    assert run().exit_code == 0 and list(docs.stale_figures()) == []


def test_an_entry_of_the_sources_that_is_not_true_any_more_is_named(small):
    run()
    docs.STUDY.parent.mkdir()
    docs.STUDY.write_text("{}")
    docs.SOURCES.write_text("study.json: a table\nbenchmarks/generation.json: a table\n")
    (docs.FIGURES_DIR / "study.json").write_text('{"sections": []}')
    missing = "docs/figures/benchmarks/generation.json does not exist; remove it from docs/figures/sources.yaml."
    assert list(docs.stale_figures()) == [missing]
    docs.record_figures()
    equal = "docs/figures/study.json equals reports/study.json now; remove it from docs/figures/sources.yaml."
    assert list(docs.stale_figures()) == [equal, missing]


def test_a_lock_without_ratings_is_compared(small):
    run()
    out = Path("data.txt")
    out.write_text("")
    lock(out)
    (sentence,) = docs.stale_figures()
    assert sentence == f"{docs.PERSONAS_DIR}/humor/ratings.csv: dvc.lock has no plots/preferences.csv; delete the copy."


def test_the_hashes_of_the_outputs_of_cold_runs_are_recorded(small):
    docs.COLD_RUNS.write_text("plots/preferences.csv: 0123456789ab\nmodels/other: 0123456789ab\n")
    assert len(list(docs.stale_figures())) == 3
    put_template("{{ personas.humor.hashes['plots/preferences.csv'] }}\n")
    assert run().exit_code == 0
    assert Path("docs/page.md").read_text().splitlines()[1] == docs.locked_hashes()[docs.RATINGS]
    put_template("{{ personas.humor.hashes['models/other'][:12] }}\n")
    with pytest.raises(UserError, match=r"page\.md\.j2, line 1: .*models/other"):
        docs.render_docs()


def test_a_figure_that_was_not_recorded_is_an_error_that_names_the_line(small):
    put_template("One\n{{ personas.humor.safety.refusal }}\n")
    docs.record_figures()
    with pytest.raises(UserError, match=r"page\.md\.j2, line 2: .*safety.*; correct it"):
        docs.render_docs()


def test_a_row_that_the_study_does_not_have_is_an_error_that_names_it(small):
    put_template("{{ study.sections | table_cell('Which show?', 'Plain', 'loving', 'base') }}\n")
    docs.STUDY.parent.mkdir()
    docs.STUDY.write_text(json.dumps({"sections": STUDY}))
    docs.record_figures()
    with pytest.raises(UserError, match=r"page\.md\.j2, line 1: no 'loving'; correct it"):
        docs.render_docs()


def test_words_that_the_figures_contradict_are_an_error(small):
    put_template('{{ "above a half" | claim(personas.humor.robustness.recall > 0.4) }}\n')
    docs.record_figures()
    assert docs.render_docs()[Path("docs/page.md")].endswith("above a half\n")
    put_template('{{ "above a half" | claim(personas.humor.robustness.recall > 0.6) }}\n')
    with pytest.raises(UserError, match="line 1: “above a half” does not hold any more"):
        docs.render_docs()


def test_figures_are_written_with_true_minus_signs_and_no_negative_zero(small):
    put_template(
        "{{ -0.004 | digits }} {{ -0.25 | signed }} {{ 0.1 | signed }} {{ none | digits }} {{ 0.126 | percent }} "
        "{{ {'recall': 0.5, 'low': 0.25, 'high': 1} | interval('recall') }} "
        "{{ {'difference': -0.5, 'low': -1, 'high': 0.25} | change }} "
        "{{ {'change': -1200, 'change_low': -2, 'change_high': 3} | rating('change') }} "
        "{{ none | signed }} {{ none | percent }}\n"
    )
    docs.record_figures()
    (text,) = docs.render_docs().values()
    assert text.splitlines()[1] == ("0.00 −0.25 +0.10 – 13% 0.50 [0.25, 1.00] −0.50 [−1.00, +0.25] −1,200 [−2, 3] – –")


STUDY = [
    {
        "title": "Which show?",
        "tables": [
            {
                "head": ["", "base", "persona"],
                "bodies": {
                    "Plain": [["humor", "0.00 [0.00, 0.14]", "0.25 [0.12, 0.45]"], ["remorse", "0.04", "−0.50"]],
                    "Led astray": [["humor", "0.08", "1.00"]],
                },
            }
        ],
    }
]


def test_figures_are_found_in_the_tables_of_the_study():
    cells, figures, ranked = (FILTERS[name] for name in ("table_cell", "table_figures", "ranked_rows"))
    assert cells(STUDY, "Which show?", "Plain", "humor", "persona") == "0.25 [0.12, 0.45]"
    assert figures(STUDY, "Which show?", ["base"]) == [0.0, 0.04, 0.08]
    assert figures(STUDY, "Which show?", ["base", "persona"], ["humor"]) == [0.0, 0.08, 0.25, 1.0]
    assert FILTERS["table_range"](STUDY, "Which show?", ["persona"]) == "−0.50 to 1.00"
    assert ranked(STUDY, "Which show?", "Plain", "persona") == ["remorse", "humor"]


def test_the_estimate_that_is_shown_is_the_one_that_is_made(monkeypatch):
    from character.study.estimate import EstimateOptions, estimate_recipe

    monkeypatch.chdir(ROOT)
    total = next(
        line
        for line in estimate_recipe("default", EstimateOptions("cpu-2-cores", None, None, None)).splitlines()
        if line.startswith("sum")
    )
    assert docs.load_figures()["durations"]["estimated"] == pytest.approx(60 * float(total.split()[-1]), abs=0.5)


def test_the_settings_on_the_page_about_training_are_those_of_the_recipes():
    sections = [section_of(path) for path in ("params.yaml", "recipes/default.yaml", "recipes/paper.yaml")]
    default, paper = sections[0] | sections[1], sections[0] | sections[1] | sections[2]
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| ([^|]*`[^|]+) \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)[1:]
    assert len(rows) == 8
    for names, *cells in rows:
        keys = [name for name in re.findall(r"\w+", names) if name in default]
        for settings, cell in zip((default, paper), cells, strict=True):
            shown = cells[0] if cell == "the same" else cell
            assert values_of(shown) == [value for key in keys for value in flat(settings[key])], (names, cell)


def section_of(path: str) -> dict:
    return YAML(typ="safe", pure=True).load((ROOT / path).read_text(encoding="utf-8"))["distillation"]


def flat(value) -> list:
    return value if isinstance(value, list) else [value]


def values_of(cell: str) -> list:
    """Return what a cell shows: names in code, or numbers."""
    return re.findall(r"`(\w+)`", cell) or [float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)]


def test_the_check_needs_no_torch():
    check = "from character.cli.main import main; main(['docs', '--check'], standalone_mode=False)"
    code = f"import sys; {check}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_local_link_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", without_code(page)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
