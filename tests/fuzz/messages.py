"""Targets whose inputs are messages of an established peer: routing, notices, services, data."""

import json
import random
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from hostile import forge
from hostile.forge import Raw
from hostile.frames import decode_frames

from fuzz import mutate
from fuzz.engine import Target
from fuzz.meshworld import PEER_HASH, MeshWorld, Sent
from fuzz.quic import DialedWorld
from fuzz.services import ServicesWorld
from meshnode.protocol.messages import HEADER_LENGTH, MessageType

CAPTURES = Path(__file__).parents[1] / "data" / "captures"

DIRECTLY, OVER_A_NODE = "victim", "left"
"""Whom the enemy is linked to: the victim, or a node between."""


class MessageTarget(Target):
    """Sends messages in the ordinary mesh."""

    def make(self, chance: random.Random) -> Sent:
        """Return one to three messages that a peer sends together."""
        count = chance.choices([1, 2, 3], [8, 1, 1])[0]
        to = DIRECTLY if chance.random() < self.directly else OVER_A_NODE
        return Sent(to, tuple(self.message(chance, to) for _ in range(count)))

    directly = 0.8
    """How often the enemy is linked to the victim itself."""

    def message(self, chance: random.Random, to: str) -> bytes:
        """Return one message; ``to`` is the node that the enemy is linked to."""
        raise NotImplementedError

    def world(self) -> AbstractAsyncContextManager[MeshWorld]:
        """Open the ordinary mesh."""
        return MeshWorld.open()


class Routing(MessageTarget):
    """Updates that say of the peer that it is linked to the victim, and so are taken in."""

    name = "routing"
    about = "routing updates of an established peer, about itself and about others"

    def message(self, chance: random.Random, to: str) -> bytes:
        """Return an update; mostly one that is judged to the end."""
        good = self._good(chance, to)
        if chance.random() < 0.1:
            return mutate.damaged(forge.message(MessageType.ROUTE, good), chance)
        changed = mutate.fields(good, chance) if chance.random() < 0.95 else good
        # What would be refused before anything else is looked at shows nothing further in.
        if chance.random() < 0.8:
            changed["ForwardingNode"] = "@PEER@"
        if good["NodeID"] == "@PEER@" and chance.random() < 0.7:
            changed["NodeID"] = "@PEER@"
            if not isinstance(changed.get("Connections"), Raw):
                changed["Connections"] = {**dict(changed.get("Connections") or {}), to: 1}
        return forge.message(MessageType.ROUTE, changed)

    def _good(self, chance: random.Random, to: str) -> dict[str, Any]:
        about = chance.choice(["@PEER@", "@PEER@", "ghost", "left", "right", "victim", to])
        fields = forge.update_fields(
            about, UpdateID="@ID@", UpdateSequence=Raw("@SEQ@"), ForwardingNode="@PEER@"
        )
        fields["Connections"] = {
            "@PEER@": {to: 1, "ghost": 2},
            "ghost": {"@PEER@": 2, "victim": 1},
        }.get(about, {"@PEER@": 1, "left": 1, "victim": 1})
        fields["UpdateEpoch"] = Raw(chance.choice(["@EPOCH@", "@LATER@"]))
        if chance.random() < 0.2:
            fields["SuspectedDuplicate"] = Raw("@EPOCH@")
        return fields


class Notices(MessageTarget):
    """Notices about messages that the victim may have sent, from a peer or from further away."""

    name = "notices"
    about = "unreachable notices with any fields, of a peer and over a node between"
    directly = 0.5

    def world(self) -> AbstractAsyncContextManager[MeshWorld]:
        """Open a mesh in which the enemy has a connection with the victim."""
        return DialedWorld.open()

    def message(self, chance: random.Random, to: str) -> bytes:
        """Return a data message to the service ``unreach``."""
        fields = forge.notice_fields(
            chance.choice(["victim", "victim", "left", "@PEER@"]),
            chance.choice(["left", "right", "@PEER@", "nobody"]),
            FromService=chance.choice(["control", "ping", "unreach", "", "x"]),
            Problem=chance.choice(
                ["service unknown", "message expired", "blocked by firewall", "anything"]
            ),
        )
        changed = mutate.fields(fields, chance, most=4)
        kind = chance.random()
        if kind < 0.3:
            changed |= {"FromNode": "victim", "FromService": "control", "ToNode": "@PEER@"}
        elif kind < 0.6:
            # About the connection that there is, in all but perhaps one respect.
            good = {"FromNode": "victim", "FromService": "control"}
            good |= {"ToNode": "@PEER@", "ToService": "@DIALER@", "Problem": "service unknown"}
            changed = mutate.fields(good, chance, most=1) if kind < 0.5 else good
        body = forge.to_json(changed)
        if chance.random() < 0.1:
            body = mutate.damaged(body, chance)
        source: bytes | str = PEER_HASH
        if chance.random() < 0.2:
            source = chance.choice(["left", "right", "victim", "nobody"])
        service = chance.choice(["unreach", "unreach", "unreach", "ping", "x"])
        return forge.data(source, forge.VICTIM, service, "unreach", body)


class Adverts(MessageTarget):
    """Advertisements and withdrawals in anybody's name."""

    name = "adverts"
    about = "service advertisements and withdrawals, in anybody's name, of any time"

    def message(self, chance: random.Random, to: str) -> bytes:
        """Return an advertisement."""
        about = chance.choice(["@PEER@", "@PEER@", "ghost", "left", "right", "victim"])
        good = forge.advert_fields(
            about,
            chance.choice(["control", "control", "web", "svc"]),
            Cancel=chance.random() < 0.3,
            ConnType=chance.choice([0, 1, 1, 2]),
            Time=chance.choice(["@NOW@", "@NOW@", "@SOON@", *mutate.TIMES[2:5]]),
        )
        if chance.random() < 0.2:
            good["Tags"] = {"type": "Control Service", "meshnode": "many-streams"}
        if chance.random() < 0.1:
            return mutate.damaged(forge.message(MessageType.ADVERTISEMENT, good), chance)
        changed = mutate.fields(good, chance, most=2) if chance.random() < 0.8 else good
        return forge.message(MessageType.ADVERTISEMENT, changed)


SERVICES: tuple[bytes, ...] = (
    *(b"control", b"ping", b"unreach", b"web", b"sock", b"shell", b"loud", b"dgram", b"nobody"),
    *(
        b"",
        b"\xff" * 8,
        b"\0x",
        b"a\0b",
        b"\xed\xa0\x80",
        "ä".encode(),
        b"12345678",
        b"x\0\0\0\0\0\0y",
    ),
)
"""Services that exist on the victim, that do not, and what is no name at all."""


class Data(MessageTarget):
    """Data messages of any header to whatever listens."""

    name = "data"
    about = "data messages of any header and payload, to every kind of service"

    def world(self) -> AbstractAsyncContextManager[MeshWorld]:
        """Open a mesh with services."""
        return ServicesWorld.open()

    def message(self, chance: random.Random, to: str) -> bytes:
        """Return a data message; mostly one that reaches a service of the victim."""
        whole = forge.data(
            self._source(chance),
            chance.choice([forge.VICTIM] * 6 + ["left", "right", "nobody"]),
            chance.choice([chance.randbytes(8), *SERVICES]),
            chance.choice(SERVICES),
            self._payload(chance),
            hops=chance.choice([29, 29, 29, 0, 1, 2, 30, 255]),
        )
        if chance.random() < 0.1:
            return bytes([MessageType.DATA]) + mutate.damaged(whole[1:], chance)
        return whole[: chance.randrange(1, 40)] if chance.random() < 0.03 else whole

    def _source(self, chance: random.Random) -> bytes | str:
        if chance.random() < 0.7:
            return PEER_HASH
        return chance.choice(["left", "right", "victim", "nobody", chance.randbytes(8)])

    def _payload(self, chance: random.Random) -> bytes:
        kind = chance.randrange(6)
        if kind == 0:
            return b""
        if kind == 1:
            return chance.randbytes(chance.choice([1, 20, 1200, 16_000]))
        if kind == 2:
            return json.dumps(forge.notice_fields("victim", "@PEER@")).encode()
        datagram = FIRST_DATAGRAM
        if kind == 3:
            return datagram
        if kind == 4:
            # What follows the version decides what becomes of it.
            start = chance.randrange(40)
            changed = chance.randbytes(chance.randint(1, 4))
            return datagram[:start] + changed + datagram[start + len(changed) :]
        return mutate.damaged(datagram, chance)


def _recorded_datagram() -> bytes:
    """Return the first QUIC datagram of a recorded connection of a receptor node."""
    recorded = (CAPTURES / "session1.s2c.bin").read_bytes()
    datagrams = (
        bytes(message[HEADER_LENGTH:])
        for message in decode_frames(recorded)
        if message[0] == MessageType.DATA and bytes(message[28:36]) == b"control\0"
    )
    return next(datagram for datagram in datagrams if len(datagram) >= 1200)


FIRST_DATAGRAM = _recorded_datagram()
