"""The data path: every data message passes here (protocol section 3).

What is not for us is forwarded undecoded: the next hop is looked up by the 8 destination bytes,
and the hops byte is counted down in place.
"""

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from meshnode.errors import MessageTooLarge, NoRoute, ProtocolError, ServiceInUse
from meshnode.logs import subject_logger
from meshnode.mesh.links.base import Message
from meshnode.mesh.peers.updates import random_id
from meshnode.policies import Action, Rule
from meshnode.protocol.firewall import Firewall
from meshnode.protocol.framing import MAX_MESSAGE
from meshnode.protocol.messages import (
    HEADER_LENGTH,
    PING_SERVICE,
    PROBLEM_EXPIRED,
    PROBLEM_REJECTED,
    PROBLEM_SERVICE_UNKNOWN,
    UNREACHABLE_SERVICE,
    WIRE_HOPS,
    DataHeader,
    MessageType,
    ServiceKey,
    Unreachable,
    encode_service,
    is_readable,
    show_service,
)
from meshnode.protocol.namehash import NameTable
from meshnode.protocol.rates import Paces
from meshnode.shares import Holder

MAX_PAYLOAD = MAX_MESSAGE - HEADER_LENGTH
"""Bytes of the largest payload of a data message."""

LOCALHOST = "localhost"

NOTICES_PER_SECOND = 500
NOTICES_AT_ONCE = 2000
"""Notices that what comes over links with one address may bring about: a hundredth of a core. A
traceroute takes one at each node; dialers of a node that was restarted take one each."""

RESERVED_SERVICES = frozenset({PING_SERVICE, UNREACHABLE_SERVICE})

_HOPS_AND_DESTINATION = struct.Struct("<xB10x8s").unpack_from
"""What a forwarder needs of a header: the hops left, and whose message it is."""

_ANSWER = bytes([MessageType.DATA, WIRE_HOPS, 0, 0])
"""How the answer to a ping begins. The rest is what the ping says, the other way round."""


class NextHop(Protocol):
    """What the router needs of a session."""

    @property
    def peer(self) -> str:
        """The node at the other end."""
        ...

    @property
    def holder(self) -> str:
        """The network address of the other end; empty if it has none."""
        ...

    def send_data(self, message: Message) -> bool:
        """Queue a data message; False means that it was dropped."""
        ...

    def send_data_now(self, messages: Sequence[Message]) -> None:
        """Send data messages, as far as can be without waiting; queue or drop the others."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether a local sender may go on."""
        ...

    async def wait_room(self) -> None:
        """Wait for that."""
        ...


class Receiver(Protocol):
    """What takes the messages of one service of this node. Called on the data path: be quick."""

    def on_datagram(self, source: bytes, source_service: ServiceKey, payload: Message) -> None:
        """Take a message; ``source`` is the sending node's hash. The service's name is text."""
        ...

    def on_unreachable(self, notice: Unreachable, reporter: str) -> None:
        """Take the news that a message of this service did not arrive."""
        ...


@dataclass(frozen=True, slots=True)
class FirewallCounts:
    """Messages that the firewall has stopped since the start: with an answer, and without."""

    rejected: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class DropCounts:
    """Messages to this node that came to nothing since the start, through nobody's firewall."""

    unreadable: int = 0
    """Of services whose names are not text: nobody could answer them."""
    notices: int = 0
    """Notices of a failed message that are none, or that this node cannot believe."""
    faults: int = 0
    """Messages that a service of this node failed on, by a fault of ours."""
    unanswered: int = 0
    """Messages whose senders were not told, since too many of them came over one link."""


class Router:
    """Delivers data messages to services of this node and forwards the others."""

    def __init__(self, own_id: str, names: NameTable) -> None:
        self.own_id = own_id
        self.own_hash = names.learn(own_id)
        self._names = names
        self._receivers: dict[bytes, Receiver] = {}
        self._next_hops: dict[bytes, NextHop] = {}
        self._firewall: Firewall | None = None
        self.firewall_counts = FirewallCounts()
        self.drop_counts = DropCounts()
        self._notices = Paces(NOTICES_AT_ONCE / NOTICES_PER_SECOND)
        self._came_by = ""
        """Over whose links the messages came that are handled now; empty if none are."""
        self._log = subject_logger("router")

    # --- what the mesh tells it --------------------------------------------------------------

    def set_next_hops(self, next_hops: Mapping[str, NextHop]) -> None:
        """Replace the table: destination node to the session that leads there."""
        self._next_hops = {self._names.learn(node): hop for node, hop in next_hops.items()}

    def set_firewall(self, rules: Sequence[Rule]) -> None:
        """Judge every message by these rules from now on; without any, accept all."""
        self._firewall = Firewall(rules, self._names) if rules else None

    @property
    def has_firewall(self) -> bool:
        """Whether there are rules."""
        return self._firewall is not None

    def bind(self, service: ServiceKey, receiver: Receiver) -> None:
        """Give a service's messages to ``receiver``.

        Raises:
            ServiceInUse: the name is reserved or taken.
        """
        if self.is_bound(service):
            raise ServiceInUse(f"service {show_service(service)} is already listening")
        self._receivers[service] = receiver

    def unbind(self, service: ServiceKey) -> None:
        """Take a service away; its messages are answered ``service unknown`` from now on."""
        self._receivers.pop(service, None)

    def is_bound(self, service: ServiceKey) -> bool:
        """Whether a service name is taken or reserved."""
        return service in RESERVED_SERVICES or service in self._receivers

    def free_service(self) -> ServiceKey:
        """Return a random service name that is free: what a dialer or a client goes by."""
        while self.is_bound(service := encode_service(random_id())):
            pass
        return service

    # --- messages from links -----------------------------------------------------------------

    def handle(self, messages: Sequence[memoryview], came_by: str = "") -> None:
        """Deliver or forward data messages that a link brought in one go.

        Those with the same next hop go on as one, in their order. ``came_by`` is the address at
        the link's other end, or its node.

        Raises:
            ProtocolError: one is shorter than a header; those before it have gone their way.
        """
        onward: dict[NextHop, list[Message]] = {}
        self._came_by = came_by
        try:
            for message in messages:
                if len(message) < HEADER_LENGTH:
                    raise ProtocolError(
                        f"a data message of {len(message)} bytes has no room for its header"
                    )
                if self._firewall is not None and not self._admits(self._firewall, message):
                    continue
                hops, destination = _HOPS_AND_DESTINATION(message)
                if destination == self.own_hash:
                    self._deliver(message)
                elif hops == 0:
                    self._report(message, PROBLEM_EXPIRED)
                elif (next_hop := self._next_hops.get(destination)) is None:
                    self._log.debug("no route for a message to %s", self._describe(destination))
                else:
                    message[1] = hops - 1
                    onward.setdefault(next_hop, []).append(message)
        finally:
            self._came_by = ""
            for next_hop, run in onward.items():
                next_hop.send_data_now(run)

    def _deliver(self, message: Message) -> None:
        try:
            self._hand_over(message)
        except Exception as exc:  # noqa: BLE001
            # The boundary of what is for this node. The message came from anywhere, over a link
            # to a neighbour that only passed it on: a fault that it meets here must cost neither
            # that link nor the node, and a service that the fault has left unusable times out.
            self.drop_counts = replace(self.drop_counts, faults=self.drop_counts.faults + 1)
            self._log.error("failed on a message to this node: %s: %s", type(exc).__name__, exc)
            self._log.debug("it began with %s", bytes(message[:64]).hex(), exc_info=True)

    def _hand_over(self, message: Message) -> None:
        sender, service = bytes(message[20:28]), bytes(message[28:36])
        if not is_readable(sender):
            # Here, before anybody makes something of it: a name that is not text can be neither
            # logged nor told in a notice, so it is nobody that an answer could go to.
            self._drop_unreadable(message)
        elif (receiver := self._receivers.get(service)) is not None:
            receiver.on_datagram(bytes(message[4:12]), sender, message[HEADER_LENGTH:])
        elif service == PING_SERVICE:
            self._answer_ping(message)
        elif service == UNREACHABLE_SERVICE:
            self._take_notice(message)
        else:
            self._report(message, PROBLEM_SERVICE_UNKNOWN)

    def _answer_ping(self, message: Message) -> None:
        service = bytes(message[20:28])
        if service in (PING_SERVICE, UNREACHABLE_SERVICE):
            return  # two nodes that answer each other's answers would never stop
        destination = bytes(message[4:12])
        self._reply(destination, _ANSWER + self.own_hash + destination + PING_SERVICE + service)

    def _take_notice(self, message: Message) -> None:
        reporter = self._names.name(bytes(message[4:12]))
        try:
            notice = Unreachable.decode(message[HEADER_LENGTH:])
            if reporter is None:
                raise ProtocolError("nobody knows the node that it comes from")
            self._believe(notice, reporter)
        except ProtocolError as exc:
            # Not answered, whatever it is, and not worth a line each: anybody can send these.
            self.drop_counts = replace(self.drop_counts, notices=self.drop_counts.notices + 1)
            self._log.debug("dropped a notice from %s: %s", reporter or "an unknown node", exc)
            return
        receiver = self._receivers.get(notice.from_service)
        if receiver is not None:  # else it comes late, for a ping or a stream that is over
            receiver.on_unreachable(notice, reporter)

    def _believe(self, notice: Unreachable, reporter: str) -> None:
        """Check that a notice is about a message that this node may have sent.

        Nothing shows who wrote it. But what it is about must fit, and a stranger does not know the
        random name of a service that dials or pings.

        Raises:
            ProtocolError: it cannot be true.
        """
        if notice.from_node != self.own_id:
            raise ProtocolError(f"it is about a message of {notice.from_node}")
        if notice.to_node not in self._names:
            raise ProtocolError("it is about a message to a node that is not known here")
        if notice.problem == PROBLEM_SERVICE_UNKNOWN and reporter != notice.to_node:
            # All others only pass a message on, whatever its service is.
            raise ProtocolError(f"only {notice.to_node} knows its services")

    def _drop_unreadable(self, message: Message) -> None:
        counts = self.drop_counts
        self.drop_counts = replace(counts, unreadable=counts.unreadable + 1)
        self._log.debug(
            "dropped a message of service %s of %s to service %s",
            show_service(bytes(message[20:28])),
            self._describe(bytes(message[4:12])),
            show_service(bytes(message[28:36])),
        )

    def _report(self, message: Message, problem: str) -> None:
        """Tell the sender why its message went no further."""
        notice = self._notice(message, problem) if self._may_answer() else None
        if notice is not None:
            self._send_notice(notice)

    def _may_answer(self) -> bool:
        """Count a notice for whoever brought what is handled now; False if those are too many.

        The sender that a message names is no measure: whoever brings it can write any name.
        """
        if not self._came_by or self._notices.take(
            self._came_by, trio.current_time(), 1 / NOTICES_PER_SECOND
        ):
            return True
        counts = self.drop_counts
        self.drop_counts = replace(counts, unanswered=counts.unanswered + 1)
        return False

    def _notice(self, message: Message, problem: str) -> Unreachable | None:
        """Return what to tell the sender of a message that goes no further, if anything."""
        header = DataHeader.decode(message)
        if header.source_service == UNREACHABLE_SERVICE:
            return None  # never answer a notice with another (protocol section 3)
        if not (is_readable(header.source_service) and is_readable(header.destination_service)):
            self._drop_unreadable(message)
            return None
        source, destination = self._names.name(header.source), self._names.name(header.destination)
        if source is None or destination is None:
            return None
        return Unreachable(
            from_node=source,
            to_node=destination,
            from_service=header.source_service,
            to_service=header.destination_service,
            problem=problem,
        )

    def send_notice(self, notice: Unreachable) -> None:
        """Send an unreachable notice to the node whose message failed, or leave it if too many do.

        Whoever did not get it sends again.
        """
        if self._may_answer():
            self._send_notice(notice)

    def _send_notice(self, notice: Unreachable) -> None:
        self.send_reply(
            self._names.learn(notice.from_node),
            UNREACHABLE_SERVICE,
            UNREACHABLE_SERVICE,
            notice.encode(),
        )

    # --- the firewall ------------------------------------------------------------------------

    def _admits(self, firewall: Firewall, message: Message) -> bool:
        """Judge a message; one that may not pass is counted, and answered if it is rejected."""
        verdict = firewall.judge(message)
        if verdict.action is Action.ACCEPT:
            return True
        self._log.debug(
            "%s by the firewall (%s): from %s to %s, service %s",
            verdict.action.value,
            verdict.reason,
            self._describe(bytes(message[4:12])),
            self._describe(bytes(message[12:20])),
            show_service(bytes(message[28:36])),
        )
        counts = self.firewall_counts
        if verdict.action is Action.DROP:
            self.firewall_counts = replace(counts, dropped=counts.dropped + 1)
        else:
            self.firewall_counts = replace(counts, rejected=counts.rejected + 1)
            self._answer_rejected(message)
        return False

    def _answer_rejected(self, message: Message) -> None:
        notice = self._notice(message, PROBLEM_REJECTED) if self._may_answer() else None
        if notice is None:
            return
        destination = bytes(message[4:12])
        header = DataHeader(
            WIRE_HOPS, self.own_hash, destination, UNREACHABLE_SERVICE, UNREACHABLE_SERVICE
        )
        # Not judged in its turn: a rule that rejects everything would silence its own answers,
        # and every reject would be a drop.
        with suppress(NoRoute):
            self._dispatch(destination, header.encode() + notice.encode(), at_once=True)

    def send_reply(
        self, destination: bytes, source: ServiceKey, service: ServiceKey, payload: bytes
    ) -> None:
        """Send a message that nobody waits for: without a route it is dropped."""
        header = DataHeader(WIRE_HOPS, self.own_hash, destination, source, service)
        self._reply(destination, header.encode() + payload)

    def _reply(self, destination: bytes, message: bytes) -> None:
        try:
            self.send(destination, message, at_once=True)
        except NoRoute:
            self._log.debug("no route back to %s", self._describe(destination))

    # --- messages from this node -------------------------------------------------------------

    def resolve(self, node: str) -> bytes:
        """Return the hash of a node that can be reached; ``localhost`` (any case) is ourselves.

        Raises:
            NoRoute: no path to it is known.
        """
        if node == self.own_id or node.lower() == LOCALHOST:
            return self.own_hash
        hashed = self._names.learn(node) if node in self._names else None
        if hashed is None or hashed not in self._next_hops:
            raise NoRoute(node)
        return hashed

    def holder_of(self, node: bytes) -> Holder:
        """Return a node, by its hash, as a holder of what is scarce here."""
        if node == self.own_hash:
            return Holder(self.own_id)
        name = self._names.name(node) or node.hex()
        hop = self._next_hops.get(node)
        if hop is None:
            return Holder(name, "nowhere")
        return Holder(name, hop.holder or hop.peer, is_near=name == hop.peer)

    def send(self, destination: bytes, message: bytes, *, at_once: bool = False) -> bool:
        """Send an own message, header included; False means that it was dropped.

        It waits to be joined with others that are sent before the caller next waits, unless it is
        to go ``at_once``.

        If the own firewall rejects it, its service has heard so before this returns.

        Raises:
            NoRoute: no path to the node is known.
            MessageTooLarge: it does not fit a message.
        """
        if len(message) > MAX_MESSAGE:
            raise MessageTooLarge(f"{len(message)} bytes do not fit a message of {MAX_MESSAGE}")
        if self._firewall is not None and not self._admits(self._firewall, message):
            return False
        return self._dispatch(destination, message, at_once)

    def _dispatch(self, destination: bytes, message: bytes, at_once: bool) -> bool:
        if destination == self.own_hash:
            self._deliver(message)
            return True
        next_hop = self._next_hops.get(destination)
        if next_hop is None:
            raise NoRoute(self._describe(destination))
        if at_once:
            next_hop.send_data_now([message])
            return True
        return next_hop.send_data(message)

    def has_room(self, destination: bytes) -> bool:
        """Whether a local sender to that node may go on."""
        next_hop = self._next_hops.get(destination)
        return next_hop is None or next_hop.has_room

    async def wait_room(self, destination: bytes) -> None:
        """Wait until it may."""
        next_hop = self._next_hops.get(destination)
        if next_hop is not None:
            await next_hop.wait_room()

    def _describe(self, hashed: bytes) -> str:
        return self._names.name(hashed) or f"unknown node {hashed.hex()}"
