"""The error for mistakes of the user."""

import click


class UserError(click.ClickException):
    """A mistake of the user: one sentence with the file, the field and the remedy. Click prints it and exits with code 1."""

    exit_code = 1
