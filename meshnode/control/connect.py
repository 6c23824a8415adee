"""``connect``: bytes between a client and a stream service anywhere on the mesh."""

import trio

from meshnode.control.ends import FramedEnd, RawEnd
from meshnode.control.mesh_face import ControlMesh
from meshnode.control.registry import Command, ControlSession, Handler, JsonObject, origin_node
from meshnode.errors import AccessRefused, CommandError
from meshnode.mesh.pump import bridge


def connect_command(mesh: ControlMesh, *, forwarding: bool = False) -> Command:
    """Return the ``connect`` command: it turns its session into the stream, and ends it.

    Without ``forwarding`` a client from the mesh gets no stream: to the other node it would come
    from here, and rules that let only this node in would let it in as well.
    """

    def run_to(node: str, service: str, tls: str, *, framed: bool = False) -> Handler:
        async def run(session: ControlSession) -> None:
            if origin_node(session) and not forwarding:
                raise AccessRefused(
                    f"this node connects no clients from the mesh to {node}: connect from the "
                    f"node where you are (or set node: allowforwarding on {session.node_id})"
                )
            if tls:
                raise CommandError(f"unknown TLS config {tls}")
            stream = await mesh.dial(node, service)
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
                # Closed it is already, unless something failed, and then this is a reset: half of
                # something must not look like all of it.
                await trio.aclose_forcefully(stream)

        return run

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
