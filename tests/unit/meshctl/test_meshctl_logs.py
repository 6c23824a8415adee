"""``work logs``, and ``work results`` of both streams: lines in the order in which they came."""

import json
from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interrupting import interrupt
from scripted_node import FAILED, SUCCEEDED

from meshctl.api.errors import CannotReach, SessionLost
from meshctl.api.logindex import INDEX, RECORD_BYTES, STDERR, STDOUT, Record
from meshctl.commands import following
from meshctl.commands.lines import UnitLines
from meshctl.render.output import ExitCode
from meshctl.render.times import stamp

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = (datetime(2026, 11, 26, 8, 0, 0, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
SECOND = 1_000_000

PIECES = [
    (STDOUT, b"out 0\n"),
    (STDERR, b"err 1\n"),
    (STDOUT, b"out "),
    (STDERR, b"err 3\nerr"),
    (STDOUT, b"2\n"),
    (STDERR, b" 5\n"),
    (STDOUT, b"rest"),
]


def files(pieces, times=None):
    """Return the files that these pieces make, one a second."""
    made = {STDOUT: b"", STDERR: b"", INDEX: b""}
    for number, (stream, text) in enumerate(pieces):
        made[stream] += text
        time = START + number * SECOND if times is None else times[number]
        made[INDEX] += Record(time, stream, len(made[stream])).encode()
    return made


def add(node, unit_id, pieces=PIECES, **how):
    made = files(pieces)
    unit = node.add_unit(unit_id, made[STDOUT], **how)
    unit.more = {"StderrSize": made[STDERR], "IndexSize": made[INDEX]}
    return unit


@pytest.fixture
def separate(node):
    add(node, "one")
    return node


def test_lines_of_both_streams_come_in_the_order_of_their_ends(meshctl, separate):
    result = meshctl("work", "logs", "one")
    assert result.exit_code == 0
    assert result.output == "out 0\nerr 1\nerr 3\nout 2\nerr 5\nrest"
    assert result.stdout == "out 0\nout 2\nrest"
    assert result.stderr == "err 1\nerr 3\nerr 5\n"


def test_each_line_may_begin_with_the_time_at_which_it_ended(meshctl, separate):
    lines = meshctl("work", "logs", "one", "-t").output.splitlines()
    times = [START + number * SECOND for number in (0, 1, 3, 4, 5, 6)]
    texts = ["out 0", "err 1", "err 3", "out 2", "err 5", "rest"]
    assert lines == [f"{stamp(at)} {text}" for at, text in zip(times, texts, strict=True)]
    assert lines[0].startswith("2026-11-26T08:00:00.000000Z out 0")


def test_what_no_time_is_known_of_is_shown_with_none(meshctl, node):
    unit = add(node, "one")
    unit.more["IndexSize"] = unit.more["IndexSize"][:-20]
    lines = meshctl("work", "logs", "one", "-t").output.splitlines()
    untimed = f"{'-'.ljust(27)} "
    assert lines[-2:] == [f"{untimed}rest", f"{untimed}err 5"] or lines[-2:] == [
        f"{untimed}err 5",
        f"{untimed}rest",
    ]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--tail", "2"], "err 5\nrest"),
        (["--tail", "0"], ""),
        (["--tail", "99"], "out 0\nerr 1\nerr 3\nout 2\nerr 5\nrest"),
        (["--stderr"], "err 1\nerr 3\nerr 5\n"),
        (["--stderr", "--tail", "1"], "err 5\n"),
        (["--grep", "[13]$"], "err 1\nerr 3\n"),
        (["--grep", "^out", "--tail", "1"], "out 2\n"),
        (["--grep", "nothing"], ""),
        (["--since", "2026-11-26T08:00:04Z"], "out 2\nerr 5\nrest"),
        (["--since", "2026-11-26T09:00:04.5+01:00", "--tail", "9"], "err 5\nrest"),
        (["--since", "2h"], ""),
        (["--since", "1000d"], "out 0\nerr 1\nerr 3\nout 2\nerr 5\nrest"),
    ],
    ids=str,
)
def test_of_all_lines_those_are_shown_that_are_asked_for(meshctl, separate, options, shown):
    midnight = datetime(2026, 11, 27, tzinfo=UTC)
    with mock.patch("meshctl.commands.logs.now", return_value=midnight):
        result = meshctl("work", "logs", "one", *options)
    assert (result.exit_code, result.output) == (0, shown)


def test_errors_alone_go_to_stdout_and_the_other_stream_is_not_read(meshctl, separate):
    assert meshctl("work", "logs", "one", "--stderr").stdout == "err 1\nerr 3\nerr 5\n"
    assert not any(line.startswith("work results") for line in separate.lines)


def test_lines_as_json_say_all_that_is_known_of_each(meshctl, node):
    add(node, "one", [(STDERR, b"\xff\n"), (STDOUT, b"x")])
    lines = meshctl("work", "logs", "one", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"stream": "stderr", "time": "2026-11-26T08:00:00.000000Z", "text": "\ufffd"},
        {"stream": "stdout", "time": "2026-11-26T08:00:01.000000Z", "text": "x"},
    ]


def test_any_bytes_are_shown_as_they_are(meshctl, node):
    data = bytes(range(256))
    add(node, "one", [(STDOUT, data), (STDERR, data), (STDOUT, data)])
    result = meshctl("work", "logs", "one")
    assert result.stdout_bytes == 2 * data
    assert result.stderr_bytes == data


def test_the_end_of_a_unit_is_no_fault_of_its_log(meshctl, node):
    add(node, "one", **FAILED)
    result = meshctl("work", "logs", "one", "-f")
    assert (result.exit_code, result.stderr) == (0, "err 1\nerr 3\nerr 5\n")


# --- units without an index -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], b"1\n2\n\xff\n4"),
        (["-f"], b"1\n2\n\xff\n4"),
        (["--tail", "2"], b"\xff\n4"),
        (["--grep", "[24]"], b"2\n4"),
        (["--grep", "[124]", "--tail", "2", "-f"], b"2\n4"),
    ],
    ids=str,
)
def test_a_unit_without_an_index_shows_its_stdout_as_it_is(meshctl, node, options, shown):
    node.add_unit("one", b"1\n2\n\xff\n4")
    result = meshctl("work", "logs", "one", *options)
    assert (result.exit_code, result.stdout_bytes, result.stderr) == (0, shown, "")


@pytest.mark.parametrize("option", [["-t"], ["--since", "1h"]], ids=str)
def test_times_that_nobody_recorded_are_refused_with_the_reason(meshctl, node, option):
    node.add_unit("one", b"1\n")
    result = meshctl("work", "logs", "one", *option)
    assert (result.exit_code, result.stdout) == (ExitCode.REFUSED, "")
    assert result.stderr == (
        "ERROR: unit one records no times: its work type says neither `timestamps: true` nor"
        " `stderr: separate`. Its output is shown without --timestamps and --since\n"
    )


@pytest.mark.parametrize("command", ["logs", "results"])
def test_a_stderr_that_a_unit_does_not_have_is_refused_with_the_reason(meshctl, node, command):
    node.add_unit("one", b"1\n")
    result = meshctl("work", command, "one", "--stderr")
    assert (result.exit_code, result.stdout) == (ExitCode.REFUSED, "")
    assert "unit one has no stderr of its own" in result.stderr
    assert not any("results" in line for line in node.lines)


@pytest.mark.parametrize("option", [["--grep", "("], ["--since", "soon"], ["--tail", "-1"]])
def test_an_option_that_cannot_be_meant_is_wrong_usage(meshctl, node, option):
    result = meshctl("work", "logs", "one", *option)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert result.stderr.count("\n") == 1
    assert node.sessions == 0


# --- units that go on -----------------------------------------------------------------------------


def test_of_a_unit_that_goes_on_there_is_what_its_index_tells_of(meshctl, node):
    unit = add(node, "one", ended=False)
    unit.stdout += b" of it that no record tells of yet"
    result = meshctl("work", "logs", "one")
    assert result.stdout == "out 0\nout 2\nrest"
    assert result.stderr == "err 1\nerr 3\nerr 5\n"


def test_ctrl_c_ends_the_following_only(node, start_process):
    add(node, "one", ended=False)
    process = start_process("--socket", node.address, "work", "logs", "one", "-f")
    assert node.results_began.wait(60)
    _, stderr = interrupt(process)
    assert b"interrupted: unit one goes on unless it has ended. Again: meshctl" in stderr
    assert process.returncode == ExitCode.INTERRUPTED


def test_a_remote_unit_that_waits_is_followed_once_its_files_are_known(meshctl, node):
    pending = {"State": 0, "StateName": "Pending", "Detail": "waiting for node bar"}
    remote = {"ExtraData": {"RemoteNode": "bar"}}
    unit = node.add_unit("one", ended=False, **pending, **remote)

    def watch(session, line):
        session.send(unit.to_json())
        made = files(PIECES)
        unit.stdout = made[STDOUT]
        unit.more = {"StderrSize": made[STDERR], "IndexSize": made[INDEX]}
        unit.status |= SUCCEEDED
        unit.may_end.set()
        session.send(unit.to_json())
        return False

    node.handlers["work watch"] = watch
    result = meshctl("work", "logs", "one", "-f")
    assert (result.exit_code, result.stderr) == (0, "err 1\nerr 3\nerr 5\n")


# --- results of both ------------------------------------------------------------------------------


def test_results_of_both_write_each_stream_to_its_own_in_order(meshctl, separate):
    result = meshctl("work", "results", "one", "--both")
    assert result.output == "out 0\nerr 1\nerr 3\nout 2\nerr 5\nrest"
    assert (result.exit_code, result.stdout) == (0, "out 0\nout 2\nrest")


def test_results_of_both_end_as_the_unit_did(meshctl, node):
    add(node, "one", **FAILED)
    result = meshctl("work", "results", "one", "--both", "--propagate")
    assert result.exit_code == 7
    assert result.stderr.endswith("err 5\nERROR: unit one failed: exit status 7\n")


def test_results_of_stderr_are_its_bytes_from_any_of_them(meshctl, separate):
    assert meshctl("work", "results", "one", "--stderr").stdout == "err 1\nerr 3\nerr 5\n"
    assert meshctl("work", "results", "one", "--stderr", "--from", "7").stdout == "rr 3\nerr 5\n"
    assert meshctl("work", "results", "one", "--stderr", "--tail", "1").stdout == "err 5\n"
    assert meshctl("work", "results", "one").stdout == "out 0\nout 2\nrest"


@pytest.mark.parametrize("option", [["--stderr"], ["--from", "1"], ["--tail", "1"]], ids=str)
def test_both_is_combined_with_no_part(meshctl, node, option):
    result = meshctl("work", "results", "one", "--both", *option)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "Cannot combine --both with" in result.stderr
    assert node.sessions == 0


def test_a_stop_shows_both_outputs(meshctl, separate):
    result = meshctl("work", "stop", "one")
    assert result.output.startswith("out 0\nerr 1\nerr 3\nout 2\nerr 5\nrestunit one has succeeded")


def test_a_unit_that_is_followed_shows_its_stderr_before_it_is_released(meshctl, separate):
    adopted = {"result": "Adopted", "unitid": "one"}
    adopt = '{"command": "work", "subcommand": "adopt"'
    separate.handlers[adopt] = lambda session, line: session.send(adopted) or True
    result = meshctl("work", "adopt", "--node", "bar", "farUnit1", "--follow", "--rm")
    assert result.stdout == "out 0\nout 2\nrest"
    assert result.stderr == "Unit ID: one\nerr 1\nerr 3\nerr 5\n(one, released)\n"


# --- sessions that break anywhere -----------------------------------------------------------------

ENDS = (SessionLost("the session broke"), CannotReach("/x", "no such file"))


class Printing:
    """Stands for the client of a unit that prints a piece whenever nothing more is to be read.

    ``breaks`` says after how many pieces of data a session breaks off, one a session.
    """

    def __init__(self, pieces, present, breaks, size, *, lags):
        self.pieces, self.told, self.breaks, self.size = pieces, present, list(breaks), size
        self.lags = lags

    def file(self, name):
        made = files(self.pieces[: self.told])
        if name == INDEX and self.lags and not self.has_ended:
            return made[INDEX][: -len(made[INDEX]) // 2]
        return made[name]

    @property
    def has_ended(self):
        return self.told > len(self.pieces)

    def work_status(self, unit_id):
        sizes = {
            "StdoutSize": len(self.file(STDOUT)),
            "StderrSize": len(self.file(STDERR)),
            "IndexSize": len(self.file(INDEX)),
        }
        return {**(SUCCEEDED if self.has_ended else {"State": 1}), **sizes}

    def results(self, unit_id, startpos, stream):
        left = self.breaks.pop(0) if self.breaks else None
        if left == 0:
            raise ENDS[len(self.breaks) % 2]
        return _Session(self, stream, startpos, left)


class _Session:
    def __init__(self, unit, stream, position, left):
        self.unit, self.stream, self.position, self.left = unit, stream, position, left

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def __iter__(self):
        while True:
            data = self.unit.file(self.stream)[self.position :][: self.unit.size]
            if data:
                if self.left == 0:
                    raise SessionLost("the session broke")
                self.left = None if self.left is None else self.left - 1
                self.position += len(data)
                yield data
            elif self.unit.has_ended:
                return
            else:
                self.unit.told += 1


TEXTS = st.text("ab\n", min_size=1, max_size=9).map(str.encode)
RUNS = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), TEXTS), max_size=10)


def lines_of(pieces):
    """Return the lines of both streams in the order of their ends, and what has none at last."""
    lines, open_lines, last = [], {STDOUT: b"", STDERR: b""}, STDOUT
    for stream, text in pieces:
        last = stream
        for part in text.splitlines(keepends=True):
            open_lines[stream] += part
            if part.endswith(b"\n"):
                lines.append((stream, open_lines[stream]))
                open_lines[stream] = b""
    rest = sorted(open_lines, key=lambda stream: stream == last)
    return lines + [(stream, open_lines[stream]) for stream in rest if open_lines[stream]]


@given(
    pieces=RUNS,
    present=st.integers(0, 11),
    breaks=st.lists(st.integers(0, 3), max_size=8),
    size=st.integers(1, 40),
    lags=st.booleans(),
)
def test_a_follower_gets_each_line_once_and_in_order_over_sessions_that_break(
    pieces, present, breaks, size, lags
):
    unit = Printing(pieces, present, breaks, size, lags=lags)
    with (
        mock.patch.object(following.time, "sleep"),
        mock.patch("meshctl.commands.lines.print_warning"),
    ):
        reading = UnitLines(unit, "one", unit.work_status("one"), follow=True)
        batches = list(reading.batches())
    assert batches.count(None) == 1
    told = [(line.stream, line.text) for batch in batches for line in batch or ()]
    assert told == lines_of(pieces)
    times = [line.time for batch in batches for line in batch or ()]
    assert None not in times
    assert reading.status["State"] == 2


@given(pieces=RUNS, present=st.integers(0, 10), size=st.integers(1, 40), lags=st.booleans())
def test_without_following_there_is_what_had_come_and_nothing_is_waited_for(
    pieces, present, size, lags
):
    present = min(present, len(pieces))
    unit = Printing(pieces, present, [], size, lags=lags)
    reading = UnitLines(unit, "one", unit.work_status("one"), follow=False)
    told = [(line.stream, line.text) for batch in reading.batches() for line in batch or ()]
    assert unit.told == present
    assert told == lines_of(pieces[: len(unit.file(INDEX)) // RECORD_BYTES])


@given(pieces=RUNS, wanted=st.sampled_from([STDOUT, STDERR]))
def test_of_one_stream_the_lines_and_times_are_those_among_both(pieces, wanted):
    def read(streams):
        unit = Printing(pieces, 99, [], 7, lags=False)
        reading = UnitLines(unit, "one", unit.work_status("one"), follow=True, streams=streams)
        return [line for batch in reading.batches() for line in batch or ()]

    both = [line for line in read((STDOUT, STDERR)) if line.stream == wanted]
    assert read((wanted,)) == both


@given(index=st.binary(max_size=100), follow=st.booleans())
def test_whatever_an_index_says_all_bytes_are_shown(index, follow):
    unit = Printing([(STDOUT, b"out\nput"), (STDERR, b"err\nor")], 99, [], 7, lags=False)
    made = files(unit.pieces) | {INDEX: index}
    with mock.patch.object(unit, "file", made.get):
        reading = UnitLines(unit, "one", unit.work_status("one"), follow=follow)
        lines = [line for batch in reading.batches() for line in batch or ()]
    for stream in (STDOUT, STDERR):
        assert b"".join(line.text for line in lines if line.stream == stream) == made[stream]
