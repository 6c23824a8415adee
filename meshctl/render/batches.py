"""How batches look: the line of progress on a terminal, the log of members, a list of batches."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from time import monotonic
from typing import Any, TextIO

from meshctl.render.output import printable

COLUMNS = ("Index", "State", "Unit", "Exit", "Seconds", "Started", "Attempt", "Detail")
"""The columns of a log of members."""

REDRAW_SECONDS = 0.1
"""Seconds between two drawings at least."""

BAR = 24
"""Columns of the bar."""


def header() -> str:
    """Return the first line of a log of members."""
    return "\t".join(COLUMNS)


def member_line(member: Mapping[str, Any]) -> str:
    """Return the line of a member, its fields between tabs."""
    values = (
        *(member.get("Index", ""), member.get("StateName", ""), member.get("UnitID", "")),
        *(member.get("ExitCode", ""), _seconds(member), member.get("Started", "")),
        *(member.get("Attempt", 0), member.get("Detail", "")),
    )
    return "\t".join(printable(str(value)) for value in values)


def _seconds(member: Mapping[str, Any]) -> str:
    try:
        began = datetime.fromisoformat(str(member.get("Started")))
        ended = datetime.fromisoformat(str(member.get("Finished")))
        return f"{(ended - began).total_seconds():.3f}"
    except (ValueError, TypeError):
        return ""


def summary(status: Mapping[str, Any]) -> str:
    """Return how many members have ended in which way, and why the batch stands so."""
    kinds = ("Succeeded", "Failed", "Canceled", "Refused", "InFlight", "Waiting")
    words = {"InFlight": "in flight"}
    told = [f"{status[one]} {words.get(one, one.lower())}" for one in kinds if status.get(one)]
    counts, detail = ", ".join(told) or "no members", status.get("Detail")
    return f"{counts}; {detail}" if detail else counts


def batch_lines(batches: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each batch, the oldest first."""
    for batch_id, status in sorted(batches.items(), key=lambda one: str(one[1].get("Created"))):
        state, work = str(status.get("StateName", "")), str(status.get("Work", "") or "-")
        yield f"{batch_id}  {state:<9}  {work:<12}  {status.get('Members')}: {summary(status)}"


class BatchProgress:
    """The progress of a batch on a terminal; a context manager whose end clears the line."""

    def __init__(self, terminal: TextIO | None, clock: Callable[[], float] = monotonic) -> None:
        """``terminal`` None draws nothing."""
        self._terminal = terminal
        self._clock = clock
        self._drawn_at = -REDRAW_SECONDS
        self._shown = 0

    def __enter__(self) -> "BatchProgress":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._shown:
            self._draw("")
            self._write("\r")

    def update(self, status: Mapping[str, Any]) -> None:
        """Show how far a batch is."""
        if self._terminal is None or self._clock() - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = self._clock()
        total = int(status.get("Members") or 1)
        done = total - int(status.get("Waiting") or 0) - int(status.get("InFlight") or 0)
        filled = done * BAR // total
        bar = f"[{'#' * filled}{'.' * (BAR - filled)}]"
        self._draw(f"{status.get('Batch')}  {bar}  {done} of {total}: {summary(status)}")

    def _draw(self, line: str) -> None:
        self._write("\r" + line.ljust(self._shown))
        self._shown = len(line)

    def _write(self, text: str) -> None:
        # The batch goes on if the terminal is gone.
        with suppress(OSError, ValueError):
            if self._terminal is not None:
                self._terminal.write(text)
                self._terminal.flush()
