"""A large upload through a hop is cut off again and again, and what has come is not sent again."""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from harness import PATIENCE, Cluster, free_port
from test_file_nodes import LIST, MOST_GROWTH, peak

UPLOAD = 56 * 1024 * 1024
LOST = 4 * 1024 * 1024
"""Most bytes that a kill of either node may have sent again: what was on its way, and the pieces
that the killed node had in memory."""

CHUNK = 64 * 1024


class CountingRelay:
    """A link that counts what goes to its second end, and stops where it is told.

    ``target`` is a port or the path of a socket; it is listened on something of the same kind.
    """

    def __init__(self, target: int | Path) -> None:
        self._target = target
        self.port, self.path = 0, Path()
        if isinstance(target, Path):
            self.path = target.with_suffix(".relay")
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.path))
            self._listener.listen()
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
        self.passed = 0
        self._stops_at: int | None = None
        self._changed = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> "CountingRelay":
        self._threads[0].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop_at(None)
        # It wakes the thread that accepts, which a close would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def stop_at(self, count: int | None) -> None:
        """Let nothing through to the second node from so many bytes on; None lets all through."""
        with self._changed:
            self._stops_at = count
            self._changed.notify_all()

    def wait_stopped(self) -> None:
        """Wait until it has stopped."""
        with self._changed:
            assert self._changed.wait_for(self._is_stopped, PATIENCE)

    def cut(self) -> None:
        """Break every connection."""
        with self._changed:
            for one in self._sockets:
                with suppress(OSError):  # its other end was first
                    one.shutdown(socket.SHUT_RDWR)

    def _is_stopped(self) -> bool:
        return self._stops_at is not None and self.passed >= self._stops_at

    def _connect(self) -> socket.socket:
        if not isinstance(self._target, Path):
            return socket.create_connection(("127.0.0.1", self._target))
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(str(self._target))
        except OSError:
            far.close()
            raise
        return far

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = self._connect()
            except OSError:
                near.close()
                continue
            with self._changed:
                self._sockets |= {near, far}
            left = threading.Semaphore(0)
            ways = ((near, far, True), (far, near, False))
            threads = [threading.Thread(target=self._pump, args=(*way, left)) for way in ways]
            self._threads += threads
            for thread in threads:
                thread.start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, counts: bool, left: threading.Semaphore
    ) -> None:
        try:
            while data := source.recv(CHUNK):
                if counts:
                    self._count(len(data))
                sink.sendall(data)
            # Its end alone: what is there yet may be answered.
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            for one in (source, sink):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        left.release()
        if counts:
            # The last of both closes them.
            left.acquire()
            left.acquire()
            with self._changed:
                self._sockets -= {source, sink}
            source.close()
            sink.close()

    def _count(self, size: int) -> None:
        with self._changed:
            self.passed += size
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_stopped())


def test_a_large_upload_goes_on_where_it_was_whichever_node_is_killed(
    cluster: Cluster, tmp_path: Path
) -> None:
    port, middle = free_port(), free_port()
    big = tmp_path / "big"
    big.write_bytes(os.urandom(UPLOAD))
    with CountingRelay(port) as relay:
        cluster.node("hop", listen=middle, peers=[relay.port])
        foo = cluster.node("foo", peers=[middle])
        unit = foo.submit("list", "--node", "bar", "-l", "typed", "--dep", big)
        relay.stop_at(UPLOAD // 4)
        bar = cluster.node("bar", listen=port, work={"list": LIST})
        for killed, stop in ((bar, UPLOAD // 2), (foo, None)):
            relay.wait_stopped()
            killed.kill()
            relay.cut()
            relay.stop_at(stop)
            killed.start()
        before = {node.pid: peak(node.pid) for node in (foo, bar)}
        digest = cluster.run("sha256sum", str(big)).stdout.split()[0]
        assert foo.results(unit) == digest + b"  ./big\ntyped\n"
        assert foo.unit_status(unit)["StateName"] == "Succeeded"
        assert relay.passed < UPLOAD * 1.1 + 2 * LOST
        assert max(peak(pid) - size for pid, size in before.items()) < MOST_GROWTH
        (there,) = bar.ask("work list").values()
        assert there["StateName"] == "Succeeded"
