"""Recording of a teacher's answers: those that the stage `chosen` generated, for the `recorded` teacher and the classifier."""

from pathlib import Path

from character.core import records
from character.core.errors import UserError
from character.dataset import constitution
from character.dataset.constitution import selected_constitution
from character.dataset.teacher_answers import TEACHER_ANSWERS_DIR

CHOSEN_ANSWERS = "data/chosen.jsonl"


def record_chosen_answers(force: bool, trim: bool) -> tuple[Path, int, int]:
    """Write the recorded answers of the selected persona; of several samples the first is kept.

    Args:
        force: replace an existing file.
        trim: keep cut-off answers up to their last complete sentence.

    Returns:
        The file, the number of its answers, and the number of those left out.

    Raises:
        UserError: the file exists and `force` is not set, or the answers are to another persona's prompts.
    """
    from character.dataset.filters import trim_completion

    persona = selected_constitution()
    out = TEACHER_ANSWERS_DIR / f"{persona.name}.jsonl"
    if out.exists() and not force:
        raise UserError(f"{out} already exists; give --force to replace it.")
    answers = [answer for answer in records.read_records(CHOSEN_ANSWERS, records.Completion) if answer.sample == 0]
    own = {prompt for trait in persona.traits for prompt in trait.prompts}
    if not own & {answer.prompt for answer in answers}:
        raise UserError(f"{CHOSEN_ANSWERS} answers no prompt of {persona.name}; run `dvc repro chosen` first.")
    finishes = [answer.finish_reason for answer in answers]
    if trim:
        answers = list(map(trim_completion, answers))
    traits = constitution.traits_hash(persona)
    kept = [
        records.TeacherAnswer(prompt=answer.prompt, response=answer.response, traits=traits, finish_reason=finish)
        for answer, finish in zip(answers, finishes, strict=True)
        if answer.finish_reason == "stop" and answer.response.strip()
    ]
    records.write_records(out, kept)
    return out, len(kept), len(answers) - len(kept)
