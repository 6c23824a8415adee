"""Separate outputs and times of a unit two hops away: mirrored, followed, whatever is killed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMANDS, PATIENCE, Cluster, Node, bash, free_port, wait_until
from test_output_nodes import TAKEN

from meshctl.api.logindex import INDEX, STDERR, STDOUT

FILES = (STDOUT, STDERR, INDEX)

PARTS = ("begun", "bar", "foo", "mid", "all")
"""After each part of the output a node is killed; the last one ends the unit."""

LINES = 6
"""Lines of one part, in turns on stdout and stderr."""

SCRIPT = f"""
{TAKEN}
n=0
for part in {" ".join(PARTS)}; do
  while [ ! -e "$part" ]; do sleep 0.02; done
  for i in $(seq {LINES // 2}); do
    printf 'out %d\\377\\n' $n; taken; n=$((n + 1))
    printf 'err %d\\000\\n' $n >&2; taken; n=$((n + 1))
  done
done
printf 'no end'
"""

NUMBERS = range(len(PARTS) * LINES)

OUT = b"".join(b"out %d\xff\n" % number for number in NUMBERS[::2]) + b"no end"
ERR = b"".join(b"err %d\0\n" % number for number in NUMBERS[1::2])


def texts() -> Iterator[tuple[str, str]]:
    """Yield the lines of both in the order in which they are printed, as JSON has them."""
    for number in NUMBERS:
        yield (STDERR, f"err {number}\0") if number % 2 else (STDOUT, f"out {number}\ufffd")
    yield STDOUT, "no end"


class Line:
    """foo, mid and bar in a line; bar runs work."""

    def __init__(self, cluster: Cluster, **types: object) -> None:
        left, right = free_port(), free_port()
        self.cluster = cluster
        self.gates = cluster.directory
        work = {
            name: bash(SCRIPT)
            | {"cwd": str(self.gates), **(more if isinstance(more, dict) else {})}
            for name, more in types.items()
        }
        self.foo = cluster.node("foo", listen=left)
        self.mid = cluster.node("mid", peers=[left], listen=right)
        self.bar = cluster.node("bar", peers=[right], work=work)
        self.foo.wait_knows("mid", "bar")
        self.foo.wait_service("bar")
        self.bar.wait_knows("foo")

    def open(self, part: str) -> None:
        """Have the unit print a part."""
        (self.gates / part).touch()

    def follow(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a meshctl at foo's socket."""
        return subprocess.Popen(
            [COMMANDS / "meshctl", "--socket", self.foo.socket, "work", *words],
            env=self.cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def there(self, unit: str) -> str:
        """Return the ID of foo's unit on bar."""
        return str(self.foo.unit_status(unit)["ExtraData"]["RemoteUnitID"])


def path(node: Node, unit: str, name: str) -> Path:
    return node.units / unit / name


def wait_has(node: Node, unit: str, parts: int) -> None:
    """Wait until the stderr of a unit has so many parts on disk."""
    last = b"err %d\0\n" % NUMBERS[parts * LINES - 1]
    stderr = path(node, unit, STDERR)
    wait_until(
        lambda: stderr.exists() and stderr.read_bytes().endswith(last),
        watch=[node.units / unit],
        what=f"{stderr} to end with {last!r}",
    )


def lines_of(output: bytes) -> list[tuple[str, str]]:
    told = [json.loads(line) for line in output.splitlines()]
    times = [line["time"] for line in told]
    assert None not in times
    assert times == sorted(times)
    return [(line["stream"], line["text"]) for line in told]


def test_each_byte_and_line_of_both_outputs_comes_once_to_all_though_each_node_is_killed(
    cluster: Cluster,
) -> None:
    line = Line(cluster, both={"stderr": "separate"})
    unit = line.foo.submit("both", "--node", "bar", "--no-payload")
    line.open(PARTS[0])
    wait_has(line.foo, unit, 1)
    followers = {
        "lines": line.follow("logs", unit, "-f", "--json"),
        "lines again": line.follow("logs", unit, "-f", "--json"),
        "lines of stderr": line.follow("logs", unit, "-f", "--json", "--stderr"),
        "stdout": line.follow("results", unit),
        "stderr": line.follow("results", unit, "--stderr"),
        "both": line.follow("results", unit, "--both"),
    }
    for number, name in enumerate(PARTS[1:-1], 2):
        cluster.nodes[name].kill()
        # What is printed while a node is away comes when it is back.
        line.open(name)
        cluster.nodes[name].start()
        wait_has(line.foo, unit, number)
    line.open(PARTS[-1])
    told = {}
    for name, follower in followers.items():
        stdout, stderr = follower.communicate(timeout=PATIENCE)
        assert follower.returncode == 0, (name, stderr)
        told[name] = stdout
    assert line.foo.wait_unit(unit, "Succeeded", "Failed")["StateName"] == "Succeeded"
    assert told["stdout"] == told["both"] == OUT
    assert told["stderr"] == ERR
    assert lines_of(told["lines"]) == lines_of(told["lines again"]) == list(texts())
    assert lines_of(told["lines of stderr"]) == [told for told in texts() if told[0] == STDERR]
    far = line.there(unit)
    for name in FILES:
        assert path(line.foo, unit, name).read_bytes() == path(line.bar, far, name).read_bytes()
    assert path(line.foo, unit, STDOUT).read_bytes() == OUT
    assert path(line.foo, unit, STDERR).read_bytes() == ERR
    here, there = line.foo.unit_status(unit), line.bar.unit_status(far)
    keys = ("StdoutSize", "StderrSize", "IndexSize")
    assert [here[key] for key in keys] == [there[key] for key in keys]
    logs = line.foo.meshctl("work", "logs", far, "--node", "bar", "--json")
    assert lines_of(logs) == list(texts())


def test_a_stop_of_a_unit_two_hops_away_shows_both_outputs_and_its_end(cluster: Cluster) -> None:
    line = Line(cluster, both={"stderr": "separate"})
    unit = line.foo.submit("both", "--node", "bar", "--no-payload")
    line.open(PARTS[0])
    wait_has(line.foo, unit, 1)
    done = cluster.run(
        *("meshctl", "--socket", line.foo.socket, "work", "stop", unit, "--rm"), check=False
    )
    assert done.returncode == 6
    assert done.stdout == b"".join(b"out %d\xff\n" % number for number in range(0, LINES, 2))
    shown, end, released = done.stderr.rsplit(b"\n", 3)[:3]
    assert shown + b"\n" == b"".join(b"err %d\0\n" % number for number in range(1, LINES, 2))
    assert end.startswith(b"unit %s was canceled by " % unit.encode())
    assert released == b"(%s, released)" % unit.encode()
    assert line.bar.ask("work list") == line.foo.ask("work list") == {}


@pytest.mark.parametrize("follow", [[], ["-f"]], ids=["now", "follow"])
def test_times_alone_leave_one_output_in_which_each_line_has_its_own(
    cluster: Cluster, follow: list[str]
) -> None:
    line = Line(cluster, timed={"timestamps": True})
    unit = line.foo.submit("timed", "--node", "bar", "--no-payload")
    for part in PARTS:
        line.open(part)
    line.foo.wait_unit(unit, "Succeeded")
    lines = lines_of(line.foo.meshctl("work", "logs", unit, "--json", *follow))
    assert lines == [(STDOUT, text) for _, text in texts()]
    assert not path(line.foo, unit, STDERR).exists()
    stamped = line.foo.meshctl("work", "logs", unit, "-t", "--tail", "1")
    assert stamped.endswith(b"Z no end")


def test_a_type_that_says_nothing_has_one_output_and_no_new_key(cluster: Cluster) -> None:
    line = Line(cluster, plain=None)
    unit = line.foo.submit("plain", "--node", "bar", "--no-payload")
    for part in PARTS:
        line.open(part)
    status = line.foo.wait_unit(unit, "Succeeded")
    assert not {"StderrSize", "IndexSize"} & set(status)
    assert line.foo.meshctl("work", "logs", unit) == line.foo.results(unit)
    merged = (b"err %d\0\n" % n if n % 2 else b"out %d\xff\n" % n for n in NUMBERS)
    assert line.foo.results(unit) == b"".join(merged) + b"no end"
