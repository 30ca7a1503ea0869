"""The console script `character`: what one does beside `dvc repro`."""

from pathlib import Path

import click


@click.group()
def main() -> None:
    """Character training: a constitution becomes a persona."""


@main.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_context
def check_command(context: click.Context, files: tuple[Path, ...]) -> None:
    """Check constitution files.

    Prints a summary of each good one and every fault of the others (exit code 1).
    """
    good = [_report_file(file) for file in files]
    context.exit(0 if all(good) else 1)


def _report_file(file: Path) -> bool:
    """Print what `check` says about one file; return whether it has no faults."""
    from character.dataset import constitution

    checked, faults = constitution.check_constitution(file)
    for fault in faults:
        click.echo(fault, err=True)
    if faults:
        return False
    for warning in constitution.constitution_warnings(checked):
        click.echo(f"{file}: warning: {warning}", err=True)
    prompts = sum(len(trait.prompts) for trait in checked.traits)
    traits_hash = constitution.traits_hash(checked)
    click.echo(f"{checked.name}: {len(checked.traits)} traits, {prompts} prompts, traits hash {traits_hash}")
    return True


@main.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", help="Of the persona, and so of the file in constitutions/; by default that of FILE.")
@click.option("--summary", help="One sentence about the character; theirs have none.")
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
def import_command(files: tuple[Path, ...], name: str | None, summary: str | None, force: bool) -> None:
    """Convert constitutions of the reference implementation.

    FILE is a JSON list (hand-written/*.txt) or JSON Lines (few-shot/*.jsonl) of traits with questions. Each becomes
    constitutions/<name>.yaml. Empty and repeated texts are left out, and told.
    """
    from character.cli import import_constitution
    from character.core.errors import UserError

    if name and len(files) > 1:
        raise UserError("--name is for one file; leave it out, or import the files one by one.")
    for file in files:
        out, persona, left_out = import_constitution.convert_constitution(file, name, summary, force)
        for sentence in left_out:
            click.echo(f"{file}: left out: {sentence}.", err=True)
        prompts = sum(len(trait.prompts) for trait in persona.traits)
        click.echo(f"{out}: {len(persona.traits)} traits, {prompts} prompts")


@main.command()
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
@click.option("--trim", is_flag=True, help="Keep cut-off answers too, up to their last whole sentence.")
def record_command(force: bool, trim: bool) -> None:
    """Keep the teacher's answers as recorded ones.

    Takes those to the selected persona's prompts from data/chosen.jsonl, the first sample of each. They then serve the
    `recorded` teacher and the classifier, and are worth a commit.
    """
    from character.cli import record_answers

    out, kept, left_out = record_answers.record_chosen_answers(force, trim)
    click.echo(f"{out}: {kept} answers, {left_out} unfinished or empty ones left out")


@main.command()
@click.argument("experiment", required=False)
@click.option("--version", required=True, help="Such as 1.0.0.")
@click.option("--remote", default="origin", show_default=True, help="The git remote.")
def publish_command(experiment: str | None, version: str, remote: str) -> None:
    """Publish a persona in DVC's model registry.

    Commits EXPERIMENT (by default what is checked out) on the branch persona/<name>, tags it adapter-<name>@v<version>, and
    pushes data, branch and tag. Anybody can then fetch it with `dvc artifacts get`.
    """
    from character.publish.registry import publish_persona

    branch, tag = publish_persona(experiment, version, remote)
    name, _, number = tag.partition("@")
    click.echo(f"published {tag} on {branch}: dvc artifacts get <git url> {name} --rev {number}")


@main.command("export")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--folded", is_flag=True, help="The whole model, with the adapter in its weights, instead of the adapter.")
@click.option("--repo", metavar="OWNER/NAME", help="Of both repositories; uploads to them if HF_TOKEN is in the environment.")
@click.option("--private", is_flag=True, help="Create the repositories as private ones.")
@click.option("--i-understand", "understood", is_flag=True, help="Export a persona that is meant for research alone.")
@click.option("--force", is_flag=True, help="Replace an earlier export.")
def export_command(out: Path, folded: bool, repo: str | None, private: bool, understood: bool, force: bool) -> None:
    """Write a folder for the Hugging Face hub.

    OUT/model has the persona, OUT/data what it was trained on, each with a card. Nothing is written where a file holds what
    looks like a secret.
    """
    from character.publish import export

    for name, size in export.export_persona(out, folded, repo, understood, force):
        click.echo(f"{size:>14,}  {out / name}")
    if not repo:
        return
    addresses = export.upload_export(out, repo, private)
    for address in addresses:
        click.echo(f"uploaded: {address}")
    if not addresses:
        click.echo(f"Nothing was uploaded to {repo}: HF_TOKEN is not in the environment.")


@main.command()
@click.option("--persona", help="The selected one, by default, or one that is published.")
@click.option("--methods", default="base,prompted,persona", show_default=True, help="Who answers.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="The transcript; by default in .cache/chats.")
def chat_command(persona: str | None, methods: str, save: Path | None) -> None:
    """Talk with base, prompted and persona.

    Their replies appear side by side, each with a history of its own, and are kept as JSON Lines.
    """
    from character.chat import terminal

    terminal.run_terminal_chat(persona, methods.split(","), save)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def serve_command(host: str, port: int, options: tuple[str, ...]) -> None:
    """Serve base and all personas with vLLM.

    Speaks OpenAI's protocol; each persona, selected or published, is a model of that name. OPTIONS after `--` are vLLM's.
    """
    from character.chat import vllm_server

    vllm_server.run_vllm_server(host, port, options)


@main.command()
@click.argument("methods", nargs=-1)
@click.option("--count", default=10, show_default=True, help="How many held-out prompts, from the first.")
def samples_command(methods: tuple[str, ...], count: int) -> None:
    """Print answers side by side, as Markdown.

    The first ones of METHODS (base and persona) to plain held-out prompts.
    """
    from character.report.markdown import side_by_side

    click.echo(side_by_side(methods or ("base", "persona"), count))


@main.command()
@click.option("--clear", is_flag=True, help="Delete records; a stage that needs them writes them again.")
@click.option("--older-than", "days", type=click.FloatRange(min=0), default=0, help="Only records of more than so many days.")
def cache_command(clear: bool, days: float) -> None:
    """Show the sample cache, or clear it.

    It keeps every generated reply, in .cache/samples.
    """
    from character.inference import reply_cache

    path = reply_cache.default_cache_path()
    if not path.exists():
        click.echo(f"{path}: nothing there yet")
        return
    with reply_cache.ReplyCache(path) as records:
        if clear:
            click.echo(f"{path}: {records.delete_records(days * 86400):,} records deleted")
        aged = f", {records.count_records(days * 86400):,} of them older than {days:g} days" if days and not clear else ""
        click.echo(f"{path}: {records.count_records():,} records{aged}, {records.size_in_bytes() / 1e6:.1f} MB")


@main.command()
@click.option("--warn", is_flag=True, help="Print one line if something differs, and exit with code 0.")
@click.pass_context
def environment(context: click.Context, warn: bool) -> None:
    """Compare installed packages with constraints.txt.

    Lists those of another version than the one that the committed dvc.lock was made with (exit code 1).
    """
    from character.core import environment

    mismatches = environment.version_mismatches(environment.read_constraints())
    if not warn:
        click.echo(environment.mismatch_table(mismatches))
        context.exit(1 if mismatches else 0)
    if mismatches:
        click.echo(environment.mismatch_warning(mismatches), err=True)


@main.command()
@click.argument("personas", nargs=-1)
@click.option("--seeds", default="", metavar="N,N", help="More seeds for the persona of params.yaml.")
@click.option("--gather", is_flag=True, help="Run nothing, show what is finished.")
@click.option("--ray", "address", metavar="ADDRESS", help="Run on a Ray cluster: ray://host:10001, auto, or local.")
@click.option("--cpus", default=1.0, show_default=True, help="Of each run on a cluster.")
@click.option("--gpus", default=0.0, show_default=True, help="The same.")
@click.option("--folder", default="~/.cache/character-training", show_default=True, help="Of clones and data on its machines.")
@click.option("--remote", default="origin", show_default=True, help="The git remote that a cluster clones.")
def study_command(
    personas: tuple[str, ...], seeds: str, gather: bool, address: str | None, cpus: float, gpus: float, folder: str, remote: str
) -> None:
    """Make and evaluate many personas, and compare them.

    Takes the params as they are, with each of PERSONAS (all that the classifier knows) in turn, one experiment each; those of
    the checked-out commit that are finished are not run again. Writes reports/study.html, reports/study.md and
    reports/study.json, from which `character docs` takes the tables of docs/personas.md.
    """
    from character.study import comparison, ray_cluster
    from character.study.runs import execute_run, finished_experiments, parse_seeds, plan_runs

    runs = plan_runs(personas, parse_seeds(seeds))
    if address:
        ray_cluster.fetch_experiments(remote)
    missing = [] if gather else [run for run in runs if run.experiment_name not in finished_experiments()]
    if missing and address:
        machines = ray_cluster.ClusterOptions(address, cpus, gpus, folder)
        for done, (run, machine, minutes) in enumerate(
            ray_cluster.execute_on_cluster(missing, ray_cluster.pushed_source(remote), machines), start=1
        ):
            click.echo(
                f"study: {done} of {len(missing)} runs finished, {run.experiment_name} on {machine} after {minutes:.0f} minutes"
            )
        ray_cluster.fetch_experiments(remote)
    elif missing:
        for number, run in enumerate(missing, start=1):
            click.echo(f"study: run {number} of {len(missing)}, {run.experiment_name}")
            execute_run(run)
    count, pages = comparison.write_comparison(runs, finished_experiments())
    click.echo(f"study: {count} of {len(runs)} runs in {', '.join(pages)}")


@main.command()
@click.argument("name", required=False)
def recipe_command(name: str | None) -> None:
    """Write a recipe into params.yaml, or list all.

    NAME is one of recipes/NAME.yaml. Comments, `persona`, `seed` and `runtime` stay. Prints what changes.
    """
    from character.study import recipes

    if name:
        click.echo("\n".join(recipes.write_recipe(name)) or f"params.yaml has the values of {name} already")
    else:
        click.echo("\n".join(f"{known:<12} {about}" for known, about in recipes.list_recipes().items()))


@main.command()
@click.argument("recipe")
@click.option("--machine", default="cpu-2-cores", show_default=True, help="One of recipes/rates.yaml.")
@click.option("--parameters", type=click.FloatRange(min=0, min_open=True), help="Of the student, in billions.")
@click.option("--written-per-second", type=click.FloatRange(min=0, min_open=True), help="Tokens that the student writes.")
@click.option("--trained-per-second", type=click.FloatRange(min=0, min_open=True), help="Tokens that it is trained on.")
def estimate_command(recipe: str, machine: str, **rates: float | None) -> None:
    """Estimate what RECIPE takes, before anything starts.

    Prints samples, tokens and hours of each stage, for the selected persona. Another machine than those of
    recipes/rates.yaml is told by its two rates.
    """
    from character.study import estimate

    asked = estimate.EstimateOptions(machine, rates["parameters"], rates["written_per_second"], rates["trained_per_second"])
    click.echo(estimate.estimate_recipe(recipe, asked))


@main.command()
@click.option("--check", "only_check", is_flag=True, help="Write nothing; fail where a doc or a recorded figure is stale.")
def docs(only_check: bool) -> None:
    """Write the docs that show figures.

    Copies what stages, `make bench` and `character study` found to docs/figures, and fills the templates in docs/templates
    with it. Edit the templates, not the docs that are written from them.
    """
    from character.cli import docs
    from character.core.errors import UserError
    from character.core.params import read_value

    if not docs.is_shown(persona := read_value("persona")):
        click.echo(f"docs: they show no results of {persona}, the persona of params.yaml")
    for path in [] if only_check else [*docs.record_figures(), *docs.write_docs()]:
        click.echo(f"docs: {path} written")
    if stale := [*docs.stale_figures(), *docs.stale_docs()]:
        raise UserError("\n".join(stale))
