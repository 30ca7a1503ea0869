"""The one way in which a user's mistake ends."""

import click


class UserError(click.ClickException):
    """One sentence that names the file, the field and the remedy. Click prints it and exits with code 1."""

    exit_code = 1
