"""The lines of a unit's output in the order in which they came, over as many sessions as it takes.

Where a unit has an index, that says in which order the lines of stdout and stderr came, and when.
Each file is read in a session of its own, and only as far as the index tells of it, so that little
is held here however much there is.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from meshctl.api.errors import AWAY, CommandRefused
from meshctl.api.logindex import INDEX, RECORD_BYTES, STDERR, STREAMS, IndexReader, Line, LogLines
from meshctl.api.status import UNFINISHED, outputs_known, size_of
from meshctl.commands.following import Following
from meshctl.commands.options import Invocation
from meshctl.render.output import ExitCode, Failure, print_warning, sentence, write_raw

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

NO_RECORD = bytes(RECORD_BYTES)
"""What ends an index before its end."""

Lines = Sequence[Line]

Status = Mapping[str, Any]


def learn_outputs(client: "ControlClient", unit_id: str, *, waits: bool) -> dict[str, Any]:
    """Return the status of a unit, once that tells which files of output the unit has.

    Without ``waits``, or of a unit that never started, the status is what it is now.
    """
    status = client.work_status(unit_id)
    if waits and not outputs_known(status):
        for status in client.watch(unit_id):
            if outputs_known(status):
                break
    return status


def require_file(unit_id: str, status: Status, stream: str) -> None:
    """Refuse what a unit does not have.

    Raises:
        Failure: it has no such file of output.
    """
    if size_of(status, stream) is None:
        raise Failure(f"unit {unit_id} {_LACKS[stream]}", ExitCode.REFUSED)


_LACKS = {
    STDERR: "has no stderr of its own: its work type does not say `stderr: separate`, so its "
    "stdout has both",
    INDEX: "records no times: its work type says neither `timestamps: true` nor `stderr: "
    "separate`. Its output is shown without --timestamps and --since",
}


class UnitLines:
    """One reading of one unit's lines.

    Args:
        client: Whom to ask.
        unit_id: The unit.
        status: Its status, which tells what files there are, and how much of them.
        follow: Whether to go on until the unit has ended, or to stop after what there is now.
        streams: Whose lines are wanted.

    Attributes:
        status: The last one that is known: the unit's final one after a reading to its end.
    """

    def __init__(
        self,
        client: "ControlClient",
        unit_id: str,
        status: Status,
        *,
        follow: bool,
        streams: Sequence[str] = STREAMS,
    ) -> None:
        self.status = dict(status)
        self._unit_id = unit_id
        self._client = client
        self._wanted = streams
        self._has_index = size_of(status, INDEX) is not None
        self._goes_on = follow and status.get("State") in UNFINISHED
        self._to_end = follow or status.get("State") not in UNFINISHED
        self._told_of = dict.fromkeys(STREAMS, 0)
        """The bytes of each stream that the index has told of."""
        self._fed = dict.fromkeys(STREAMS, 0)
        self._kept: dict[str, bytes] = {}
        """What was read of a stream beyond what the index has told of."""
        self._lines = LogLines(has_index=self._has_index)
        self._records = IndexReader()
        self._readings: dict[str, Following] = {}
        self._pieces: dict[str, Generator[bytes]] = {}
        self._is_told_away = False

    def batches(self) -> Generator[Lines | None]:
        """Yield lines, some at a time, and once None: then all has come that there was at first.

        Raises: as :class:`Following`.
        """
        try:
            yield from self._batches()
        finally:
            for pieces in self._pieces.values():
                pieces.close()

    def _batches(self) -> Iterator[Lines | None]:
        present = {name: size_of(self.status, name) or 0 for name in (*STREAMS, INDEX)}
        self._open(present)
        # The end of a line may be yet to come, but not of a unit that has ended.
        is_caught_up = not self._goes_on
        for lines in self._timed():
            yield lines
            if not is_caught_up and self._is_past(INDEX, present) and self._lines.awaits == INDEX:
                is_caught_up = True
                yield None
        for name, pieces in self._rest():
            yield self._lines.end_index()
            for piece in pieces:
                yield self._lines.feed(name, piece)
                if not (is_caught_up or self._has_index) and self._is_past(name, present):
                    is_caught_up = True
                    yield None
        yield self._lines.finish()
        if not (is_caught_up and self._goes_on):
            yield None

    def _rest(self) -> Iterator[tuple[str, Generator[bytes]]]:
        """Yield the files of which the index tells no more, with what there is behind that."""
        for name in self._wanted:
            if self._has_index and not self._to_end:
                # What goes on is about to be told of.
                return
            if name not in self._pieces:
                continue
            size = size_of(self.status, name) or 0
            is_over = self.status.get("State") not in UNFINISHED
            if not (is_over and self._readings[name].position >= size):
                yield name, self._pieces[name]

    def _timed(self) -> Iterator[Lines]:
        """Yield lines for as long as the index tells of them."""
        while (name := self._lines.awaits) is not None:
            piece = self._next(name)
            if not piece:
                # The index ends here, or tells of what is not there.
                return
            yield self._lines.feed(name, self._told(piece) if name == INDEX else piece)

    def _next(self, name: str) -> bytes:
        """Return the next bytes of a file, none at its end.

        Of a unit that goes on, and is not followed, no more than the index tells of: what has no
        time yet is about to get one.
        """
        piece = self._kept.pop(name, b"") or next(self._pieces.get(name, iter(())), b"")
        if self._to_end or name == INDEX:
            return piece
        most = self._told_of[name] - self._fed[name]
        piece, self._kept[name] = piece[:most], piece[most:]
        self._fed[name] += len(piece)
        return piece

    def _told(self, piece: bytes) -> bytes:
        """Return what the index tells of the streams that are wanted: the others are not read."""
        told = b""
        for record in self._records.feed(piece):
            self._told_of[record.stream] = record.end
            told += record.encode() if record.stream in self._wanted else b""
        # What breaks it is passed on: there is no sense in waiting for more.
        return told + NO_RECORD if self._records.is_broken else told

    def _open(self, present: Mapping[str, int]) -> None:
        """Prepare to read each file; nothing is asked for before its first bytes are wanted."""
        ends: dict[str, int | None] = dict.fromkeys((*STREAMS, INDEX))
        if not self._to_end:
            ends |= present
            if self._has_index:
                # Measured later: all that the index tells of has come.
                later = self._client.work_status(self._unit_id)
                ends |= {name: size_of(later, name) or 0 for name in STREAMS}
        for name in (*self._wanted, INDEX):
            if size_of(self.status, name) is None:
                continue
            reading = Following(
                self._client,
                self._unit_id,
                stream=name,
                end=ends[name],
                is_known=True,
                on_break=self._tell_away,
            )
            self._readings[name] = reading
            self._pieces[name] = self._read(reading)

    def _read(self, reading: Following) -> Generator[bytes]:
        yield from reading.pieces()
        if reading.status:
            self.status = reading.status

    def _is_past(self, name: str, present: Mapping[str, int]) -> bool:
        return name in self._readings and self._readings[name].position >= present[name]

    def _tell_away(self, reason: str) -> None:
        # Each file has a session of its own, and all break at once.
        if not self._is_told_away:
            print_warning(f"{broken_off(self._unit_id, reason)} Waiting for the node.")
        self._is_told_away = True


def broken_off(unit_id: str, reason: str) -> str:
    """Return that the output of a unit has broken off, and why."""
    return f"the output of unit {unit_id} broke off: {sentence(reason)}"


@contextmanager
def told_breaks(invocation: Invocation, unit_id: str, *words: str) -> Iterator[None]:
    """Say of whatever ends a reading early what became of it; ``words`` are what to try again.

    Raises:
        Failure: Ctrl-C, or the node stays away, or the unit was released.
    """
    again = invocation.shell_command("work", *words, unit_id)
    try:
        yield
    except AWAY as error:
        text = f"{broken_off(unit_id, str(error))} Again: {again}"
        raise Failure(text, ExitCode.UNREACHABLE) from error
    except CommandRefused as error:
        text = f"the output of unit {unit_id} could not be read to its end: {error}"
        raise Failure(text, ExitCode.REFUSED) from error
    except KeyboardInterrupt as error:
        text = f"interrupted: unit {unit_id} goes on unless it has ended. Again: {again}"
        raise Failure(text, ExitCode.INTERRUPTED) from error


def write_each_to_its_own(lines: Lines) -> None:
    """Write the bytes of lines: those of stdout to ours, those of stderr to ours. Raises OSError.

    Lines of one stream that stand together are written at once.
    """
    gathered: list[bytes] = []
    for number, line in enumerate(lines):
        gathered.append(line.text)
        if number + 1 == len(lines) or lines[number + 1].stream != line.stream:
            write_raw(b"".join(gathered), to_stderr=line.stream == STDERR)
            gathered.clear()
