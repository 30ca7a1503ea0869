"""The console script `character`: what one does beside `dvc repro`."""

from pathlib import Path

import click


@click.group()
def main() -> None:
    """Character training: a constitution becomes a persona."""


@main.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_context
def check(context: click.Context, files: tuple[Path, ...]) -> None:
    """Check constitution files.

    Prints a summary of each good one and every fault of the others (exit code 1).
    """
    good = [_report(file) for file in files]
    context.exit(0 if all(good) else 1)


def _report(file: Path) -> bool:
    """Print what `check` says about one file; return whether it has no faults."""
    from character import constitution

    checked, faults = constitution.examine(file)
    for fault in faults:
        click.echo(fault, err=True)
    if faults:
        return False
    for warning in constitution.warnings(checked):
        click.echo(f"{file}: warning: {warning}", err=True)
    prompts = sum(len(trait.prompts) for trait in checked.traits)
    traits_hash = constitution.traits_hash(checked)
    click.echo(f"{checked.name}: {len(checked.traits)} traits, {prompts} prompts, traits hash {traits_hash}")
    return True


@main.command()
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
@click.option("--trim", is_flag=True, help="Keep cut-off answers too, up to their last whole sentence.")
def record(force: bool, trim: bool) -> None:
    """Keep the teacher's answers as recorded ones.

    Takes those to the selected persona's prompts from data/chosen.jsonl. They then serve the `recorded` teacher and the
    classifier, and are worth a commit.
    """
    from character import constitution, records
    from character.errors import UserError
    from character.params import value
    from stages.pairs import whole

    persona = constitution.load(f"constitutions/{value('persona')}.yaml")
    out = Path(f"data/raw/teacher/{persona.name}.jsonl")
    if out.exists() and not force:
        raise UserError(f"{out} is there already; give --force to replace it.")
    answers = records.read("data/chosen.jsonl", records.Completion)
    own = {prompt for trait in persona.traits for prompt in trait.prompts}
    if not own & {answer.prompt for answer in answers}:
        raise UserError(f"data/chosen.jsonl answers no prompt of {persona.name}; run `dvc repro chosen` first.")
    if trim:
        answers = list(map(whole, answers))
    kept = [answer for answer in answers if answer.finish_reason == "stop" and answer.response.strip()]
    traits = constitution.traits_hash(persona)
    rows = [records.Recorded(prompt=answer.prompt, response=answer.response, traits=traits) for answer in kept]
    records.write(out, rows)
    click.echo(f"{out}: {len(rows)} answers, {len(answers) - len(rows)} unfinished or empty ones left out")


@main.command()
@click.argument("methods", nargs=-1)
@click.option("--count", default=10, show_default=True, help="How many held-out prompts, from the first.")
def samples(methods: tuple[str, ...], count: int) -> None:
    """Print answers side by side, as Markdown.

    The first ones of METHODS (base and persona) to plain held-out prompts.
    """
    from character import records
    from character.conditions import plain
    from character.errors import UserError
    from character.params import value

    chosen = methods or ("base", "persona")
    answers = {method: plain(records.read(f"data/answers/{method}.jsonl", records.Answer))[:count] for method in chosen}
    if len({tuple(row.id for row in rows) for rows in answers.values()}) > 1:
        raise UserError("data/answers/: the methods answered different prompts; run `dvc repro` to make them anew.")
    click.echo(f"# The first {count} held-out prompts, unselected\n\nPersona: {value('persona')}. Asked plain.")
    for rows in zip(*answers.values(), strict=True):
        click.echo(f"\n## {rows[0].prompt}")
        for method, row in zip(chosen, rows, strict=True):
            cut = " *(cut off at the token limit)*" if row.finish_reason == "length" else ""
            quoted = "\n".join(f"> {line}".rstrip() for line in row.response.splitlines())
            click.echo(f"\n**{method}**{cut}\n\n{quoted}")


@main.command()
@click.option("--clear", is_flag=True, help="Delete records; a stage that needs them writes them again.")
@click.option("--older-than", "days", type=click.FloatRange(min=0), default=0, help="Only records of more than so many days.")
def cache(clear: bool, days: float) -> None:
    """Show the sample cache, or clear it.

    It keeps every generated reply, in .cache/samples.
    """
    from character import samples

    path = samples.default_path()
    if not path.exists():
        click.echo(f"{path}: nothing there yet")
        return
    with samples.SampleCache(path) as records:
        if clear:
            click.echo(f"{path}: {records.clear(days * 86400):,} records deleted")
        aged = f", {records.count(days * 86400):,} of them older than {days:g} days" if days and not clear else ""
        click.echo(f"{path}: {records.count():,} records{aged}, {records.size() / 1e6:.1f} MB")
