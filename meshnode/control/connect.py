"""``connect``: bytes between a client and a stream service anywhere on the mesh."""

from dataclasses import dataclass

import trio

from meshnode.control.mesh_face import ControlMesh
from meshnode.control.registry import Command, ControlSession, Handler, JsonObject
from meshnode.errors import CommandError
from meshnode.mesh.pump import bridge


def connect_command(mesh: ControlMesh) -> Command:
    """Return the ``connect`` command: it turns its session into the stream, and ends it."""

    def run_to(node: str, service: str, tls: str) -> Handler:
        async def run(session: ControlSession) -> None:
            if tls:
                raise CommandError(f"unknown TLS config {tls}")
            stream = await mesh.dial(node, service)
            session.finish()
            try:
                await session.send(b"Connecting\n")
                await bridge(_SessionEnd(session), stream)
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
        )

    return Command("connect", parse_text, parse_json)


def _field(body: JsonObject, key: str, what: str) -> str:
    if key not in body:
        raise CommandError(f"no {what}")
    value = body[key]
    if not isinstance(value, str):
        raise CommandError(f"{what} must be string")
    return value


@dataclass(frozen=True, slots=True)
class _SessionEnd:
    """A session as an end of a bridge."""

    session: ControlSession

    async def receive_some(self, max_bytes: int) -> bytes:
        return await self.session.receive_some(max_bytes)

    async def send_all(self, data: bytes) -> None:
        await self.session.send(data)

    async def send_eof(self) -> None:
        await self.session.send_eof()
