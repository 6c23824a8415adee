"""Parts of a unit's results, and the end of a submission that is waited for."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interrupting import interrupt
from scripted_node import CANCELED, FAILED, RUNNING

from meshctl.commands import following, results
from meshctl.commands.results import start_of_last_lines
from meshctl.render.output import ExitCode


@pytest.mark.parametrize("option", ["--from", "--startpos"])
def test_results_begin_at_the_byte_that_is_asked_for(meshctl, node, option):
    node.add_unit("UnitOne1", b"12345")
    assert meshctl("work", "results", "UnitOne1", option, "3").stdout == "45"
    assert node.lines[0] == "work results UnitOne1 3"


@pytest.mark.parametrize(
    ("stdout", "lines", "shown"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\n\n\n", 2, b"\n\n"),
        (b"a\nb\n", 9, b"a\nb\n"),
        (b"a\nb\n", 2, b"a\nb\n"),
        (b"a\nb\n", 0, b""),
        (b"", 3, b""),
        (b"no newline", 1, b"no newline"),
    ],
)
def test_tail_shows_the_last_lines_as_tail_does(meshctl, node, stdout, lines, shown):
    node.add_unit("one", stdout)
    result = meshctl("work", "results", "one", "--tail", lines)
    assert (result.exit_code, result.stdout_bytes) == (0, shown)


class Stdout:
    """Stands for a client whose unit has printed ``data``."""

    def __init__(self, data):
        self.data = data
        self.read = 0

    def results(self, unit_id, startpos, stream):
        return _Pieces(self, startpos)


class _Pieces:
    def __init__(self, stdout, position):
        self.stdout, self.position = stdout, position

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def __iter__(self):
        for start in range(self.position, len(self.stdout.data), 3):
            self.stdout.read += 3
            yield self.stdout.data[start : start + 3]


@given(
    lines=st.lists(st.text("ab", max_size=9)),
    ends=st.booleans(),
    later=st.binary(max_size=20),
    count=st.integers(1, 12),
    block=st.integers(1, 30),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_start_of_the_last_lines_is_found_in_blocks_of_any_size(
    monkeypatch, lines, ends, later, count, block
):
    monkeypatch.setattr(results, "BLOCK_BYTES", block)
    monkeypatch.setattr(results, "LARGEST_BLOCK_BYTES", 2 * block)
    data = ("\n".join(lines) + "\n" * ends).encode()
    start = start_of_last_lines(Stdout(data + later), "one", len(data), count)
    assert data[start:] == b"".join(data.splitlines(keepends=True)[-count:])


def test_a_tail_does_not_read_what_it_need_not():
    stdout = Stdout(b"x" * 10_000_000 + b"\nlast\n")
    assert start_of_last_lines(stdout, "one", len(stdout.data), 1) == 10_000_001
    assert stdout.read <= results.BLOCK_BYTES + 3


@pytest.mark.parametrize("breaks", [1, 3, 5])
def test_a_tail_outlives_sessions_that_break_while_its_lines_are_looked_for(
    meshctl, node, monkeypatch, breaks
):
    monkeypatch.setattr(results, "BLOCK_BYTES", 4)
    monkeypatch.setattr(following.time, "sleep", lambda seconds: None)
    node.add_unit("one", b"1\n22\n333\n4444\n")
    left = [None] * breaks

    def broken(session, line):
        if left:
            left.pop()
            return False
        return node.send_results(session, line)

    node.handlers["work results"] = broken
    result = meshctl("work", "results", "one", "--tail", "3")
    assert (result.exit_code, result.stdout) == (0, "22\n333\n4444\n")
    assert "Waiting for the node." in result.stderr
    assert not left


def test_a_tail_goes_on_until_the_unit_has_ended(node, start_process):
    node.add_unit("one", b"1\n2\n3\n", ended=False)
    process = start_process("--socket", node.address, "work", "results", "one", "--tail", "1")
    assert os.read(process.stdout.fileno(), 100) == b"3\n"
    node.change("one", FAILED)
    assert process.communicate() == (b"", b"ERROR: unit one failed: exit status 7\n")
    assert process.returncode == ExitCode.FAILURE


def test_without_following_there_is_what_has_been_printed(meshctl, node):
    node.add_unit("one", b"1\n2\n3\n", ended=False)
    result = meshctl("work", "results", "one", "--no-follow", "--from", 2)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "2\n3\n", "")
    assert meshctl("work", "results", "one", "--no-follow", "--tail", 1).stdout == "3\n"
    assert meshctl("work", "results", "one", "--no-follow", "--from", 99).stdout == ""
    result = meshctl("work", "results", "one", "--no-follow", "--json")
    assert json.loads(result.stderr)["StateName"] == "Running"


def test_without_following_a_unit_that_has_ended_ends_meshctl_as_ever(meshctl, node):
    node.add_unit("one", b"1\n", **CANCELED)
    result = meshctl("work", "results", "one", "--no-follow")
    assert (result.exit_code, result.stdout) == (ExitCode.UNIT_CANCELED, "1\n")


def test_present_results_that_break_off_say_how_to_go_on(meshctl, node, impatient):
    def cut(session, line):
        session.send(b"Streaming results for work unit one\n123")
        return False

    node.add_unit("one", b"12345", ended=False)
    node.handlers["work results"] = cut
    result = meshctl("work", "results", "one", "--no-follow")
    assert (result.exit_code, result.stdout) == (ExitCode.UNREACHABLE, "123")
    assert "broke off after byte 3: there are 5 bytes" in result.stderr


def test_two_places_to_begin_are_refused(meshctl, node):
    result = meshctl("work", "results", "one", "--from", 1, "--tail", 1)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "Cannot combine" in result.stderr
    assert node.sessions == 0


# --- submit --wait ------------------------------------------------------------------------------


def test_a_submission_can_wait_for_the_units_end(meshctl, node):
    result = meshctl("work", "submit", "cat", "-n", "--wait")
    assert result.stdout == "Result: Job Started\nUnit ID: Unit0001\n(Unit0001, Succeeded)\n"
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (FAILED, 1, "ERROR: unit Unit0001 failed: exit status 7\n"),
        (CANCELED, 6, "ERROR: unit Unit0001 was canceled\n"),
    ],
)
def test_a_unit_that_ends_badly_ends_the_waiting_so(meshctl, node, status, code, text):
    node.unit_status = status
    result = meshctl("work", "submit", "cat", "-n", "--wait")
    assert (result.exit_code, result.stderr) == (code, text)


def test_waiting_with_json_prints_one_document(meshctl, node):
    result = meshctl("work", "submit", "cat", "-n", "--wait", "--json", "--rm")
    reply = json.loads(result.stdout)
    assert (reply["unitid"], reply["status"]["StateName"]) == ("Unit0001", "Succeeded")
    assert node.units == {}


def test_waiting_and_rm_release_the_unit_at_its_end_even_if_it_failed(meshctl, node):
    node.unit_status = FAILED
    result = meshctl("work", "submit", "cat", "-n", "--wait", "--rm")
    assert result.exit_code == ExitCode.FAILURE
    assert result.stdout.endswith("(Unit0001, Failed)\n(Unit0001, released)\n")
    assert node.units == {}


def test_ctrl_c_amid_the_waiting_releases_nothing_and_names_the_unit(node, start_process):
    node.unit_status = RUNNING
    process = start_process(
        "--socket", node.address, "work", "submit", "cat", "-n", "--wait", "--rm"
    )
    assert node.watch_began.wait(60)
    _, stderr = interrupt(process)
    assert b"interrupted: unit Unit0001 goes on. Wait again: meshctl" in stderr
    assert process.returncode == ExitCode.INTERRUPTED
    assert list(node.units) == ["Unit0001"]


def test_following_waits_anyway(meshctl):
    result = meshctl("work", "submit", "cat", "-l", "hi", "--follow", "--wait")
    assert (result.exit_code, result.stdout) == (0, "hi\n")
    assert result.stderr == "Unit ID: Unit0001\n"
