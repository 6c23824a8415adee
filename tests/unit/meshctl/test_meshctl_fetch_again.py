"""A fetch that was ended goes on when it is begun again, and leaves no half of a file."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupting import interrupt
from test_meshctl_fetch import BIG, FILES, MEMORY, RESULTS, Pieces, found_in, tar_of

from meshctl import ControlClient, NotFetched, SessionLost
from meshctl.api import fetching, partial
from meshctl.api.fetching import fetch_ended
from meshctl.api.partial import part_of
from meshctl.render.output import ExitCode

WHOLE = tar_of(FILES)
STATUS = {"State": 2, "FilesSize": len(WHOLE), "Created": "a", "Finished": "b"}
KEPT = ".fetching-one"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(fetching, "ASK_INTERVAL", 0.001)


class Counting(Pieces):
    """A client that knows from where the tar was asked for."""

    def __init__(self, data: bytes = WHOLE) -> None:
        super().__init__(data)
        self.asked: list[int] = []

    def results(self, unit_id: str, start: int, stream: str):
        self.asked.append(start)
        return super().results(unit_id, start, stream)


def begin(place: Path, size: int, unit_id: str = "one", status=STATUS, data: bytes = WHOLE) -> None:
    """Have a fetch interrupted when so many bytes have come."""

    class Interrupted(Pieces):
        def results(self, unit_id: str, start: int, stream: str):
            super().results(unit_id, start, stream)
            return _Breaking(self.data[start:size])

    with suppress(KeyboardInterrupt):
        fetch_ended(Interrupted(data), unit_id, status, place)


class _Breaking:
    def __init__(self, piece: bytes) -> None:
        self._piece = piece

    def __enter__(self):
        yield self._piece
        raise KeyboardInterrupt

    def __exit__(self, *exc_info: object) -> None:
        pass


@settings(max_examples=40)
@given(st.lists(st.integers(0, len(WHOLE) - 1), min_size=1, max_size=4))
def test_wherever_it_is_ended_the_next_one_asks_for_the_rest_alone(ends):
    with TemporaryDirectory(dir=MEMORY) as directory:
        place, reached = Path(directory), 0
        for end in ends:
            begin(place, max(end, reached))
            reached = max(end, reached)
            assert found_in(place).keys() <= {f"{KEPT}/tar", f"{KEPT}/of"}
        client = Counting()
        assert fetch_ended(client, "one", STATUS, place) == tuple(FILES)
        assert client.asked == [reached]
        assert found_in(place) == FILES
        assert sorted(os.listdir(place)) == ["a", "out"]


def test_what_is_not_of_the_same_tar_is_not_gone_on_with(tmp_path, monkeypatch):
    other = STATUS | {"Finished": "c"}
    shorter = STATUS | {"FilesSize": len(WHOLE) - 512}
    for number, status in enumerate((other, shorter)):
        place = tmp_path / str(number)
        begin(place, 1000, status=status)
        client = Counting()
        fetch_ended(client, "one", STATUS, place)
        assert client.asked == [0]
        assert found_in(place) == FILES


@pytest.mark.parametrize("boot", ["another", ""])
def test_a_part_from_before_a_restart_of_the_machine_is_not_trusted(tmp_path, monkeypatch, boot):
    """Its end may be zeros: it was not synced."""
    begin(tmp_path, 1000)
    path = tmp_path / "boot"
    if boot:
        path.write_text(boot)
    monkeypatch.setattr(partial, "_BOOT", path)
    client = Counting()
    fetch_ended(client, "one", STATUS, tmp_path)
    assert client.asked == [0]


@settings(max_examples=40)
@given(st.binary(max_size=100), st.integers(0, len(WHOLE) + 9))
def test_whatever_stands_in_what_is_kept_the_files_come_whole(text, size):
    with TemporaryDirectory(dir=MEMORY) as directory:
        place = Path(directory)
        (place / KEPT).mkdir()
        (place / KEPT / "of").write_bytes(text)
        (place / KEPT / "tar").write_bytes(bytes(size))
        client = Counting()
        fetch_ended(client, "one", STATUS, place)
        assert client.asked == [0]
        assert found_in(place) == FILES


def test_of_two_at_once_each_brings_all_of_it(tmp_path):
    begin(tmp_path, 1000)
    with part_of(tmp_path, "one", len(WHOLE), STATUS) as first:
        assert first.size == 1000
        client = Counting()
        fetch_ended(client, "one", STATUS, tmp_path)
        assert client.asked == [0]
        assert first.size == 1000
        assert {"a", "out", KEPT} == set(os.listdir(tmp_path))
    assert found_in(tmp_path) == FILES


@pytest.mark.parametrize("what", ["link", "file", "another user's"])
def test_nothing_is_written_where_somebody_else_has_made_the_directory(tmp_path, what):
    outside = tmp_path / "outside"
    outside.mkdir()
    place = tmp_path / "place"
    place.mkdir()
    there = place / KEPT
    if what == "link":
        there.symlink_to(outside)
    elif what == "file":
        there.write_text("mine")
    else:
        there.mkdir()
        if os.geteuid():
            pytest.skip("only root can give a directory away")
        os.chown(there, 12345, 12345)
    before = found_in(place)
    fetch_ended(Pieces(WHOLE), "one", STATUS, place)
    assert found_in(place) == before | FILES
    assert os.listdir(outside) == []
    if there.is_dir():
        assert os.listdir(there) == []


@pytest.mark.parametrize("unit_id", ["../x", "/tmp/x", "a/b", "", "."])
def test_the_name_of_a_unit_is_no_path(tmp_path, unit_id):
    place = tmp_path / "place"
    place.mkdir()
    begin(place, 1000, unit_id)
    assert os.listdir(place) == []
    assert os.listdir(tmp_path) == ["place"]


def test_what_cannot_be_put_there_is_not_kept(tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(NotFetched):
        fetch_ended(Pieces(WHOLE), "one", STATUS, tmp_path)
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_node_that_stays_away_has_sent_is_kept(node, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "NODE_RETURNS", 0.0)
    node.add_unit("one").more["FilesSize"] = WHOLE
    asked = []

    def results(session, line):
        start = int(json.loads(line)["startpos"])
        asked.append(start)
        session.send(b"Streaming results for work unit one\n")
        session.send(WHOLE[start : 5000 if len(asked) == 1 else None])
        return False

    node.handlers[RESULTS] = results
    with ControlClient(node.address) as client:
        with pytest.raises(SessionLost):
            client.fetch("one", tmp_path)
        client.fetch("one", tmp_path)
    assert asked == [0, 5000]
    assert found_in(tmp_path) == FILES


@pytest.mark.parametrize("more", [(), ("--force",)])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_ended_says_what_is_left_and_the_next_one_does_it(
    node, start_process, meshctl, tmp_path, how, more
):
    unit = node.add_unit("one")
    unit.more["FilesSize"] = WHOLE
    asked = []

    def results(session, line):
        start = int(json.loads(line)["startpos"])
        asked.append(start)
        session.send(b"Streaming results for work unit one\n")
        session.send(WHOLE[start : None if start else 200_000])
        if not start:
            session.read_to_end()
        return False

    node.handlers[RESULTS] = results
    words = ("work", "fetch", "one", "-o", tmp_path, *more)
    if more:
        (tmp_path / "a").write_text("was there")
    process = start_process("--socket", node.address, *words)
    kept = tmp_path / KEPT / "tar"
    while not (kept.exists() and kept.stat().st_size == 200_000):
        assert process.poll() is None
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    if how != signal.SIGINT:
        process.send_signal(how)
        process.communicate(timeout=30)
    else:
        _, stderr = interrupt(process)
        assert process.returncode == ExitCode.INTERRUPTED
        assert stderr.decode() == (
            "ERROR: interrupted: the files of unit one are not here. "
            f"200000 of {len(WHOLE)} bytes are kept in {tmp_path}. "
            f"Go on with: meshctl --socket {node.address} {' '.join(map(str, words))}\n"
        )
    result = meshctl(*words)
    assert result.exit_code == 0
    assert asked == [0, 200_000]
    assert found_in(tmp_path) == FILES
    assert (tmp_path / "out" / "big").read_bytes() == BIG
