"""Commands for runs of the whole pipeline: `recipe`, `estimate` and `study`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from character.core.safe_text import print_text

if TYPE_CHECKING:
    from character.study.ray_cluster import ClusterOptions
    from character.study.runs import StudyRun


@click.command("recipe")
@click.argument("name", required=False)
def recipe_command(name: str | None) -> None:
    """Write a recipe into params.yaml, or list all recipes.

    NAME is the name of a file in recipes/, without .yaml. Comments, `persona`, `seed` and `runtime` are kept. Prints the
    values that change.
    """
    from character.study import recipes

    if name:
        print_text("\n".join(recipes.write_recipe(name)) or f"params.yaml has the values of {name} already")
    else:
        print_text("\n".join(f"{known:<12} {about}" for known, about in recipes.list_recipes().items()))


@click.command("estimate")
@click.argument("recipe")
@click.option("--machine", default="cpu-2-cores", show_default=True, help="Name of a machine in recipes/rates.yaml.")
@click.option("--parameters", type=click.FloatRange(min=0, min_open=True), help="Parameters of the student, in billions.")
@click.option("--written-per-second", type=click.FloatRange(min=0, min_open=True), help="Tokens the student generates.")
@click.option("--trained-per-second", type=click.FloatRange(min=0, min_open=True), help="Tokens it is trained on.")
def estimate_command(recipe: str, machine: str, **rates: float | None) -> None:
    """Estimate the samples, tokens and hours of RECIPE.

    Prints them for each stage, for the selected persona, before anything runs. For a machine that is not in
    recipes/rates.yaml, give both rates in tokens per second.
    """
    from character.study import estimate

    options = estimate.EstimateOptions(machine, rates["parameters"], rates["written_per_second"], rates["trained_per_second"])
    print_text(estimate.estimate_recipe(recipe, options))


@click.command("study")
@click.argument("personas", nargs=-1)
@click.option("--seeds", default="", metavar="N,N", help="More seeds for the persona of params.yaml.")
@click.option("--gather", is_flag=True, help="Run nothing; compare the runs that are finished.")
@click.option("--ray", "address", metavar="ADDRESS", help="Run on a Ray cluster: ray://host:10001, auto, or local.")
@click.option("--cpus", default=1.0, show_default=True, help="CPUs of each run on a cluster.")
@click.option("--gpus", default=0.0, show_default=True, help="GPUs of each run on a cluster.")
@click.option(
    "--folder", default="~/.cache/character-training", show_default=True, help="Folder for clones and data on each machine."
)
@click.option("--remote", default="origin", show_default=True, help="Git remote that the cluster clones.")
def study_command(
    personas: tuple[str, ...], seeds: str, gather: bool, address: str | None, cpus: float, gpus: float, folder: str, remote: str
) -> None:
    """Train and evaluate many personas, and compare them.

    Runs the current params with each of PERSONAS (by default all that the classifier knows), one DVC experiment each. Runs
    of the checked-out commit that are finished are not repeated. Writes reports/study.html, reports/study.md and
    reports/study.json; `character docs` takes the tables of docs/personas.md from the last one.
    """
    from character.study import comparison, ray_cluster
    from character.study.runs import check_committed, finished_experiments, parse_seeds, plan_runs

    runs = plan_runs(personas, parse_seeds(seeds))
    if address:
        ray_cluster.fetch_experiments(remote)
    if not gather:
        check_committed()
    missing = [] if gather else [run for run in runs if run.experiment_name not in finished_experiments()]
    if missing and address:
        _execute_remotely(missing, remote, ray_cluster.ClusterOptions(address, cpus, gpus, folder))
    elif missing:
        _execute_locally(missing)
    count, pages = comparison.write_comparison(runs, finished_experiments())
    print_text(f"study: {count} of {len(runs)} runs in {', '.join(pages)}")


def _execute_remotely(runs: "Sequence[StudyRun]", remote: str, options: "ClusterOptions") -> None:
    from character.study import ray_cluster

    finished = ray_cluster.execute_on_cluster(runs, ray_cluster.pushed_source(remote), options)
    for count, (run, machine, minutes) in enumerate(finished, start=1):
        print_text(
            f"study: {count} of {len(runs)} runs finished, {run.experiment_name} on {machine} after {minutes:.0f} minutes"
        )
    ray_cluster.fetch_experiments(remote)


def _execute_locally(runs: "Sequence[StudyRun]") -> None:
    from character.study.runs import execute_run

    for number, run in enumerate(runs, start=1):
        print_text(f"study: run {number} of {len(runs)}, {run.experiment_name}")
        execute_run(run)
