"""The line on a terminal that shows how far a large transfer has come."""

import io
import os
import pty
import re

import pytest
from scripted_node import RUNNING

from meshctl import ControlClient
from meshctl.render import output
from meshctl.render.output import LARGE_BYTES, Progress

MIB = 1024 * 1024


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def terminal():
    return io.StringIO()


def frames(terminal):
    return [frame.rstrip() for frame in terminal.getvalue().split("\r") if frame.strip()]


def test_it_shows_part_sizes_and_speed_and_is_gone_at_the_end(terminal, clock):
    with Progress("Sending", terminal, clock=clock) as shown:
        clock.now += 2
        shown.update(6 * MIB, 8 * MIB)
    line = "Sending  [##################......]   75%  6.0 MiB of 8.0 MiB  3.0 MiB/s"
    assert terminal.getvalue() == f"\r{line}\r{' ' * len(line)}\r"


def test_what_is_short_small_or_too_soon_is_not_drawn(terminal, clock):
    with Progress("Sending", terminal, clock=clock) as shown:
        shown.update(LARGE_BYTES, 2 * LARGE_BYTES)
        clock.now += 60
        shown.update(LARGE_BYTES - 1)
    assert terminal.getvalue() == ""


def test_it_is_not_drawn_more_often_than_eyes_can_follow(terminal, clock):
    with Progress("Sending", terminal, clock=clock) as shown:
        clock.now += 1
        for number in range(1000):
            clock.now += 0.001
            shown.update(MIB + number, None)
    assert 1 < len(frames(terminal)) <= 11


def test_a_shorter_line_leaves_nothing_of_a_longer_one(terminal, clock):
    with Progress("Receiving", terminal, clock=clock) as shown:
        clock.now += 1
        shown.update(1023 * MIB, None)
        clock.now += 1
        shown.update(1024 * MIB, None)
        long, short = terminal.getvalue().split("\r")[1:3]
    assert len(short) >= len(long) > len(short.rstrip())


def test_bytes_that_were_there_before_do_not_count_for_the_speed(terminal, clock):
    with Progress("Receiving", terminal, start=90 * MIB, clock=clock) as shown:
        clock.now += 1
        shown.update(95 * MIB, 100 * MIB)
    assert "95%" in frames(terminal)[0]
    assert frames(terminal)[0].endswith("  5.0 MiB/s")


def test_a_terminal_that_has_gone_away_ends_nothing(clock):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")

    with Progress("Sending", Gone(), clock=clock) as shown:
        clock.now += 1
        shown.update(MIB)


def test_without_a_terminal_nothing_is_drawn(clock):
    with Progress("Sending", None, clock=clock) as shown:
        clock.now += 1
        shown.update(MIB)
    assert not shown.is_shown


def test_a_submission_tells_how_much_is_sent(node, tmp_path):
    path = tmp_path / "payload"
    path.write_bytes(b"x" * 700_000)
    told = []
    with ControlClient(node.address) as client:
        with path.open("rb") as file:
            client.submit("cat", file, on_sent=lambda *sizes: told.append(sizes))
        assert told[-1] == (700_000, 700_000)
        assert [sent for sent, _ in told] == sorted(sent for sent, _ in told)
        told.clear()
        client.submit("cat", b"12345", on_sent=lambda *sizes: told.append(sizes))
        assert told == [(5, 5)]


@pytest.fixture
def at_once(monkeypatch):
    """Draw each step, large or not: a test must not wait for time to pass."""
    monkeypatch.setattr(output, "SHOW_AFTER", 0.0)
    monkeypatch.setattr(output, "REDRAW_INTERVAL", 0.0)
    monkeypatch.setattr(output, "LARGE_BYTES", 0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def seen(at_once, monkeypatch):
    """What meshctl draws where stderr is a terminal."""
    drawn = Terminal()

    def on_stderr(label, *, wanted=True, start=0):
        return Progress(label, drawn if wanted else None, start=start)

    for module in ("meshctl.commands.results", "meshctl.commands.submit"):
        monkeypatch.setattr(f"{module}.on_stderr", on_stderr)
    return drawn


def test_submit_and_results_show_how_far_they_are(meshctl, node, tmp_path, seen):
    (tmp_path / "payload").write_bytes(bytes(3 * MIB))
    result = meshctl("work", "submit", "cat", "-p", tmp_path / "payload", "--follow")
    assert result.stdout_bytes == bytes(3 * MIB)
    assert any(f.startswith("Sending") and "100%  3.0 MiB of 3.0 MiB" in f for f in frames(seen))
    assert any(f.startswith("Receiving") and "100%  3.0 MiB of 3.0 MiB" in f for f in frames(seen))
    assert seen.getvalue().endswith(" \r")


def test_of_a_unit_that_goes_on_only_what_has_come_is_shown(meshctl, node, seen):
    node.handlers["work status"] = lambda s, line: (
        (node.handlers.pop("work status") and s.send(RUNNING)) or True
    )
    node.add_unit("one", bytes(MIB))
    assert meshctl("work", "results", "one").exit_code == 0
    assert re.fullmatch(r"Receiving  1.0 MiB  \S+ \S+/s", frames(seen)[-1])


def test_in_a_pipe_nothing_is_drawn(meshctl, node, at_once):
    node.add_unit("UnitOne1", bytes(MIB))
    assert meshctl("work", "results", "UnitOne1").stderr == ""
    assert node.lines == ["work results UnitOne1 0", "work status UnitOne1"]


def test_a_transfer_that_takes_no_time_leaves_a_terminal_alone(node, start_process):
    node.add_unit("one", b"12345")
    ours, theirs = pty.openpty()
    process = start_process("--socket", node.address, "work", "results", "one", stderr=theirs)
    os.close(theirs)
    assert process.communicate()[0] == b"12345"
    with pytest.raises(OSError, match="Input/output error"):
        os.read(ours, 100)
    os.close(ours)
