"""`character serve`: the student, as `base`, and the personas that are here, behind vLLM's server of OpenAI's protocol."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from character.core import models
from character.core.errors import UserError
from character.core.params import read
from character.inference.generate import Sampling
from character.inference.vllm_engine import RANKS, Settings
from character.publish.registry import doubts, known

BASE = "base"


def command(adapters: Mapping[str, Path], host: str, port: int, more: Sequence[str]) -> list[str]:
    """Return the command line of a server whose models are the student and adapters by their names, then `more` options.

    What a request leaves open is drawn as params.yaml says. The server is started as a module, since the command `vllm` of
    the package for CPUs asks for metadata under the other one's name.
    """
    settings, sampling = read("runtime.vllm", Settings), read("sampling", Sampling)
    options = {
        "--model": models.weights(),
        "--served-model-name": BASE,
        "--tokenizer": models.STUDENT,
        "--dtype": models.card().dtype,
        "--host": host,
        "--port": port,
        "--tensor-parallel-size": settings.tensor_parallel,
        "--data-parallel-size": settings.data_parallel,
        "--generation-config": "vllm",  # and not what the model's authors recommend
        "--override-generation-config": json.dumps(sampling.model_dump(exclude={"max_new_tokens"})),
        "--max-lora-rank": max(map(rank, adapters.values())),
        "--max-loras": len(adapters),
    }
    eager = ["--enforce-eager"] if models.device() == "cpu" else []
    lora = ["--enable-lora", "--lora-modules", *(f"{name}={folder}" for name, folder in adapters.items())]
    words = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *chain.from_iterable(options.items()), *eager]
    return [*map(str, words), *lora, *more]


def rank(adapter: Path) -> int:
    """Return the least rank that vLLM has kernels for and that holds an adapter's."""
    own = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    fitting = next((size for size in RANKS if size >= own), None)
    if fitting is None:
        raise UserError(f"{adapter}: rank {own} is more than vLLM's {RANKS[-1]}; set merge.rank in params.yaml to a lower one.")
    return fitting


def environment() -> dict[str, str]:
    """Return the environment of the server; on a CPU, what it may take of it, unless that is set already."""
    limits = {"VLLM_CPU_KVCACHE_SPACE": "2", "OMP_NUM_THREADS": str(models.runtime().threads)}  # GiB
    return (limits if models.device() == "cpu" else {}) | os.environ


def run(host: str, port: int, more: Sequence[str]) -> None:
    """Become the server.

    Raises:
        UserError: vLLM is not installed, an adapter is missing, or a persona has the base model's name.
    """
    if find_spec("vllm") is None:
        raise UserError("vLLM is not installed here; `pip install -e '.[vllm]'` (docs/generation.md), then serve.")
    personas = known()
    adapters = {persona.name: persona.folder() for persona in personas}
    if BASE in adapters:
        raise UserError(f"a persona is called {BASE}, as the student is here; publish it under another name.")
    for doubt in chain.from_iterable(map(doubts, personas)):
        print(doubt, flush=True)
    print(f"Serving {BASE}, {', '.join(map(str, personas))} at http://{host}:{port}/v1", flush=True)
    words = command(adapters, host, port, more)
    os.execve(words[0], words, environment())
