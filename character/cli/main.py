"""The console script `character`: all that is not a stage of the pipeline."""

import click

from character.cli.chat_commands import chat_command, samples_command, serve_command
from character.cli.constitution_commands import check_command, import_command, record_command
from character.cli.project_commands import cache_command, docs_command, environment_command
from character.cli.publish_commands import export_command, publish_command
from character.cli.study_commands import estimate_command, recipe_command, study_command

COMMANDS = (
    check_command,
    import_command,
    record_command,
    chat_command,
    serve_command,
    samples_command,
    publish_command,
    export_command,
    recipe_command,
    estimate_command,
    study_command,
    docs_command,
    cache_command,
    environment_command,
)


@click.group(commands=COMMANDS)
def main() -> None:
    """Train personas into a chat model, talk with them and publish them.

    The pipeline itself is run with `dvc repro`.
    """
