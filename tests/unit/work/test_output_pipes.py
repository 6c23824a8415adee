"""What a supervisor does with the pipes of a command: each byte, each time, and a full disk."""

import errno
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.api import logindex
from meshctl.api.logindex import INDEX, STDERR, STDOUT, STREAMS, IndexReader, LogLines
from meshnode.work.local.launcher import output
from meshnode.work.local.launcher.output import Output, make_output
from meshnode.work.local.launcher.wire import OutputPlan

PIECES = st.lists(
    st.tuples(st.sampled_from(STREAMS), st.binary(min_size=1, max_size=40)), max_size=10
)
PLANS = st.builds(
    OutputPlan,
    st.none() | st.integers(0, 200),
    separate=st.booleans(),
    indexed=st.booleans(),
)


@pytest.fixture(autouse=True)
def deaf() -> Iterator[None]:
    """Ignore the signal that tells of input: this process has other threads that would get it."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGIO, before)


class Printing:
    """A command's ends of its output, and the supervisor's."""

    def __init__(self, directory: str, plan: OutputPlan | None) -> None:
        self.directory = Path(directory)
        self.output = make_output(directory, plan)
        self.ends = dict(zip(STREAMS, self.output.open(), strict=True))

    def print(self, stream: str, text: bytes) -> None:
        os.write(self.ends[stream], text)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.directory.iterdir()}


@contextmanager
def printing(plan: OutputPlan | None) -> Iterator[Printing]:
    with tempfile.TemporaryDirectory() as directory:
        command = Printing(directory, plan)
        try:
            yield command
        finally:
            command.output.close()


def taken(pieces: list[tuple[str, bytes]], plan: OutputPlan) -> tuple[dict[str, bytes], str | None]:
    """Return the files that these pieces make, each taken before the next, and the overflow."""
    with printing(plan) as command:
        for stream, text in pieces:
            command.print(stream, text)
            command.output.finish()
        return command.files(), command.output.overflow


@given(PIECES, PLANS)
def test_each_byte_that_is_allowed_is_in_its_file_and_none_that_is_not(
    pieces: list[tuple[str, bytes]], plan: OutputPlan
) -> None:
    expected = {STDOUT: b""} | ({STDERR: b""} if plan.separate else {})
    left = 2**62 if plan.most is None else plan.most
    for stream, text in pieces:
        expected[stream if plan.separate else STDOUT] += text[:left]
        left -= len(text[:left])
    files, overflow = taken(pieces, plan)
    index = files.pop(INDEX, None)
    assert files == expected
    assert (index is not None) == plan.indexed
    too_much = plan.most is not None and sum(len(text) for _, text in pieces) > plan.most
    assert overflow == (f"stopped: it printed more than {plan.most} bytes" if too_much else None)


@given(PIECES, st.booleans())
def test_the_client_reads_of_an_index_what_the_supervisor_has_written(
    pieces: list[tuple[str, bytes]], separate: bool
) -> None:
    clock = iter(range(1, 100))
    plan = OutputPlan(None, separate=separate, indexed=True)
    with patch.object(output.time, "time_ns", lambda: next(clock) * 1000):
        files, _ = taken(pieces, plan)
    records = IndexReader().feed(files[INDEX])
    ends = {STDOUT: 0, STDERR: 0}
    for number, ((stream, text), record) in enumerate(zip(pieces, records, strict=True), 1):
        stream = stream if separate else STDOUT
        ends[stream] += len(text)
        assert record == logindex.Record(number, stream, ends[stream])
    log = LogLines()
    lines = [line for name in files for line in log.feed(name, files[name])] + log.finish()
    assert all(line.time is not None for line in lines)


def test_an_ordinary_command_prints_to_its_file_itself(tmp_path: Path) -> None:
    ordinary = make_output(str(tmp_path), None)
    assert type(ordinary) is Output
    stdout, stderr = ordinary.open()
    assert stdout == stderr == ordinary.files[STDOUT]
    assert os.readlink(f"/proc/self/fd/{stdout}") == str(tmp_path / STDOUT)
    assert list(ordinary.files) == [STDOUT]
    ordinary.close()


def test_a_piece_is_in_its_file_before_its_record_is_in_the_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = []
    write = os.write

    def watched(fd: int, data: bytes) -> int:
        written.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        return write(fd, data)

    with printing(OutputPlan(separate=True, indexed=True)) as command:
        command.print(STDOUT, b"a")
        command.print(STDERR, b"b")
        monkeypatch.setattr(output.os, "write", watched)
        command.output.finish()
    assert written == [STDOUT, INDEX, STDERR, INDEX]


@given(PIECES.filter(bool), st.integers(0, 30), st.integers(0, 20), st.data())
def test_whichever_write_finds_the_disk_full_the_index_is_of_what_is_there_and_the_reason_is_told(
    pieces: list[tuple[str, bytes]], refused: int, part: int, data: st.DataObject
) -> None:
    """Of that write the disk may take a part; later ones may find room again."""
    write = os.write
    writes = 0

    def full(fd: int, text: bytes) -> int:
        nonlocal writes
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(tempfile.gettempdir()):
            return write(fd, text)
        writes += 1
        if writes == refused + 1 and part < len(text):
            return write(fd, bytes(text[:part]))
        if writes > refused:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, text)

    with patch.object(output.os, "write", full):
        files, overflow = taken(pieces, OutputPlan(separate=True, indexed=True))
    printed = {name: b"".join(text for to, text in pieces if to == name) for name in STREAMS}
    ends = {STDOUT: 0, STDERR: 0}
    for record in IndexReader().feed(files[INDEX]):
        ends[record.stream] = record.end
    for name in STREAMS:
        assert printed[name].startswith(files[name])
        assert ends[name] <= len(files[name])
    if writes > refused:
        assert overflow == "stopped: no space left on the disk of its output"
    else:
        assert (overflow, {name: files[name] for name in STREAMS}) == (None, printed)


def test_what_fails_otherwise_is_told_by_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int, data: bytes) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with printing(OutputPlan(indexed=True)) as command:
        command.print(STDOUT, b"a")
        monkeypatch.setattr(output.os, "write", broken)
        command.output.finish()
        assert command.output.overflow == "stopped: [Errno 5] Input/output error"


class Clock:
    """Signals and time, as a supervisor's waits have them; commands print at moments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.events: list[tuple[float, Callable[[], None]]] = []
        self.waits = 0
        self.tells = False
        monkeypatch.setattr(output.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(output.time, "time_ns", lambda: int(self.now * 1e9))
        monkeypatch.setattr(output.signal, "sigtimedwait", self.wait)

    def at(self, moment: float, act: Callable[[], None]) -> None:
        self.events.append((moment, act))

    def wait(self, signals: tuple[int, ...], seconds: float) -> Any:
        """Go on to the next thing that is printed, or to the end of the wait."""
        self.waits += 1
        end = self.now + seconds
        hears = signal.SIGIO in signals
        while not (hears and self.tells) and self.events and self.events[0][0] <= end:
            self.now, act = self.events.pop(0)
            act()
            self.tells = True
        if hears and self.tells:
            self.tells = False
            return signal.struct_siginfo((signal.SIGIO, 0, 0, 0, 0, 0, 0))
        self.now = end
        return None


@pytest.mark.parametrize(("lines", "seconds"), [(100, 10.0), (1000, 1.0), (20_000, 1.0)])
def test_an_index_has_a_record_for_each_piece_and_no_more_than_a_thousand_or_so_a_second(
    monkeypatch: pytest.MonkeyPatch, lines: int, seconds: float
) -> None:
    clock = Clock(monkeypatch)
    with printing(OutputPlan(separate=True, indexed=True)) as command:
        for number in range(lines):
            moment = 100 + number * seconds / lines
            stream = STREAMS[number % 2]
            clock.at(moment, lambda stream=stream: command.print(stream, b"line\n"))  # type: ignore[misc]
        while clock.events or clock.tells:
            command.output.wait_for((signal.SIGCHLD,), 10.0)
        command.output.finish()
        files = command.files()
    records = IndexReader().feed(files[INDEX])
    assert sum(len(files[name]) for name in STREAMS) == 5 * lines
    assert len(records) <= 2 * seconds / output.GATHER_SECONDS + output.AT_ONCE
    if lines / seconds <= 1000:
        # Each line has its own record, and the moment that it was printed at.
        assert [record.stream for record in records] == [STREAMS[n % 2] for n in range(lines)]
        due = [100 + number * seconds / lines for number in range(lines)]
        assert [record.time / 1e6 for record in records] == pytest.approx(due, abs=0.002)
    # Nothing is looked for while nothing is printed.
    before = clock.waits
    assert command.output.wait_for((signal.SIGCHLD,), 1000.0) is None
    assert clock.waits == before + 1


def test_a_command_that_prints_in_bursts_is_heard_at_once_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Results and errors of a moment keep their order, although other moments were busy."""
    clock = Clock(monkeypatch)
    order = []
    with printing(OutputPlan(separate=True, indexed=True)) as command:
        for burst in range(3):
            for number in range(500):
                stream = STREAMS[number % 2] if number < 20 else STDOUT
                moment = 100 + burst + number / 50_000
                clock.at(moment, lambda stream=stream: command.print(stream, b"x\n"))  # type: ignore[misc]
            order.append(burst)
        while clock.events or clock.tells:
            command.output.wait_for((signal.SIGCHLD,), 10.0)
        files = command.files()
    records = IndexReader().feed(files[INDEX])
    for burst in range(3):
        of_burst = [one for one in records if one.time >= (100 + burst) * 1_000_000]
        assert [one.stream for one in of_burst[:20]] == list(STREAMS) * 10
