"""Training on several devices or machines: a stage starts itself again under `accelerate launch`.

DVC runs the same command everywhere, since how many devices there are is no part of what is computed; `runtime.accelerate`
names a file of accelerate's own, such as those in docs/accelerate/.
"""

import os
import sys
from pathlib import Path

import yaml

from character.core import models
from character.core.errors import UserError

LAUNCHED_VARIABLE = "CHARACTER_LAUNCHED"


def relaunch_with_accelerate(module: str) -> None:
    """Replace this process by `accelerate launch -m module` where params.yaml asks for it, and only once."""
    config = models.read_runtime().accelerate
    if not config or LAUNCHED_VARIABLE in os.environ:
        return
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    if read_accelerate_config(Path(config))["distributed_type"] == "MULTI_CPU":
        command.append("--multi_gpu")  # else accelerate starts a single process, or asks for MPI
    sys.stdout.flush()
    os.execve(sys.executable, [*command, "-m", module], os.environ | {LAUNCHED_VARIABLE: "1"})


def read_accelerate_config(config: Path) -> dict:
    """Return an accelerate configuration.

    Raises:
        UserError: it is missing, no YAML, or asks for autocast, which would change results without changing a parameter.
    """
    try:
        wanted = yaml.safe_load(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"params.yaml: runtime.accelerate: {config} is missing; correct the path, or leave it empty.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{config}: not valid YAML ({getattr(error, 'problem', error)}); correct it.") from None
    if not isinstance(wanted, dict) or "distributed_type" not in wanted:
        raise UserError(f"{config}: no `distributed_type`; make the file with `accelerate config --config_file {config}`.")
    if wanted.get("mixed_precision", "no") not in ("no", False):  # a bare `no` is YAML for false
        raise UserError(f"{config}: mixed_precision is {wanted['mixed_precision']}; write 'no', and set student.dtype instead.")
    return wanted
