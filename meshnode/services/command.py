"""``command-service``: an interactive command on a terminal for each stream of the mesh."""

import shlex

import trio

from meshnode.config.service_directives import CommandService
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.mesh.pump import copy
from meshnode.mesh.streams import MeshStream
from meshnode.services.base import ServiceMesh, listen_on_mesh
from meshnode.services.forwarder import StreamServer
from meshnode.services.terminal import Terminal

MAX_COMMANDS = 192
"""Commands of one service at a time: each is a terminal and at least one process."""

MAX_OF_ONE = 128
"""Commands of one node at a time, so that it does not take all terminals from others."""

EOF_AGAIN = 1.0
"""Seconds until the end of input is typed once more. A terminal has no lasting end: one is for one
reader (``cat``, and then the shell that ran it), and is lost where a shell takes the terminal from
a command in between. To a person it would not matter: they would press the key again."""


class CommandServiceService:
    """Runs a command for each stream of a service; the one ends with the other."""

    def __init__(self, directive: CommandService, mesh: ServiceMesh) -> None:
        self._directive = directive
        self._mesh = mesh
        self._words = shlex.split(directive.command)
        self._log = subject_logger("command-service", directive.service)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        service = self._directive.service
        listener = await listen_on_mesh(self._mesh, service, {"type": "Command Service"})
        self._log.info("runs %s", self._directive.command)
        server = StreamServer(self._log, self._serve, MAX_COMMANDS, MAX_OF_ONE)
        await server.run([listener], task_status=task_status)

    async def _serve(self, stream: trio.abc.HalfCloseableStream, client: str) -> None:
        assert isinstance(stream, MeshStream)
        try:
            terminal = Terminal.open(self._words)
        except OSError as exc:
            raise OSError(f"cannot run {self._words[0]}: {exc.strerror or exc}") from exc
        self._log.info("PID %d: started for %s", terminal.pid, client)
        try:
            await _converse(stream, terminal, self._log, client)
            await stream.aclose()
        finally:
            code = await terminal.aclose()
            if code is None:
                self._log.warning("PID %d: does not end, and is left alone", terminal.pid)
            else:
                how = f"exit status {code}" if code >= 0 else f"signal {-code}"
                self._log.info("PID %d: ended (%s)", terminal.pid, how)


async def _converse(
    stream: MeshStream, terminal: Terminal, log: SubjectLogger, client: str
) -> None:
    """Join a stream and a terminal until the command ends or lets go of the terminal.

    The end of the stream's input is typed as such; a command that heeds it prints its last words
    and ends. A stream that breaks raises.

    Raises:
        trio.BrokenResourceError: the stream or the terminal broke.
    """
    broken: list[trio.BrokenResourceError] = []

    async def type_in() -> None:
        try:
            await copy(stream, terminal)
            log.debug("the input of %s has ended", client)
            while True:
                await trio.sleep(EOF_AGAIN)
                await terminal.send_eof()
        except trio.BrokenResourceError as exc:
            broken.append(exc)
            nursery.cancel_scope.cancel()

    async def hang_up() -> None:
        # A silent command would never find out by writing.
        await stream.wait_refused()
        broken.append(trio.BrokenResourceError("the other end reads no more"))
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(type_in)
        nursery.start_soon(hang_up)
        nursery.start_soon(terminal.watch)
        try:
            await copy(terminal, stream)
        except trio.BrokenResourceError as exc:
            broken.append(exc)
        nursery.cancel_scope.cancel()
    if broken:
        raise broken[0]
