"""The error for mistakes of the user, and how other errors are shown: those of disks in a sentence, the rest as tracebacks."""

import errno
import logging
import os
import re
import shutil
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import click

from character.core.safe_text import safe_text

REMEDIES = {
    errno.ENOSPC: "free some space, then run this again",
    errno.EDQUOT: "free some of your quota, then run this again",
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f`), then run this again",
    errno.EROFS: "make it writable or work elsewhere, then run this again",
}
FILE_REMEDIES = {  # without a file, something other than one is meant
    errno.EACCES: "change its owner or permissions, then run this again",
    errno.EPERM: "change its owner or permissions, then run this again",
    errno.EBUSY: "end what uses it or unmount it, then run this again",
    errno.ENOTEMPTY: "end what uses it and delete it, then run this again",
    errno.EEXIST: "move the file that is in the place of its directory, then run this again",
}
ERROR_NUMBER = re.compile(r"(?:\[Errno |\(os error )(\d+)")  # as Python and Rust print it
# torch does not say why a write failed, and uses the same file of C++ for reading.
TORCH_WRITER = re.compile("^(?!.*PytorchStreamReader).*(inline_container|PytorchStreamWriter|iostream error)", re.DOTALL)


class UserError(click.ClickException):
    """A mistake of the user: one sentence with the file, the field and the remedy. Click prints it and exits with code 1.

    The sentence may quote data, a server, git or DVC: secrets are masked and control characters replaced.
    """

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(safe_text(message))


def describe_disk_error(error: BaseException) -> str | None:
    """Return the sentence for an error of a disk, None for any other error."""
    number = _error_number(error)
    file = getattr(error, "filename2", None) or getattr(error, "filename", None)  # the second one is the target of a copy
    remedies = REMEDIES | (FILE_REMEDIES if file else {})
    if number not in remedies:
        return None
    return f"{file or 'a file cannot be written'}: {os.strerror(number)}; {remedies[number]}."


def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a sentence about a disk that is full or locked, otherwise the traceback of the error. See `sys.excepthook`."""
    sentence = describe_disk_error(error)
    text = f"Error: {sentence}\n" if sentence else "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(safe_text(text))


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Name `path` in errors of a disk that do not say which file could not be written.

    Raises:
        OSError: A file could not be written, whichever library wrote it.
    """
    try:
        yield
    except OSError as error:
        known = REMEDIES | (FILE_REMEDIES if isinstance(error, shutil.Error) else {})  # another one may be of a network
        if error.filename or _error_number(error) not in known:
            raise
        raise OSError(_error_number(error), str(error), str(path)) from error  # the number of a shutil.Error is in its text
    except RuntimeError as error:
        if not TORCH_WRITER.search(f"{error} {error.__context__}"):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError" or _error_number(error) is None:  # a class that is not imported here
            raise
        raise OSError(_error_number(error), str(error), str(path)) from error


def _error_number(error: BaseException) -> int | None:
    found = ERROR_NUMBER.search(str(error))
    return getattr(error, "errno", None) or (int(found[1]) if found else None)


def _show_thread_error(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is not SystemExit:  # which ends a thread quietly
        show_error(failed.exc_type, failed.exc_value, failed.exc_traceback)


def _show_unraisable_error(failed: "sys.UnraisableHookArgs") -> None:
    sys.stderr.write(safe_text(f"{failed.err_msg or 'Exception ignored in'}: {failed.object!r}\n"))
    show_error(failed.exc_type, failed.exc_value, failed.exc_traceback)


class SafeLogRecord(logging.LogRecord):
    """A record of a library's log, without secrets and control characters in its message and its traceback."""

    def getMessage(self) -> str:
        return safe_text(super().getMessage())

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, safe_text(value) if name == "exc_text" and value else value)


def _safe_warnings(format_warning: Callable[..., str]) -> Callable[..., str]:
    return lambda *arguments, **options: safe_text(format_warning(*arguments, **options))


# Click passes on all errors but its own, so that these hooks see those of every stage, every command and their threads.
sys.excepthook = show_error
threading.excepthook = _show_thread_error
sys.unraisablehook = _show_unraisable_error
logging.setLogRecordFactory(SafeLogRecord)
warnings.formatwarning = _safe_warnings(warnings.formatwarning)
