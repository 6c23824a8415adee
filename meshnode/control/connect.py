"""``connect``: bytes between a client and a stream service anywhere on the mesh.

The session becomes one end of a bridge: raw bytes, or frames. Raw bytes on a unix socket have one
kind of end only: a stream that broke looks like one that is complete, and ``meshctl connect bar
backup > file`` would truncate the file and report success. A client that asks for it gets frames
both ways (docs/control-protocol.md, "connect"):

* 4 bytes, the length of what follows, most significant first; then that many bytes of the stream.
* A length of 0: this direction has ended, and is complete.
* From the node, a length with the highest bit set: the stream broke, and what follows is the reason
  in UTF-8. Nothing comes after it.

If the connection ends without one of the last two, the other side is gone.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from meshnode.control.registry import (
    WAYS,
    Asking,
    Command,
    ControlSession,
    Handler,
    JsonObject,
    origin_node,
)
from meshnode.errors import CommandError, ConnectsNobody, MeshnodeError, SecurityError
from meshnode.mesh.mesh import Mesh
from meshnode.net.pump import bridge
from meshnode.permissions import Verb
from meshnode.security.access import Target
from meshnode.security.audit import AuditLog
from meshnode.security.auditlines import AuditEvent, Kind

if TYPE_CHECKING:
    from meshnode.security.tls import TlsClients

LENGTH_BYTES = 4

BROKEN = 1 << 31
"""The bit of a length that says that the stream broke."""

MAX_FRAME = 1 << 24
"""Bytes of one frame at most. No frame is held whole: this only detects garbage."""

END = bytes(LENGTH_BYTES)


class RawEnd:
    """A session whose bytes are the stream's."""

    def __init__(self, session: ControlSession) -> None:
        self._session = session
        self._client_ended = trio.Event()
        self._service_ended = False

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return the client's bytes, ``b""`` at their end. Raises BrokenResourceError."""
        data = await self._session.receive_some(max_bytes)
        if not data:
            self._client_ended.set()
        return data

    async def send_all(self, data: bytes) -> None:
        """Send bytes to the client. Raises BrokenResourceError."""
        await self._session.send(data)

    async def send_eof(self) -> None:
        """End the client's stream. Raises BrokenResourceError."""
        self._service_ended = True
        await self._session.send_eof()

    async def break_when_lost(self) -> None:
        """Raise when a client that has ended its bytes is gone, so that a silent service ends.

        Raises:
            trio.BrokenResourceError: the client waits for the service no longer.
        """
        await self._client_ended.wait()
        await self._session.wait_lost()
        if not self._service_ended:
            raise trio.BrokenResourceError("the client is gone")


class FramedEnd(RawEnd):
    """A session whose bytes are frames."""

    def __init__(self, session: ControlSession) -> None:
        super().__init__(session)
        self._left = 0

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return bytes of the client's frames, ``b""`` after its last one.

        Raises:
            trio.BrokenResourceError: the client went before that, or sends no frames.
        """
        if not self._left:
            self._left = await self._next_length()
            if not self._left:
                self._client_ended.set()
                return b""
        data = await self._some(min(max_bytes, self._left))
        self._left -= len(data)
        return data

    async def _next_length(self) -> int:
        header = b""
        while len(header) < LENGTH_BYTES:
            header += await self._some(LENGTH_BYTES - len(header))
        length = int.from_bytes(header)
        if length > MAX_FRAME:
            raise trio.BrokenResourceError("the client sends what is no frame")
        return length

    async def _some(self, max_bytes: int) -> bytes:
        data = await self._session.receive_some(max_bytes)
        if not data:
            raise trio.BrokenResourceError("the client is gone")
        return data

    async def send_all(self, data: bytes) -> None:
        """Send one frame. Raises BrokenResourceError."""
        if data:
            await self._session.send(len(data).to_bytes(LENGTH_BYTES) + data)

    async def send_eof(self) -> None:
        """Say that the service has ended its bytes. Raises BrokenResourceError."""
        self._service_ended = True
        await self._session.send(END)

    async def send_failure(self, reason: str) -> None:
        """Say why the stream broke; nothing may follow. Raises BrokenResourceError."""
        text = reason.encode(errors="replace")
        await self._session.send((BROKEN | len(text)).to_bytes(LENGTH_BYTES) + text)


def connect_command(
    mesh: Mesh,
    *,
    forwarding: bool = False,
    tls_clients: "TlsClients | None" = None,
    audit: AuditLog | None = None,
) -> Command:
    """Return the ``connect`` command: its session becomes the stream, and ends with it.

    ``tls_clients`` returns where to get the settings of the ``tls-client`` of a name; ``audit`` is
    told who connects to what.

    Without ``forwarding`` a client from the mesh gets no stream. The other node would take it for a
    client of this node, so rules that admit only this node would admit it too.
    """

    def run_to(node: str, service: str, tls: str, *, framed: bool = False) -> Handler:
        async def dial(session: ControlSession) -> trio.abc.HalfCloseableStream:
            if origin_node(session) and not forwarding:
                raise ConnectsNobody(node, session.node_id)
            settings = tls_clients(tls) if tls and tls_clients is not None else None
            if tls and settings is None:
                raise CommandError(f"unknown TLS config {tls}")
            return await mesh.dial(node, service, settings)

        async def run(session: ControlSession) -> None:
            if audit is None or not audit.is_on:
                stream = await dial(session)
            else:
                event = AuditEvent(
                    Kind.CONNECT,
                    session.client,
                    WAYS[session.kind],
                    target=node,
                    service=service,
                    rule=session.rule,
                )
                stream = await _audited(audit, event, lambda: dial(session))
            session.finish()
            try:
                if framed:
                    await session.send(b"Connecting framed\n")
                    if not await _join_framed(FramedEnd(session), stream):
                        return
                else:
                    await session.send(b"Connecting\n")
                    await _join(RawEnd(session), stream)
                await stream.aclose()
            finally:
                # It is closed already unless something failed. Then this resets it, so that half of
                # something does not look like all of it.
                await trio.aclose_forcefully(stream)

        return Asking(run, Verb.CONNECT, Target(node=node, service=service))

    def parse_text(rest: str) -> Handler:
        words = rest.split(" ")
        if len(words) < 2:
            raise CommandError("no connect target")
        if len(words) > 3:
            raise CommandError("too many parameters")
        return run_to(words[0], words[1], words[2] if len(words) == 3 else "")

    def parse_json(body: JsonObject) -> Handler:
        return run_to(
            _field(body, "node", "connect target node"),
            _field(body, "service", "connect target service"),
            _field(body, "tls", "connect tls name") if "tls" in body else "",
            framed=body.get("framed") is True,
        )

    return Command("connect", parse_text, parse_json)


async def _audited(
    audit: AuditLog, event: AuditEvent, dial: Callable[[], Awaitable[trio.abc.HalfCloseableStream]]
) -> trio.abc.HalfCloseableStream:
    """Return the stream that is dialed, once the audit log has been told what came of it.

    Raises:
        NotAudited: it cannot be told, and must be.
        MeshnodeError: what ``dial`` raises.
    """
    try:
        stream = await dial()
    except SecurityError as refusal:
        audit.record(replace(event, kind=Kind.REFUSAL, asked="connect", outcome=str(refusal)))
        raise
    except MeshnodeError as error:
        audit.record(replace(event, outcome=f"failed: {error}"))
        raise
    try:
        await audit.require(replace(event, outcome="done"))
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _join(end: RawEnd, stream: trio.abc.HalfCloseableStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end.break_when_lost)
        await bridge(end, stream)
        nursery.cancel_scope.cancel()


async def _join_framed(end: FramedEnd, stream: trio.abc.HalfCloseableStream) -> bool:
    """Do the same; return False if the stream broke, which the client has been told then.

    Raises:
        trio.BrokenResourceError: the client is gone.
    """
    reason = ""
    try:
        await _join(end, stream)
    except* trio.BrokenResourceError as errors:
        reason = str(errors.exceptions[0])
    if reason:
        await end.send_failure(reason)
    return not reason


def _field(body: JsonObject, key: str, what: str) -> str:
    if key not in body:
        raise CommandError(f"no {what}")
    value = body[key]
    if not isinstance(value, str):
        raise CommandError(f"{what} must be string")
    return value
