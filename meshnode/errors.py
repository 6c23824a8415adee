"""Every error that meshnode raises on purpose, by who must act on it.

::

    MeshnodeError                the text is one line, fit for the person who must act on it
    ├── ConfigError              the configuration: names file, line, directive and parameter
    ├── ProtocolError            a peer broke the protocol: its link ends, nothing else
    │   ├── OutOfBounds          a value beyond a bound: the message is dropped, since a node
    │   │                        beyond the peer may have written it
    │   └── OtherProtocol        what is at the other end is no node
    ├── MeshError                the mesh could not do what was asked
    │   ├── NoRoute              no path to that node is known
    │   ├── Unreachable          a node on the way said why the message did not arrive
    │   ├── MeshTimeout          no answer came in time
    │   ├── ServiceInUse         that service name is taken on this node
    │   ├── DuplicateNode        another node already uses our ID: this node must end
    │   ├── MessageTooLarge      more bytes than one message carries
    │   ├── NoEngine             what streams need cannot be loaded now
    │   └── StreamError          a stream's connection ended in another way than a normal close
    ├── ReloadRefused            a changed configuration cannot be taken over; has a code
    ├── CommandError             what a control client asked is wrong: "ERROR: <text>"
    │   └── UnknownUnit          no unit has that ID
    ├── WorkError                a unit could not be stored, started or watched
    ├── NotAudited               it would be done if the audit log could be written
    ├── NotMade                  files of certificates could not be made; nothing was written
    └── SecurityError            an identity could not be proved, or may not do this
        ├── UnusableKey          a key file holds no key that could be used
        ├── SignatureRefused     a signature does not show that its sender may do this
        ├── UnusableCertificate  bytes or a file hold no certificate that could be used
        ├── UnusableRequest      a file holds no request for a certificate that could be signed
        ├── TlsRefused           a TLS handshake failed; has a problem
        ├── AccessRefused        who asks may not do this
        │   ├── ConnectsNobody   a client from the mesh asks for a stream to another node
        │   └── NotAllowed       the access rules of this node do not let them
        └── CannotSign           this node was asked to sign and has no key
"""

from collections.abc import Iterator
from enum import Enum, IntEnum
from typing import Protocol


class MeshnodeError(Exception):
    """Base of all errors that meshnode raises on purpose; ``str()`` is one line for a person."""


class ConfigError(MeshnodeError):
    """The configuration is wrong; the text names file, line, directive, parameter and remedy."""


class ProtocolError(MeshnodeError):
    """A peer sent what the protocol does not allow."""


class OutOfBounds(ProtocolError):
    """A value is longer than a bound, or has characters that no name has.

    A receptor node passes such values on, so the peer that sent it may not have written it.
    """


class OtherProtocol(ProtocolError):
    """What is at the other end is no node; the text says what it seems to be."""


class MeshError(MeshnodeError):
    """The mesh could not do what was asked."""


class KnownNodes(Protocol):
    """What to say of the nodes that can be reached to who has named another one."""

    def advise(self, node: str) -> str:
        """Return what a person can do."""

    def meant(self, node: str) -> str:
        """Return the node that was probably meant by a name that is no node's, or nothing."""


class NoRoute(MeshError):
    """No path to that node is known. The text begins with receptor's, which clients match.

    ``known`` is asked only when the error is shown.
    """

    def __init__(self, node: str, known: KnownNodes | None = None) -> None:
        super().__init__(node)
        self.node = node
        self._known = known

    @property
    def meant(self) -> str:
        """The node that was probably meant, if this one has never been heard of."""
        return "" if self._known is None else self._known.meant(self.node)

    def __str__(self) -> str:
        """Return the node, and what can be done."""
        advice = "" if self._known is None else f"; {self._known.advise(self.node)}"
        return f"no route to node {self.node}{advice}"


class Unreachable(MeshError):
    """A node on the way reported why a message did not arrive (protocol section 3).

    ``problem`` is one of ``service unknown``, ``message expired``, ``blocked by firewall``;
    ``reporter`` is the node that said so, ``target`` to what the message went.
    """

    def __init__(self, problem: str, reporter: str, target: str = "") -> None:
        from_afar = "" if target.endswith(f" of node {reporter}") else f", says node {reporter}"
        super().__init__(f"{problem}: {target}{from_afar}" if target else problem)
        self.problem = problem
        self.reporter = reporter


class MeshTimeout(MeshError):
    """No answer came in time."""


class ServiceInUse(MeshError):
    """That service name is taken on this node."""


class DuplicateNode(MeshError):
    """Another node already uses this node's ID: the newer one must end (protocol section 4)."""


class MessageTooLarge(MeshError):
    """The payload does not fit one message."""


class NoEngine(MeshError):
    """The machine lacks what it takes to load the code of streams; it may be tried again."""


class StreamError(MeshError):
    """A stream's connection ended in another way than a normal close."""


class HandshakeRefused(StreamError):
    """One end of a stream's connection refused the other in the handshake: TLS settings differ, or
    a certificate is not good. The text says which, and who refused; ``kind`` is the same for all
    of the same kind, whatever the time and the names in the text."""

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


class ReloadFault(IntEnum):
    """Why a reload was refused: the error code that clients act on."""

    NEEDS_RESTART = 3
    """A directive changed, came or went that only a restart can apply."""

    UNREADABLE = 4
    """The configuration file cannot be read or does not parse."""

    FAILED = 5
    """What the configuration asks for is not available now, such as a port."""


class ReloadRefused(MeshnodeError):
    """The configuration was not taken over. The text ends with the code, as receptor's does."""

    def __init__(self, text: str, fault: ReloadFault) -> None:
        super().__init__(f"{text} ERRORCODE {fault.value}")
        self.fault = fault


class CommandError(MeshnodeError):
    """What a control client asked for is wrong; answered as ``ERROR: <text>``."""


class BadQuery(CommandError):
    """What a client wants to see is asked for in a way that cannot be read."""


class UnknownUnit(CommandError):
    """No unit has that ID. The text is receptor's, which clients match."""

    def __init__(self, unit_id: str) -> None:
        super().__init__(f"unknown work unit {unit_id}")
        self.unit_id = unit_id


class WorkError(MeshnodeError):
    """A unit could not be stored, started or watched."""


class NotAudited(MeshnodeError):
    """What was asked is not done, since the audit log cannot be written now."""


class NotMade(MeshnodeError):
    """Files of certificates could not be made, or must not be; nothing was written."""


class SecurityError(MeshnodeError):
    """An identity could not be proved, or may not do this."""


class UnusableKey(SecurityError):
    """A key file holds no key that could be used; the text names file and remedy."""


class SignatureProblem(Enum):
    """Why a signature was refused."""

    MISSING = "missing"
    NO_KEY = "no key here"
    """This node has nothing to check it with."""
    NOT_EXPECTED = "not expected"
    """Nobody asks for one, and who signs believes that it is checked."""
    MALFORMED = "malformed"
    WRONG_KEY = "wrong key"
    """Or it was changed."""
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    WRONG_NODE = "wrong node"
    """It is for another node."""


class SignatureRefused(SecurityError):
    """A signature does not prove that its sender may do this; the text says why.

    The texts begin as receptor's do, which clients match.
    """

    def __init__(self, text: str, problem: SignatureProblem) -> None:
        super().__init__(text)
        self.problem = problem


class UnusableCertificate(SecurityError):
    """Bytes or a file hold no certificate that could be used."""


class UnusableRequest(SecurityError):
    """A file holds no request for a certificate that could be signed; the text names the file."""


class TlsProblem(Enum):
    """Why TLS was refused."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    WRONG_NAME = "wrong name"
    """The certificate does not name the host that was dialed."""
    WRONG_NODE = "wrong node"
    """The certificate names other nodes than the one at the other end."""
    WRONG_CA = "wrong CA"
    """No CA that is trusted here has signed the certificate."""
    WRONG_USAGE = "wrong usage"
    """It is a client's certificate and not a server's, or the other way round."""
    MISSING = "missing"
    """A client showed no certificate."""
    NOT_PINNED = "not pinned"
    MALFORMED = "malformed"
    UNFIT = "unfit"
    """OpenSSL refuses the certificate for another reason, such as a short key."""
    REFUSED_THERE = "refused there"
    """The other end refused us: its alert says why."""
    NOT_TLS = "not TLS"
    """The other end does not speak TLS."""
    NO_COMMON_WAY = "no common way"
    """The ends have no version, cipher or curve in common."""
    SILENT = "silent"
    """The handshake was not done in time."""
    BROKEN = "broken"
    """The connection ended during the handshake, or what came is no TLS any more."""


class TlsRefused(SecurityError):
    """TLS was refused, here or by the other end; the text says why, and for whom."""

    def __init__(self, problem: TlsProblem, text: str) -> None:
        super().__init__(text)
        self.problem = problem


class AccessRefused(SecurityError):
    """Who asks may not do this."""


class ConnectsNobody(AccessRefused):
    """A client from the mesh asks to be connected on to another node."""

    def __init__(self, node: str, own_id: str) -> None:
        super().__init__(
            f"this node connects no clients from the mesh to {node}: connect from the "
            f"node where you are (or set node: allowforwarding on {own_id})"
        )


class NotAllowed(AccessRefused):
    """The access rules do not let a client do this. It is not told which rule, or that there is
    none: the log says so."""

    def __init__(self, what: str) -> None:
        super().__init__(f"permission denied: {what}")


class CannotSign(SecurityError):
    """This node was asked to sign and has no key."""


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield what happened: an error itself, or each of those in a group, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves_of(part)
    else:
        yield error
