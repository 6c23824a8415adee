"""``meshctl connect NODE SERVICE > file`` never truncates the file without a word."""

import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Cluster, Node, free_port, wait_until

HALF = b"half of a backup\n"
RESET = struct.pack("ii", 1, 0)


class Backup:
    """A TCP server that sends half a backup, then waits for the word: end it, or break it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.ends = threading.Event()
        self.breaks = False
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        try:
            client, _ = self.listener.accept()
        except OSError:
            return
        with client:
            client.sendall(HALF)
            self.ends.wait()
            if self.breaks:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            else:
                client.sendall(b"the rest\n")

    def finish(self, *, breaks: bool) -> None:
        self.breaks = breaks
        self.ends.set()

    def close(self) -> None:
        socket.socket.shutdown(self.listener, socket.SHUT_RDWR)
        self.listener.close()
        self.ends.set()
        self.thread.join()


@pytest.fixture
def backup() -> Iterator[Backup]:
    server = Backup()
    yield server
    server.close()


@pytest.fixture
def nodes(cluster: Cluster, backup: Backup) -> tuple[Node, Node, int]:
    port, control = free_port(), free_port()
    second = {"service": "second", "tcplisten": f"127.0.0.1:{control}"}
    foo = cluster.node("foo", listen=port, more=[{"control-service": second}])
    service = {"service": "backup", "address": f"127.0.0.1:{backup.port}"}
    bar = cluster.node("bar", peers=[port], more=[{"tcp-client": service}])
    foo.wait_service("bar", "backup")
    return foo, bar, control


@contextmanager
def connected(
    address: Path | str, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    file = tmp_path / "file"
    with file.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "meshctl", "--socket", str(address), "connect", "bar", "backup"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
        )
    try:
        yield process, file
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, nodes: tuple[Node, Node, int]) -> Path | str:
    foo, _, control = nodes
    return foo.socket if request.param == "unix" else f"tcp://127.0.0.1:{control}"


def wait_half(file: Path) -> None:
    wait_until(lambda: file.read_bytes() == HALF, watch=[file], what="half of the backup")


def test_a_stream_that_ends_well_is_exit_0(
    nodes: tuple[Node, Node, int], backup: Backup, address: Path | str, tmp_path: Path
) -> None:
    with connected(address, tmp_path) as (process, file):
        wait_half(file)
        backup.finish(breaks=False)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    assert file.read_bytes() == HALF + b"the rest\n"


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("unix", "service reset"),
        ("tcp", "service reset"),
        ("unix", "own node killed"),
        ("tcp", "own node killed"),
        # How the far end is lost does not depend on the socket here, and takes half a minute.
        ("unix", "far node killed"),
    ],
    indirect=["address"],
)
def test_a_stream_that_breaks_is_a_lost_connection_with_the_reason(
    nodes: tuple[Node, Node, int],
    backup: Backup,
    address: Path | str,
    tmp_path: Path,
    what: str,
) -> None:
    foo, bar, _ = nodes
    with connected(address, tmp_path) as (process, file):
        wait_half(file)
        if what == "service reset":
            backup.finish(breaks=True)
        elif what == "far node killed":
            bar.stop(signal.SIGKILL)
        else:
            foo.stop(signal.SIGKILL)
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 102
    assert errors.startswith(b"ERROR: the stream broke: ") or b"session broke" in errors
    assert len(errors.splitlines()) == 1
    assert file.read_bytes() == HALF
