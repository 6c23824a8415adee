"""``ping`` and ``traceroute``: whether and by which way a node is reached."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from meshnode.control.mesh_face import ControlMesh
from meshnode.control.registry import Command, ControlSession, Handler, JsonObject
from meshnode.errors import CommandError, MeshError
from meshnode.protocol.durations import format_duration


def ping_command(mesh: ControlMesh) -> Command:
    """Return the ``ping`` command."""

    async def ping(target: str) -> JsonObject:
        try:
            answer = await mesh.ping(target)
        except MeshError as error:
            return {"Success": False, "Error": str(error)}
        return {"Success": True, "From": answer.from_node, **_time_keys(answer.seconds)}

    return _target_command("ping", ping)


def traceroute_command(mesh: ControlMesh) -> Command:
    """Return the ``traceroute`` command; its reply has an object for each hop, by number."""

    async def traceroute(target: str) -> JsonObject:
        reply: JsonObject = {}
        async with aclosing(mesh.traceroute(target)) as hops:
            async for hop in hops:
                entry = {"From": hop.from_node, **_time_keys(hop.seconds)}
                if hop.error is not None:
                    entry["Error"] = hop.error
                reply[str(len(reply))] = entry
        return reply

    return _target_command("traceroute", traceroute)


def _target_command(name: str, probe: Callable[[str], Awaitable[JsonObject]]) -> Command:
    def run_at(target: str) -> Handler:
        async def run(session: ControlSession) -> JsonObject:
            return await probe(target)

        return run

    def parse_text(rest: str) -> Handler:
        if not rest:
            raise CommandError(f"no {name} target")
        return run_at(rest)

    def parse_json(body: JsonObject) -> Handler:
        if "target" not in body:
            raise CommandError(f"no {name} target")
        if not isinstance(body["target"], str):
            raise CommandError(f"{name} target must be string")
        return run_at(body["target"])

    return Command(name, parse_text, parse_json)


def _time_keys(seconds: float) -> JsonObject:
    nanoseconds = round(seconds * 1e9)
    return {"Time": nanoseconds, "TimeStr": format_duration(nanoseconds)}
