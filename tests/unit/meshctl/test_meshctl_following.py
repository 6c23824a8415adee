"""Results go on over sessions that break, and a unit that is followed has a name from the start."""

import json
import os
import subprocess
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_node import RUNNING, SUCCEEDED, ScriptedNode, unix_listener

from meshctl.api.errors import CannotReach, CommandRefused, ProtocolMismatch, SessionLost
from meshctl.commands import following
from meshctl.commands.following import Following
from meshctl.render.output import ExitCode

ENDS = (SessionLost("broke"), ProtocolMismatch("closing"), CannotReach("sock", "gone"))


class Sessions:
    """Stands for a client whose sessions end after so many bytes, or do not begin.

    ``script`` has a session an item: how many bytes it brings (None: it does not begin), and the
    error that it ends with (None: it ends as one that is done does).
    """

    def __init__(self, data, script):
        self.data = data
        self.script = list(script)

    def results(self, unit_id, startpos, stream):
        count, error = self.script.pop(0) if self.script else (len(self.data), None)
        if count is None:
            raise error or SessionLost("not today")
        return _Session(self.data[startpos : startpos + count], error)

    def work_status(self, unit_id):
        return {"State": 1 if self.script else 2, "StdoutSize": len(self.data)}


class _Session:
    def __init__(self, data, error):
        self.data, self.error = data, error

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def __iter__(self):
        for start in range(0, len(self.data), 3):
            yield self.data[start : start + 3]
        if self.error:
            raise self.error


sessions = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 12)), st.sampled_from([None, *ENDS])),
    max_size=8,
)


@given(st.binary(max_size=40), sessions, st.integers(0, 10))
def test_each_byte_is_delivered_once_however_sessions_end(data, script, start):
    breaks = []
    reading = Following(Sessions(data, script), "one", start, is_known=True, on_break=breaks.append)
    with patch.object(following.time, "sleep"):
        assert b"".join(reading.pieces()) == data[start:]
    assert reading.status["State"] == 2
    assert len(breaks) <= len(script)


@given(st.binary(max_size=40), sessions, st.integers(0, 10), st.integers(0, 40))
def test_no_byte_after_the_last_one_wanted_is_delivered(data, script, start, end):
    end = min(end, len(data))
    client = Sessions(data, script)
    reading = Following(client, "one", start, end=end, is_known=True, on_break=lambda reason: None)
    with patch.object(following.time, "sleep"):
        assert b"".join(reading.pieces()) == data[start:end]


@given(sessions, st.integers(1, 5))
def test_a_break_is_told_once_until_bytes_come_again(script, silent):
    breaks = []
    client = Sessions(b"x" * 9, [(None, None)] * silent)
    reading = Following(client, "one", is_known=True, on_break=breaks.append)
    with patch.object(following.time, "sleep"):
        list(reading.pieces())
    assert breaks == ["not today"]


@pytest.mark.parametrize("error", ENDS, ids=lambda e: type(e).__name__)
def test_a_node_that_was_never_there_is_not_waited_for(error):
    reading = Following(Sessions(b"", [(None, error)]), "one", on_break=pytest.fail)
    with pytest.raises(type(error)):
        list(reading.pieces())


def test_a_node_that_stays_away_is_given_up(monkeypatch):
    moments = iter([0.0, 29.0, 30.0])
    monkeypatch.setattr(following.time, "monotonic", lambda: next(moments))
    monkeypatch.setattr(following.time, "sleep", lambda seconds: None)
    script = [(2, ENDS[0]), *[(None, ENDS[2])] * 9]
    reading = Following(Sessions(b"1234", script), "one", on_break=lambda reason: None)
    received = []
    with pytest.raises(CannotReach):
        received.extend(reading.pieces())
    assert reading.position == 2


@given(st.binary(max_size=9), st.integers(1, 1 << 60))
def test_a_node_that_says_it_has_more_than_it_sends_is_not_asked_for_ever(data, missing):
    client = Sessions(data, [])
    status = {"State": 2, "StateName": "Succeeded", "StdoutSize": len(data) + missing}
    reading = Following(client, "one", is_known=True, on_break=lambda reason: None)
    received = []
    with (
        patch.object(client, "work_status", return_value=status) as asked,
        patch.object(following.time, "sleep"),
        pytest.raises(SessionLost, match=f"the unit has ended with {len(data) + missing} bytes,"),
    ):
        received.extend(reading.pieces())
    assert b"".join(received) == data
    assert asked.call_count <= 2 + following.SHORT_TRIES


def test_a_unit_that_is_gone_when_the_node_is_back_is_refused():
    script = [(2, ENDS[0]), (None, CommandRefused("unknown work unit one"))]
    reading = Following(Sessions(b"1234", script), "one", on_break=lambda reason: None)
    with patch.object(following.time, "sleep"), pytest.raises(CommandRefused):
        list(reading.pieces())


# --- the commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["results", "submit"])
def test_results_go_on_where_they_were_when_the_node_is_back(
    meshctl, node, tmp_path, monkeypatch, command
):
    again = []

    def die(session, line):
        unit_id = line.split()[2]
        session.send(f"Streaming results for work unit {unit_id}\n12345".encode())
        os.unlink(node.address)
        return False

    def come_back(seconds):
        if not again:
            again.append(ScriptedNode(unix_listener(tmp_path / "foo.sock"), node.address))
            for unit_id in ("one", "Unit0001"):
                again[0].add_unit(unit_id, b"12345678\n")

    monkeypatch.setattr(following.time, "sleep", come_back)
    node.handlers["work results"] = die
    node.add_unit("one", ended=False)
    node.unit_status = dict(RUNNING)
    args = {"results": ["results", "one"], "submit": ["submit", "cat", "-n", "-f"]}[command]
    try:
        result = meshctl("work", *args)
    finally:
        again[0].close()
    assert (result.exit_code, result.stdout) == (0, "12345678\n")
    assert again[0].lines[0].endswith(" 5")
    notice = result.stderr.splitlines()[-1]
    assert notice.startswith("Warning: the results of unit ")
    assert "broke off after byte 5: cannot reach " in notice
    assert notice.endswith("Waiting for the node.")


def test_a_follower_names_its_unit_even_where_nobody_reads_the_results(node, start_process):
    node.unit_status = dict(RUNNING)
    args = ["--socket", node.address, "work", "submit", "cat", "-p", "-", "-f", "--rm"]
    process = start_process(*args, stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write(b"some bytes")
    process.stdin.close()
    assert process.wait() == ExitCode.OUTPUT_CLOSED
    named, gone = process.stderr.read().decode().splitlines()
    assert named == "Unit ID: Unit0001"
    meshctl = f"meshctl --socket {node.address} work"
    assert gone == (
        "nobody reads on: unit Unit0001 goes on and is not released "
        f"(to release it: {meshctl} release Unit0001). Follow it again: {meshctl} results Unit0001"
    )
    assert list(node.units) == ["Unit0001"]


def test_with_json_the_name_is_json_too(meshctl, node):
    result = meshctl("work", "submit", "cat", "-l", "hi", "-f", "--json")
    first, last = map(json.loads, result.stderr.splitlines())
    assert first == {"unitid": "Unit0001", "result": "Job Started"}
    assert (last["unitid"], last["State"]) == ("Unit0001", SUCCEEDED["State"])
    assert result.stdout == "hi\n"
