"""What goes to standard output and standard error, and how a command fails."""

import enum
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, TextIO

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
    UNREACHABLE = 102
    WRONG_USAGE = 103
    REFUSED = 104
    LOCAL_IO = 105
    NO_END_IN_TIME = 124
    NO_CODE = 125
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141

    @property
    def meaning(self) -> str:
        """One line for the help text and the documentation."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILURE: "the unit Failed (work results, fetch, wait, stop, submit, status -w); "
    "auth can: no",
    ExitCode.PING_FAILED: "at least one ping was not answered",
    ExitCode.RELOAD_NEEDS_RESTART: "reload: a directive changed that needs a restart",
    ExitCode.RELOAD_UNPARSABLE: "reload: the configuration does not parse",
    ExitCode.RELOAD_FAILED: "reload: any other failure",
    ExitCode.UNIT_CANCELED: "the unit was Canceled (work results, fetch, wait, stop, submit, "
    "status -w)",
    ExitCode.WAIT_TIMED_OUT: "wait: a unit had not ended when the time was up; it goes on",
    ExitCode.SUBMIT_FAILED: "the submission was refused, or its payload could not be read",
    ExitCode.UNREACHABLE: "the node was not reached, or the connection to it was lost",
    ExitCode.WRONG_USAGE: "wrong usage, also of a typed job; nothing was started",
    ExitCode.REFUSED: "the node refused: there is no such unit, no route, no such service",
    ExitCode.LOCAL_IO: "standard input could not be read, or standard output not written",
    ExitCode.NO_END_IN_TIME: "with --propagate instead of 7",
    ExitCode.NO_CODE: "with --propagate instead of 1 and 6 where no code of the command is known",
    ExitCode.INTERRUPTED: "Ctrl-C; a unit that was followed goes on",
    ExitCode.OUTPUT_CLOSED: "the reader of standard output closed it",
}


def help_epilog() -> str:
    """The table of exit codes as it stands at the end of ``meshctl --help``.

    The leading ``\\b`` keeps click from refilling the lines.
    """
    rows = "\n".join(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)
    return f"\b\nExit codes:\n{rows}"


class Failure(click.ClickException):
    """Ends the command with an exit code and, if there is a message, one line on stderr.

    The code is an :class:`ExitCode`, or the code of a unit's own command.
    """

    def __init__(self, message: str, code: int = ExitCode.WRONG_USAGE) -> None:
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


_FOR_PROGRAMS = re.compile(r"could not parse response: (?:ERROR: )?(?=.)| ERRORCODE \d+$")
"""Words in a node's errors that clients look for: whose refusal it is that a receptor node passes
on, and the number of a refused reload, which is our exit code."""


def print_error(text: str) -> None:
    """One line on stderr that begins with ``ERROR:``, as receptorctl's do, in words for people."""
    plain = _FOR_PROGRAMS.sub("", _one_line(text))
    _print_styled(f"ERROR: {printable(plain)}", "red")


def print_warning(text: str) -> None:
    """One line on stderr that begins with ``Warning:``."""
    _print_styled(f"Warning: {printable(_one_line(text))}", "magenta")


def _print_styled(line: str, colour: str) -> None:
    click.echo(click.style(line, fg=colour) if wants_colour(sys.stderr) else line, err=True)


def print_note(text: str) -> None:
    """One line on stderr."""
    click.echo(printable(_one_line(text)), err=True)


def write_raw(data: bytes, *, to_stderr: bool = False) -> None:
    """Bytes on stdout, or on stderr, as they are and at once. Raises OSError."""
    stream = sys.stderr if to_stderr else sys.stdout
    if stream is None:
        name = "standard error" if to_stderr else "standard output"
        raise OSError(errno.EBADF, f"{name} is closed")
    stream.buffer.write(data)
    stream.buffer.flush()


def stdout_is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def stdin_is_terminal() -> bool:
    """Whether a person types at stdin."""
    return sys.stdin is not None and sys.stdin.isatty()


def wants_colour(stream: TextIO | None) -> bool:
    """Whether who reads a stream sees colours: on a terminal, unless ``NO_COLOR`` is set."""
    if stream is None or not stream.isatty():
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_page(lines: Iterable[str]) -> None:
    """Lines for a terminal that are safe as they are, in colour perhaps."""
    for line in lines:
        click.echo(line, color=True)


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None where it is none, or does not say."""
    if not stdout_is_terminal():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def discard_stdout() -> None:
    """Let what is still buffered for a stdout that failed vanish quietly when Python ends."""
    with suppress(AttributeError, OSError, ValueError):  # a stdout that is no file needs nothing
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- Progress ------------------------------------------------------------------------------------

LARGE_BYTES = 1024 * 1024
"""Bytes from which on a transfer is shown: what a unit prints now and then is no transfer."""

SHOW_AFTER = 0.5
"""Seconds after which it is shown: a shorter line would only flash."""

REDRAW_INTERVAL = 0.1
"""Seconds between two drawings at least: terminals are slow, and eyes are too."""

BAR_COLUMNS = 24
"""Columns of the bar itself."""

NARROW_COLUMNS = 60
"""Below so many columns the figures stand alone."""


class Progress:
    """One transfer; a context manager whose end clears the line.

    Args:
        label: What is going on, as ``Sending``.
        terminal: Where to draw; None draws nothing.
        start: Bytes that were there before, which count for how far but not for how fast.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        label: str,
        terminal: TextIO | None,
        *,
        start: int = 0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._label = label
        self._terminal = terminal
        self._start = start
        self._clock = clock
        self._began = self._drawn_at = clock()
        self._shown = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._shown:
            self._draw("")
            self._write("\r")

    @property
    def is_shown(self) -> bool:
        """Whether it is drawn."""
        return self._terminal is not None

    def update(self, done: int, total: int | None = None) -> None:
        """Say that ``done`` bytes of ``total`` have passed; None for a total that is not known."""
        if self._terminal is None or max(done, total or 0) < LARGE_BYTES:
            return
        now = self._clock()
        if now - self._began < SHOW_AFTER or now - self._drawn_at < REDRAW_INTERVAL:
            return
        self._drawn_at = now
        columns = self._columns()
        rate = (done - self._start) / (now - self._began)
        # One column is left free: a full line would wrap, and could not be drawn over.
        self._draw(_line(self._label, done, total, rate, columns)[: columns - 1])

    def _draw(self, line: str) -> None:
        """Draw over what is shown, with blanks: not every terminal knows how to clear a line."""
        self._write("\r" + line.ljust(self._shown))
        self._shown = len(line)

    def _write(self, text: str) -> None:
        assert self._terminal is not None
        # The transfer goes on if the terminal is gone.
        with suppress(OSError, ValueError):
            self._terminal.write(text)
            self._terminal.flush()

    def _columns(self) -> int:
        try:
            assert self._terminal is not None
            return os.get_terminal_size(self._terminal.fileno()).columns or 80
        except (OSError, ValueError):
            return 80


def on_stderr(label: str, *, wanted: bool = True, start: int = 0) -> Progress:
    """Return the progress of a transfer, drawn only where stderr is a terminal."""
    is_seen = wanted and sys.stderr is not None and sys.stderr.isatty()
    return Progress(label, sys.stderr if is_seen else None, start=start)


def _line(label: str, done: int, total: int | None, rate: float, columns: int) -> str:
    speed = f"{size(rate)}/s"
    if total is None:
        return f"{label}  {size(done)}  {speed}"
    part = min(done / total, 1.0)
    bar = ""
    if columns >= NARROW_COLUMNS:
        filled = int(part * BAR_COLUMNS)
        bar = f"[{'#' * filled}{'.' * (BAR_COLUMNS - filled)}]  "
    return f"{label}  {bar}{int(part * 100):>3}%  {size(done)} of {size(total)}  {speed}"


def size(count: float) -> str:
    """A number of bytes in the largest unit that leaves a digit before the point."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
