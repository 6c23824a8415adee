"""What goes to standard output and standard error, and how a command fails."""

import errno
import os
import sys
from contextlib import suppress
from typing import Any

import click

from meshctl.exit_codes import ExitCode


class Failure(click.ClickException):
    """Ends the command with a named exit code and, if there is a message, one line on stderr."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILURE) -> None:
        super().__init__(message)
        self.exit_code = code


def printable(text: str) -> str:
    """Escape what could move a terminal's cursor or forge a line: peers choose names and texts."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def sentence(text: str) -> str:
    """Return ``text`` with a mark at its end, so that another sentence can follow."""
    return text if not text or text.endswith((".", "?", "!")) else f"{text}."


def print_line(text: str = "") -> None:
    """One line for a person or a script on stdout, flushed."""
    click.echo(printable(text))


def print_json(value: Any) -> None:
    """A JSON document on stdout, laid out as receptorctl does."""
    click.echo(json_text(value))


def json_text(value: Any) -> str:
    """JSON with sorted keys and an indent of four."""
    import json  # noqa: PLC0415 - many runs print none

    return json.dumps(value, indent=4, sort_keys=True)


def json_line(value: Any) -> str:
    """JSON with sorted keys on one line."""
    import json  # noqa: PLC0415 - many runs print none

    return json.dumps(value, sort_keys=True)


def print_error(text: str) -> None:
    """One line on stderr that begins with ``ERROR:``, as receptorctl's do."""
    click.echo(click.style(f"ERROR: {printable(_one_line(text))}", fg="red"), err=True)


def print_warning(text: str) -> None:
    """One line on stderr that begins with ``Warning:``."""
    click.echo(click.style(f"Warning: {printable(_one_line(text))}", fg="magenta"), err=True)


def print_note(text: str) -> None:
    """One line on stderr."""
    click.echo(printable(_one_line(text)), err=True)


def write_raw(data: bytes) -> None:
    """Bytes on stdout, as they are and at once. Raises OSError."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    stdout = sys.stdout.buffer
    stdout.write(data)
    stdout.flush()


def stdout_is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def discard_stdout() -> None:
    """Let what is still buffered for a stdout that failed vanish quietly when Python ends."""
    with suppress(AttributeError, OSError, ValueError):  # a stdout that is no file needs nothing
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _one_line(text: str) -> str:
    return " ".join(text.split())
