"""A link that can be cut and frozen: a TCP relay between two nodes."""

import math

import trio

CHUNK = 64 * 1024


class Relay:
    """Passes connections on to a port of the loopback interface."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: set[trio.SocketStream] = set()
        self._flowing = trio.Event()
        self._flowing.set()
        self._is_cut = False
        self.port = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until cancelled."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    def cut(self) -> None:
        """Break every connection, and every new one at once, until :meth:`heal`."""
        self._is_cut = True
        for stream in self._open:
            # Both ends see a reset at most, and never the end of what was said.
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            stream.socket.close()

    def freeze(self) -> None:
        """Let nothing through, and let nobody know, until :meth:`heal`."""
        self._flowing = trio.Event()

    def heal(self) -> None:
        """Be a link again."""
        self._is_cut = False
        self._flowing.set()

    async def _serve(self, near: trio.SocketStream) -> None:
        if self._is_cut:
            return
        try:
            far = await trio.open_tcp_stream(
                "127.0.0.1", self._target, happy_eyeballs_delay=math.inf
            )
        except OSError:
            return
        async with far:
            self._open |= {near, far}
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far, nursery.cancel_scope)
                    nursery.start_soon(self._pump, far, near, nursery.cancel_scope)
            finally:
                self._open -= {near, far}

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(CHUNK):
                await self._flowing.wait()
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
