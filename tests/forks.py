"""A `python` that starts at once: a process that has imported the libraries already forks for each command.

A run of the pipeline is some fifty commands, each of which would import torch and transformers for seconds.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "sklearn.linear_model", "lm_eval.evaluator")

OPENED_FILES = "RECORD_OPENED_FILES_IN"  # an environment variable: a file to which commands write what they open

# Replaces python: sends `python -m MODULE ARGUMENTS` with its streams to the server, and runs python for all else.
CLIENT = """\
#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] != ["-m"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps([os.getcwd(), dict(os.environ), sys.argv[2:]]).encode() + b"\\n")
    sys.exit(int(server.makefile().read() or 70))
"""


class Forks:
    """A directory for the front of PATH, whose `python` forks from a process of its own, until that is ended."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder = folder
        folder.mkdir(parents=True)
        self._short = tempfile.TemporaryDirectory()  # the path of a socket may have some hundred characters
        address = f"{self._short.name}/forks"
        client = folder / "python"
        client.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
        client.chmod(0o755)
        self._server = subprocess.Popen([sys.executable, __file__, address], env=environment, stdout=subprocess.PIPE)
        assert self._server.stdout.readline() == b"ready\n", "the libraries could not be imported"

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *_) -> None:
        self._server.terminate()
        self._server.wait()
        self._short.cleanup()


def serve(address: str) -> None:
    """Fork for each command that arrives; a child per connection waits for it, so commands may overlap."""
    for library in LIBRARIES:
        __import__(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                attend(connection)
                os._exit(0)
            connection.close()


def attend(connection: socket.socket) -> None:
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    folder, environment, arguments = json.loads(connection.makefile().readline())
    child = os.fork()
    if child == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os._exit(run(folder, environment, arguments))
    connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def record_opened_files(log: Path, arguments: list[str]) -> None:
    """Append to `log`, from now on, each file below the current directory that this process opens: command, mode and path."""
    top = f"{os.getcwd()}{os.sep}"
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def record(event: str, details: tuple) -> None:
        if event == "open" and isinstance(details[0], str | os.PathLike):
            path = os.path.abspath(os.fspath(details[0]))
            mode = "w" if (details[2] or 0) & (os.O_WRONLY | os.O_RDWR) else "r"
            if path.startswith(top) and (mode == "w" or os.path.isfile(path)):
                line = [arguments, mode, path.removeprefix(top)]
                os.write(out, json.dumps(line).encode() + b"\n")

    sys.addaudithook(record)


def run(folder: str, environment: dict[str, str], arguments: list[str]) -> int:
    """Run `python -m` as it would run in a new process; return its exit status."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    module, *sys.argv[1:] = arguments
    if log := environment.get(OPENED_FILES):
        record_opened_files(Path(log), arguments)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
