"""``meshctl work … --node``: units of a node that is two hops away, through the nodes between."""

import json
import subprocess

import pytest
from harness import COMMANDS, PATIENCE, Cluster, Node, bash, free_port, wait_until

from meshnode.work.local.hierarchies import look

WORK = {
    "lasting": "echo begun; exec sleep 1000",
    "echo": "echo all of it",
    "patient": "echo begun; while [ ! -e end ]; do sleep 0.05; done; echo over",
}


LIMITS = {"cpu": 2, "pids": 50}

refusal = look().refusal(LIMITS)


@pytest.fixture
def line(cluster: Cluster) -> tuple[Node, Node, Node]:
    """Return foo, mid and bar in a line; bar runs work."""
    left, right = free_port(), free_port()
    foo = cluster.node("foo", listen=left)
    mid = cluster.node("mid", peers=[left], listen=right)
    work = {name: bash(script) | {"cwd": str(cluster.directory)} for name, script in WORK.items()}
    work["limited"] = work["patient"] | {"limits": LIMITS, "limits-optional": True}
    bar = cluster.node("bar", peers=[right], work=work)
    foo.wait_knows("mid", "bar")
    foo.wait_service("bar")
    bar.wait_knows("foo")
    return foo, mid, bar


def test_an_orphan_is_found_read_ended_and_cleaned_up_from_afar(
    line: tuple[Node, Node, Node],
) -> None:
    foo, _, bar = line
    orphan = bar.submit("lasting", "--no-payload")
    bar.wait_output(orphan, b"begun\n")
    units = json.loads(foo.meshctl("work", "list", "--node", "bar", "--json"))
    assert [(unit, status["StateName"]) for unit, status in units.items()] == [(orphan, "Running")]
    results = foo.meshctl("work", "results", orphan, "--no-follow", "--node", "bar")
    assert results == b"begun\n"
    out = foo.meshctl("work", "cancel", orphan, "--node", "bar")
    assert out == f"Cancelled:\n({orphan}, cancelled)\n".encode()
    done = foo.cluster.run(
        *("meshctl", "--socket", foo.socket, "work", "wait", orphan, "--node", "bar"), check=False
    )
    assert (done.returncode, done.stdout) == (6, f"({orphan}, Canceled)\n".encode())
    status = json.loads(foo.meshctl("work", "status", orphan, "--node", "bar", "--json"))
    assert status == bar.unit_status(orphan)
    out = foo.meshctl("work", "release", orphan, "--node", "bar")
    assert out == f"Released:\n({orphan}, released)\n".encode()
    assert bar.ask("work list") == foo.ask("work list") == {}


def test_results_and_wait_follow_a_unit_that_runs_two_hops_away(
    line: tuple[Node, Node, Node],
) -> None:
    foo, _, bar = line
    unit = bar.submit("echo", "--no-payload")
    assert foo.meshctl("work", "results", unit, "--node", "bar") == b"all of it\n"
    assert foo.meshctl("work", "wait", unit, "--node", "bar") == f"({unit}, Succeeded)\n".encode()


def test_results_from_afar_survive_a_kill_of_the_units_node(
    line: tuple[Node, Node, Node],
) -> None:
    foo, _, bar = line
    unit = bar.submit("patient", "--no-payload")
    bar.wait_output(unit, b"begun\n")
    reader = subprocess.Popen(
        [COMMANDS / "meshctl", "--socket", foo.socket, "work", "results", unit, "--node", "bar"],
        env=foo.cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with reader:
        assert reader.stdout is not None
        assert reader.stdout.read(6) == b"begun\n"
        bar.kill()
        bar.start()
        (bar.directory / "end").touch()
        rest, _ = reader.communicate(timeout=PATIENCE)
    assert (rest, reader.returncode) == (b"over\n", 0)


def test_labels_of_remote_work_find_it_where_it_runs(line: tuple[Node, Node, Node]) -> None:
    foo, _, bar = line
    labels = ("--label", "job=nightly", "--label", "urgent")
    unit = foo.submit("echo", "--node", "bar", "--no-payload", *labels)
    foo.submit("echo", "--node", "bar", "--no-payload")
    assert foo.results(unit) == b"all of it\n"
    found = foo.meshctl("work", "list", "-q", "--label", "job=nightly", "--label", "urgent")
    assert found.split() == [unit.encode()]
    there = foo.meshctl("work", "list", "-q", "--node", "bar", "--label", "job=nightly").decode()
    assert there.split() == [foo.unit_status(unit)["ExtraData"]["RemoteUnitID"]]
    assert bar.unit_status(there.strip())["Labels"] == {"job": "nightly", "urgent": ""}


def test_units_that_the_other_node_has_submitted_are_its_own_business(
    line: tuple[Node, Node, Node],
) -> None:
    foo, mid, bar = line
    mid.wait_service("bar")
    unit = mid.submit("echo", "--node", "bar", "--no-payload")
    assert mid.results(unit) == b"all of it\n"
    assert json.loads(foo.meshctl("work", "list", "--node", "mid", "--json")) == {}
    refused = foo.cluster.run(
        *("meshctl", "--socket", foo.socket, "work", "release", unit, "--node", "mid"), check=False
    )
    assert refused.returncode == 104
    assert b"node mid: this work unit was submitted here for another node" in refused.stderr
    assert list(bar.ask("work list")) != []


@pytest.mark.skipif(refusal is not None, reason=str(refusal))
def test_the_node_that_submitted_a_unit_says_what_it_may_have_and_uses_live_and_at_its_end(
    line: tuple[Node, Node, Node],
) -> None:
    foo, _, bar = line
    unit = foo.submit("limited", "--no-payload", "--node", "bar")
    live = wait_until(
        lambda: (told := foo.unit_status(unit)).get("Usage") and told, what="what the unit uses"
    )
    there = live["ExtraData"]["RemoteUnitID"]
    assert live["StateName"] == "Running"
    assert live["Usage"]["CpuSeconds"] > 0
    assert (live["Limits"], live["Pid"]) == (LIMITS, bar.unit_status(there)["Pid"])
    (foo.directory / "end").touch()
    end = foo.wait_unit(unit, "Succeeded")
    assert end["Usage"] == bar.unit_status(there)["Usage"]
    assert end["Usage"]["CpuSeconds"] >= live["Usage"]["CpuSeconds"]
    shown = json.loads(foo.meshctl("work", "status", unit, "--json"))
    assert (shown["Usage"], shown["Limits"]) == (end["Usage"], LIMITS)
    foo.kill()
    again = foo.start().unit_status(unit)
    assert [again[key] for key in ("Usage", "Limits", "Pid")] == [
        end[key] for key in ("Usage", "Limits", "Pid")
    ]
