"""Training on several devices or machines: a stage restarts itself under `accelerate launch`.

The number of devices does not change what is computed, so DVC runs the same command everywhere. `runtime.accelerate` names
an accelerate configuration file, such as those in docs/accelerate/.
"""

import os
import sys
from pathlib import Path

import yaml

from character.core import models
from character.core.errors import UserError
from character.core.text_input import read_utf8

LAUNCHED_VARIABLE = "CHARACTER_LAUNCHED"


def relaunch_with_accelerate(module: str) -> None:
    """Replace this process with `accelerate launch -m module` if `runtime.accelerate` is set and this has not happened yet."""
    config = models.read_runtime().accelerate
    if not config or LAUNCHED_VARIABLE in os.environ:
        return
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    if read_accelerate_config(Path(config))["distributed_type"] == "MULTI_CPU":
        command.append("--multi_gpu")  # without it, accelerate starts a single process or requires MPI
    sys.stdout.flush()
    os.execve(sys.executable, [*command, "-m", module], os.environ | {LAUNCHED_VARIABLE: "1"})


def read_accelerate_config(config: Path) -> dict:
    """Return the content of an accelerate configuration file.

    Raises:
        UserError: the file is missing or not valid YAML, has no `distributed_type`, or enables autocast, which would change
            results without a change in params.yaml.
    """
    try:
        values = yaml.safe_load(read_utf8(config, "correct params.yaml: runtime.accelerate, or leave it empty"))
    except yaml.YAMLError as error:
        raise UserError(f"{config}: not valid YAML ({getattr(error, 'problem', error)}); correct it.") from None
    if not isinstance(values, dict) or "distributed_type" not in values:
        raise UserError(f"{config}: no `distributed_type`; create the file with `accelerate config --config_file {config}`.")
    if values.get("mixed_precision", "no") not in ("no", False):  # a bare `no` is YAML for false
        raise UserError(f"{config}: mixed_precision is {values['mixed_precision']}; write 'no', and set student.dtype instead.")
    return values
