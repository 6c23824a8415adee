"""What is logged of QUIC connections, how much, and what becomes of a directory that fails."""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from meshnode.mesh.streams import qlog as module
from meshnode.mesh.streams.qlog import Trace, open_qlog


class Logged:
    """A directory of logs, and what is still to be written to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tasks: list[Callable[[], Awaitable[None]]] = []
        qlog = open_qlog(str(directory), self.tasks.append)
        assert qlog is not None
        self.qlog = qlog

    def trace(self, number: int, events: int, *, is_client: bool = True) -> Trace:
        trace = self.qlog.start_trace(is_client, bytes([number]))
        self.log(trace, events)
        return trace

    def log(self, trace: Trace, events: int) -> None:
        for number in range(events):
            trace.log_event(category="transport", event="packet_sent", data={"number": number})

    async def end(self, trace: Trace) -> None:
        self.qlog.end_trace(trace)
        await self.tasks.pop()()

    def read(self, name: str) -> dict:
        (trace,) = json.loads((self.directory / name).read_text())["traces"]
        return trace


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    return Logged(tmp_path)


async def test_both_ends_of_a_connection_have_files_of_their_own(logged):
    for is_client, role in ((True, "client"), (False, "server")):
        await logged.end(logged.trace(0xAB, 2, is_client=is_client))
        found = logged.read(f"log_ab_{role}.qlog")
        assert [event["data"]["number"] for event in found["events"]] == [0, 1]
        assert found["vantage_point"]["type"] == role


async def test_of_one_connection_the_first_events_are_held(logged, monkeypatch):
    monkeypatch.setattr(module, "MOST_OF_ONE", 5)
    await logged.end(logged.trace(1, 12))
    found = logged.read("log_01_client.qlog")
    assert len(found["events"]) == 5
    assert found["common_fields"]["events_left_out"] == 7


async def test_all_connections_together_hold_a_bounded_number_of_events(logged, monkeypatch):
    monkeypatch.setattr(module, "MOST_OF_ALL", 5)
    first, second = logged.trace(1, 4), logged.trace(2, 4)
    assert (first.held, second.held, second.left_out) == (4, 1, 3)
    await logged.end(first)
    logged.log(second, 1)
    assert second.held == 2


async def test_a_file_that_somebody_has_put_there_is_left_alone(logged, caplog):
    target = logged.directory / "precious"
    target.write_text("mine")
    (logged.directory / "log_01_client.qlog").symlink_to(target)
    await logged.end(logged.trace(1, 1))
    text = f"qlog {logged.directory}: cannot write log_01_client.qlog: File exists"
    assert caplog.messages == [text]
    assert target.read_text() == "mine"


@pytest.mark.parametrize("name", ["none", "file"])
def test_what_is_no_directory_is_warned_of(tmp_path, caplog, name):
    (tmp_path / "file").touch()
    path = tmp_path / name
    assert open_qlog(str(path), lambda task: None) is None
    assert caplog.messages == [f"qlog {path}: no QUIC logs are written: it is no directory"]


def test_a_directory_that_cannot_be_written_is_warned_of(tmp_path, caplog, monkeypatch):
    # root, as whom tests may run, may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert open_qlog(str(tmp_path), lambda task: None) is None
    text = f"qlog {tmp_path}: no QUIC logs are written: this user cannot write there"
    assert caplog.messages == [text]
