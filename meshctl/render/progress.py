"""A line on a terminal that shows how far a long transfer has come, and is gone at its end."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TextIO

from meshctl.render.tables import size

LARGE_BYTES = 1024 * 1024
"""Bytes from which on a transfer is shown: what a unit prints now and then is no transfer."""

SHOW_AFTER = 0.5
"""Seconds after which it is shown: a line that only flashes helps nobody."""

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
        """Whether anybody would see it."""
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
        # A terminal that has gone away is no reason to end what nobody may look at.
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
