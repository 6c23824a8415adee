"""``meshctl work logs``: the lines of a unit's output, with the times at which they came."""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.logindex import INDEX, STDERR, STDOUT, STREAMS, Line
from meshctl.api.status import UNFINISHED, size_of
from meshctl.commands.completion import units
from meshctl.commands.following import Following, tell_away
from meshctl.commands.lines import (
    Lines,
    Status,
    UnitLines,
    learn_outputs,
    require_file,
    told_breaks,
    write_each_to_its_own,
)
from meshctl.commands.options import Age, Invocation, WholeNumber, now, pass_invocation_at
from meshctl.commands.results import start_of_last_lines
from meshctl.commands.units import find_unit
from meshctl.commands.waiting import waits_told
from meshctl.render.output import json_line, write_raw
from meshctl.render.times import stamp

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

NO_STAMP = "-".ljust(27)
"""What stands before a line of which nobody knows when it came: as wide as a time."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Since(Age):
    """A moment as an option: a time such as ``2026-11-26T08:00:00Z``, or how long ago it was."""

    name = "since"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Read the text; return the span from 1970. Fails as click's types do."""
        if isinstance(value, timedelta):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return now() - super().convert(value, param, ctx) - EPOCH
        try:
            return (moment if moment.tzinfo else moment.astimezone()) - EPOCH
        except (OverflowError, ValueError):
            self.fail(f"{value} is too far away", param, ctx)


class Pattern(click.ParamType):
    """A regular expression of Python as an option."""

    name = "regex"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> re.Pattern[str]:
        """Compile it. Fails as click's types do."""
        if isinstance(value, re.Pattern):
            return value
        try:
            return re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            self.fail(f"{value!r} is no regular expression: {error}", param, ctx)


@click.command(short_help="Show a unit's output by lines, with times.")
@click.argument("unit_id", shell_complete=units())
@click.option("--follow", "-f", is_flag=True, help="Go on until the unit has ended.")
@click.option("--timestamps", "-t", is_flag=True, help="Begin each line with when it came, in UTC.")
@click.option(
    "--since", type=Since(), help="Only what came since a time, or in the last, e.g., 10m."
)
@click.option("--tail", type=WholeNumber(min=0), metavar="N", help="Begin with the last N lines.")
@click.option(
    "--stderr", "only_stderr", is_flag=True, help="Only what went to stderr, on our stdout."
)
@click.option("--grep", "pattern", type=Pattern(), metavar="RE", help="Only lines that match.")
@click.option("--json", "as_json", is_flag=True, help="Each line as a JSON object.")
@pass_invocation_at
def logs(
    invocation: Invocation,
    unit_id: str,
    follow: bool,
    timestamps: bool,
    since: timedelta | None,
    tail: int | None,
    only_stderr: bool,
    pattern: re.Pattern[str] | None,
    as_json: bool,
) -> None:
    """Show a unit's output from its first byte, lines of both streams in the order they came.

    Lines of its stderr go to our stderr. Which lines those are, and when they came, is known of
    units whose work type says stderr: separate or timestamps: true.
    """
    with invocation.client() as client:
        unit_id = find_unit(invocation, client, unit_id)
        again = ("logs", "-f") if follow else ("logs",)
        with told_breaks(invocation, unit_id, *again):
            status = learn_outputs(client, unit_id, waits=follow)
            if only_stderr:
                require_file(unit_id, status, STDERR)
            if timestamps or since is not None:
                require_file(unit_id, status, INDEX)
            with waits_told(invocation, unit_id) if follow else nullcontext():
                if size_of(status, INDEX) is None and pattern is None and not as_json:
                    _show_bytes(client, unit_id, status, follow=follow, tail=tail)
                    return
                streams = (STDERR,) if only_stderr else STREAMS
                lines = UnitLines(client, unit_id, status, follow=follow, streams=streams)
                wanted = _Wanted(since, pattern)
                shown = _Shown(timestamps=timestamps, to_one=only_stderr, as_json=as_json)
                with closing(lines.batches()) as batches:
                    for batch in _last(batches, wanted, tail):
                        shown.write(batch)


def _show_bytes(
    client: "ControlClient", unit_id: str, status: Status, *, follow: bool, tail: int | None
) -> None:
    """Write the output of a unit that has no more than stdout as it is."""
    size = size_of(status, STDOUT) or 0
    start = 0 if tail is None else start_of_last_lines(client, unit_id, size, tail)
    is_over = status.get("State") not in UNFINISHED
    end = None if follow or is_over else size
    reading = Following(client, unit_id, start, end=end, is_known=True, on_break=tell_away)
    with closing(reading.pieces()) as pieces:
        for piece in pieces:
            write_raw(piece)


def _last(
    batches: Iterator[Lines | None], wanted: "_Wanted", count: int | None
) -> Iterator[list[Line]]:
    """Yield the lines that are wanted; of those that there were at first, the last ``count``."""
    kept: deque[list[Line]] | None = None if count is None else deque(maxlen=count)
    for batch in batches:
        if batch is None:
            if kept is not None:
                yield [part for line in kept for part in line]
            kept = None
            continue
        lines = wanted.of(batch)
        if kept is None:
            yield lines
            continue
        for line in lines:
            if line.is_begin or not kept:
                kept.append([line])
            else:
                # More of a long line, perhaps behind one of the other stream.
                _whole(kept, line.stream).append(line)


def _whole(kept: deque[list[Line]], stream: str) -> list[Line]:
    """Return the last line of a stream, or the last of all."""
    return next((line for line in reversed(kept) if line[0].stream == stream), kept[-1])


class _Wanted:
    """Which lines are wanted; what follows of a long line goes with its begin."""

    def __init__(self, since: timedelta | None, pattern: re.Pattern[str] | None) -> None:
        self._since = None if since is None else since // timedelta(microseconds=1)
        self._pattern = pattern
        self._takes = dict.fromkeys(STREAMS, True)

    def of(self, lines: Iterable[Line]) -> list[Line]:
        """Return those of the lines that are wanted."""
        return [line for line in lines if self._is_wanted(line)]

    def _is_wanted(self, line: Line) -> bool:
        if line.is_begin:
            self._takes[line.stream] = self._is_new(line) and self._matches(line)
        return self._takes[line.stream]

    def _is_new(self, line: Line) -> bool:
        # What has no time is behind all that has one.
        return self._since is None or line.time is None or line.time >= self._since

    def _matches(self, line: Line) -> bool:
        if self._pattern is None:
            return True
        text = line.text.removesuffix(b"\n").decode("utf-8", "surrogateescape")
        return self._pattern.search(text) is not None


class _Shown:
    """How lines are written."""

    def __init__(self, *, timestamps: bool, to_one: bool, as_json: bool) -> None:
        """``to_one`` has all go to stdout."""
        self._timestamps = timestamps
        self._to_one = to_one or as_json
        self._as_json = as_json

    def write(self, lines: Iterable[Line]) -> None:
        """Write lines. Raises OSError."""
        if self._as_json:
            write_raw("".join(f"{json_line(_as_object(line))}\n" for line in lines).encode())
            return
        write_each_to_its_own(
            [
                replace(
                    line,
                    stream=STDOUT if self._to_one else line.stream,
                    text=self._stamp(line) + line.text,
                )
                for line in lines
            ]
        )

    def _stamp(self, line: Line) -> bytes:
        if not (self._timestamps and line.is_begin):
            return b""
        return f"{NO_STAMP if line.time is None else stamp(line.time)} ".encode()


def _as_object(line: Line) -> dict[str, object]:
    """Return a line for JSON; what is no UTF-8 is replaced."""
    time = None if line.time is None else stamp(line.time)
    text = line.text.removesuffix(b"\n").decode("utf-8", "replace")
    return {"stream": line.stream, "time": time, "text": text}
