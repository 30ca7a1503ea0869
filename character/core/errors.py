"""The error for mistakes of the user, and how any other error is shown."""

import sys
import threading
import traceback
from types import TracebackType

import click

from character.core.safe_text import redact_secrets


class UserError(click.ClickException):
    """A mistake of the user: one sentence with the file, the field and the remedy. Click prints it and exits with code 1.

    Secrets in the sentence, which may quote a server, git or DVC, are masked.
    """

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(redact_secrets(message))


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error, with its causes; secrets in it are masked. See `sys.excepthook`."""
    sys.stderr.write(redact_secrets("".join(traceback.format_exception(kind, error, trace))))


# Click passes on all errors but its own, so that these hooks see those of every stage, every command and their threads.
sys.excepthook = show_error
threading.excepthook = lambda failed: show_error(failed.exc_type, failed.exc_value, failed.exc_traceback)
