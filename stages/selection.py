"""selection: params -> data/selection.txt (the name of the selected persona).

DVC deletes the outputs of a stage before it runs it. A persona without a constitution stops the pipeline here, where only this
name is lost, and not in the stages that read the constitution.
"""

import click

from character.core import records
from character.core.safe_text import print_text
from character.dataset import constitution


@click.command()
def main():
    """Check that the selected persona has a constitution."""
    name = constitution.selected_persona()
    print_text(f"selection: {name}")
    with records.replace_atomically("data/selection.txt") as file:
        file.write(f"{name}\n")


if __name__ == "__main__":
    main()
