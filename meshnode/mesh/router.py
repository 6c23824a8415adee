"""The data path: every data message passes here (protocol section 3).

A message for another node is forwarded undecoded: the router looks up the next hop by the 8 bytes
of the destination, and counts the hops byte down in place.
"""

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress

import trio

from meshnode.errors import MessageTooLarge, NoRoute, ProtocolError, ServiceInUse
from meshnode.logs import subject_logger
from meshnode.mesh.dataplane import (
    LOCALHOST,
    NextHop,
    ReachableNodes,
    Receiver,
    RouterCounts,
    random_id,
)
from meshnode.mesh.links.base import Message
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
from meshnode.protocol.rates import NamedBuckets
from meshnode.shares import Holder

MAX_PAYLOAD = MAX_MESSAGE - HEADER_LENGTH
"""Bytes of the largest payload of a data message."""

NOTICES_PER_SECOND = 500
NOTICES_AT_ONCE = 2000
"""Notices that messages over the links to one address may cause, a second and at once: a hundredth
of a core. A traceroute takes one at each node; each dialer of a node that was restarted one."""

RESERVED_SERVICES = frozenset({PING_SERVICE, UNREACHABLE_SERVICE})

_HOPS_AND_DESTINATION = struct.Struct("<xB10x8s").unpack_from
"""All that forwarding reads of a header: the hops left and the destination."""

_ANSWER = bytes([MessageType.DATA, WIRE_HOPS, 0, 0])
"""How the answer to a ping begins; its source and destination are those of the ping, swapped."""


class Router:
    """Delivers data messages to services of this node and forwards the others."""

    def __init__(self, own_id: str, names: NameTable) -> None:
        self.own_id = own_id
        self.own_hash = names.learn(own_id)
        self._names = names
        self._receivers: dict[bytes, Receiver] = {}
        self._next_hops: dict[bytes, NextHop] = {}
        self._firewall: Firewall | None = None
        self.counts = RouterCounts()
        self._notices = NamedBuckets(NOTICES_AT_ONCE / NOTICES_PER_SECOND)
        self._came_by = ""
        """The address that the messages being handled came from; empty if none are."""
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
        """Return a random service name that is free: the source of pings and dialed streams."""
        while self.is_bound(service := encode_service(random_id())):
            pass
        return service

    # --- messages from links -----------------------------------------------------------------

    def handle(self, messages: Sequence[memoryview], came_by: str = "") -> None:
        """Deliver or forward data messages that a link brought in one go.

        Messages to the same next hop are sent together, in their order. ``came_by`` is the address
        at the link's other end, or its node.

        Raises:
            ProtocolError: one is shorter than a header; those before it were handled.
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
                    self.counts.expired += 1
                    self._report(message, PROBLEM_EXPIRED)
                elif (next_hop := self._next_hops.get(destination)) is None:
                    self.counts.unroutable += 1
                    self._log.debug("no route for a message to %s", self._describe(destination))
                else:
                    message[1] = hops - 1
                    onward.setdefault(next_hop, []).append(message)
        finally:
            self._came_by = ""
            for next_hop, run in onward.items():
                self.counts.forwarded += len(run)
                next_hop.send_data_now(run)

    def _deliver(self, message: Message) -> None:
        try:
            self._hand_over(message)
        except Exception as exc:  # noqa: BLE001
            # The boundary of messages for this node: any node may have sent this one, so a fault
            # must end neither the link nor this node. A service left unusable times out.
            self.counts.faults += 1
            self._log.error("failed on a message to this node: %s: %s", type(exc).__name__, exc)
            self._log.debug("it began with %s", bytes(message[:64]).hex(), exc_info=True)

    def _hand_over(self, message: Message) -> None:
        sender, service = bytes(message[20:28]), bytes(message[28:36])
        if not is_readable(sender):
            # First, because no receiver could answer: a notice needs names that are text.
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
            return  # otherwise two nodes could answer each other's answers for ever
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
            # Anybody can send these: no answer, and no line in the log.
            self.counts.notices += 1
            self._log.debug("dropped a notice from %s: %s", reporter or "an unknown node", exc)
            return
        receiver = self._receivers.get(notice.from_service)
        if receiver is not None:  # otherwise the ping or stream is over already
            receiver.on_unreachable(notice, reporter)

    def _believe(self, notice: Unreachable, reporter: str) -> None:
        """Check that a notice is about a message that this node may have sent.

        Nothing proves who wrote it. But its fields must fit, and nobody off the path knows the
        random name of a service that dials or pings.

        Raises:
            ProtocolError: it cannot be true.
        """
        if notice.from_node != self.own_id:
            raise ProtocolError(f"it is about a message of {notice.from_node}")
        if notice.to_node not in self._names:
            raise ProtocolError("it is about a message to a node that is not known here")
        if notice.problem == PROBLEM_SERVICE_UNKNOWN and reporter != notice.to_node:
            # Other nodes forward a message whatever its service is.
            raise ProtocolError(f"only {notice.to_node} knows its services")

    def _drop_unreadable(self, message: Message) -> None:
        self.counts.unreadable += 1
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
        """Count a notice against the address that the handled message came from; False if too many.

        The sender that the message names would be no measure: the peer can write any name.
        """
        if not self._came_by or self._notices.take(
            self._came_by, trio.current_time(), 1 / NOTICES_PER_SECOND
        ):
            return True
        self.counts.unanswered += 1
        return False

    def _notice(self, message: Message, problem: str) -> Unreachable | None:
        """Return the notice for the sender of a message that goes no further, if it gets one."""
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
        """Send an unreachable notice to the node whose message failed, unless too many fail.

        A node that gets none sends again.
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
        if verdict.action is Action.DROP:
            self.counts.dropped += 1
        else:
            self.counts.rejected += 1
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
        # The notice itself is not judged: a rule that rejects everything would stop its own
        # notices, and every reject would be a drop.
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
            raise NoRoute(node, ReachableNodes(self._names, self._next_hops))
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

        Unless it is to go ``at_once``, it is joined with others that are sent before the caller
        next waits. A notice of our own firewall arrives before this returns.

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
