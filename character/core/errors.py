"""The error for mistakes of the user, and how any other error is shown."""

import sys
import threading
import traceback
from types import TracebackType

import click

from character.core.disk_errors import describe_disk_error
from character.core.safe_text import safe_text


class UserError(click.ClickException):
    """A mistake of the user: one sentence with the file, the field and the remedy. Click prints it and exits with code 1.

    The sentence may quote data, a server, git or DVC: secrets are masked and control characters replaced.
    """

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(safe_text(message))


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a sentence about a disk that is full or locked, otherwise the traceback of the error. See `sys.excepthook`."""
    sentence = describe_disk_error(error)
    text = f"Error: {sentence}\n" if sentence else "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(safe_text(text))


# Click passes on all errors but its own, so that these hooks see those of every stage, every command and their threads.
sys.excepthook = show_error
threading.excepthook = lambda failed: show_error(failed.exc_type, failed.exc_value, failed.exc_traceback)
