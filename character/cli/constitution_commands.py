"""Commands for constitutions and the answers recorded for them: `check`, `import` and `record`."""

from pathlib import Path

import click

from character.core.errors import UserError
from character.core.safe_text import print_text


@click.command("check")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_context
def check_command(context: click.Context, files: tuple[Path, ...]) -> None:
    """Check constitution files.

    Prints a summary of each valid file and every fault of the others (exit code 1).
    """
    valid = [_report_file(file) for file in files]
    context.exit(0 if all(valid) else 1)


def _report_file(file: Path) -> bool:
    """Print the summary or the faults of one constitution file; return whether it is valid."""
    from character.dataset import constitution

    checked, faults = constitution.check_constitution(file)
    for fault in faults:
        print_text(fault, to_stderr=True)
    if faults:
        return False
    for warning in constitution.constitution_warnings(checked):
        print_text(f"{file}: warning: {warning}", to_stderr=True)
    prompts = sum(len(trait.prompts) for trait in checked.traits)
    traits_hash = constitution.traits_hash(checked)
    use = ", for research only" if checked.research_only else ""
    print_text(f"{checked.name}: {len(checked.traits)} traits, {prompts} prompts, traits hash {traits_hash}{use}")
    return True


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", help="Name of the persona and of its file in constitutions/; by default the name of FILE.")
@click.option("--summary", help="One sentence about the character; the reference has none.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def import_command(files: tuple[Path, ...], name: str | None, summary: str | None, force: bool) -> None:
    """Convert constitutions of the reference implementation.

    FILE is a JSON list (hand-written/*.txt) or JSON Lines (few-shot/*.jsonl) of traits with questions. Each FILE becomes
    constitutions/<name>.yaml. Empty and repeated texts are left out and reported.
    """
    from character.cli import import_constitution

    if name and len(files) > 1:
        raise UserError("--name is for one file; leave it out, or import the files one by one.")
    for file in files:
        out, persona, left_out = import_constitution.convert_constitution(file, name, summary, force)
        for sentence in left_out:
            print_text(f"{file}: left out: {sentence}.", to_stderr=True)
        prompts = sum(len(trait.prompts) for trait in persona.traits)
        print_text(f"{out}: {len(persona.traits)} traits, {prompts} prompts")


@click.command("record")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--trim", is_flag=True, help="Also keep cut-off answers, up to their last complete sentence.")
def record_command(force: bool, trim: bool) -> None:
    """Save the teacher's answers as recorded answers.

    Takes the first sample for each prompt of the selected persona from data/chosen.jsonl and writes
    data/raw/teacher/<persona>.jsonl, which the `recorded` teacher and the classifier read. Commit that file.
    """
    from character.cli import record_answers

    out, kept, left_out = record_answers.record_chosen_answers(force, trim)
    print_text(f"{out}: {kept} answers, {left_out} unfinished or empty ones left out")
