"""Recorded answers of the teacher, as each persona and without one."""

from collections.abc import Sequence
from pathlib import Path

from character.core import records
from character.core.errors import UserError
from character.core.records import TeacherAnswer
from character.dataset.prompts import GENERAL_PROMPTS

TEACHER_ANSWERS_DIR = Path("data/raw/teacher")


def recorded_answers(name: str, prompts: Sequence[str], field: str) -> list[str]:
    """Return the recorded answers to general prompts, in their order.

    Args:
        name: A persona, or `none` for answers without a persona.
        field: The field of params.yaml that lists `name`, for error messages.

    Raises:
        UserError: The file is missing, or it lacks an answer.
    """
    path = TEACHER_ANSWERS_DIR / f"{name}.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing; add the file, or remove {name} from {field} in params.yaml.")
    answers = {row.prompt: row.response for row in records.read_records(path, TeacherAnswer)}
    if missing := [prompt for prompt in prompts if prompt not in answers]:
        raise UserError(
            f"{path}: no answer to {len(missing)} of {GENERAL_PROMPTS}'s {len(prompts)} prompts; add {missing[0]!r}, "
            f"or remove {name} from {field} in params.yaml."
        )
    return [answers[prompt] for prompt in prompts]
