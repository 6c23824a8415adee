"""meshctl's own connection is cut while it sends a payload: it goes on, and the work runs once."""

import hashlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest
from harness import COMMANDS, PATIENCE, Cluster, Directive, Node, bash, free_port, wait_until
from test_resumed_upload_nodes import LOST, CountingRelay
from test_tls_nodes import Authority, server

UPLOAD = 24 * 1024 * 1024
KINDS = ["unix", "tcp", "tls", "http", "https"]


class Way:
    """One way to a node, through a relay that counts."""

    def __init__(self, cluster: Cluster, kind: str) -> None:
        self._kind = kind
        self._port = free_port()
        self.options: list[str | Path] = []
        self.more: list[Directive] = []
        secured = {}
        if kind in {"tls", "https"}:
            signed = Authority(cluster.directory)
            self.options = ["--rootcas", signed.ca]
            self.more = [server(signed, signed.issue("foo", "foo"), requireclientcert=False)]
            secured = {"tls": "srv"}
        if kind in {"tcp", "tls"}:
            listening = {"service": "more", "tcplisten": f"127.0.0.1:{self._port}"}
            if secured:
                listening["tcptls"] = "srv"
            self.more.append({"control-service": listening})
        elif kind != "unix":
            self.more.append({"http-service": {"port": self._port, **secured}})

    def relay(self, foo: Node) -> CountingRelay:
        return CountingRelay(foo.socket if self._kind == "unix" else self._port)

    def address(self, relay: CountingRelay) -> str:
        return str(relay.path) if self._kind == "unix" else f"{self._kind}://localhost:{relay.port}"


def submitting(
    cluster: Cluster,
    way: Way,
    relay: CountingRelay,
    words: Sequence[str | Path],
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    command = ["meshctl", "--socket", way.address(relay), *way.options, "work", "submit", *words]
    return subprocess.Popen(
        [COMMANDS / str(command[0]), *command[1:]],
        env=cluster.environment,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def content(place: Path) -> tuple[Path, str]:
    """Make what is sent; return it and its digest."""
    big = place / "big"
    data = os.urandom(UPLOAD)
    big.write_bytes(data)
    return big, hashlib.sha256(data).hexdigest()


def wait_written(node: Node, relay: CountingRelay) -> None:
    """Wait until a kill of a node costs no more than it may: what it has not read is lost, too."""

    def written() -> int:
        return sum(path.stat().st_size for path in node.units.glob("*/*") if path.is_file())

    wait_until(lambda: written() > relay.passed * 0.99 - LOST, what="what was sent to be written")


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_goes_on_after_cuts_and_after_its_node_was_killed(
    cluster: Cluster, tmp_path: Path, kind: str
) -> None:
    big, digest = content(tmp_path)
    way = Way(cluster, kind)
    ran = cluster.directory / "ran"
    foo = cluster.node("foo", work={"sum": bash(f"echo >> {ran}; sha256sum")}, more=way.more)
    with way.relay(foo) as relay:
        relay.stop_at(UPLOAD // 4)
        with submitting(cluster, way, relay, ["sum", "-p", big, "--follow"]) as process:
            try:
                for kills, stop in ((False, UPLOAD // 2), (True, UPLOAD * 3 // 4), (False, None)):
                    relay.wait_stopped()
                    if kills:
                        wait_written(foo, relay)
                        foo.kill()
                    relay.cut()
                    relay.stop_at(stop)
                    if kills:
                        foo.start()
                stdout, stderr = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        passed = relay.passed
    assert stdout.split()[:1] == [digest.encode()], stderr.decode()
    told = [line for line in stderr.decode().splitlines() if "Waiting for the node" in line]
    assert len(told) == 3, stderr
    (status,) = foo.ask("work list").values()
    assert status["StateName"] == "Succeeded"
    assert ran.read_text() == "\n"
    # TLS and websockets add to what is sent, by less than 1 %.
    assert passed < UPLOAD * 1.01 + 3 * LOST


def test_files_of_a_job_for_another_node_go_on_as_well(cluster: Cluster, tmp_path: Path) -> None:
    big, digest = content(tmp_path)
    port = free_port()
    cluster.node("bar", listen=port, work={"sum": bash("sha256sum < DEPS/big; cat")})
    way = Way(cluster, "tcp")
    foo = cluster.node("foo", peers=[port], more=way.more)
    foo.wait_service("bar")
    words = ["sum", "--node", "bar", "--dep", big, "-l", "typed", "--follow"]
    with way.relay(foo) as relay:
        relay.stop_at(UPLOAD // 2)
        with submitting(cluster, way, relay, words) as process:
            try:
                relay.wait_stopped()
                wait_written(foo, relay)
                foo.kill()
                relay.cut()
                relay.stop_at(None)
                foo.start()
                stdout, stderr = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        passed = relay.passed
    assert stdout.decode() == f"{digest}  -\ntyped\n", stderr
    assert len(foo.ask("work list")) == 1
    assert passed < UPLOAD + 2 * LOST


def test_a_restart_of_the_node_is_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    big, digest = content(tmp_path)
    way = Way(cluster, "tcp")
    foo = cluster.node("foo", work={"sum": bash("sha256sum")}, more=way.more)
    with way.relay(foo) as relay:
        relay.stop_at(UPLOAD // 2)
        with submitting(cluster, way, relay, ["sum", "-p", big, "--follow"]) as process:
            try:
                relay.wait_stopped()
                wait_written(foo, relay)
                assert foo.stop() == 0
                relay.stop_at(None)
                foo.start()
                stdout, stderr = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        passed = relay.passed
    assert stdout.split()[:1] == [digest.encode()], stderr.decode()
    assert len(foo.ask("work list")) == 1
    assert passed < UPLOAD + 2 * LOST


def test_a_pipe_cannot_be_read_again_and_the_remedy_is_told(
    cluster: Cluster, tmp_path: Path
) -> None:
    way = Way(cluster, "tcp")
    foo = cluster.node("foo", work={"sum": bash("sha256sum")}, more=way.more)
    with way.relay(foo) as relay:
        relay.stop_at(UPLOAD // 4)
        piped = subprocess.Popen(["head", "-c", str(UPLOAD), "/dev/zero"], stdout=subprocess.PIPE)
        with piped, submitting(cluster, way, relay, ["sum", "-p", "-"], piped.stdout) as process:
            try:
                relay.wait_stopped()
                relay.cut()
                relay.stop_at(None)
                _, stderr = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
                piped.kill()
    (unit,) = foo.ask("work list")
    told = stderr.decode()
    assert f"unit {unit} was not started" in told
    assert "cannot be read again: put it in a file" in told
    assert len(told.splitlines()) == 1


def test_ctrl_c_amid_a_payload_leaves_nothing_that_waits_for_the_rest(
    cluster: Cluster, tmp_path: Path
) -> None:
    big, _ = content(tmp_path)
    way = Way(cluster, "tcp")
    foo = cluster.node("foo", work={"sum": bash("sha256sum")}, more=way.more)
    with way.relay(foo) as relay:
        relay.stop_at(UPLOAD // 4)
        with submitting(cluster, way, relay, ["sum", "-p", big]) as process:
            try:
                relay.wait_stopped()
                process.send_signal(signal.SIGINT)
                relay.stop_at(None)
                _, stderr = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
    (unit,) = foo.ask("work list")
    foo.wait_unit(unit, "Canceled")
    assert f"interrupted: unit {unit} exists" in stderr.decode()
    wait_until(lambda: not (foo.units / unit / "stdin").stat().st_size, what="its end")
