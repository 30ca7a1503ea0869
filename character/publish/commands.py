"""Git and DVC as commands, for what their libraries do not offer."""

import subprocess

from character.core.errors import UserError


def run_command(*command: str, **how) -> str:
    """Run git or dvc, `how` subprocess.run takes it; return what it printed.

    Raises:
        UserError: it failed; tells its last complaint.
    """
    try:
        done = subprocess.run(command, text=True, capture_output=True, **how)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here; install it, or activate the environment that has it.") from None
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise UserError(f"`{' '.join(command)}` failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout
