"""The audit log of real nodes: both halves of a unit, rotation, a full disk, a node that was
killed."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import Cluster, ControlConnection, Node, free_port, wait_until

UID = os.getuid()

Line = dict[str, Any]


def lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def wait_line(path: Path, **wanted: Any) -> Line:
    """Return the first line that says this, as soon as there is one."""

    def find() -> Line | None:
        if not path.exists():
            return None
        return next((one for one in lines(path) if wanted.items() <= one.items()), None)

    return wait_until(find, watch=[path.parent], what=f"a line with {wanted}")


def log_of(node: Node) -> Path:
    return node.directory / f"{node.name}-audit.log"


def audited(cluster: Cluster, name: str, *, required: bool = False, **how: Any) -> Node:
    """Start a node with an audit log."""
    directive = {"filename": str(cluster.directory / f"{name}-audit.log"), "required": required}
    return cluster.node(name, more=[{"audit-log": directive}], **how)


WORK = {
    "endless": "echo started; exec sleep 1000",
    "echo": "echo hi",
    "open": {"command": "cat", "allowruntimeparams": True},
}


def test_both_halves_say_who_submitted_canceled_and_released_a_unit(cluster: Cluster) -> None:
    port = free_port()
    foo = audited(cluster, "foo", listen=port)
    bar = audited(cluster, "bar", peers=[port], work=WORK)
    foo.wait_service("bar")
    here, there = log_of(foo), log_of(bar)
    unit = foo.submit("endless", "--no-payload", "--node", "bar")
    foo.wait_output(unit, b"started\n")
    # Its output may be here before it is known to run.
    foo.wait_unit(unit, "Running")
    remote = foo.unit_status(unit)["ExtraData"]["RemoteUnitID"]
    foo.meshctl("work", "cancel", unit)
    foo.meshctl("work", "release", unit)

    wait_line(here, event="release", unit=unit)
    wait_line(there, event="release", unit=remote)
    about = [one for one in lines(here) if one.get("unit") == unit]
    assert [one["event"] for one in about] == ["submit", "start", "end", "cancel", "release"]
    for one in about:
        assert (one["by"]["Kind"], one["by"]["Uid"]) == ("unix", UID)
        assert (one["node"], one["target"], one["type"]) == ("foo", "bar", "endless")
    assert {one["remote_unit"] for one in about[1:]} == {remote}
    about = [one for one in lines(there) if one.get("unit") == remote]
    assert {one["event"] for one in about} == {"submit", "start", "end", "cancel", "release"}
    for one in about:
        assert (one["by"]["Kind"], one["by"]["Node"]) == ("mesh", "foo")
        assert one["by"]["Claim"]["Uid"] == UID
        assert (one["node"], one["type"]) == ("bar", "endless")
    (end,) = (one for one in about if one["event"] == "end")
    assert (end["outcome"], end["ended_by"]["Cause"]) == ("canceled", "cancel")
    assert end["ended_by"]["By"]["Node"] == "foo"
    secret = ("-a", "secret_word=hush-hush", "--payload", "-")
    unit = bar.submit("open", *secret, stdin=b"hush-payload")
    wait_line(there, event="end", unit=unit)
    for log in (here, there):
        assert b"hush" not in log.read_bytes()
        assert log.stat().st_mode & 0o777 == 0o600


def test_a_connection_and_reloads_have_lines_and_refusals_of_the_mesh_too(
    cluster: Cluster,
) -> None:
    port = free_port()
    foo = audited(cluster, "foo", listen=port)
    bar = audited(cluster, "bar", peers=[port])
    foo.wait_service("bar")
    here, there = log_of(foo), log_of(bar)
    foo.meshctl("reload")
    assert wait_line(here, event="reload", way="socket")["outcome"] == "done"
    os.kill(foo.pid, signal.SIGHUP)
    assert "by" not in wait_line(here, event="reload", way="signal")
    # bar's control service, over the mesh: bar is asked to submit elsewhere, which it refuses.
    with ControlConnection(foo.socket) as control:
        assert control.ask("connect bar control") == "Connecting"
        assert control.read_line() == "Receptor Control, node bar"
        assert control.ask("work submit foo echo").startswith("ERROR: this node takes no work")
    connected = wait_line(here, event="connect", target="bar")
    assert (connected["service"], connected["outcome"]) == ("control", "done")
    refused = wait_line(there, event="refusal", asked="submit")
    assert (refused["by"]["Node"], refused["way"], refused["target"]) == ("foo", "mesh", "foo")
    assert "takes no work for foo from the mesh" in refused["outcome"]


def test_what_access_rules_allow_and_refuse_names_the_rule(cluster: Cluster) -> None:
    log = cluster.directory / "foo-audit.log"
    rule = {"action": "allow", "who": f"uid={UID}", "units": "own", "name": "mine"}
    more = [
        {"audit-log": {"filename": str(log)}},
        {"access-rule": rule | {"do": ["submit", "status", "results"], "worktype": "echo"}},
    ]
    node = cluster.node("foo", more=more, work=WORK)
    unit = node.submit("echo", "--no-payload")
    wait_line(log, event="end", unit=unit)
    assert wait_line(log, event="submit", unit=unit)["rule"].startswith('"mine"')
    node.meshctl("work", "submit", "endless", "--no-payload", check=False)
    refused = wait_line(log, event="refusal", asked="submit")
    assert (refused["type"], refused["outcome"]) == ("endless", "no rule allows it")
    assert (refused["by"]["Uid"], refused["way"]) == (UID, "socket")


@pytest.mark.parametrize(
    "text", ['x"}\n{"event":"audit-off"}\n', "x\u2028\x1b[2J\x00", "🦊" * 5000]
)
def test_no_text_of_a_client_makes_a_second_line_or_an_endless_one(
    cluster: Cluster, text: str
) -> None:
    node = audited(cluster, "foo", work=WORK)
    log = log_of(node)
    request = {"command": "work", "subcommand": "submit", "node": "foo"}
    with ControlConnection(node.socket) as control:
        control.ask(json.dumps(request | {"worktype": text, "params": text, text: text}))
    with ControlConnection(node.socket) as control:
        control.ask(json.dumps({"command": "connect", "node": text, "service": text}))
    wait_line(log, event="connect")
    assert [one["event"] for one in lines(log)] == ["audit-on", "refusal", "connect"]
    for line in log.read_bytes().splitlines():
        assert line.isascii()
        assert len(line) < 8192


def test_a_rotated_log_loses_no_line_and_the_new_one_is_written_after_sighup(
    cluster: Cluster,
) -> None:
    node = audited(cluster, "foo", work=WORK)
    log = log_of(node)
    first = node.submit("echo", "--no-payload")
    wait_line(log, event="end", unit=first)
    old = log.rename(log.with_suffix(".log.1"))
    second = node.submit("echo", "--no-payload")
    wait_line(old, event="end", unit=second)
    assert not log.exists()
    os.kill(node.pid, signal.SIGHUP)
    wait_line(log, event="reload", way="signal")
    third = node.submit("echo", "--no-payload")
    wait_line(log, event="end", unit=third)
    assert log.stat().st_mode & 0o777 == 0o600
    units = [one["unit"] for one in (*lines(old), *lines(log)) if one["event"] == "end"]
    assert units == [first, second, third]


def test_the_log_can_be_moved_and_ended_by_a_reload(cluster: Cluster) -> None:
    node = audited(cluster, "foo", work=WORK)
    old, new = log_of(node), node.directory / "other.log"
    text = node.config.read_text()
    node.config.write_text(text.replace(str(old), str(new)))
    node.meshctl("reload")
    assert wait_line(old, event="audit-off")
    unit = node.submit("echo", "--no-payload")
    wait_line(new, event="end", unit=unit)
    assert [one["event"] for one in lines(old)] == ["audit-on", "audit-off"]
    new.chmod(0o666)
    node.config.write_text(text)
    old.chmod(0o666)
    refused = node.cluster.run("meshctl", "--socket", node.socket, "reload", check=False)
    assert refused.returncode == 5
    assert b"chmod go-w" in refused.stderr


def test_a_node_does_not_start_with_a_log_that_others_may_write_to(cluster: Cluster) -> None:
    node = cluster.node("foo", start=False)
    log = log_of(node)
    log.touch()
    log.chmod(0o622)
    with node.config.open("a") as config:
        config.write(f"- audit-log: {log}\n")
    done = cluster.run("meshnode", "-c", node.config, check=False)
    assert done.returncode == 2
    assert b"audit-log: filename: " in done.stderr
    assert b"written by other users: chmod go-w" in done.stderr


def test_a_required_line_is_on_disk_before_the_work_starts_also_when_the_node_is_killed(
    cluster: Cluster,
) -> None:
    node = audited(cluster, "foo", required=True, work=WORK)
    log = log_of(node)
    unit = node.submit("endless", "--no-payload")
    node.kill()
    assert [one["unit"] for one in lines(log) if one["event"] == "submit"] == [unit]
    node.start()
    node.meshctl("work", "cancel", unit)
    wait_line(log, event="end", unit=unit)
    # It was killed: the log begins a second time, and does not end before.
    assert [one["event"] for one in lines(log)].count("audit-on") == 2
    assert "audit-off" not in [one["event"] for one in lines(log)]
    node.stop()
    assert lines(log)[-1]["event"] == "audit-off"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_ends_while_its_node_is_down_has_one_line_for_that(
    cluster: Cluster, how: signal.Signals
) -> None:
    gate = cluster.directory / "gate"
    os.mkfifo(gate)
    work = WORK | {"gated": f"echo up; read -r word < {gate}"}
    node = audited(cluster, "foo", work=work)
    log = log_of(node)
    before = node.submit("echo", "--no-payload")
    unit = node.submit("gated", "--no-payload")
    node.wait_output(unit, b"up\n")
    wait_line(log, event="end", unit=before)
    node.stop(how)
    gate.write_text("go\n")
    wait_until(
        lambda: node.stored_status(unit)["State"] == 2,
        watch=[node.units / unit],
        what="the end of the command",
    )
    for _ in range(2):
        node.start()
        end = wait_line(log, event="end", unit=unit)
        assert (end["outcome"], end["exit_code"]) == ("succeeded", 0)
        assert end["finished"] == node.stored_status(unit)["Finished"]
        assert node.stop() == 0
    ended = [one["unit"] for one in lines(log) if one["event"] == "end"]
    assert ended == [before, unit]


def can_mount() -> bool:
    """Whether an ordinary user may mount a file system of its own here."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


class SmallDisk(Node):
    """A node whose audit log is on a disk of 32 KiB, in a mount namespace of its own."""

    @classmethod
    def of(cls, cluster: Cluster, *, required: bool) -> "SmallDisk":
        """Start one."""
        disk = cluster.directory / "disk"
        disk.mkdir()
        directive = {"filename": str(disk / "audit.log"), "required": required}
        plain = cluster.node("foo", more=[{"audit-log": directive}], work=WORK, start=False)
        small = cls(cluster, "foo", yaml.safe_load(plain.config.read_text()))
        cluster.nodes["foo"] = small
        return small.start()

    def start(self) -> "SmallDisk":
        disk = self.directory / "disk"
        script = f'mount -t tmpfs -o size=32k none {disk} && exec meshnode -c "{self.config}"'
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "-rm", "sh", "-c", script],
                env=self.cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._greets, watch=[self.directory, self.log], what="the small node to greet")
        return self

    @property
    def disk(self) -> Path:
        """The disk as the node's processes see it."""
        return Path(f"/proc/{self.pid}/root{self.directory}/disk")

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.disk / "fill").open("wb", buffering=0) as file:
            while file.write(bytes(512)):
                pass

    def warnings(self) -> list[str]:
        return list(self.status().get("Warnings") or [])


needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs user namespaces to mount a tmpfs")


def submit(node: Node) -> str:
    """Submit work, and return how the node answers at first."""
    with ControlConnection(node.socket) as control:
        return control.ask("work submit localhost echo")


@needs_mounts
def test_a_full_disk_refuses_work_where_the_log_is_required_until_there_is_room(
    cluster: Cluster,
) -> None:
    node = SmallDisk.of(cluster, required=True)
    running = node.submit("endless", "--no-payload")
    node.fill()
    answers = [submit(node)]
    while not answers[-1].startswith("ERROR"):  # what is left of the last block
        answers.append(submit(node))
    assert "no work while its audit log cannot be written (No space left on device)" in answers[-1]
    (warning,) = node.warnings()
    assert "No space left on device" in warning
    assert "new work is refused" in warning
    # What runs can be ended all the same.
    node.meshctl("work", "cancel", running)
    (node.disk / "fill").unlink()
    unit = node.submit("echo", "--no-payload")
    node.wait_unit(unit, "Succeeded")
    assert node.warnings() == []
    log = node.disk / "audit.log"
    wait_line(log, event="end", unit=unit)
    wait_line(log, event="cancel", unit=running)
    (refused,) = (one for one in lines(log) if one["event"] == "refusal")
    assert refused["outcome"] == answers[-1].removeprefix("ERROR: ")
    submitted = [one["unit"] for one in lines(log) if one["event"] == "submit"]
    assert len(submitted) == len(answers) + 1


@needs_mounts
def test_a_full_disk_stops_no_work_where_the_log_is_not_required_and_is_warned_of_once(
    cluster: Cluster,
) -> None:
    node = SmallDisk.of(cluster, required=False)
    node.fill()
    units = [node.submit("echo", "--no-payload")]
    while not node.warnings():
        units.append(node.submit("echo", "--no-payload"))
    units.append(node.submit("echo", "--no-payload"))
    for unit in units:
        node.wait_unit(unit, "Succeeded")
    (node.disk / "fill").unlink()
    log = node.disk / "audit.log"
    for unit in units:
        wait_line(log, event="end", unit=unit)
    node.wait_log("audit: written again")
    assert node.warnings() == []
    told = [one for one in node.log.read_text().splitlines() if "audit: " in one]
    assert len([one for one in told if "cannot be written" in one]) == 1
    assert [one["unit"] for one in lines(log) if one["event"] == "submit"] == units
