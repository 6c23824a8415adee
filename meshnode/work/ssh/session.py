"""One session with a host: a process of OpenSSH's client, and what is said through it.

Requests are lines on its stdin, answers lines on its stderr that begin with a word of this session;
the rest of stderr is what ssh and the host's shell say to people, of which the last lines are kept.
Its stdout has the output of the unit, behind a mark: what the user's profile prints comes before.
"""

import errno
import math
import os
import secrets
import shlex
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from meshnode import files
from meshnode.errors import WorkError
from meshnode.work.ssh.answers import FarState, MarkedPart, far_end, far_pid, far_state
from meshnode.work.ssh.failures import HostFailure, Phase, why_refused, why_ssh_ended
from meshnode.work.ssh.hosts import SESSION, Host
from meshnode.work.ssh.record import FarEnd
from meshnode.work.units.shortage import NotNow, in_thread_or_here

MAX_SAID_LINES = 40
"""Lines that are kept of what ssh and the host say: a changed host key takes 20."""

MAX_LINE = 4096
"""Bytes of one line; the rest of a longer one is dropped."""

MAX_NOISE = 1 << 20
"""Bytes that a user's profile may print before the session begins."""

PIECE = 256 * 1024
"""Bytes of a payload, or of output, at a time."""

LAST_WORDS = 1.0
"""Seconds for the rest of what ssh says after it has ended: a connection that others share, which
ssh may leave behind, keeps its stderr open."""

MARK_BYTES = 8
"""Random bytes of a mark around what a host sends."""

END_PATIENCE = 1.0
"""Seconds for ssh to end by itself before it is killed."""


class FarSession:
    """A session that is up. Each method that asks for something returns once that is done.

    All of them raise HostFailure; how long they may take, the caller says.
    """

    def __init__(self, host: Host, process: trio.Process, token: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.host = host
        self.phase = Phase.CONNECT
        """What is being done, for errors."""
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self._token = token
        self._said: deque[str] = deque(maxlen=MAX_SAID_LINES)
        self._buffer = bytearray()
        self._is_printing = False
        """Whether something may come on stdout that nobody waits for."""
        self._part = MarkedPart("")
        self._surplus = b""
        """Bytes of the output that came with the mark."""

    async def look(self) -> FarState:
        """Return what the host has of the unit, once the session is up."""
        return far_state(await self._answer())

    async def make(self, *, with_tar: bool = False) -> None:
        """Make the unit's directory; ``with_tar`` says that the host must have tar."""
        self.phase = Phase.COPY
        await self._ask("make", *(["tar"] if with_tar else []))

    async def put(self, name: str, data: bytes) -> None:
        """Send a file."""
        await self._begin_part(name, len(data))
        await self._send(data)
        await self._expect()

    async def put_file(self, name: str, path: Path) -> None:
        """Send a file of this node; nothing if there is none.

        Raises:
            OSError: it cannot be read.
        """
        descriptor = await in_thread_or_here(files.open_file, path, os.O_RDONLY)
        try:
            left = os.fstat(descriptor).st_size
            await self._begin_part(name, left)
            while left:
                read = partial(os.read, descriptor, min(PIECE, left))
                piece = await in_thread_or_here(read)
                if not piece:
                    raise OSError(errno.EIO, f"{path} has become shorter while it was sent")
                left -= len(piece)
                await self._send(piece)
        finally:
            os.close(descriptor)
        await self._expect()

    async def start(self, timeout: float, grace: float) -> str | None:
        """Start the command; return its PID, None if it was started before.

        It may run for ``timeout`` seconds; 0 is for ever.
        """
        self.phase = Phase.START
        words = await self._ask("go", str(math.ceil(timeout)), str(math.ceil(grace)))
        return far_pid(words[1]) if words[0] == "started" and len(words) > 1 else None

    async def stop(self, grace: float) -> bool:
        """End the command; return whether it was ever started. It never is from here on."""
        return (await self._ask("stop", str(math.ceil(grace))))[-1] != "never"

    async def remove(self) -> None:
        """Remove all that the host has of the unit."""
        self.phase = Phase.CLEAN
        await self._ask("remove")

    # --- the output -----------------------------------------------------------------------------

    async def follow(self, position: int) -> None:
        """Have the output sent from that byte on (from 0), and the end told."""
        self.phase = Phase.RUN
        self._is_printing = True
        await self._send(f"follow {position + 1}\n".encode())
        await self._skip_to(f"\n{self._token}\n".encode())

    async def _skip_to(self, mark: bytes) -> None:
        """Drop what was printed before what was asked for."""
        before = bytearray()
        while mark not in before:
            data = await self._receive()
            if not data:
                raise await self._ended()
            before += data
            if len(before) > MAX_NOISE:
                text = f"its shell prints more than {MAX_NOISE} bytes before the session begins"
                raise HostFailure(self.host, self.phase, text, is_lasting=True)
        self._surplus = bytes(before[before.index(mark) + len(mark) :])

    async def receive(self) -> bytes:
        """Return the next bytes of the output; nothing when no more come in this session."""
        data, self._surplus = self._surplus, b""
        return data or await self._receive()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stdout.receive_some(PIECE))
        except trio.BrokenResourceError:
            return b""

    # --- files that are brought back ------------------------------------------------------------

    async def list_directories(self, names: Iterable[str]) -> None:
        """Have the names in directories of the unit sent; :meth:`receive_part` has them."""
        await self._ask_for("list", names)

    async def bring(self, names: Iterable[str]) -> None:
        """Have a tar of files of the unit sent; :meth:`receive_part` has it."""
        await self._ask_for("bring", (f"./{name}" for name in names))

    async def _ask_for(self, request: str, names: Iterable[str]) -> None:
        self.phase = Phase.COLLECT
        self._is_printing = True
        # Nothing on the host has seen it before: it stands in no file.
        mark = secrets.token_hex(MARK_BYTES)
        words = " ".join(map(shlex.quote, names)).encode("utf-8", "surrogateescape")
        await self._send(f"{request} {mark} {len(words)}\n".encode() + words)
        await self._skip_to(f"\n{mark}\n".encode())
        self._part = MarkedPart(mark)

    async def receive_part(self) -> bytes:
        """Return the next bytes of what was asked for; nothing at its end: see ``part_status``."""
        while self._part.status is None:
            data = await self.receive()
            if not data:
                raise await self._ended()
            if content := self._part.feed(data):
                return content
        self._is_printing = False
        return b""

    @property
    def part_status(self) -> int:
        """What the host says of the part that has come last; 0 is good."""
        return self._part.status or 0

    @property
    def is_free(self) -> bool:
        """Whether all that was asked for has come, and the host waits for a request."""
        return not self._is_printing

    async def wait_end(self) -> FarEnd:
        """Return how the command ended, once it has."""
        while True:
            words = await self._answer()
            if words[0] == "end" and len(words) == 4:
                return far_end(words)

    # --- requests and answers -------------------------------------------------------------------

    async def _begin_part(self, name: str, size: int) -> None:
        await self._send(f"part {name} {size}\n".encode())

    async def _ask(self, *words: str) -> list[str]:
        await self._send(f"{' '.join(words)}\n".encode())
        if not self._is_printing:
            return await self._expect()
        # What is still on its way of the output would keep the answer from coming.
        answer: list[str] = []
        fault: HostFailure | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain)
            try:
                answer = await self._expect()
            except HostFailure as error:
                # Raised here, inside the nursery, it would be wrapped in a group.
                fault = error
            nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault
        return answer

    async def _drain(self) -> None:
        while await self._receive():
            continue

    async def _send(self, data: bytes) -> None:
        try:
            await self._stdin.send_all(data)
        except trio.BrokenResourceError:
            # What is left to read says why.
            await self._expect()
            raise await self._ended() from None

    async def _expect(self) -> list[str]:
        """Return the next answer; what comes of the output's end is not asked for here."""
        while True:
            words = await self._answer()
            if words[0] == "failed":
                raise why_refused(self.host, self.phase, tuple(self._said))
            if words[0] != "end":
                return words

    async def _answer(self) -> list[str]:
        """Return the words of the next line that is for us."""
        while True:
            line = await self._read_line()
            token, _, rest = line.partition(" ")
            if token == self._token and rest.split():
                return rest.split()
            self._said.append(line)

    async def _read_line(self) -> str:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE:
                del self._buffer[MAX_LINE:]
            data = await self._read_stderr()
            if not data:
                raise await self._ended()
            self._buffer += data
        line = self._buffer[:end].decode(errors="replace").rstrip("\r")
        del self._buffer[: end + 1]
        return line

    async def _read_stderr(self) -> bytes:
        """Return what comes next, nothing once ssh has ended."""
        data = b""

        async def until_ssh_ends(scope: trio.CancelScope) -> None:
            await self._process.wait()
            await trio.sleep(LAST_WORDS)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_ssh_ends, nursery.cancel_scope)
            data = bytes(await self._stderr.receive_some(PIECE))
            nursery.cancel_scope.cancel()
        return data

    async def _ended(self) -> HostFailure:
        """Return why the session has ended."""
        with trio.move_on_after(LAST_WORDS):
            while data := await self._read_stderr():
                self._buffer += data
        lines = self._buffer.decode(errors="replace").splitlines()
        self._said += [line for line in lines if not line.startswith(self._token)]
        self._buffer.clear()
        with trio.move_on_after(LAST_WORDS):
            await self._process.wait()
        code = self._process.returncode
        return why_ssh_ended(
            self.host, self.phase, tuple(self._said), 255 if code is None else code
        )


@asynccontextmanager
async def open_session(host: Host, unit_name: str, mark: str) -> AsyncIterator[FarSession]:
    """Start a session for a unit; it ends with the context, and ssh with it.

    Raises:
        HostFailure: ssh cannot be started.
    """
    token = f"mn{secrets.token_hex(8)}"
    words = host.command_line(SESSION, (token, host.directory, unit_name, mark))
    process = await _spawn(host, words)
    try:
        yield FarSession(host, process, token)
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)


async def _spawn(host: Host, words: tuple[str, ...]) -> trio.Process:
    pipe = subprocess.PIPE
    try:
        # No terminal of ours: it would ask there.
        return await trio.lowlevel.open_process(
            list(words), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except (FileNotFoundError, PermissionError) as error:
        text = f"{host.ssh} cannot be run: {error.strerror}; install OpenSSH's client on this node"
        raise HostFailure(host, Phase.CONNECT, text, is_lasting=True) from error
    except OSError as error:
        if files.is_passing(error):
            raise NotNow(f"cannot run ssh: {error.strerror}") from error
        raise WorkError(f"cannot run {host.ssh}: {error.strerror}") from error


async def _end(process: trio.Process) -> None:
    """End ssh, and with it what runs on the host for the session."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            await stream.aclose()
    if process.returncode is None:
        process.terminate()
        with trio.move_on_after(END_PATIENCE):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
