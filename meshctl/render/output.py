"""What goes to standard output and standard error, and how a command fails."""

import enum
import errno
import os
import sys
from contextlib import suppress
from typing import Any

import click

# --- The exit codes of meshctl. Those that receptorctl has too mean the same here


class ExitCode(enum.IntEnum):
    """What a script may conclude from the end of a meshctl command."""

    OK = 0
    FAILURE = 1
    PING_FAILED = 2
    RELOAD_NEEDS_RESTART = 3
    RELOAD_UNPARSABLE = 4
    RELOAD_FAILED = 5
    UNIT_CANCELED = 6
    WAIT_TIMED_OUT = 7
    SUBMIT_FAILED = 101
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141

    @property
    def meaning(self) -> str:
        """One line for the help text and the documentation."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILURE: "wrong usage, node not reached, command refused, or the unit Failed",
    ExitCode.PING_FAILED: "at least one ping was not answered",
    ExitCode.RELOAD_NEEDS_RESTART: "reload: a directive changed that needs a restart",
    ExitCode.RELOAD_UNPARSABLE: "reload: the configuration does not parse",
    ExitCode.RELOAD_FAILED: "reload: any other failure",
    ExitCode.UNIT_CANCELED: "the unit was Canceled (work results, wait, status --watch, submit)",
    ExitCode.WAIT_TIMED_OUT: "wait: a unit had not ended when the time was up; it goes on",
    ExitCode.SUBMIT_FAILED: "the submission failed",
    ExitCode.INTERRUPTED: "Ctrl-C; a unit that was followed goes on",
    ExitCode.OUTPUT_CLOSED: "whoever read standard output closed it",
}


def help_epilog() -> str:
    """The table of exit codes as it stands at the end of ``meshctl --help``.

    The leading ``\\b`` keeps click from refilling the lines.
    """
    rows = "\n".join(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)
    return f"\b\nExit codes:\n{rows}"


pass  # SELFIMPORT


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
