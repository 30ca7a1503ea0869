"""Commands that make a persona available to others: `publish` and `export`."""

from pathlib import Path

import click

from character.core.safe_text import print_text


@click.command("publish")
@click.argument("experiment", required=False)
@click.option("--version", required=True, help="Version of the persona, such as 1.0.0.")
@click.option("--remote", default="origin", show_default=True, help="Git remote to push to.")
def publish_command(experiment: str | None, version: str, remote: str) -> None:
    """Publish a persona in DVC's model registry.

    Commits EXPERIMENT (by default the checked-out state) on the branch persona/<name>, tags it adapter-<name>@v<version>, and
    pushes data, branch and tag. Anyone can then download it with `dvc artifacts get`.
    """
    from character.publish.registry import publish_persona

    branch, tag = publish_persona(experiment, version, remote)
    name, _, number = tag.partition("@")
    print_text(f"published {tag} on {branch}: dvc artifacts get <git url> {name} --rev {number}")


@click.command("export")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--folded", is_flag=True, help="Export the full model with the adapter merged into its weights.")
@click.option("--repo", metavar="OWNER/NAME", help="Name of the model and data repositories; uploads if HF_TOKEN is set.")
@click.option("--private", is_flag=True, help="Create the repositories as private ones.")
@click.option("--i-understand", "understood", is_flag=True, help="Confirm the export of a persona meant for research only.")
@click.option("--force", is_flag=True, help="Replace an earlier export.")
def export_command(out: Path, folded: bool, repo: str | None, private: bool, understood: bool, force: bool) -> None:
    """Write a folder for the Hugging Face hub.

    OUT/model holds the persona and OUT/data its training data, each with a card. Nothing is written if a file contains
    something that looks like a secret.
    """
    from character.publish import export

    for name, size in export.export_persona(out, folded, repo, understood, force):
        print_text(f"{size:>14,}  {out / name}")
    if not repo:
        return
    addresses = export.upload_export(out, repo, private)
    for address in addresses:
        print_text(f"uploaded: {address}")
    if not addresses:
        print_text(f"Nothing was uploaded to {repo}: HF_TOKEN is not in the environment.")
