"""Running git and DVC as commands, where their libraries offer no equivalent."""

import json
import re
import subprocess

from character.core.errors import UserError

# How lines with a reason begin: those of git and its server, DVC, the stages that DVC runs, and Python's last one.
REASON = re.compile(r"\s*(remote: |!|fatal:|[\w.]*(error|exception)\b[^:]*:)", re.IGNORECASE)
MOST_REASONS = 5  # lines; there may be one for each of a thousand files


def run_command(*command: str, **options) -> str:
    """Run git or dvc and return its standard output.

    Args:
        command: The program and its arguments.
        options: Keyword arguments of `subprocess.run`.

    Raises:
        UserError: The program is not installed, or it failed; the sentence has the reasons that it printed.
    """
    try:
        done = subprocess.run(command, text=True, capture_output=True, **options)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here; install it, or activate the environment that has it.") from None
    if done.returncode:
        reason = find_reasons(done.stderr) or find_reasons(done.stdout) or f"exit code {done.returncode}"
        raise UserError(f"`{' '.join(command)}` failed: {reason}")
    return done.stdout


def find_reasons(printed: str) -> str:
    """Return the first lines of a command's output that give a reason, without the hints around them.

    A line that begins with a tab belongs to the one before it. If no line looks like a reason, the last ones are returned.
    """
    reasons, lines = [], [line for line in printed.splitlines() if line.strip()]
    for before, line in zip(["", *lines], lines, strict=False):
        if REASON.match(line) or (line.startswith("\t") and reasons and before.strip() == reasons[-1]):
            reasons.append(line.strip())
    reasons = list(dict.fromkeys(reasons)) or [line.strip() for line in lines[-MOST_REASONS:]]
    more = [f"and {len(reasons) - MOST_REASONS} more lines"] if len(reasons) > MOST_REASONS else []
    return "; ".join([*reasons[:MOST_REASONS], *more])


def changed_stages(*stages: str) -> list[str]:
    """Return those of the stages, and of the stages that they depend on, that `dvc repro` would run."""
    return list(json.loads(run_command("dvc", "status", "--json", "--with-deps", *stages)))
