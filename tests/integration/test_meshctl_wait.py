"""meshctl waits for units of a real node."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from harness import PATIENCE, Cluster, Node, free_port, wait_until

from meshctl import ControlClient, WaitTimedOut


@pytest.fixture
def foo(cluster: Cluster) -> Node:
    """A node with units that end when they are told to, and as they are told to."""
    fifo = cluster.directory / "told"
    os.mkfifo(fifo)
    return cluster.node("foo", work={"until-told": f"read word < {fifo}; exit $word"})


def tell(node: Node, word: int) -> None:
    (node.directory / "told").write_text(f"{word}\n")


def test_a_wait_outlives_the_node_and_ends_as_the_unit_does(foo: Node) -> None:
    unit = foo.submit("until-told", "--no-payload")
    with ControlClient(str(foo.socket)) as client:
        with pytest.raises(WaitTimedOut, match="has not ended within"):
            client.wait(unit, 0.01)
        watch = client.watch(unit)
        assert next(watch)["StateName"] in {"Pending", "Running"}
        foo.stop(signal.SIGKILL)
        foo.start()
        tell(foo, 7)
        last = list(watch)[-1]
    assert (last["StateName"], last["ExitCode"]) == ("Failed", 7)
    done = foo.cluster.run(
        "meshctl", "--socket", foo.socket, "work", "wait", unit, "--timeout", "30s", check=False
    )
    assert done.stderr.decode() == f"ERROR: unit {unit} failed: exit status 7\n"
    assert done.stdout.decode() == f"({unit}, Failed)\n"
    assert done.returncode == 1


def test_a_cancelled_unit_ends_the_watch_of_it(foo: Node) -> None:
    unit = foo.submit("until-told", "--no-payload")
    with ControlClient(str(foo.socket)) as client:
        watch = client.watch(unit)
        assert next(watch)["StateName"] in {"Pending", "Running"}
        foo.meshctl("work", "cancel", unit)
        assert list(watch)[-1]["StateName"] == "Canceled"
    done = foo.cluster.run("meshctl", "--socket", foo.socket, "work", "wait", unit, check=False)
    assert done.returncode == 6


def test_a_submission_that_waits_ends_as_its_unit_does(cluster: Cluster) -> None:
    foo = cluster.node("foo", work={"lines": "seq 100000; exit 3"})
    arguments = ["work", "submit", "lines", "--no-payload", "--wait"]
    done = cluster.run("meshctl", "--socket", foo.socket, *arguments, check=False)
    assert done.returncode == 1
    unit = done.stdout.decode().splitlines()[1].removeprefix("Unit ID: ")
    assert done.stdout.decode().splitlines()[2] == f"({unit}, Failed)"
    tail = foo.meshctl("work", "results", unit, "--tail", "2", check=False)
    assert tail == b"99999\n100000\n"


@pytest.mark.parametrize(
    ("script", "code", "plain"),
    [("exit 3", 3, 1), ("kill -KILL $$", 137, 1), ("exit 0", 0, 0)],
)
def test_the_code_of_a_command_on_another_node_is_passed_on(
    cluster: Cluster, script: str, code: int, plain: int
) -> None:
    port = free_port()
    cluster.node("bar", listen=port, work={"ends": f"echo out; {script}"})
    foo = cluster.node("foo", peers=[port])
    foo.wait_service("bar")
    submission = ["work", "submit", "ends", "--node", "bar", "-n", "-f", "--propagate"]
    done = cluster.run("meshctl", "--socket", foo.socket, *submission, check=False)
    assert (done.returncode, done.stdout) == (code, b"out\n")
    unit = foo.submit("ends", "--node", "bar", "-n")
    for command in ("wait", "results"):
        arguments = ["--socket", foo.socket, "work", command, unit]
        done = cluster.run("meshctl", *arguments, check=False)
        assert done.returncode == plain
        done = cluster.run("meshctl", *arguments, "--propagate", check=False)
        assert done.returncode == code


@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("is_remote", [False, True], ids=["local", "remote"])
def test_who_follows_a_unit_outlives_the_node_and_reads_each_byte_once(
    cluster: Cluster, ends: int, is_remote: bool
) -> None:
    fifo = cluster.directory / "told"
    os.mkfifo(fifo)
    work = {"halves": f"seq 1 20000; read word < {fifo}; seq 20001 40000; exit $word"}
    port = free_port()
    cluster.node("bar", listen=port, work=work)
    foo = cluster.node("foo", peers=[port], work=work)
    foo.wait_service("bar")
    first, whole = (b"".join(b"%d\n" % n for n in range(1, last)) for last in (20001, 40001))
    with (cluster.directory / "results").open("wb") as results:
        follower = subprocess.Popen(
            [
                *("meshctl", "--socket", foo.socket, "work", "submit", "halves", "-n", "-f"),
                *("--propagate", "--node", "bar" if is_remote else "foo"),
            ],
            env=cluster.environment,
            stdout=results,
            stderr=subprocess.PIPE,
        )
    try:
        path = Path(results.name)
        wait_until(lambda: path.read_bytes() == first, watch=[path], what="the first half")
        foo.stop(ends)
        foo.start()
        tell(foo, 5)
        _, stderr = follower.communicate(timeout=PATIENCE)
    finally:
        follower.kill()
        follower.wait()
    assert path.read_bytes() == whole
    assert follower.returncode == 5, stderr
    named, notice, *waits, ended = stderr.decode().splitlines()
    unit = named.removeprefix("Unit ID: ")
    # A node that is back has to reach the other one again first.
    assert all(re.match(rf"unit {unit}: .*\bbar\b.*: no route", line) for line in waits), waits
    assert is_remote or not waits
    assert f"unit {unit} broke off after byte {len(first)}" in notice
    assert ended == f"ERROR: unit {unit} failed: exit status 5"
