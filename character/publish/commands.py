"""Running git and DVC as commands, where their libraries offer no equivalent."""

import json
import os
import re
import subprocess
from itertools import chain, pairwise

from character.core.errors import UserError

# How lines with a reason begin: those of git, DVC, the stages that DVC runs, and Python's last one.
REASON = re.compile(r"\s*(!|fatal:|[\w.]*(error|exception)\b[^:]*:)", re.IGNORECASE)
SERVER_LINE = re.compile(r"\s*remote: ?(.*)")  # of git's server: its reason, and often a banner around it
ENGLISH = {"LC_ALL": "C.UTF-8", "LANGUAGE": "C"}  # other languages have other words for `fatal`
MOST_REASONS = 5  # lines; there may be one for each of a thousand files


def run_command(*command: str, env: dict[str, str] | None = None, **options) -> str:
    """Run git or dvc and return its standard output.

    Args:
        command: The program and its arguments.
        env: The environment, by default this one; the command's messages are in English in any case.
        options: Keyword arguments of `subprocess.run`.

    Raises:
        UserError: The program is not installed, or it failed; the sentence has the reasons that it printed.
    """
    try:
        env = dict(env or os.environ) | ENGLISH
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=env, **options)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here; install it, or activate the environment that has it.") from None
    if done.returncode:
        reason = find_reasons(done.stderr, done.stdout) or f"exit code {done.returncode}"
        raise UserError(f"`{' '.join(command)}` failed: {reason}")
    return done.stdout


def find_reasons(*outputs: str) -> str:
    """Return the first lines of a command's outputs that give a reason, without the hints around them.

    A line that begins with a tab belongs to the one before it. What git's server says comes last. If no line looks like a
    reason, the last ones of the first output with a line are returned.
    """
    printed = [[line for line in output.splitlines() if line.strip()] for output in outputs]
    own, server = [], []
    for before, line in pairwise(["", *chain.from_iterable(printed)]):
        said = SERVER_LINE.fullmatch(line)
        text = (said[1] if said else line).strip()
        if REASON.match(text) or (line.startswith("\t") and own and before.strip() == own[-1]):
            own.append(text)
        elif said and re.search(r"[^\W\d_]", text):
            server.append(text)
    last = next(filter(None, printed), [])[-MOST_REASONS:]
    reasons = list(dict.fromkeys([*own, *server])) or [line.strip() for line in last]
    more = [f"and {len(reasons) - MOST_REASONS} more lines"] if len(reasons) > MOST_REASONS else []
    return "; ".join([*reasons[:MOST_REASONS], *more])


def changed_stages(*stages: str) -> list[str]:
    """Return those of the stages, and of the stages that they depend on, that `dvc repro` would run."""
    return list(json.loads(run_command("dvc", "status", "--json", "--with-deps", *stages)))
