"""Work types with separate errors and times, on a real node, through its socket."""

import json
import os
from pathlib import Path

import pytest
from harness import Cluster, ControlConnection, Node, bash

from meshctl.api.logindex import INDEX, STDERR, STDOUT, STREAMS, LogLines
from meshnode.work.local.launcher import tree

FILES = (*STREAMS, INDEX)

TAKEN = """\
taken() {
  [ -e "$MESHNODE_UNIT_DIR/index" ] || return 0
  while now=$(stat -c %s "$MESHNODE_UNIT_DIR/index"); [ "$now" = "${seen:-0}" ]; do sleep 0.01; done
  seen=$now
}"""
"""For a script: waits until what was printed has been taken. What is printed to both outputs before
that is in no order, and no pause is long enough on a busy machine. Without times nothing is waited
for."""


def read(node: Node, unit: str, stream: str, start: int = 0) -> bytes:
    """Return what a client gets of a file until the unit has ended."""
    request = {"command": "work", "subcommand": "results", "unitid": unit, "startpos": start}
    with ControlConnection(node.socket) as connection:
        answer = connection.ask(json.dumps({**request, "stream": stream}))
        assert answer == f"Streaming results for work unit {unit}"
        data: bytes = connection.reader.read()
    return data


def told(files: dict[str, bytes]) -> list[tuple[str, bytes]]:
    log = LogLines()
    lines = [line for name, data in files.items() for line in log.feed(name, data)]
    lines += log.finish()
    assert all(line.time for line in lines)
    return [(line.stream, line.text) for line in lines]


def test_a_type_with_separate_errors_keeps_and_sends_each_apart_and_the_order_of_both(
    cluster: Cluster,
) -> None:
    script = f"{TAKEN}; echo one; taken; echo two >&2; taken; echo three"
    node = cluster.node("foo", work={"both": bash(script) | {"stderr": "separate"}})
    unit = node.submit("both", "--no-payload")
    files = {name: read(node, unit, name) for name in FILES}
    assert (files[STDOUT], files[STDERR]) == (b"one\nthree\n", b"two\n")
    assert told(files) == [(STDOUT, b"one\n"), (STDERR, b"two\n"), (STDOUT, b"three\n")]
    assert read(node, unit, STDERR, 2) == b"o\n"
    status = node.unit_status(unit)
    assert [status[key] for key in ("StdoutSize", "StderrSize")] == [10, 4]
    assert status["IndexSize"] == len(files[INDEX]) > 0
    assert node.results(unit) == b"one\nthree\n"


def test_a_python_type_has_its_errors_apart_too(cluster: Cluster) -> None:
    kind = {"command": "python3", "params": "-c 'print(1); import no_such_module_4711'"}
    node = cluster.node("foo", work={"py": kind | {"stderr": "separate"}})
    unit = node.submit("py", "--no-payload")
    assert read(node, unit, STDOUT) == b"1\n"
    assert b"no_such_module_4711" in read(node, unit, STDERR)


@pytest.mark.parametrize("lost", ["node", "supervisor"])
def test_output_of_a_unit_outlives_its_node_and_is_told_as_far_as_it_goes_without_its_supervisor(
    cluster: Cluster, lost: str
) -> None:
    gate = cluster.directory / "gate"
    os.mkfifo(gate)
    script = f"echo out; echo err >&2; echo more; read -r x <{gate}; echo last; exec sleep $x"
    node = cluster.node("foo", work={"gated": bash(script) | {"stderr": "separate"}})
    unit = node.submit("gated", "--no-payload")
    node.wait_output(unit, b"out\nmore\n")
    if lost == "node":
        node.kill()
        gate.write_text("0\n")
        node.start()
        status = node.wait_unit(unit, "Succeeded")
        expected = b"out\nmore\nlast\n"
    else:
        supervisor = node.stored_status(unit)["Supervisor"]
        assert tree.send_signal(supervisor["Pid"], supervisor["Started"], 9)
        status = node.wait_unit(unit, "Failed")
        assert status["Detail"].startswith("lost: its supervisor")
        expected = b"out\nmore\n"
    files = {name: read(node, unit, name) for name in FILES}
    assert (files[STDOUT], files[STDERR]) == (expected, b"err\n")
    sizes = [status[key] for key in ("StdoutSize", "StderrSize", "IndexSize")]
    assert sizes == [len(files[name]) for name in FILES]
    lines = expected.splitlines(keepends=True)
    assert sorted(told(files)) == sorted([(STDOUT, line) for line in lines] + [(STDERR, b"err\n")])


@pytest.mark.parametrize("cut", [INDEX, STDOUT, STDERR])
def test_after_a_power_cut_that_kept_less_of_one_file_the_unit_is_told_with_what_there_is(
    cluster: Cluster, cut: str
) -> None:
    """A disk brings back any prefix of each file, and zeros where only the size was kept."""
    script = "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.01; done; exec sleep 1000"
    node = cluster.node("foo", work={"loop": bash(script) | {"stderr": "separate"}})
    unit = node.submit("loop", "--no-payload")
    directory = node.units / unit
    node.wait_output(unit, b"out 1\nout 2\nout 3\n")
    supervisor = node.stored_status(unit)["Supervisor"]
    node.kill()
    tree.send_signal(supervisor["Pid"], supervisor["Started"], 9)
    shorten(directory / cut)
    node.start()
    status = node.wait_unit(unit, "Failed")
    files = {name: read(node, unit, name) for name in FILES}
    assert files == {name: (directory / name).read_bytes() for name in FILES}
    assert [status[key] for key in ("StdoutSize", "StderrSize", "IndexSize")] == [
        len(files[name]) for name in FILES
    ]
    log = LogLines()
    lines = [line for name, data in files.items() for line in log.feed(name, data)] + log.finish()
    for name in STREAMS:
        assert b"".join(line.text for line in lines if line.stream == name) == files[name]


def shorten(path: Path) -> None:
    data = path.read_bytes()
    os.truncate(path, len(data) // 2)
    if path.name == INDEX:
        os.truncate(path, len(data))  # zeros in the place of what was there
