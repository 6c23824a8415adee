"""``command-service``: an interactive command on a terminal for each stream of the mesh."""

import errno
import os
import shlex
import signal
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Self

import trio

from meshnode.config.service_directives import CommandService
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.mesh.mesh import Mesh
from meshnode.mesh.streams.stream import MeshStream
from meshnode.net.pump import copy
from meshnode.resources import NoThread, in_thread
from meshnode.security.tlsstore import NO_TLS, TlsStore
from meshnode.services.base import listen_on_mesh
from meshnode.services.forwarder import StreamServer

MAX_COMMANDS = 192
"""Commands of one service at a time: each is a terminal and at least one process."""

MAX_OF_ONE = 128
"""Commands of one node at a time, so that it does not take all terminals from others."""

EOF_AGAIN = 1.0
"""Seconds until the end of input is typed once more. A terminal's end is for one reader: ``cat``
takes it, and the shell that ran ``cat`` needs another one."""

GRACE = 2.0
"""Seconds that a command gets to end once its terminal has hung up, before it is killed."""

WRITE_SIZE = 4096
"""Bytes given to the terminal at a time: what the kernel holds of a line that nobody has read."""

UNSET_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that Python ignores; a command would inherit that and its pipelines would not end."""


class Terminal:
    """A command on a terminal of its own, as a stream: its keyboard is written, its screen is read.

    The command leads a session of its own, with the terminal as its controlling one. Everything
    that stays in that session ends with the terminal.
    """

    def __init__(self, master: int, pid: int, ended: int) -> None:
        self.pid = pid
        self._master = master
        self._ended = ended
        self._at_line_start = True
        self._let_go = False
        self._over = False
        self._reading = trio.CancelScope()

    @classmethod
    def open(cls, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Self:
        """Start a command, found in PATH, on a new terminal.

        Raises:
            OSError: there is no such command, or no terminal or process can be had.
        """
        with ExitStack() as undo:
            master, slave = os.openpty()
            undo.callback(os.close, master)
            with _closing(slave):
                pid = _spawn(command, os.ttyname(slave), environment)
            undo.callback(os.waitpid, pid, 0)
            undo.callback(os.kill, pid, signal.SIGKILL)
            os.set_blocking(master, False)
            terminal = cls(master, pid, os.pidfd_open(pid))
            undo.pop_all()
        return terminal

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what the command wrote; ``b""`` once nobody has the terminal open any more.

        While :meth:`watch` runs, the end of the command is the end as well, whoever else still
        has the terminal.
        """
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return os.read(self._master, max_bytes)
            except BlockingIOError:
                if self._over:
                    return b""
            except OSError as exc:
                # How Linux says that the last one has closed the other side.
                if exc.errno != errno.EIO:
                    raise trio.BrokenResourceError(exc.strerror) from exc
                self._let_go = True
                return b""
            with trio.CancelScope() as self._reading:
                await trio.lowlevel.wait_readable(self._master)

    async def watch(self) -> None:
        """Wait for the end of the command; readers then read what there is, and the end."""
        await trio.lowlevel.wait_readable(self._ended)
        self._over = True
        self._reading.cancel()

    async def send_all(self, data: bytes) -> None:
        """Type bytes; returns when the terminal has taken them."""
        view = memoryview(data)
        while view:
            await trio.lowlevel.wait_writable(self._master)
            try:
                view = view[os.write(self._master, view[:WRITE_SIZE]) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise trio.BrokenResourceError(exc.strerror) from exc
        if data:
            self._at_line_start = data[-1:] in b"\r\n"

    async def send_eof(self) -> None:
        """Type the end-of-file character: what a person does to end the input of a command.

        Where a line was begun it takes two: the first only hands over the line.

        Raises:
            trio.BrokenResourceError: the terminal is gone.
        """
        try:
            character = termios.tcgetattr(self._master)[6][termios.VEOF]
        except termios.error as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        await self.send_all(character if self._at_line_start else character * 2)
        self._at_line_start = True

    async def wait(self) -> int:
        """Wait for the command to end; return its exit code, or -N for signal N."""
        await trio.lowlevel.wait_readable(self._ended)
        # Readable means that it has ended: this waits for nothing.
        _, status = os.waitpid(self.pid, 0)  # noqa: ASYNC222
        return os.waitstatus_to_exitcode(status)

    async def aclose(self) -> int | None:
        """Hang up, end what is left of the session, and reap the command; return its exit code.

        None if it did not end: this process may not kill it, or its disk does not answer.
        """
        code: int | None = None
        with trio.CancelScope(shield=True):
            if self._let_go:
                # It is about to end, and should do so by itself and with its own exit code.
                with trio.move_on_after(GRACE):
                    await trio.lowlevel.wait_readable(self._ended)
            trio.lowlevel.notify_closing(self._master)
            # The kernel sends SIGHUP to the command, and to what runs in the foreground.
            os.close(self._master)
            with trio.move_on_after(GRACE):
                await trio.lowlevel.wait_readable(self._ended)
            # Before it is reaped: until then no other process can get this session's number.
            for pid in (*await self._members(), self.pid):
                with suppress(ProcessLookupError, PermissionError):  # it is gone, or not ours
                    os.kill(pid, signal.SIGKILL)
            with trio.move_on_after(GRACE):
                code = await self.wait()
            os.close(self._ended)
        return code

    async def _members(self) -> list[int]:
        try:
            try:
                return await in_thread(session_members, self.pid)
            except NoThread:
                # To look takes some milliseconds; to leave them running would be worse.
                return session_members(self.pid)
        except OSError:
            # There is no descriptor to look with. They have been hung up on, as the command was.
            return []


def _spawn(command: Sequence[str], terminal: str, environment: Mapping[str, str] | None) -> int:
    # A session leader that opens a terminal gets it as its controlling one. posix_spawn makes the
    # session before it opens files, so no code of ours runs in the child.
    return os.posix_spawnp(
        command[0],
        list(command),
        dict(os.environ if environment is None else environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=UNSET_SIGNALS,
    )


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def session_members(session: int) -> list[int]:
    """Return the processes of a session that have not ended, without its leader."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == session:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command's name stands in parentheses and may hold anything.
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, member_of = fields[0], int(fields[3])
        if member_of == session and state not in b"ZX":
            found.append(int(name))
    return found


class TerminalService:
    """Runs a command for each stream of a service; the one ends with the other."""

    def __init__(self, directive: CommandService, mesh: Mesh, tls: TlsStore = NO_TLS) -> None:
        self._directive = directive
        self._mesh = mesh
        self._tls = tls.find_server(directive.tls)
        self._log = subject_logger("command-service", directive.service)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; see Service."""
        service = self._directive.service
        tags = {"type": "Command Service"}
        listener = await listen_on_mesh(self._mesh, service, tags, self._tls)
        self._log.info("runs %s", shlex.join(self._directive.command))
        server = StreamServer(self._log, self._serve, MAX_COMMANDS, MAX_OF_ONE)
        await server.run([listener], task_status=task_status)

    async def _serve(self, stream: trio.abc.HalfCloseableStream, client: str) -> None:
        assert isinstance(stream, MeshStream)
        try:
            terminal = Terminal.open(self._directive.command)
        except OSError as exc:
            raise OSError(
                f"cannot run {self._directive.command[0]}: {exc.strerror or exc}"
            ) from exc
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

    The end of the stream's input is typed as the terminal's end of input; most commands then end.

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
