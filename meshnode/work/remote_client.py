"""One conversation with the control service of another node (reference sections 8 and 10)."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import trio

from meshnode.control.baresocket import read_part
from meshnode.errors import CannotSign, MeshError, NoRoute, WorkError
from meshnode.mesh.mesh import MeshStatus
from meshnode.mesh.streamlayer import MANY_STREAMS
from meshnode.protocol.control import greeting

JsonObject = dict[str, Any]

CONTROL_SERVICE = "control"
"""The service that a submitter dials; receptor has it fixed, too."""

GREETING_TIMEOUT = 10.0
"""Seconds for the greeting once the stream is open; twice receptor's, for busy nodes."""

REPLY_TIMEOUT = 60.0
"""Seconds for a reply. The slowest is that of a cancel: grace, kill, sync; and a submit's, when the
other node has a payload to store first. Longer than it matters little: nothing else waits."""

MAX_REPLY = 4 * 1024 * 1024
"""Bytes of one reply line: a status repeats parameters, of which a command line may hold 1 MiB,
and JSON's escapes can make the sixfold of a part of them."""

CHUNK = 1024 * 1024
"""Bytes of payload or results in memory at a time. Each is a hop to a thread, which costs as much
as copying half of it."""

POLL_INTERVAL = 1.0
"""Seconds between two ``work status`` to a node that cannot push, which is receptor's own pace."""

UNSIGNED = frozenset({"status", "list"})
"""Subcommands that nobody has to sign (reference section 8)."""

ALREADY_SUBMITTED = "already submitted as unit"
"""How a meshnode refuses a submission whose key it has seen; the unit's ID follows."""

_KNOWN_AS = re.compile(rf"{ALREADY_SUBMITTED} ([a-zA-Z0-9]+)")
_UNIT_CREATED = re.compile(r"with ID ([a-zA-Z0-9]+)\.")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class RemoteUnavailable(WorkError):
    """The other node could not be talked to, or the talk broke off: worth another try."""

    def __init__(self, text: str, *, no_route: bool = False) -> None:
        super().__init__(text)
        self.no_route = no_route


class RemoteRefused(WorkError):
    """The other node answered ``ERROR: <text>``; ``reason`` is that text."""

    def __init__(self, reason: str, *, text: str | None = None) -> None:
        super().__init__(reason if text is None else text)
        self.reason = reason

    @property
    def unit_unknown(self) -> bool:
        """Whether the node says that it has no such unit."""
        return self.reason.startswith("unknown work unit")


Sign = Callable[[str], str]
"""Returns a signature for a command to the named node, or raises CannotSign."""


class AlreadySubmitted(RemoteRefused):
    """The other node has a unit of that submission key: ``unit_id``."""

    def __init__(self, reason: str, unit_id: str) -> None:
        super().__init__(reason)
        self.unit_id = unit_id


class Dialer(Protocol):
    """What remote work asks of the mesh; ``meshnode.mesh.mesh.Mesh`` has this shape."""

    @property
    def node_id(self) -> str:
        """Our own node."""
        ...

    async def dial(self, node: str, service: str) -> trio.abc.HalfCloseableStream:
        """Open a stream. Raises MeshError."""
        ...

    async def wait_reachable(self, node: str) -> None:
        """Return as soon as a route to the node is known."""
        ...

    def status(self) -> MeshStatus:
        """Return what is known of the mesh, the services of its nodes among it."""
        ...


def is_meshnode(dialer: Dialer, node: str) -> bool:
    """Whether the control service of ``node`` is one of ours: it says so where it is advertised.

    receptor takes every key of a submission that it does not know for a parameter of the work.
    """
    tag, value = MANY_STREAMS
    return any(
        (advert.tags or {}).get(tag) == value
        for advert in dialer.status().advertisements
        if advert.node_id == node and advert.service == CONTROL_SERVICE
    )


class RemoteControl:
    """An open conversation; use it as an async context manager, which closes it."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        node: str,
        sign: Sign | None = None,
        *,
        with_meshnode: bool,
    ) -> None:
        self.with_meshnode = with_meshnode
        """Whether the other node is one of ours and takes more keys than receptor."""
        self._stream = stream
        self._node = node
        self._sign = sign
        self._buffer = bytearray()
        self._polls = False

    @classmethod
    async def open(cls, dialer: Dialer, node: str, *, sign: Sign | None = None) -> "RemoteControl":
        """Dial ``node`` and check that it is the one that answers.

        With ``sign``, each command that the node may want to have signed is.

        Raises:
            RemoteUnavailable: it cannot be reached now, or another node answers for it.
        """
        with _translated():
            stream = await dialer.dial(node, CONTROL_SERVICE)
        conversation = cls(stream, node, sign, with_meshnode=is_meshnode(dialer, node))
        try:
            line = await conversation._line(GREETING_TIMEOUT)
            if line.encode() + b"\n" != greeting(node):
                raise RemoteUnavailable(f"while expecting node ID {node}, got message: {line}")
        except BaseException:
            await trio.aclose_forcefully(conversation._stream)
            raise
        return conversation

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            # A reset, not an end: half a payload must not look like a whole one.
            await trio.aclose_forcefully(self._stream)
            return
        # All has been said and answered: that the stream breaks only now changes nothing.
        with contextlib.suppress(MeshError, *_GONE):
            await self._stream.aclose()

    async def ask(self, **command: Any) -> JsonObject:
        """Send one ``work`` command and return its reply.

        Raises:
            RemoteUnavailable: the talk broke off.
            RemoteRefused: the reply is an error.
        """
        await self._send({"command": "work", **command})
        return _parse_reply(await self._line(REPLY_TIMEOUT))

    async def submit(self, fields: Mapping[str, str]) -> str:
        """Submit a unit and return the ID that the node gave it; its payload must follow.

        Raises:
            RemoteUnavailable, RemoteRefused
            AlreadySubmitted: it has a unit of the ``submissionkey`` in ``fields``.
        """
        await self._send({**fields, "command": "work", "subcommand": "submit"})
        line = await self._line(REPLY_TIMEOUT)
        match = _UNIT_CREATED.search(line)
        if line.startswith("ERROR") and (known := _KNOWN_AS.search(line)):
            raise AlreadySubmitted(line.removeprefix("ERROR: "), known[1])
        if line.startswith("ERROR") or match is None:
            raise RemoteRefused(
                line.removeprefix("ERROR: "), text=f"could not parse response: {line}"
            )
        return match[1]

    async def send_payload(self, path: Path, *, before_end: Callable[[], None]) -> JsonObject:
        """Send a file as the payload of the unit just submitted, and return the final reply.

        ``before_end`` is called just before the other node may learn that the payload is complete.
        A refusal is noticed while bytes are still being sent.

        Raises:
            RemoteUnavailable, RemoteRefused
            WorkError: the file cannot be read.
        """
        outcome: str | WorkError | None = None

        async def send() -> None:
            nonlocal outcome
            try:
                await self._send_file(path, before_end)
                with trio.fail_after(REPLY_TIMEOUT):
                    await answered.wait()
            except trio.TooSlowError:
                outcome = RemoteUnavailable("no reply to the end of the payload")
            except WorkError as error:
                outcome = error
            nursery.cancel_scope.cancel()

        async def receive() -> None:
            nonlocal outcome
            try:
                outcome = await self._line(None)
            except RemoteUnavailable as error:
                outcome = error
            answered.set()
            nursery.cancel_scope.cancel()

        answered = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(send)
        if isinstance(outcome, WorkError):
            raise outcome
        assert outcome is not None
        try:
            return _parse_reply(outcome)
        except RemoteRefused as refusal:
            raise RemoteRefused(
                refusal.reason, text=f"error from remote: {refusal.reason}"
            ) from None

    async def _send_file(self, path: Path, before_end: Callable[[], None]) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                await self._send_content(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise WorkError(f"error sending stdin file: {error.strerror}") from error
        before_end()
        with _translated():
            await self._stream.send_eof()

    async def _send_content(self, descriptor: int) -> None:
        position, size = 0, os.fstat(descriptor).st_size
        while position < size:
            chunk = await read_part(descriptor, position, CHUNK)
            if not chunk:
                raise WorkError(f"error sending stdin file: it ends at byte {position} of {size}")
            position += len(chunk)
            with _translated():
                await self._stream.send_all(chunk)

    async def watch(self, unit_id: str) -> JsonObject:
        """Ask to be told of each change of a unit; return its status now.

        Raises:
            RemoteUnavailable, RemoteRefused
        """
        try:
            return await self.ask(subcommand="watch", unitid=unit_id)
        except RemoteRefused as refusal:
            if refusal.reason != "bad command":
                raise
        # receptor cannot push: from here on it is asked.
        self._polls = True
        return await self.ask(subcommand="status", unitid=unit_id)

    async def next_status(self, unit_id: str) -> JsonObject:
        """Return the next status; it may be the same as before.

        After :meth:`watch`, or a submission whose reply said that the node ``follows`` it.

        Raises:
            RemoteUnavailable, RemoteRefused
        """
        if self._polls:
            await trio.sleep(POLL_INTERVAL)
            return await self.ask(subcommand="status", unitid=unit_id)
        return _parse_reply(await self._line(None))

    async def start_results(self, unit_id: str, position: int) -> None:
        """Ask for stdout from byte ``position``; :meth:`receive_results` returns it.

        Raises:
            RemoteUnavailable, RemoteRefused
        """
        await self._send(
            {"command": "work", "subcommand": "results", "unitid": unit_id, "startpos": position}
        )
        line = await self._line(REPLY_TIMEOUT)
        if line.startswith("ERROR"):
            raise RemoteRefused(line.removeprefix("ERROR: "))
        if not line.startswith("Streaming results"):
            raise RemoteUnavailable(f"the node did not stream results: {line}")

    async def receive_results(self) -> bytes:
        """Return the next bytes of stdout, ``b""`` when the node has closed the stream.

        Raises:
            RemoteUnavailable
        """
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        with _translated():
            return bytes(await self._stream.receive_some(CHUNK))

    def _signed(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the command with a signature of this moment: tokens expire, units last."""
        if self._sign is None or command["subcommand"] in UNSIGNED:
            return command
        try:
            return {**command, "signature": self._sign(self._node)}
        except CannotSign as error:
            # To the other node it would be an unsigned command, which it refuses.
            raise RemoteRefused(str(error)) from error

    async def _send(self, command: Mapping[str, Any]) -> None:
        command = self._signed(command)
        with _translated(), trio.fail_after(REPLY_TIMEOUT):
            await self._stream.send_all(json.dumps(command).encode() + b"\n")

    async def _line(self, seconds: float | None) -> str:
        """Return the next line without its end; one cut off by the end of the stream is none."""
        with _translated(), trio.CancelScope() as scope:
            if seconds is not None:
                scope.deadline = trio.current_time() + seconds
            searched = 0
            while (end := self._buffer.find(b"\n", searched)) < 0:
                searched = len(self._buffer)
                if searched > MAX_REPLY:
                    raise RemoteUnavailable(f"a reply line has more than {MAX_REPLY} bytes")
                data = await self._stream.receive_some(CHUNK)
                if not data:
                    raise RemoteUnavailable("the node closed the control session")
                self._buffer += data
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            return line.decode(errors="replace").rstrip("\r")
        raise RemoteUnavailable(f"no reply within {seconds:g} s")


def _parse_reply(line: str) -> JsonObject:
    if line.startswith("ERROR"):
        raise RemoteRefused(line.removeprefix("ERROR:").strip())
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise RemoteUnavailable(f"the reply is no JSON object: {line[:80]}")
    return reply


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Say in one way that the other node cannot be talked to now."""
    try:
        yield
    except NoRoute as error:
        raise RemoteUnavailable(str(error), no_route=True) from error
    except MeshError as error:
        raise RemoteUnavailable(str(error)) from error
    except trio.TooSlowError as error:
        raise RemoteUnavailable(f"no answer within {REPLY_TIMEOUT:g} s") from error
    except _GONE as error:
        raise RemoteUnavailable(f"the stream broke: {error}") from error
