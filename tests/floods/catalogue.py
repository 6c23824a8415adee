"""All floods, by name: what is sent, and what is looked at beside the common bounds."""

from dataclasses import dataclass

from hostile.forge import PRIVATE

from floods import routing, sockets, streams, tls
from floods.attack import Attack
from floods.routing import poured

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Flood:
    """One flood.

    ``title`` stands in the table. ``operator`` is how the victim's operator comes while it lasts:
    where a flood takes the places of one kind of client, by the other. ``joins`` is the kind of
    link of the node that joins meanwhile. ``few`` bounds the messages in a short run. ``seen`` is
    what the victim logs of it: that it gets as far as it is meant to.
    """

    name: str
    title: str
    attack: Attack
    operator: str = "unix"
    joins: str = "tcp"
    few: int | None = None
    seen: str = ""


FLOODS = {
    flood.name: flood
    for flood in (
        Flood("quiet", "nothing: an ordinary peer", sockets.stay_linked),
        Flood(
            "adverts",
            "60-KB advertisements of ever new services",
            poured(routing.adverts(routing.LARGE)),
            few=1000,
        ),
        Flood(
            "allowed-adverts",
            "15-KB advertisements of ever new services",
            poured(routing.adverts(routing.ALLOWED)),
            few=4000,
        ),
        Flood(
            "strangers-adverts",
            "4-KB advertisements of ever new nodes",
            poured(routing.strangers_adverts),
            few=10_000,
        ),
        Flood("update-ids", "60-KB UpdateIDs", poured(routing.update_ids(60_000)), few=1000),
        Flood(
            "short-update-ids",
            "64-byte UpdateIDs, ever new",
            poured(routing.update_ids(64)),
            few=20_000,
        ),
        Flood("topology", "2,000 invented nodes of 4,000 links", poured(routing.topology), few=200),
        Flood("notices", "notices with invented names", poured(routing.notices), few=20_000),
        Flood(
            "initials",
            "QUIC Initials never followed up",
            poured(streams.initials("control")),
            few=5000,
        ),
        Flood("half-lines", "800 half lines of 1 MiB", sockets.half_lines),
        Flood("withdrawals", "50,000 withdrawals", poured(routing.withdrawals), few=20_000),
        Flood("long-names", "260 links with 255-byte names", sockets.long_names),
        Flood("many-links", "100 links of one host, all with news", sockets.many_links),
        Flood("deaf-links", "300 links that do not read", sockets.deaf_links),
        Flood("invented", "ever new invented nodes", poured(routing.invented), few=15_000),
        Flood("linked", "ever new nodes with routes to them", poured(routing.linked), few=5000),
        Flood("restarts", "an honest node's restarts, forged", poured(routing.restarts), few=5000),
        Flood("silent-tcp", "540 silent TCP connections", sockets.silent_tcp),
        Flood("silent-ws", "540 silent websocket clients", sockets.silent_ws, joins="ws"),
        Flood("idle-streams", "2,048 idle streams of one peer", streams.idle_streams),
        Flood("idle-sessions", "2,048 idle sessions of one host", sockets.idle_sessions),
        Flood(
            "idle-unix-sessions",
            "2,048 idle sessions of one user",
            sockets.idle_unix_sessions,
            operator="tcp",
        ),
        Flood(
            "udp-amplification",
            "one datagram each of unproven addresses",
            sockets.udp_amplification,
            joins="udp",
        ),
        Flood("udp-addresses", "1,024 UDP addresses", sockets.udp_addresses, joins="udp"),
        Flood("udp-proven", "100 UDP addresses that read", sockets.udp_proven, joins="udp"),
        Flood("results", "results without end", streams.endless_results),
        Flood("empty-streams", "streams that end at once", streams.empty_streams, few=5000),
        Flood("cancelled-dials", "cancelled first dials", streams.cancelled_dials, few=100),
        Flood("pings", "pings", poured(routing.pings), few=20_000),
        Flood(
            "unknown-services",
            "messages to services that are not",
            poured(routing.unknown_services),
            few=5000,
        ),
        Flood("flapping", "a node that links and leaves", sockets.flapping),
        Flood("websocket-pings", "ping frames of a websocket", sockets.websocket_pings, joins="ws"),
        Flood("handshakes", "QUIC handshakes without a stream", streams.handshakes),
        Flood("sessions", "10,000 sessions of one host", sockets.sessions),
        Flood("half-hellos", "540 TLS handshakes cut off", tls.half_hellos, joins="tls"),
        Flood("hellos", "540 TLS handshakes never followed up", tls.hellos, joins="tls"),
        Flood("slow-hellos", "TLS handshakes byte by byte", tls.slow_hellos, joins="tls"),
        Flood(
            "strangers",
            "TLS without or with 80 KB of certificates",
            tls.strangers,
            joins="tls",
            seen="showed no certificate|showed none",
        ),
        Flood(
            "tls-garbage",
            "random bytes after TLS handshakes",
            tls.garbage,
            joins="tls",
            seen="what came is no TLS",
        ),
        Flood(
            "tls-initials",
            "QUIC Initials for a service with TLS",
            poured(streams.initials(PRIVATE)),
            few=5000,
        ),
        Flood(
            "tls-handshakes",
            "QUIC handshakes whose certificate never comes",
            streams.handshakes_without_certificate,
        ),
        Flood("log", "messages worth a line of log", poured(routing.bad_notices), few=20_000),
    )
}
