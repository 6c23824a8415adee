"""Logs of QUIC connections in qlog, for qvis and other tools: see docs/operating.md.

What happens on a connection is held in memory and written when the connection ends, to a file of
its own, named as receptor's are. Only a node that is told to by the environment variable QLOGDIR
does it: streams take a quarter more processor time.
"""

import json
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from aioquic.quic.logger import QLOG_VERSION, QuicLogger, QuicLoggerTrace

from meshnode.logs import subject_logger
from meshnode.resources import in_thread

Spawn = Callable[[Callable[[], Awaitable[None]]], None]
"""Starts a task in the nursery of the mesh."""

MOST_OF_ONE: Final = 20_000
"""Events of one connection that are logged, its first ones; each takes 1.2 KB of memory, and a
packet is one."""

MOST_OF_ALL: Final = 100_000
"""Events of all connections together that are held."""


class Trace(QuicLoggerTrace):
    """What happened on one connection, from its first event on."""

    def __init__(self, qlog: "Qlog", *, is_client: bool, odcid: bytes) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        self._qlog = qlog
        self.file_name = f"log_{odcid.hex()}_{'client' if is_client else 'server'}.qlog"
        self.held = 0
        """Events that are held."""
        self.left_out = 0
        """Events that came later."""

    def log_event(self, **event: Any) -> None:
        """Hold an event, if there is room for it."""
        if self.held == MOST_OF_ONE or not self._qlog.take_room():
            self.left_out += 1
            return
        self.held += 1
        super().log_event(**event)


class Qlog(QuicLogger):
    """Writes the traces of a node's connections to a directory."""

    def __init__(self, directory: Path, spawn: Spawn) -> None:
        super().__init__()
        self._directory = directory
        self._spawn = spawn
        self._held = 0
        self._log = subject_logger("qlog", str(directory))

    def take_room(self) -> bool:
        """Count one more event; return whether there is room for it."""
        if self._held == MOST_OF_ALL:
            return False
        self._held += 1
        return True

    def start_trace(self, is_client: bool, odcid: bytes) -> Trace:
        """Return the trace of a connection that begins."""
        return Trace(self, is_client=is_client, odcid=odcid)

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        """Write the trace of a connection that has ended, soon."""
        assert isinstance(trace, Trace)
        self._held -= trace.held
        self._spawn(partial(self._write, trace))

    async def _write(self, trace: Trace) -> None:
        # Shielded: a node that stops ends its connections last, and their traces are wanted.
        with trio.CancelScope(shield=True):
            try:
                await in_thread(_write, self._directory / trace.file_name, trace)
            except OSError as error:
                reason = error.strerror or str(error)
                self._log.warning("cannot write %s: %s", trace.file_name, reason)


def _write(path: Path, trace: Trace) -> None:
    events = trace.to_dict()
    if trace.left_out:
        events["common_fields"]["events_left_out"] = trace.left_out
    text = json.dumps({"qlog_format": "JSON", "qlog_version": QLOG_VERSION, "traces": [events]})
    # No link or file that somebody has put there is followed or replaced.
    with path.open("x", encoding="utf-8") as file:
        file.write(text)


def open_qlog(directory: str, spawn: Spawn) -> Qlog | None:
    """Return what writes to a directory; None, with a warning, if nothing can be written there."""
    path = Path(directory).absolute()
    if not path.is_dir():
        reason = "it is no directory"
    elif not os.access(path, os.W_OK | os.X_OK):
        reason = "this user cannot write there"
    else:
        return Qlog(path, spawn)
    subject_logger("qlog", directory).warning("no QUIC logs are written: %s", reason)
    return None
