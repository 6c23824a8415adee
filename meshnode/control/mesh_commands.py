"""The control commands about the mesh, and ``reload``; ``meshnode.work`` has those about work."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from meshnode.control.connect import connect_command
from meshnode.control.link_fields import (
    LINK_FIELDS,
    Certificates,
    Links,
    certificate_fields,
    no_certificates,
)
from meshnode.control.registry import (
    WAYS,
    Asking,
    Command,
    CommandRegistry,
    ControlSession,
    Handler,
    JsonObject,
)
from meshnode.errors import CommandError, MeshError, ReloadRefused
from meshnode.mesh.dataplane import DropCounts, FirewallCounts
from meshnode.mesh.links.base import LinkFigures
from meshnode.mesh.mesh import LinkStatus, Mesh, MeshStatus
from meshnode.mesh.peers.conditions import LinksReport
from meshnode.permissions import Verb
from meshnode.protocol.rates import NamedBuckets
from meshnode.protocol.routing import plain_number
from meshnode.protocol.times import SECOND, format_duration, format_time
from meshnode.security.access import Target
from meshnode.security.audit import AuditLog
from meshnode.security.auditlines import AuditEvent, Kind
from meshnode.security.identity import Identity
from meshnode.version import VERSION

if TYPE_CHECKING:
    from meshnode.security.tls import TlsClients

# --- ``status``: what this node is and what it knows of the mesh

_MIB = 1024 * 1024


Warnings = Callable[[], Awaitable[Sequence[str]]]
"""Returns lines for a person: what this node needs somebody to look after."""


def shown_to_everybody(session: ControlSession) -> bool:
    """Let every client see the warnings, some of which name units."""
    return True


async def nothing_to_warn_of() -> Sequence[str]:
    """Return no warnings."""
    return ()


def nothing_keeps_limits() -> str | None:
    """Return that no type of work has limits."""
    return None


def status_command(
    mesh: Mesh,
    warnings: Warnings = nothing_to_warn_of,
    links: Links = LinksReport,
    certificates: Certificates = no_certificates,
    sees_warnings: Callable[[ControlSession], bool] = shown_to_everybody,
    limits: Callable[[], str | None] = nothing_keeps_limits,
) -> Command:
    """Return the ``status`` command; JSON may ask for some fields only (``requested_fields``).

    The line of text has receptor's fields and no more, as receptorctl's own tests demand.

    ``Warnings`` is a field of our own, which is there while there are any that the client may see;
    so are those of ``links``, ``Certificates``, and ``Limits``: what keeps the limits of units.
    """

    def run_with(fields: Set[str] | None) -> Handler:
        async def run(session: ControlSession) -> JsonObject:
            async with session.turn():
                status = mesh.status()
                # Once each, however often a client names it: some take long.
                reply = {
                    name: field(status)
                    for name, field in _FIELDS.items()
                    if fields is None or name in fields
                }
                report = links()
                reply |= {
                    name: field(report) or None
                    for name, field in LINK_FIELDS.items()
                    if fields is None or name in fields
                }
            if fields is None or "Certificates" in fields:
                reply["Certificates"] = certificate_fields(certificates()) or None
            if fields is None or "Limits" in fields:
                reply["Limits"] = limits()
            if (fields is None or "Warnings" in fields) and sees_warnings(session):
                reply["Warnings"] = list(await warnings()) or None
            return {name: value for name, value in reply.items() if value is not None}

        return Asking(run, Verb.MESH)

    def parse_text(rest: str) -> Handler:
        if rest:
            raise CommandError("status command does not take parameters")
        return run_with(_RECEPTORS_FIELDS.keys())

    def parse_json(body: JsonObject) -> Handler:
        return run_with(_requested_fields(body))

    return Command("status", parse_text, parse_json)


def _requested_fields(body: JsonObject) -> Set[str] | None:
    if "requested_fields" not in body:
        return None
    fields = body["requested_fields"]
    # Anything else than a list ends a receptor node (protocol section 11).
    if not isinstance(fields, list):
        raise CommandError("requested_fields must be a list of strings")
    if not all(isinstance(field, str) for field in fields):
        raise CommandError("each element of requested_fields must be a string")
    return frozenset(fields)


def _costs(costs: Mapping[str, float]) -> dict[str, int | float]:
    return {peer: plain_number(cost) for peer, cost in costs.items()}


def _connection(link: LinkStatus) -> JsonObject:
    """Return receptor's two keys of a connection, and ours beside them."""
    connection = {"NodeID": link.peer, "Cost": plain_number(link.cost)}
    return connection if link.figures is None else connection | _figures(link.figures)


def _figures(figures: LinkFigures) -> JsonObject:
    # Spans of time are in nanoseconds, as in the replies to ping.
    round_trip = figures.round_trip
    return {
        "Kind": figures.kind,
        "Address": figures.address,
        "Since": format_time(int(figures.since * SECOND)),
        "Uptime": int(figures.uptime * SECOND),
        "RoundTrip": None if round_trip is None else int(round_trip * SECOND),
        "SentMessages": figures.sent_messages,
        "SentBytes": figures.sent_bytes,
        "ReceivedMessages": figures.received_messages,
        "ReceivedBytes": figures.received_bytes,
        "Dropped": figures.dropped,
        "Refused": figures.refused,
    }


def _firewall(counts: FirewallCounts | None) -> JsonObject | None:
    """Return our own key, which only a node with firewall rules has."""
    if counts is None:
        return None
    return {"Rejected": counts.rejected, "Dropped": counts.dropped}


def _drops(counts: DropCounts) -> JsonObject | None:
    """Return our own key: how much was dropped or left unanswered here; None if nothing was."""
    if counts == DropCounts():
        return None
    return {
        "Unreadable": counts.unreadable,
        "Notices": counts.notices,
        "Faults": counts.faults,
        "Unanswered": counts.unanswered,
    }


_RECEPTORS_FIELDS: Mapping[str, Callable[[MeshStatus], Any]] = {
    "Version": lambda _: VERSION,
    # As Go counts them: those that this process may run on.
    "SystemCPUCount": lambda _: len(os.sched_getaffinity(0)),
    "SystemMemoryMiB": lambda _: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB,
    "NodeID": lambda status: status.node_id,
    "Connections": lambda status: [_connection(link) for link in status.connections],
    "RoutingTable": lambda status: dict(status.routes),
    "Advertisements": lambda status: [ad.to_json() for ad in status.advertisements],
    "KnownConnectionCosts": lambda status: {
        node: _costs(costs) for node, costs in status.known_costs.items()
    },
}
_OWN_FIELDS: Mapping[str, Callable[[MeshStatus], Any]] = {
    "Firewall": lambda status: _firewall(status.firewall),
    "Dropped": lambda status: _drops(status.drops),
}
_FIELDS = {**_RECEPTORS_FIELDS, **_OWN_FIELDS}


# --- ``ping`` and ``traceroute``: whether and by which route a node is reached


def ping_command(mesh: Mesh) -> Command:
    """Return the ``ping`` command."""

    async def ping(target: str) -> JsonObject:
        try:
            answer = await mesh.ping(target)
        except MeshError as error:
            return {"Success": False, "Error": str(error)}
        return {"Success": True, "From": answer.from_node, **_time_keys(answer.seconds)}

    return _target_command("ping", ping)


def traceroute_command(mesh: Mesh) -> Command:
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

        return Asking(run, Verb.PING, Target(node=target))

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


# --- ``reload``: have the node read its configuration again


Reload = Callable[[], Awaitable[ReloadRefused | None]]
"""Takes the configuration file over as it is when this is called; returns why it was refused."""

RELOADS_AT_ONCE = 4
RELOAD_EVERY = 5.0
"""Reloads that clients of the network may have one after the other, and the seconds between two of
more: each reads the whole file, and they may ask as often as they like."""


class SharedReload:
    """Has reloads follow each other, each for all who have asked before it began."""

    def __init__(self, reload: Reload) -> None:
        self._reload = reload
        self._one_at_a_time = trio.Lock()
        self._next: _Run | None = None

    async def __call__(self) -> ReloadRefused | None:
        """Return what came of a reload that began after this was called."""
        run = self._next = self._next or _Run()
        async with self._one_at_a_time:
            # Not yet done if whoever began it was cancelled: the next one does it then.
            if not run.is_done:
                self._next = None
                run.refusal = await self._reload()
                run.is_done = True
        return run.refusal


@dataclass(slots=True)
class _Run:
    """One reload, for all who asked for it before it began."""

    is_done: bool = False
    refusal: ReloadRefused | None = None


def reload_command(reload: Reload, audit: AuditLog | None = None) -> Command:
    """Return the ``reload`` command.

    Clients of the network, whoever they are, wait for their turn: each reload reads a whole file.
    """
    pace = NamedBuckets(RELOADS_AT_ONCE * RELOAD_EVERY)

    async def in_time() -> ReloadRefused | None:
        await trio.sleep_until(pace.when("", trio.current_time(), RELOAD_EVERY))
        pace.add("", trio.current_time(), RELOAD_EVERY)
        return await reload()

    # Who waits for the pace shares one wait; the reload itself is shared by whoever gave it.
    reload_in_time = SharedReload(in_time)

    async def run(session: ControlSession) -> JsonObject:
        refusal = await (reload() if session.kind == "unix" else reload_in_time())
        if audit is not None and audit.is_on:
            audit.record(reloaded(refusal, WAYS[session.kind], session.client, session.rule))
        if refusal is None:
            return {"Success": True}
        # The text is receptor's; the code beside it is for clients that would not take it apart.
        return {"Success": False, "Error": str(refusal), "ErrorCode": refusal.fault.value}

    asking = Asking(run, Verb.RELOAD)

    def parse_text(rest: str) -> Handler:
        return asking

    def parse_json(body: JsonObject) -> Handler:
        return asking

    return Command("reload", parse_text, parse_json)


def reloaded(
    refusal: ReloadRefused | None, way: str, by: Identity | None = None, rule: str = ""
) -> AuditEvent:
    """Return what the audit log is told of a reload; ``by`` is None for a signal."""
    outcome = "done" if refusal is None else f"failed: {refusal}"
    return AuditEvent(Kind.RELOAD, by, way, outcome=outcome, rule=rule)


def register_mesh_commands(
    registry: CommandRegistry,
    mesh: Mesh,
    reload: Reload,
    warnings: Warnings = nothing_to_warn_of,
    links: Links = LinksReport,
    *,
    certificates: Certificates = no_certificates,
    forwarding: bool = False,
    tls_clients: "TlsClients | None" = None,
    audit: AuditLog | None = None,
    limits: Callable[[], str | None] = nothing_keeps_limits,
) -> None:
    """Add status, ping, traceroute, connect and reload (protocol section 8) to a registry.

    ``warnings`` returns what ``status`` warns of, ``links`` how configured links fare,
    ``certificates`` those that this node shows;
    ``forwarding`` says whether a client from the mesh may connect to other nodes from here, and
    ``tls_clients`` has the settings that clients may name. ``audit`` is told who connects and
    reloads; ``limits`` says what keeps the limits of units.
    """
    for command in (
        status_command(mesh, warnings, links, certificates, registry.shows_units, limits),
        ping_command(mesh),
        traceroute_command(mesh),
        connect_command(mesh, forwarding=forwarding, tls_clients=tls_clients, audit=audit),
        reload_command(reload, audit),
    ):
        registry.register(command)
