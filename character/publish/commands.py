"""Running git and DVC as commands, where their libraries offer no equivalent."""

import subprocess

from character.core.errors import UserError


def run_command(*command: str, **options) -> str:
    """Run git or dvc and return its standard output.

    Args:
        command: The program and its arguments.
        options: Keyword arguments of `subprocess.run`.

    Raises:
        UserError: The program is not installed, or it failed; the sentence has the last line that it printed.
    """
    try:
        done = subprocess.run(command, text=True, capture_output=True, **options)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here; install it, or activate the environment that has it.") from None
    if done.returncode:
        printed = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise UserError(f"`{' '.join(command)}` failed: {printed[-1] if printed else f'exit code {done.returncode}'}")
    return done.stdout
