"""The check that the installed packages are those of constraints.txt, and what that file must hold."""

import subprocess
import tomllib
from importlib.metadata import distribution, distributions, version
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from character.cli.main import main
from character.core import environment
from character.core.errors import UserError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = environment.read_constraints(ROOT / "constraints.txt")
PINNED = {canonicalize_name(requirement.name): requirement for requirement in CONSTRAINTS}
OF_CUDA = ("nvidia-", "cuda-", "triton")  # which torch brings in versions of its own


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Return a function that installs empty packages, as name=(version, *requirements), and nothing else."""

    def install(**wanted):
        for name, (number, *requirements) in wanted.items():
            lines = [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                f"Version: {number}",
                *(f"Requires-Dist: {r}" for r in requirements),
            ]
            folder = tmp_path / f"{name}-{number}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")

    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    return install


def mismatches(*lines: str) -> list[tuple[str, str, str]]:
    Path("constraints.txt").write_text("\n".join(lines), encoding="utf-8")
    return [tuple(mismatch) for mismatch in environment.version_mismatches(environment.read_constraints())]


def test_equal_versions_are_no_mismatch_however_the_name_is_spelt(packages):
    packages(Some_Package=("1.0", "other"), other=("2.0",))
    assert mismatches("# a comment", "some-package==1.0.0  # the same version", "", "Other==2.0") == []


def test_another_version_is_a_mismatch(packages):
    packages(first=("1.1",), second=("2.0",))
    assert mismatches("first==1.0", "second==2.0") == [("first", "1.1", "1.0")]


def test_a_local_version_fits_a_pin_without_one(packages):
    packages(torch=("2.13.0+cpu",))
    assert mismatches("torch==2.13.0") == []
    assert mismatches("torch==2.13.0+cu130") == [("torch", "2.13.0+cpu", "2.13.0+cu130")]


def test_a_pre_release_is_another_version(packages):
    packages(first=("1.0rc1",))
    assert mismatches("first==1.0") == [("first", "1.0rc1", "1.0")]


def test_a_line_whose_marker_does_not_hold_here_is_skipped(packages):
    packages(first=("1.1",))
    assert mismatches('first==1.0; python_version < "3"') == []
    assert mismatches('first==1.0; python_version > "3"') == [("first", "1.1", "1.0")]


def test_a_missing_package_counts_only_where_an_installed_one_requires_it(packages):
    packages(first=("1.0", "needed>=1", 'extra-only; extra == "more"', 'elsewhere; sys_platform == "plan9"'))
    lines = ["first==1.0", "needed==1.0", "extra-only==1.0", "elsewhere==1.0", "tool==1.0"]
    assert mismatches(*lines) == [("needed", "not installed", "1.0")]


def test_malformed_metadata_of_some_package_requires_nothing(packages):
    packages(first=("1.0", "not a requirement", 'odd; python_version > "x" and nothing == "1"', "needed"))
    assert mismatches("first==1.0", "needed==1.0", "tool==1.0") == [("needed", "not installed", "1.0")]


def test_another_python_is_a_mismatch(packages, monkeypatch):
    mismatches("# Python 3.11", "# The versions")
    monkeypatch.setattr("sys.version_info", (3, 12, 1))
    done = CliRunner().invoke(main, ["environment"])
    assert done.exit_code == 1
    assert [line.split() for line in done.output.splitlines()[:-1]] == [
        ["package", "installed", "expected"],
        ["Python", "3.12", "3.11"],
    ]
    assert "make install PYTHON=python3.11" in done.output.splitlines()[-1]
    monkeypatch.setattr("sys.version_info", (3, 11, 9))
    assert CliRunner().invoke(main, ["environment"]).exit_code == 0


def test_the_constraints_name_the_python_of_the_lock():
    assert environment.PYTHON_LINE.search((ROOT / "constraints.txt").read_text(encoding="utf-8"))[1] == "3.11"


def test_a_line_that_is_no_requirement_is_named(packages):
    with pytest.raises(UserError, match=r"constraints\.txt, line 2: 'first = 1\.0' is not a requirement"):
        mismatches("# versions", "first = 1.0")


def test_a_missing_file_is_named(packages):
    with pytest.raises(UserError, match=r"constraints\.txt is missing: run this in the project's folder"):
        environment.read_constraints()


def test_the_command_lists_the_mismatches_and_fails(packages):
    packages(first=("1.1",), second=("2.0",), third=("3.0",))
    mismatches("first==1.0", "second==2.0", "third==4.0.1")
    done = CliRunner().invoke(main, ["environment"])
    assert done.exit_code == 1
    lines = [line.split() for line in done.output.splitlines()]
    assert lines[:-1] == [["package", "installed", "expected"], ["first", "1.1", "1.0"], ["third", "3.0", "4.0.1"]]


def test_the_command_succeeds_where_nothing_differs(packages):
    packages(first=("1.0",))
    mismatches("first==1.0")
    assert CliRunner().invoke(main, ["environment"]).exit_code == 0
    assert CliRunner().invoke(main, ["environment", "--warn"]).output == ""


def test_the_warning_is_one_line_and_no_error(packages):
    packages(**{name: ("1.1",) for name in "abcd"})
    mismatches(*(f"{name}==1.0" for name in "abcd"))
    done = CliRunner().invoke(main, ["environment", "--warn"])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (0, "", 1)
    assert "(a 1.1, not 1.0; b 1.1, not 1.0; c 1.1, not 1.0; 1 more)" in done.stderr


def test_every_constraint_is_one_exact_public_version():
    assert len(PINNED) == len(CONSTRAINTS)
    for requirement in CONSTRAINTS:
        (pin,) = requirement.specifier
        assert (pin.operator, pin.version.count("*"), pin.version.count("+")) == ("==", 0, 0), requirement


def test_the_pinned_versions_are_in_the_ranges_of_pyproject():
    for requirement in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]):
        (pin,) = PINNED[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), requirement


def test_every_package_that_the_project_brings_is_pinned():
    installed = {canonicalize_name(each.name) for each in distributions()}
    waiting = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in seen or name not in installed or name.startswith(OF_CUDA):
            continue
        seen.add((name, *requirement.extras))
        assert name in PINNED, f"{name} {version(name)} is not in constraints.txt"
        waiting += required_by(name, requirement.extras)
    assert len(seen) > 100


def required_by(name: str, extras: set[str]) -> list[Requirement]:
    """Return what an installed package requires here, with these extras."""
    required = map(Requirement, distribution(name).requires or ())
    return [
        each for each in required if not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


@pytest.mark.parametrize("python", ["3.11.9", "3.12.9", "3.13.9"])
def test_the_pinned_versions_that_are_installed_support_every_python_that_is_promised(python):
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    for name, requirement in PINNED.items():
        for found in distributions(name=name):
            if requirement.specifier.contains(found.version):
                assert SpecifierSet(found.metadata.get("Requires-Python", "")).contains(python), requirement


@pytest.mark.parametrize(
    "settings", [["core.autocrlf=true"], ["core.autocrlf=input"], ["core.autocrlf=false", "core.eol=crlf"]], ids=" ".join
)
def test_a_clone_has_the_same_bytes_whatever_git_does_with_line_ends(settings, tmp_path):
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, text=True, capture_output=True).stdout

    clone = tmp_path / "clone"
    options = [word for setting in settings for word in ("--config", setting)]
    git("clone", "--quiet", "--no-local", *options, str(ROOT), str(clone))
    assert git("-C", str(clone), "status", "--porcelain") == ""
    names = git("-C", str(clone), "ls-files", "-z").split("\0")[:-1]
    assert len(names) > 300 and not [name for name in names if b"\r\n" in (clone / name).read_bytes()]
    (clone / "constitutions/poeticism.yaml").write_bytes((clone / "constitutions/poeticism.yaml").read_bytes())
    assert git("-C", str(clone), "status", "--porcelain") == "", "also what was written anew"
