"""How much of a node one submitter may have: units, and bytes of their payloads, where configured.

A submitter is who it is for access rules: a user, another node, a certificate; without one, the
address that it came from. What it holds are its units until they are released, wherever they run,
and the payloads that have come with them; and its batches, with their files and lists. Nothing is
counted on a node without such bounds.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from meshnode.errors import CommandError
from meshnode.security.identity import Identity, MeshClient, TcpClient, TokenClient, UnixClient
from meshnode.work.units.after import is_member_key
from meshnode.work.units.intake import Payload, Receive, WrongInput
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.unit import Unit


@dataclass(frozen=True, slots=True)
class QuotaBounds:
    """What each submitter may have; None is any number.

    Attributes:
        units: that are not released; and as many batches.
        payload: bytes of payload of those units and batches.
    """

    units: int | None = None
    payload: int | None = None


@dataclass(frozen=True, slots=True)
class BatchesHeld:
    """The batches that a submitter has on a node, and the bytes of their files and lists."""

    count: int = 0
    payload: int = 0


@dataclass(slots=True, eq=False)
class Quotas:
    """Keeps submitters within bounds, which a reload may change; ``units`` is what there is."""

    units: Mapping[str, Unit]
    received: Callable[[Unit], int]
    """Returns how many bytes have come of a payload whose rest is awaited."""
    bounds: QuotaBounds = field(default_factory=QuotaBounds)
    of_batches: Callable[[Hashable], BatchesHeld] = lambda owner: BatchesHeld()
    """Returns what a submitter's batches keep; files count once for all members."""
    _received: Counter[Hashable] = field(default_factory=Counter)
    """Bytes of each submitter one of whose payloads is being taken in: of its units when that
    began, and all that has come since. What is released counts until the last one is in."""
    _receiving: Counter[Hashable] = field(default_factory=Counter)
    """Payloads of each submitter that are being taken in."""

    def admit(self, status: UnitStatus) -> None:
        """Return if there may be such a unit as well. Raises CommandError."""
        most = self.bounds.units
        if most is None:
            return
        owner = account(_submitter(status))
        held = sum(1 for _ in self._held_by(owner))
        if held >= most:
            raise CommandError(
                f"you have {held} units on this node, of at most {most} (submitter-maxunits): "
                "release some"
            )

    def admit_batch(self, client: Identity) -> None:
        """Return if a client may have one more batch. Raises CommandError."""
        most = self.bounds.units
        held = 0 if most is None else self.of_batches(account(client)).count
        if most is not None and held >= most:
            raise CommandError(
                f"you have {held} batches on this node, of at most {most} (submitter-maxunits): "
                "release some"
            )

    @contextmanager
    def taking_in(self, unit: Unit, payload: Payload) -> Iterator[Receive]:
        """Return what receives a unit's payload and raises WrongInput when it is too much.

        Raises:
            WrongInput: it is announced as more than is allowed already.
        """
        if self.bounds.payload is None:
            yield payload.receive
            return
        announced = _own_deps(unit.status) + (payload.announced.size or 0) - self.received(unit)
        with self.receiving(_submitter(unit.status), announced, payload.receive) as receive:
            yield receive

    @contextmanager
    def receiving(
        self, client: Identity | None, announced: int, receive: Receive
    ) -> Iterator[Receive]:
        """Return the same for a client that announces so many bytes; 0 if it does not say.

        What has come must be known as the client's before the context ends.
        """
        if self.bounds.payload is None:
            yield receive
            return
        owner = account(client)
        if not self._receiving[owner]:
            self._received[owner] = self._payloads_of(owner)
        self._receiving[owner] += 1
        try:
            self._check(self._received[owner] + announced)

            async def receive_counted(size: int) -> bytes:
                data = await receive(size)
                self._received[owner] += len(data)
                self._check(self._received[owner])
                return data

            yield receive_counted
        finally:
            self._receiving[owner] -= 1
            if not self._receiving[owner]:
                del self._receiving[owner], self._received[owner]

    def _check(self, size: int) -> None:
        most = self.bounds.payload
        if most is not None and size > most:
            raise WrongInput(
                f"your units on this node would have more than {most} bytes of payload "
                "(submitter-maxpayload): release some"
            )

    def _payloads_of(self, owner: Hashable) -> int:
        # Of what has not come yet, only the payload that is being taken in counts, as it comes.
        return self.of_batches(owner).payload + sum(
            self.received(unit)
            if unit.status.stdin_size is None
            else unit.status.stdin_size + _own_deps(unit.status)
            for unit in self._held_by(owner)
        )

    def _held_by(self, owner: Hashable) -> Iterator[Unit]:
        return (unit for unit in self.units.values() if account(_submitter(unit.status)) == owner)


def _submitter(status: UnitStatus) -> Identity | None:
    # Of an adopted unit, who has submitted it is another node's word.
    return status.adopted_by or status.submitted_by


def _own_deps(status: UnitStatus) -> int:
    """Return the bytes of a unit's tar, none of a member: it is its batch's."""
    return 0 if is_member_key(status.submission_key) else status.deps_size


def account(client: Identity | None) -> Hashable:
    """Return on whose account a client has what it has, whatever connection it comes by."""
    match client:
        case UnixClient(uid=uid):
            return "unix", uid
        case MeshClient(node=node):
            return "mesh", node
        case TokenClient(name=name):
            return "token", name
        case TcpClient(certificate=None, address=address):
            return "tcp", address.rpartition(":")[0]
        case TcpClient(certificate=certificate):
            return "certificate", certificate
    return "unknown", None
