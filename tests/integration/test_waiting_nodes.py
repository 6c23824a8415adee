"""Why a unit waits, on real nodes: in its Detail, on meshctl's stderr, and in the logs."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from harness import COMMANDS, Cluster, Node, free_port, wait_until
from test_firewall_nodes import set_rules
from test_full_disk import SmallNode, can_mount, wait_final

TIME = r"(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d"
"""Of today, or with the date: a test may run at midnight."""


def two_nodes(cluster: Cluster, *, start: bool = True) -> tuple[Node, Node]:
    """Return foo, and bar that runs work."""
    port = free_port()
    gate = cluster.directory / "gate"
    subprocess.run(["mkfifo", gate], check=True)
    foo = cluster.node("foo", listen=port)
    work = {"cat": "cat", "gated": f"read -r word < {gate}; echo $word"}
    bar = cluster.node("bar", peers=[port], work=work, start=start)
    if start:
        foo.wait_service("bar")
    return foo, bar


def wait_detail(node: Node, unit: str, pattern: str) -> str:
    """Wait until the unit's Detail matches as a whole; return it."""

    def ask() -> str | None:
        detail = str(node.unit_status(unit)["Detail"])
        return detail if re.fullmatch(pattern, detail) else None

    found = wait_until(ask, watch=[node.log], what=f"a Detail like {pattern!r} of unit {unit}")
    return str(found)


class Following:
    """A meshctl that waits for a unit, its stderr in a file."""

    def __init__(self, node: Node, *arguments: str) -> None:
        self.stderr: Path = node.directory / f"stderr-{arguments[-1]}"
        with self.stderr.open("wb") as file:
            self.process = subprocess.Popen(
                [COMMANDS / "meshctl", "--socket", node.socket, "work", *arguments],
                env=node.cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
            )

    def wait_told(self, pattern: str) -> None:
        """Wait until a line on stderr matches."""
        wait_until(
            lambda: re.search(pattern, self.stderr.read_text(), re.MULTILINE),
            watch=[self.stderr],
            what=f"a line like {pattern!r} on meshctl's stderr",
        )

    def end(self) -> tuple[bytes, list[str]]:
        """Wait for its end, return stdout and the lines of stderr."""
        stdout, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, self.stderr.read_text()
        return stdout, self.stderr.read_text().splitlines()


def test_a_unit_for_a_node_that_is_away_says_since_when_and_runs_when_it_comes(
    cluster: Cluster,
) -> None:
    foo, bar = two_nodes(cluster, start=False)
    unit = foo.submit("cat", "--node", "bar", "--payload-literal", "hello")
    detail = foo.unit_status(unit)["Detail"]
    assert re.fullmatch(rf"waiting for node bar: no route since {TIME}", detail)
    assert "waiting" not in foo.stored_status(unit)["Detail"]
    following = Following(foo, "results", unit)
    following.wait_told(rf"^unit {unit}: {detail}$")
    foo.wait_log(rf"unit {unit}: node bar: no route; trying again")
    bar.start()
    stdout, said = following.end()
    assert stdout == b"hello\n"
    assert said == [f"unit {unit}: {detail}"]


def test_a_mistyped_node_is_told_the_nearest_and_all(cluster: Cluster) -> None:
    foo, _ = two_nodes(cluster)
    done = cluster.run(
        "meshctl", "--socket", foo.socket, "ping", "bra", "--count", "1", check=False
    )
    assert b"no route to node bra; did you mean bar? known nodes: bar" in done.stderr
    done = cluster.run("meshctl", "--socket", foo.socket, "connect", "bar", "nosuch", check=False)
    assert b"service unknown: service nosuch of node bar" in done.stderr


@pytest.mark.parametrize(
    ("where", "by"),
    [("foo", r"of this node \(foo\)"), ("mid", "at mid"), ("bar", "at bar")],
)
def test_a_unit_behind_a_firewall_names_the_node_whose_rule_it_is(
    cluster: Cluster, where: str, by: str
) -> None:
    left, right = free_port(), free_port()
    foo = cluster.node("foo", listen=left)
    mid = cluster.node("mid", peers=[left], listen=right)
    bar = cluster.node("bar", peers=[right], work={"cat": "cat"})
    foo.wait_service("bar")
    nodes = {"foo": foo, "mid": mid, "bar": bar}
    set_rules(nodes[where], {"action": "reject", "fromnode": "foo", "toservice": "control"})
    unit = foo.submit("cat", "--node", "bar", "--payload-literal", "hello")
    reason = f"waiting for node bar: blocked by a firewall rule {by} since {TIME}"
    wait_detail(foo, unit, reason)
    following = Following(foo, "wait", unit)
    following.wait_told(rf"^unit {unit}: {reason}$")
    foo.wait_log(rf"unit {unit}: node bar: blocked by a firewall rule {by}; trying again")
    nodes[where].wait_log(r"router: reject by the firewall \(.*\): from foo to bar")
    set_rules(nodes[where], {"action": "drop", "toservice": "nothing"})
    stdout, said = following.end()
    assert stdout == f"({unit}, Succeeded)\n".encode()
    assert len(said) == 1


def test_a_unit_says_that_nobody_answers_or_that_there_is_no_control_service(
    cluster: Cluster,
) -> None:
    foo, bar = two_nodes(cluster, start=False)
    directives = yaml.safe_load(bar.config.read_text())
    (control,) = (d["control-service"] for d in directives if "control-service" in d)
    control["service"] = "other"
    bar.config.write_text(yaml.safe_dump(directives, sort_keys=False))
    bar.start()
    foo.wait_knows("bar")
    unit = foo.submit("cat", "--node", "bar", "--payload-literal", "hello")
    reason = "it has no service control now"
    wait_detail(foo, unit, rf"waiting for node bar: {reason} since {TIME}")
    foo.wait_log(rf"unit {unit}: node bar: {reason}; trying again")
    set_rules(bar, {"action": "drop", "fromnode": "foo", "toservice": "control"})
    reason = "the dial timed out"
    wait_detail(foo, unit, rf"waiting for node bar: {reason} since {TIME}")
    foo.wait_log(rf"unit {unit}: node bar: {reason}; trying again")
    bar.stop()
    wait_detail(foo, unit, rf"waiting for node bar: no route since {TIME}")


def test_a_unit_that_runs_on_a_node_that_is_lost_says_how_old_its_state_is(
    cluster: Cluster,
) -> None:
    foo, bar = two_nodes(cluster)
    unit = foo.submit("gated", "--node", "bar", "--no-payload")
    foo.wait_unit(unit, "Running")
    usual = wait_detail(foo, unit, r"Running: PID \d+")
    following = Following(foo, "results", unit)
    bar.kill()
    stale = wait_detail(foo, unit, rf"{usual}; last heard from bar at {TIME}: no route")
    following.wait_told(rf"^unit {unit}: last heard from bar at {TIME}: no route$")
    assert foo.stored_status(unit)["Detail"] == usual
    bar.start()
    assert wait_detail(foo, unit, usual) != stale
    (cluster.directory / "gate").write_text("opened\n")
    stdout, said = following.end()
    assert stdout == b"opened\n"
    assert [line for line in said if "last heard" in line] == said


def test_a_unit_that_expires_names_what_it_waited_for(cluster: Cluster) -> None:
    foo, _ = two_nodes(cluster, start=False)
    unit = foo.submit("cat", "--node", "bar", "--no-payload", "--ttl", "1s")
    detail = foo.wait_unit(unit, "Failed")["Detail"]
    assert re.fullmatch(
        rf"Work unit expired on .*; it waited for node bar: no route since {TIME}", detail
    )
    lines = [line for line in foo.log.read_text().splitlines() if "Work unit expired" in line]
    assert len(lines) == 1


def test_what_the_other_node_does_not_have_fails_with_its_words_and_one_line_here(
    cluster: Cluster,
) -> None:
    foo, bar = two_nodes(cluster)
    command = ("work", "submit", "nosuch", "--node", "bar", "--no-payload")
    done = cluster.run("meshctl", "--socket", foo.socket, *command, check=False)
    assert b"node bar refused: unknown work type nosuch; it offers cat, gated" in done.stderr
    bar.wait_log(r"INFO session foo: submission refused to mesh client foo: unknown work type")
    assert b"could not parse" not in done.stderr
    lines = [line for line in foo.log.read_text().splitlines() if "unknown work type" in line]
    assert len([line for line in lines if " DEBUG " not in line]) == 1


@pytest.mark.skipif(not can_mount(), reason="needs user namespaces to mount a tmpfs")
def test_a_unit_waits_for_room_on_the_other_nodes_disk(cluster: Cluster) -> None:
    port = free_port()
    foo = cluster.node("foo", listen=port)
    plain = cluster.node("bar", peers=[port], work={"cat": {"command": "cat"}}, start=False)
    bar = SmallNode.of(plain)
    bar.start()
    foo.wait_service("bar")
    mebibyte = b"x" * (1 << 20)
    full = bar.submit("cat", "--payload", "-", stdin=mebibyte[: 700 * 1024])
    assert wait_final(bar, full)["StateName"] == "Succeeded"
    unit = foo.submit("cat", "--node", "bar", "--payload", "-", stdin=mebibyte[: 900 * 1024])
    refused = "refused: Error reading input data: No space left on device"
    wait_detail(foo, unit, rf"waiting for node bar: {refused} since {TIME}")
    following = Following(foo, "results", unit)
    following.wait_told(rf"^unit {unit}: waiting for node bar: {refused}")
    bar.wait_log("WARNING session foo: submission refused to mesh client foo: Error reading input")
    bar.meshctl("work", "release", full)
    stdout, _ = following.end()
    assert stdout == mebibyte[: 900 * 1024]
