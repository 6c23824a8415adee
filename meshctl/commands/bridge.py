"""Standard input and output on a stream of the mesh, as ``ssh`` wants of a ProxyCommand."""

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from meshctl.api.connection import ControlStream
from meshctl.api.errors import SessionLost

BRIDGE_BYTES = 64 * 1024
"""Most bytes read from stdin at once: what a full pipe holds on Linux."""


class BridgeError(Exception):
    """Standard input failed; ``str()`` says how."""


def bridge(stream: ControlStream, stdin: int | None, stdout: int) -> None:
    """Copy both ways until the service has ended.

    The end of stdin ends our direction only; what the service still sends is delivered. A service
    that wants no more input does not end the bridge either.

    Args:
        stream: The stream.
        stdin: Descriptor to read; None if there is none.
        stdout: Descriptor to write.

    Raises:
        SessionLost: the stream broke.
        BridgeError: stdin could not be read.
        OSError: stdout could not be written.
    """
    upload = _Upload(stream, stdin)
    upload.start()
    try:
        while data := stream.receive():
            _write_all(stdout, data)
    finally:
        failure = upload.failure
    if failure is not None:
        raise BridgeError(f"cannot read standard input: {failure.strerror}")


class _Upload(threading.Thread):
    """Copies stdin to the stream. A daemon: nothing can end its wait for a person's next key."""

    def __init__(self, stream: ControlStream, stdin: int | None) -> None:
        super().__init__(name="upload", daemon=True)
        self._stream = stream
        self._stdin = stdin
        self.failure: OSError | None = None

    def run(self) -> None:
        """Copy until stdin ends, or the service takes no more."""
        # A stream that broke is reported by the other direction, which knows how it ended.
        with suppress(SessionLost):
            for data in self._read():
                self._stream.send(data)
            if self.failure is None:
                self._stream.send_eof()
            else:
                # No end of file for input that was cut off: the stream breaks instead.
                self._stream.interrupt()

    def _read(self) -> Iterator[bytes]:
        if self._stdin is None:
            return
        while True:
            try:
                data = os.read(self._stdin, BRIDGE_BYTES)
            except BlockingIOError:
                select.select([self._stdin], [], [])
                continue
            except OSError as error:
                self.failure = error
                return
            if not data:
                return
            yield data


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def stdin_descriptor() -> int | None:
    """Return standard input's descriptor; None where it is closed."""
    try:
        return sys.stdin.fileno() if sys.stdin is not None else None
    except (OSError, ValueError):
        return None


@contextmanager
def raw_terminal(descriptor: int | None, *, raw: bool) -> Iterator[None]:
    """Put a terminal into raw mode, where each key goes to the service, and back again.

    Does nothing if ``raw`` is false or the descriptor is no terminal.
    """
    if not raw or descriptor is None or not os.isatty(descriptor):
        yield
        return
    saved: list[Any] = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSAFLUSH)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, saved)
