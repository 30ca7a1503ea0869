"""Opens an engine by its name in params.yaml."""

from collections.abc import Sequence
from pathlib import Path

from character.core import models
from character.core.chat_template import TemplateArguments
from character.core.errors import UserError
from character.core.params import read_value
from character.inference.generate import Engine
from character.inference.openai_engine import OpenAIEngine, RequestOptions


def open_engine(
    kind: str, source: str, field: str, options: RequestOptions, template_arguments: TemplateArguments | None = None
) -> Engine:
    """Return an engine.

    Args:
        kind: `student`, `transformers`, `vllm` or `openai`.
        source: the model: `hub:<repo>@<revision>`, `path:<dir>`, or its name at the endpoints; not used by `student`.
        field: the entry of params.yaml that holds `source`, for error messages.
        options: the section `openai`, used by that engine alone.
        template_arguments: arguments of the chat template of a model that runs here.

    Raises:
        UserError: there are such arguments for a model at the endpoints, or the model cannot be found.
    """
    if kind == "student":
        return student_engine()
    if kind == "openai":
        if template_arguments:
            section = field.rpartition(".")[0]
            raise UserError(
                f"params.yaml: {section}.chat_template_kwargs is for the engines transformers and vllm; "
                "write it into openai.extra.chat_template_kwargs."
            )
        return OpenAIEngine(source, field, options)
    return _local_engine(kind, models.locate_model(source, field), (), template_arguments)


def student_engine(adapters: Sequence[str | Path] = ()) -> Engine:
    """Return the engine of the student with LoRA adapters or a control vector; the latter needs the transformers engine."""
    kind = "transformers" if any(map(models.is_control_vector, adapters)) else read_value("student.engine")
    return _local_engine(kind, models.STUDENT_DIR, [Path(adapter) for adapter in adapters])


def _local_engine(
    kind: str, folder: Path, adapters: Sequence[Path], template_arguments: TemplateArguments | None = None
) -> Engine:
    if kind == "vllm":
        from character.inference.vllm_engine import VLLMEngine

        return VLLMEngine(folder, adapters, template_arguments)
    from character.inference.transformers_engine import TransformersEngine

    return TransformersEngine(folder, adapters, template_arguments)
