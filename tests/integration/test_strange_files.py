"""Whatever stands in the place of a unit's files: the node starts, answers, and ends every unit."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness import Cluster, ControlConnection, Node, wait_until
from strange_files import SECRET, STRANGE, put_strange

from meshnode.protocol.control import STREAM_NAMES
from meshnode.work.local.processes import find_unit_processes

NAMES = ("status", "stdin", "stdout", "stderr", "index", "status.tmp", "")
"""Each file of a unit, and its directory."""

WORK = {
    "cat": {"command": "cat", "stderr": "separate"},
    "sleep": {"command": "sleep", "params": "1000", "stderr": "separate"},
}

ANSWER_SECONDS = 60.0
"""Within which a node answers that does not stand still."""

MOST = 1 << 20
"""Bytes read of results: nobody need see all of a huge file's."""

Case = tuple[str, str]


def cases() -> list[Case]:
    return [(name, what) for name in NAMES for what in STRANGE if name or what != "empty"]


def spoil(directory: Path, case: Case) -> None:
    name, what = case
    if name:
        put_strange(directory / name, what)
    elif what == "directory":
        shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
    elif what == "of another user":
        os.chown(directory, 4242, 4242)
    else:
        put_strange(directory, what)


def ask(node: Node, line: str) -> str:
    with ControlConnection(node.socket, seconds=ANSWER_SECONDS) as connection:
        return connection.ask(line)


def submit(node: Node, work_type: str) -> str:
    with ControlConnection(node.socket, seconds=ANSWER_SECONDS) as connection:
        created = connection.ask(f"work submit localhost {work_type}")
        connection.socket.shutdown(1)
        assert json.loads(connection.read_line())["result"] == "Job Started"
    return created.split("ID ")[1][:8]


def results(node: Node, unit: str) -> bytes:
    """Return what a client gets of all files of the unit's output."""
    output = b""
    request = {"command": "work", "subcommand": "results", "unitid": unit, "startpos": 0}
    for stream in STREAM_NAMES:
        with ControlConnection(node.socket, seconds=ANSWER_SECONDS) as connection:
            if not connection.ask(json.dumps({**request, "stream": stream})).startswith("ERROR"):
                output += connection.reader.read(MOST)
    return output


def assert_lives(node: Node) -> None:
    unit = submit(node, "cat")
    node.wait_unit(unit, "Succeeded")
    assert ask(node, f"work release {unit}") == f'{{"released":"{unit}"}}'


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node("foo", work=WORK)


def put_finished(root: Path, unit: str, **changes: Any) -> Path:
    directory = root / unit
    directory.mkdir(mode=0o700)
    status = {"State": 2, "Detail": "exit status 0", "StdoutSize": 3, "WorkType": "cat"}
    status |= {"StderrSize": 2, "IndexSize": 0}
    for name, text in {
        "status": json.dumps(status | changes),
        "stdin": "",
        "stdout": "abc",
        "stderr": "de",
        "index": "",
    }.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    return directory


def test_a_start_takes_whatever_stands_in_the_place_of_units_and_their_files(node: Node) -> None:
    node.stop()
    (node.units.parent / "secret").write_bytes(SECRET)
    put_finished(node.units, "WHOLE000")
    spoiled = {f"BAD{number:05}": case for number, case in enumerate(cases())}
    for unit, case in spoiled.items():
        spoil(put_finished(node.units, unit), case)
    node.start()
    assert results(node, "WHOLE000") == b"abcde"
    listed = json.loads(ask(node, "work list"))
    warnings = "\n".join(json.loads(ask(node, '{"command":"status"}'))["Warnings"])
    for unit, (name, what) in spoiled.items():
        is_damaged = name == "status" or (not name and what != "gone")
        if is_damaged:
            assert unit in warnings or not (node.units / unit).exists(), (unit, name, what)
        assert (unit in listed) is not (is_damaged or not name), (unit, name, what)
        assert SECRET not in results(node, unit) or unit not in listed, (unit, name, what)
    for unit in listed:
        assert ask(node, f"work release {unit}") == f'{{"released":"{unit}"}}', spoiled.get(unit)
    assert json.loads(ask(node, "work list")) == {}
    assert_lives(node)


def test_a_finished_unit_is_released_whatever_became_of_its_files(node: Node) -> None:
    spoiled = {submit(node, "cat"): case for case in cases()}
    for unit, case in spoiled.items():
        node.wait_unit(unit, "Succeeded")
        spoil(node.units / unit, case)
    for unit, case in spoiled.items():
        assert SECRET not in results(node, unit), case
        assert json.loads(ask(node, f"work status {unit}"))["StateName"] == "Succeeded", case
        assert ask(node, f"work release {unit}") == f'{{"released":"{unit}"}}', case
    assert json.loads(ask(node, "work list")) == {}
    assert_lives(node)


@pytest.mark.parametrize("subcommand", ["cancel", "release", "force-release"])
def test_a_running_unit_is_ended_whatever_became_of_its_files(node: Node, subcommand: str) -> None:
    untouched = submit(node, "sleep")
    spoiled = {submit(node, "sleep"): case for case in cases()}
    for unit, case in spoiled.items():
        node.wait_unit(unit, "Running")
        assert find_unit_processes(node.units / unit), case
        spoil(node.units / unit, case)
    for unit, case in spoiled.items():
        assert results_start(node, unit), case
        word = {"cancel": "cancelled"}.get(subcommand, "released")
        assert ask(node, f"work {subcommand} {unit}") == f'{{"{word}":"{unit}"}}', case
        assert find_unit_processes(node.units / unit) == [], case
        if subcommand == "cancel":
            status = json.loads(ask(node, f"work status {unit}"))
            assert status["StateName"] == "Canceled", case
            assert status["Detail"] == "Canceled", case
            assert ask(node, f"work release {unit}") == f'{{"released":"{unit}"}}', case
    assert list(json.loads(ask(node, "work list"))) == [untouched]
    assert json.loads(ask(node, f"work status {untouched}"))["StateName"] == "Running"
    assert_lives(node)


def results_start(node: Node, unit: str) -> bool:
    """Whether a reader of results is answered; what it reads may never end."""
    with ControlConnection(node.socket, seconds=ANSWER_SECONDS) as connection:
        return connection.ask(f"work results {unit}").startswith("Streaming results")


def test_a_running_unit_whose_files_went_ends_with_the_reason_when_its_command_ends(
    cluster: Cluster,
) -> None:
    gate = cluster.directory / "gate"
    os.mkfifo(gate)
    node = cluster.node("foo", work={**WORK, "gated": f"read -r word < {gate}; echo $word"})
    unit = submit(node, "gated")
    node.wait_unit(unit, "Running")
    shutil.rmtree(node.units / unit)
    gate.write_bytes(b"let go\n")
    status = wait_until(lambda: failed(node, unit), what="the end of the unit")
    path = node.units / unit / "status"
    assert status["Detail"] == f"lost: cannot read {path}: No such file or directory"
    assert ask(node, f"work release {unit}") == f'{{"released":"{unit}"}}'


def failed(node: Node, unit: str) -> dict[str, Any] | None:
    status: dict[str, Any] = json.loads(ask(node, f"work status {unit}"))
    return status if status["StateName"] == "Failed" else None


def test_a_damaged_unit_that_runs_is_named_adopted_and_can_be_canceled(node: Node) -> None:
    unit = submit(node, "sleep")
    # Until its supervisor has written all that it writes of a unit that goes on.
    wait_until(lambda: node.stored_status(unit).get("Pid"), what="the command's PID on disk")
    node.kill()
    (node.units / unit / "status").write_text("{")
    node.start()
    status = json.loads(ask(node, f"work status {unit}"))
    assert status["StateName"] == "Running"
    assert f"{unit}/status is not JSON" in status["Detail"]
    assert f"unit {unit} runs, but" in "\n".join(
        json.loads(ask(node, '{"command":"status"}'))["Warnings"]
    )
    assert ask(node, f"work cancel {unit}") == f'{{"cancelled":"{unit}"}}'
    assert find_unit_processes(node.units / unit) == []
    assert node.stored_status(unit)["Detail"] == "Canceled"
