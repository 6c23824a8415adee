"""Floods of connections: silent ones, half lines, idle sessions, long names, datagrams."""

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator

from hostile import forge
from hostile.peer import LinkLost, Peer, UdpWire, unique, ws_head

from floods.attack import Crowd, Limit, Sent, Target, linger, tcp_opener, unix_opener
from meshnode.mesh.links.unproven import REQUEST, answer, read_challenge

SILENT = 540
HALF_LINES = 800
IDLE_SESSIONS = 2048
SESSIONS = 10_000
LONG_NAMED = 260
MANY_LINKS = 100
DEAF_LINKS = 300
ADDRESSES = 1024
PROVEN = 100
KNOWN_NODES = 1000

LINE = 1024 * 1024
"""Bytes of the longest command line; a half line has one less, and no end."""

PROBES = 20
"""Addresses that send one datagram each, to see what comes back."""

COOKIE_PATIENCE = 0.2
"""Seconds for a cookie; one that does not come is done without."""

ROUND = 0.5
"""Seconds between two hellos of each address."""


def silent_tcp(target: Target, limit: Limit) -> Sent:
    """Connect and say nothing."""
    return Crowd(tcp_opener(target.tcp), SILENT, b"").stay(limit)


def silent_ws(target: Target, limit: Limit) -> Sent:
    """Connect and begin a request that never ends."""
    return Crowd(tcp_opener(target.ws), SILENT, b"GET / HTTP/1.1\r\nHost: ").stay(limit)


def half_lines(target: Target, limit: Limit) -> Sent:
    """Send the control service lines that do not end."""
    return Crowd(tcp_opener(target.control_port), HALF_LINES, b"s" * (LINE - 1)).stay(limit)


def idle_sessions(target: Target, limit: Limit) -> Sent:
    """Open sessions on the control port, and ask nothing."""
    return Crowd(tcp_opener(target.control_port), IDLE_SESSIONS, b"").stay(limit)


def sessions(target: Target, limit: Limit) -> Sent:
    """Open ten thousand sessions on the control port that each ask for the status, and stay."""
    return Crowd(tcp_opener(target.control_port), SESSIONS, b"status\n").stay(limit)


def idle_unix_sessions(target: Target, limit: Limit) -> Sent:
    """Open sessions on the control socket, and ask nothing."""
    return Crowd(unix_opener(target.control_socket), IDLE_SESSIONS, b"").stay(limit)


def long_names(target: Target, limit: Limit) -> Sent:
    """Link many nodes whose names are as long as names can be, so that our update is, too."""
    sent = Sent()
    with contextlib.ExitStack() as links:
        peers: list[Peer] = []
        for number in range(LONG_NAMED):
            if not limit.seconds:
                break
            name = f"long{number}-".ljust(255, "n")
            try:
                peers.append(links.enter_context(Peer.open("tcp", target.tcp, name)))
                sent.links += 1
            except LinkLost:
                continue
        while limit.seconds:
            for peer in list(peers):
                try:
                    peer.drain()
                    peer.say_alive()
                except LinkLost:
                    peers.remove(peer)
            time.sleep(0.1)
        sent.bytes = sum(peer.wire.sent for peer in peers)
        sent.extra["left"] = len(peers)
    return sent


def many_links(target: Target, limit: Limit) -> Sent:
    """Be hundreds of peers, each of which has news of itself all the time."""
    sent = Sent()
    with contextlib.ExitStack() as links:
        peers: dict[int, Peer] = {}
        for turn in itertools.count(2):
            for number in range(MANY_LINKS):
                if not limit.seconds:
                    break
                try:
                    if number not in peers:
                        peer = Peer.open("tcp", target.tcp, f"many{number}")
                        peers[number] = links.enter_context(peer)
                        sent.links += 1
                    peers[number].send(
                        forge.update(f"many{number}", UpdateID=unique(), UpdateSequence=turn)
                    )
                    sent.messages += 1
                except LinkLost:
                    if number in peers:
                        peers.pop(number).close()
            if not limit.seconds:
                break
        sent.bytes = sum(peer.wire.sent for peer in peers.values())
        sent.extra["left"] = len(peers)
    return sent


def deaf_links(target: Target, limit: Limit) -> Sent:
    """Have hundreds of peers that never read, and send each of them as much as it can be sent."""
    sent = Sent()
    with contextlib.ExitStack() as links:
        deaf = [
            links.enter_context(Peer.open("tcp", target.tcp, f"deaf{number}"))
            for number in range(DEAF_LINKS)
        ]
        talker = links.enter_context(Peer.open("tcp", target.tcp, "talker"))
        sent.links = len(deaf) + 1
        while limit.seconds:
            for peer in deaf:
                with contextlib.suppress(LinkLost):
                    # Without a look at what the victim says: that is not read.
                    peer.wire.send_messages((forge.data(peer.name, forge.VICTIM, "x", "y"),))
                talker.send(
                    *[forge.data("talker", peer.name, "x", "y", bytes(16_000)) for _ in range(8)]
                )
                sent.messages += 8
        sent.bytes = talker.wire.sent
    return sent


def udp_amplification(target: Target, limit: Limit) -> Sent:
    """Send one datagram each from addresses that never show that they read, and count what comes.

    The victim knows many nodes by then, which it would tell a new peer all about.
    """
    sent = Sent()
    with Peer.open("tcp", target.tcp, "teller") as teller, contextlib.ExitStack() as sockets:
        names = [f"known{number:04}" for number in range(KNOWN_NODES)]
        claims = {forge.VICTIM: 1} | dict.fromkeys(names, 1)
        teller.send(forge.update("teller", UpdateID=unique(), UpdateSequence=2, Connections=claims))
        for name in names:
            teller.send(
                forge.update(
                    name,
                    UpdateID=unique(),
                    Connections={"teller": 1},
                    ForwardingNode="teller",
                )
            )
        time.sleep(min(1.0, limit.seconds / 4))  # until it has taken them all
        wires: list[UdpWire] = []
        for number in range(PROBES):
            wire = UdpWire(target.udp, f"127.0.67.{number + 1}")
            sockets.callback(wire.socket.close)
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            # With the news that the link is up: what the victim said is claimed to have been read.
            wire.send_messages((forge.update(f"unproven{number}", UpdateID=unique()),))
            wires.append(wire)
        received = 0
        while limit.seconds:
            with contextlib.suppress(LinkLost):
                teller.drain()
            received += sum(_drain(wire) for wire in wires)
            time.sleep(0.02)
    sent.messages = len(wires)
    sent.bytes = sum(wire.sent for wire in wires)
    sent.extra["amplification"] = received / sent.bytes
    return sent


def _drain(wire: UdpWire) -> int:
    received = 0
    while wire.has_word():
        try:
            received += sum(map(len, wire.take()))
        except LinkLost:
            break
    return received


def udp_addresses(target: Target, limit: Limit) -> Sent:
    """Have a thousand addresses begin links, again and again, and read nothing."""
    with _many_addresses(target.udp) as wires:
        return _say_hello(wires, limit, lambda wire, hello: hello)


def udp_proven(target: Target, limit: Limit) -> Sent:
    """Have a hundred addresses begin links as meshnodes do, which show that they read there."""
    with _many_addresses(target.udp, PROVEN) as wires:
        cookies: dict[UdpWire, bytes] = {}
        for wire in wires:
            with contextlib.suppress(LinkLost):
                wire.send_messages((REQUEST,))
                if wire.has_word(COOKIE_PATIENCE):
                    cookie = read_challenge(wire.take()[0])
                    if cookie is not None:
                        cookies[wire] = cookie
        sent = _say_hello(list(cookies), limit, lambda wire, hello: answer(cookies[wire], hello))
        sent.extra["proven"] = len(cookies)
        return sent


@contextlib.contextmanager
def _many_addresses(port: int, count: int = ADDRESSES) -> Iterator[list[UdpWire]]:
    with contextlib.ExitStack() as sockets:
        wires: list[UdpWire] = []
        for number in range(count):
            wire = UdpWire(port, f"127.1.{number // 250}.{number % 250 + 1}")
            sockets.callback(wire.socket.close)
            wires.append(wire)
        yield wires


def _say_hello(wires: list[UdpWire], limit: Limit, wrap: Callable[[UdpWire, bytes], bytes]) -> Sent:
    sent = Sent(links=len(wires))
    for turn in itertools.count(1):
        began = time.monotonic()
        for number, wire in enumerate(wires):
            hello = forge.update(f"u{number}", UpdateID=unique(), UpdateSequence=turn)
            with contextlib.suppress(LinkLost):
                wire.send_messages((wrap(wire, hello),))
                sent.messages += 1
        if not limit.seconds:
            break
        time.sleep(max(0.0, min(limit.seconds, ROUND - (time.monotonic() - began))))
    sent.bytes = sum(wire.sent for wire in wires)
    return sent


def flapping(target: Target, limit: Limit) -> Sent:
    """Link as a node, leave, and link again as the same one, as fast as it goes."""
    sent = Sent()
    while limit.seconds:
        with contextlib.suppress(LinkLost), Peer.open("tcp", target.tcp, "flapping") as peer:
            sent.links += 1
            sent.bytes += peer.wire.sent
    return sent


def websocket_pings(target: Target, limit: Limit) -> Sent:
    """Send the smallest frames of a websocket, each of which asks for an answer."""
    pings = (ws_head(0, opcode=9) * 4096, ws_head(125, opcode=9) + bytes(125))
    sent = Sent()
    while limit.seconds:
        with contextlib.suppress(LinkLost), Peer.open("ws", target.ws, f"wsp{sent.links}") as peer:
            sent.links += 1
            while limit.seconds:
                peer.send_bytes(pings[0] if sent.messages % 2 else pings[1] * 64)
                sent.messages += 1
                sent.bytes = peer.wire.sent
    return sent


def stay_linked(target: Target, limit: Limit) -> Sent:
    """Be an ordinary peer that says what it must: what all floods are held against."""
    with Peer.open("tcp", target.tcp, "quiet") as peer:
        linger(peer, limit)
        return Sent(bytes=peer.wire.sent, links=1)
