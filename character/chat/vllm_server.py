"""`character serve`: vLLM's OpenAI-compatible server with the student, as `base`, and all personas of this repository."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from character.core import models
from character.core.errors import UserError
from character.core.params import read_section
from character.core.safe_text import print_text
from character.inference.generate import SamplingSettings
from character.inference.vllm_engine import VLLMSettings, vllm_context, vllm_environment, vllm_lora_rank
from character.publish.registry import list_personas, persona_notices

BASE_MODEL_NAME = "base"


def served_name(name: str, folder: Path) -> str:
    """Return the name under which a model is served; it changes with the weights, so no client takes two models for one."""
    return f"{name}-{models.directory_fingerprint(folder)[:8]}"


def server_command(adapters: Mapping[str, Path], host: str, port: int, extra: Sequence[str]) -> list[str]:
    """Return the command that starts the server.

    Requests without sampling settings use those of params.yaml. The server is started as a module because the `vllm` command of
    the CPU package looks up its metadata under the name of the GPU package.

    Args:
        adapters: folders of the adapters by the names under which they are served.
        extra: further options of vLLM.
    """
    settings, sampling = read_section("runtime.vllm", VLLMSettings), read_section("sampling", SamplingSettings)
    weights = models.verified_weights_dir()
    options = {
        "--model": weights,
        "--served-model-name": served_name(BASE_MODEL_NAME, models.STUDENT_DIR),
        "--tokenizer": models.STUDENT_DIR,
        "--chat-template": models.STUDENT_DIR / "chat_template.jinja",  # or a multimodal model's own would come first
        "--dtype": models.read_student_card().dtype,
        "--host": host,
        "--port": port,
        "--tensor-parallel-size": settings.tensor_parallel,
        "--data-parallel-size": settings.data_parallel,
        "--generation-config": "vllm",  # instead of the settings that the model's authors recommend
        "--override-generation-config": json.dumps(sampling.model_dump(exclude={"max_new_tokens"})),
        "--max-lora-rank": max(map(vllm_lora_rank, adapters.values())),
        "--max-loras": len(adapters),
    }
    eager = ["--enforce-eager"] if models.select_device() == "cpu" else []
    lora = ["--enable-lora", "--lora-modules", *(f"{name}={folder}" for name, folder in adapters.items())]
    words = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *chain.from_iterable(options.items()), *eager]
    context = vllm_context(weights)
    limit = ["--max-model-len", str(context)] if context else []
    return [*map(str, words), *limit, *lora, *extra]


def server_environment() -> dict[str, str]:
    """Return the environment of the server, with the defaults of `vllm_environment` for what is not set."""
    return vllm_environment() | os.environ


def run_vllm_server(host: str, port: int, extra: Sequence[str]) -> None:
    """Replace this process by the server.

    Raises:
        UserError: vLLM is not installed, an adapter is missing, or a persona has the base model's name.
    """
    if find_spec("vllm") is None:
        raise UserError("vLLM is not installed here; `pip install -e '.[vllm]'` (docs/generation.md), then try again.")
    personas = list_personas()
    adapters = {persona.name: persona.adapter_dir() for persona in personas}
    if BASE_MODEL_NAME in adapters:
        raise UserError(
            f"a persona is called {BASE_MODEL_NAME}, the name under which the student is served; publish it under another name."
        )
    for warning in chain.from_iterable(map(persona_notices, personas)):
        print_text(warning)
    words = server_command({served_name(name, folder): folder for name, folder in adapters.items()}, host, port, extra)
    names = [served_name(BASE_MODEL_NAME, models.STUDENT_DIR)]
    names += [f"{served_name(persona.name, adapters[persona.name])} ({persona})" for persona in personas]
    print_text(f"Serving {', '.join(names)} at http://{host}:{port}/v1")
    os.execve(words[0], words, server_environment())
