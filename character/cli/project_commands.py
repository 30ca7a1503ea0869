"""Commands for the state of this repository: `docs`, `cache` and `environment`."""

import click

from character.core.errors import UserError
from character.core.safe_text import print_text


@click.command("docs")
@click.option("--check", "only_check", is_flag=True, help="Write nothing; fail if a doc or a recorded figure is stale.")
def docs_command(only_check: bool) -> None:
    """Write the docs that show figures.

    Copies the results of the stages, `make bench` and `character study` to docs/figures, and fills the templates in
    docs/templates with them. Edit the templates, not the docs that are written from them.
    """
    from character.cli import docs
    from character.core.params import read_value

    if not docs.is_shown(persona := read_value("persona")):
        print_text(f"docs: they show no results of {persona}, the persona of params.yaml")
    for path in [] if only_check else [*docs.record_figures(), *docs.write_docs()]:
        print_text(f"docs: {path} written")
    if stale := [*docs.stale_figures(), *docs.stale_docs()]:
        raise UserError("\n".join(stale))


@click.command("cache")
@click.option("--clear", is_flag=True, help="Delete replies; a stage that needs them generates them again.")
@click.option("--older-than", "days", type=click.FloatRange(min=0), default=0, help="Only replies older than this many days.")
def cache_command(clear: bool, days: float) -> None:
    """Show the size of the reply cache, or clear it.

    The cache in .cache/samples keeps every generated reply.
    """
    from character.inference import reply_cache

    path = reply_cache.default_cache_path()
    if not path.exists():
        print_text(f"{path}: nothing there yet")
        return
    with reply_cache.ReplyCache(path) as records:
        if clear:
            print_text(f"{path}: {records.delete_records(days * 86400):,} records deleted")
        aged = f", {records.count_records(days * 86400):,} of them older than {days:g} days" if days and not clear else ""
        print_text(f"{path}: {records.count_records():,} records{aged}, {records.size_in_bytes() / 1e6:.1f} MB")


@click.command("environment")
@click.option("--warn", is_flag=True, help="Print one line if a version differs, and exit with code 0.")
@click.pass_context
def environment_command(context: click.Context, warn: bool) -> None:
    """Compare Python and the installed packages with constraints.txt.

    Lists what has another version than the one that the committed dvc.lock was made with (exit code 1).
    """
    from character.core import environment

    constraints = environment.read_constraints()
    mismatches = [*environment.python_mismatches(), *environment.version_mismatches(constraints)]
    if not warn:
        print_text(environment.mismatch_table(mismatches))
        context.exit(1 if mismatches else 0)
    if mismatches:
        print_text(environment.mismatch_warning(mismatches), to_stderr=True)
