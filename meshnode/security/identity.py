"""Who asks: the identity of a client, as a value that can be compared, recorded, shown and sent.

What a client *is* comes from the kernel, from the socket, or from the mesh, and never from what the
client says. Names and claims are for people: a user name is what the system calls a uid, and a
:attr:`MeshClient.claim` is another node's word for whom it asks. Nothing may be decided by them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from sys import intern
from typing import Any, ClassVar, Final, Self

MAX_USER = 64
"""Characters of a user's name; Linux's tools allow 32."""

MAX_ADDRESS = 128
"""Characters of an address with port and zone."""

MAX_NODE = 255
"""Characters of a node ID, as everywhere in the protocol."""

MAX_SERVICE = 255
"""Characters of a service's name; receptor's own have 8."""

MAX_SUBJECT = 1024
"""Characters of a certificate's subject; those of people have some 100."""

MAX_TOKEN_NAME = 64
"""Characters of a token's name."""

MAX_CERTIFICATE_NODES = 64
"""Node IDs of one certificate that are on record."""

IDS: Final = range(2**32)
"""Numbers that a user or group can have."""

PIDS: Final = range(2**31)
"""Numbers that a process can have; 0 is one in another namespace."""


SHARED = 1024
"""Clients of unix sockets that are in memory once. A script submits thousands of units, each of
which remembers it for as long as it is there."""


@dataclass(frozen=True, slots=True)
class UnixClient:
    """A process of this machine, as the kernel names the other end of a unix socket."""

    kind: ClassVar[str] = "unix"

    uid: int
    gid: int
    pid: int
    """Of the process that connected: it may have ended, and the number may be another's by now."""
    user: str = ""
    """What the system calls the uid; empty if it has no name, or none was found in time."""

    @classmethod
    @lru_cache(maxsize=SHARED)
    def of(cls, uid: int, gid: int, pid: int, user: str = "") -> Self:
        """Return this client as one value that all share who have it at the same time."""
        return cls(uid, gid, pid, user)

    @property
    def brief(self) -> str:
        """Who it is, for a line that is read long afterwards."""
        return f"{self.user} (uid {self.uid})" if self.user else f"uid {self.uid}"

    def __str__(self) -> str:
        if self.user:
            return f"{self.user} (uid {self.uid}, pid {self.pid})"
        return f"uid {self.uid} (pid {self.pid})"

    def to_json(self) -> dict[str, Any]:
        """Return the object that :func:`identity_from_json` reads."""
        own = {"Kind": self.kind, "Uid": self.uid, "Gid": self.gid, "Pid": self.pid}
        return own | {"User": self.user} if self.user else own


@dataclass(frozen=True, slots=True)
class CertificateNames:
    """What a certificate says of a client, once TLS has shown that it is the client's own."""

    subject: str
    """As RFC 4514 writes it: ``CN=alice,O=Example``."""
    nodes: tuple[str, ...] = ()
    """The node IDs in it."""

    @property
    def names_anybody(self) -> bool:
        """Whether it has a name that a record can tell it from others by."""
        return bool(self.subject or self.nodes)

    def to_json(self) -> dict[str, Any]:
        """Return the object that stands in an identity's."""
        return {"Subject": self.subject, "Nodes": list(self.nodes)}


@dataclass(frozen=True, slots=True)
class TcpClient:
    """A client of a TCP port."""

    kind: ClassVar[str] = "tcp"

    address: str
    """``host:port`` of its end."""
    certificate: CertificateNames | None = None
    """What it has shown of itself, where TLS asks for that."""

    @property
    def brief(self) -> str:
        """Who it is."""
        return self.address

    def __str__(self) -> str:
        return self.address

    def to_json(self) -> dict[str, Any]:
        """Return the object that :func:`identity_from_json` reads."""
        return {"Kind": self.kind, "Address": self.address} | _certificate_json(self.certificate)


@dataclass(frozen=True, slots=True)
class TokenClient:
    """A client of the HTTP service that has shown a token."""

    kind: ClassVar[str] = "token"

    name: str
    """The token's, as its operator has called it: not the token itself."""
    address: str
    """``host:port`` of its end, or what came before it over a unix socket."""

    @property
    def brief(self) -> str:
        """Who it is, for a line that is read long afterwards."""
        return f"token {shown_text(self.name, MAX_TOKEN_NAME)}"

    def __str__(self) -> str:
        return f"{self.brief} ({shown_text(self.address, MAX_ADDRESS)})"

    def to_json(self) -> dict[str, Any]:
        """Return the object that :func:`identity_from_json` reads."""
        return {"Kind": self.kind, "Name": self.name, "Address": self.address}


@dataclass(frozen=True, slots=True)
class MeshClient:
    """A client that came over the mesh."""

    kind: ClassVar[str] = "mesh"

    node: str
    """The node that it came from."""
    service: str = ""
    """The service of that node from which it dialed; mostly a name made for one conversation."""
    claim: "Claimed | None" = None
    """For whom that node says that it asks, if it says so. Nobody here can know whether it is true;
    a claim within a claim is dropped."""
    certificate: CertificateNames | None = None
    """What it has shown of itself, where TLS asks for that."""

    @property
    def brief(self) -> str:
        """Who it is, and for whom it says that it asks."""
        claim = "" if self.claim is None else f", which says for {self.claim.brief}"
        return f"node {shown_text(self.node, MAX_NODE)}{claim}"

    def __str__(self) -> str:
        claim = "" if self.claim is None else f", which says for {self.claim}"
        return f"node {shown_text(self.node, MAX_NODE)}{claim}"

    def to_json(self) -> dict[str, Any]:
        """Return the object that :func:`identity_from_json` reads."""
        data = {"Kind": self.kind, "Node": self.node} | _certificate_json(self.certificate)
        if self.service:
            data["Service"] = self.service
        return data if self.claim is None else data | {"Claim": self.claim.to_json()}


@dataclass(frozen=True, slots=True)
class UnknownClient:
    """A client that was gone before anybody could ask the kernel who it is."""

    kind: ClassVar[str] = "unknown"

    @property
    def brief(self) -> str:
        """Who it is."""
        return "an unknown client"

    def __str__(self) -> str:
        return self.brief

    def to_json(self) -> dict[str, Any]:
        """Return the object that :func:`identity_from_json` reads."""
        return {"Kind": self.kind}


Identity = UnixClient | TcpClient | TokenClient | MeshClient | UnknownClient
"""Who asks."""

Claimed = UnixClient | TcpClient | TokenClient | MeshClient
"""Whom a node can say that it asks for."""


def identity_from_json(data: object) -> Identity | None:
    """Return the identity that an object names; None if it names none that this version knows.

    Total: whatever another node or a file has, no more than a bounded, printable value comes out.
    """
    if not isinstance(data, Mapping):
        return None
    match data.get("Kind"):
        case UnixClient.kind:
            return _unix(data)
        case TcpClient.kind:
            address = _text(data, "Address", MAX_ADDRESS)
            certificate = _certificate(data)
            is_whole = address and (certificate or data.get("Certificate") is None)
            return TcpClient(address, certificate) if is_whole else None
        case TokenClient.kind:
            return _token(data)
        case MeshClient.kind:
            return _mesh(data)
        case UnknownClient.kind:
            return UnknownClient()
    return None


def claim_of(identity: Identity) -> Claimed | None:
    """Return what a node tells another of a client for whom it asks that one.

    Of a client that came from a third node it names that node, and not what it has only heard.
    What a certificate has shown here proves nothing there.
    """
    match identity:
        case UnknownClient():
            return None
        case MeshClient():
            return MeshClient(identity.node, identity.service)
        case TcpClient():
            return TcpClient(identity.address)
    return identity


def claim_from_json(data: object) -> Claimed | None:
    """Return for whom another node says that it asks; None if it says nothing understandable."""
    identity = identity_from_json(data)
    return None if identity is None else claim_of(identity)


def shown_text(text: str, most: int) -> str:
    """Return a text of somebody else as one printable line of at most so many characters."""
    if len(text) <= most and text.isprintable():
        return text
    # Cut first: a text may be a megabyte, and an escape is up to ten characters long.
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _unix(data: Mapping[Any, object]) -> UnixClient | None:
    uid, gid, pid = _number(data, "Uid", IDS), _number(data, "Gid", IDS), _number(data, "Pid", PIDS)
    if uid is None or gid is None or pid is None:
        return None
    return UnixClient.of(uid, gid, pid, intern(_text(data, "User", MAX_USER)))


def _token(data: Mapping[Any, object]) -> TokenClient | None:
    name, address = data.get("Name"), _text(data, "Address", MAX_ADDRESS)
    # As it is or not at all: another name would be another client.
    if not isinstance(name, str) or not name or shown_text(name, MAX_TOKEN_NAME) != name:
        return None
    return TokenClient(name, address) if address else None


def _mesh(data: Mapping[Any, object]) -> MeshClient | None:
    node = data.get("Node")
    # As it is or not at all: another ID would be another node.
    if not isinstance(node, str) or not node or shown_text(node, MAX_NODE) != node:
        return None
    claim = data.get("Claim")
    if isinstance(claim, Mapping) and "Claim" in claim:
        # Not followed: a text of any depth would take a stack of that depth.
        claim = {key: value for key, value in claim.items() if key != "Claim"}
    certificate = _certificate(data)
    if certificate is None and data.get("Certificate") is not None:
        # Without it, whoever only says to be that node would be the same client.
        return None
    service = _text(data, "Service", MAX_SERVICE)
    return MeshClient(node, service, claim_from_json(claim), certificate)


def _certificate_json(certificate: CertificateNames | None) -> dict[str, Any]:
    return {} if certificate is None else {"Certificate": certificate.to_json()}


def _certificate(data: Mapping[Any, object]) -> CertificateNames | None:
    """Return what is on record of a certificate. Names are as they are or not at all."""
    names = data.get("Certificate")
    if not isinstance(names, Mapping):
        return None
    subject, nodes = names.get("Subject"), names.get("Nodes")
    if not isinstance(subject, str) or shown_text(subject, MAX_SUBJECT) != subject:
        return None
    if not isinstance(nodes, list) or len(nodes) > MAX_CERTIFICATE_NODES:
        return None
    if not all(isinstance(node, str) and shown_text(node, MAX_NODE) == node for node in nodes):
        return None
    return CertificateNames(subject, tuple(nodes))


def _text(data: Mapping[Any, object], key: str, most: int) -> str:
    """Return a text, empty if there is none."""
    value = data.get(key)
    return shown_text(value, most) if isinstance(value, str) else ""


def _number(data: Mapping[Any, object], key: str, allowed: range) -> int | None:
    value = data.get(key)
    return value if type(value) is int and value in allowed else None
