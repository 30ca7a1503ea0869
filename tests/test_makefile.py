"""How `make` installs: the versions of constraints.txt, and torch from PyTorch's index of CPU builds where that answers."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TORCH = next(line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
PROJECT_INSTALL = "-m pip install --quiet --constraint constraints.txt --editable .[dev]"

# Records each call. Asks an index, and installs torch from it, for real (into ./site); what else is called does nothing.
PYTHON = f"""#!/bin/sh
echo "$*" >> calls
case "$*" in
  *"index versions"*) exec {sys.executable} "$@" ;;
  *"install --quiet --no-deps"*) exec {sys.executable} "$@" --target site ;;
esac
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project's Makefile in an empty folder, a Python that records its calls, and a PATH without nvidia-smi."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    write_script(tmp_path / ".venv/bin/python", PYTHON)
    (tmp_path / "path").mkdir()
    for tool in ("grep", "make", "rm", "sed", "touch"):
        (tmp_path / "path" / tool).symlink_to(shutil.which(tool))
    for name in [name for name in os.environ if name.startswith(("PIP_", "TORCH_", "MAKE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def index(tmp_path):
    """Return the address of a package index of a folder, which has a CPU build of torch."""
    add_torch(tmp_path / "index", f"{TORCH.removeprefix('torch==')}+cpu")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "index"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def add_torch(folder: Path, version: str) -> None:
    (folder / "torch").mkdir(parents=True, exist_ok=True)
    about = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / "torch" / f"torch-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\nRequires-Dist: sympy\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def make(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", f"PYTHON={sys.executable}", *arguments], capture_output=True, text=True)


def count_connections(server: socket.socket) -> int:
    """Return how many clients have connected to a server that never answered one."""
    server.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


def calls() -> list[str]:
    return Path("calls").read_text(encoding="utf-8").splitlines()


def installed() -> list[str]:
    return sorted(path.name for path in Path("site").glob("*.dist-info"))


def test_torch_comes_from_the_index_of_cpu_builds_where_that_answers(project, index):
    done = make(".venv/installed", f"TORCH_INDEX={index}")
    assert done.returncode == 0, done.stderr
    assert installed() == [f"torch-{TORCH.removeprefix('torch==')}+cpu.dist-info"]
    assert calls()[-1] == PROJECT_INSTALL
    assert Path(".venv/installed").exists()


def test_an_index_that_cannot_be_reached_leaves_torch_to_pips_own(project):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = make(".venv/installed", f"TORCH_INDEX={address}")
    assert done.returncode == 0, done.stderr
    assert f"{address} cannot be reached, so torch comes from pip's own index" in done.stdout
    assert (len(calls()), calls()[-1]) == (2, PROJECT_INSTALL)


def test_an_index_that_never_answers_costs_one_time_limit(project):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        done = make(".venv/installed", f"TORCH_INDEX=http://127.0.0.1:{silent.getsockname()[1]}", "TORCH_WAIT=1")
        took = time.monotonic() - start
        connections = count_connections(silent)
    assert "cannot be reached" in done.stdout
    assert calls()[-1] == PROJECT_INSTALL
    assert connections == 1
    assert took < 15  # seconds, which is pip's own limit


def test_an_index_is_asked_alone_whatever_pip_is_configured_to_search(project, monkeypatch):
    add_torch(project / "mine", TORCH.removeprefix("torch=="))
    monkeypatch.setenv("PIP_FIND_LINKS", str(project / "mine/torch"))
    (project / "pip.conf").write_text(f"[global]\nfind-links = {project}/mine/torch\n", encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(project / "pip.conf"))
    done = make(".venv/installed", "TORCH_INDEX=http://127.0.0.1:9")
    assert "cannot be reached" in done.stdout


def test_an_index_that_answers_and_then_fails_does_not_end_in_cuda(project, index):
    (wheel,) = (project / "index/torch").iterdir()
    wheel.write_bytes(b"cut off")
    done = make(".venv/installed", f"TORCH_INDEX={index}")
    assert done.returncode != 0
    assert PROJECT_INSTALL not in calls()
    assert not Path(".venv/installed").exists()


def test_a_machine_with_an_nvidia_gpu_asks_pips_own_index_alone(project):
    write_script(project / "path/nvidia-smi", "#!/bin/sh\n")
    assert make(".venv/installed").returncode == 0
    assert calls() == [PROJECT_INSTALL]


def test_an_empty_index_leaves_torch_to_pips_own(project):
    assert make(".venv/installed", "TORCH_INDEX=").returncode == 0
    assert calls() == [PROJECT_INSTALL]


@pytest.mark.parametrize("changed", ["constraints.txt", "pyproject.toml"])
def test_a_change_of_what_is_wanted_installs_again(changed, project):
    make(".venv/installed", "TORCH_INDEX=")
    make(".venv/installed", "TORCH_INDEX=")
    assert len(calls()) == 1
    os.utime(changed, (time.time() + 60,) * 2)
    make(".venv/installed", "TORCH_INDEX=")
    assert len(calls()) == 2


def test_install_installs_again_where_nothing_changed(project):
    make("install", "TORCH_INDEX=")
    make("install", "TORCH_INDEX=")
    assert calls() == [PROJECT_INSTALL, PROJECT_INSTALL]


def test_repro_warns_of_another_environment_and_runs(project):
    make("install", "TORCH_INDEX=")
    write_script(project / ".venv/bin/character", '#!/bin/sh\necho "character $*" >> calls\n')
    write_script(project / ".venv/bin/dvc", '#!/bin/sh\necho "dvc $*" >> calls\n')
    assert make("repro").returncode == 0
    assert calls()[1:] == ["character environment --warn", "dvc repro"]


def test_the_version_of_torch_is_in_constraints_only():
    assert TORCH not in MAKEFILE
    assert "torch==2" not in MAKEFILE


def test_help_names_every_target_that_is_meant_for_users(project):
    shown = make("help").stdout
    for target in ("repro", "test", "install", "test-all", "test-families", "test-vllm", "test-cluster", "bench", "verify"):
        assert f"make {target} " in shown
    assert "TORCH_INDEX=URL" in shown
    assert "PYTHON ?=" not in shown
