"""How a conversation with another node fails, and what that is called in a unit's detail.

There are two kinds. The node is not reached, or the talk breaks off: another try may succeed. Or
the node answers and refuses, for good or for want of something that it may have again.

The reason comes from the error that the mesh raised, with the node that said so; only a refusal has
no more than the other node's words.
"""

import contextlib
import os
from collections.abc import Iterator

import trio

from meshnode.errors import (
    HandshakeRefused,
    MeshError,
    MeshTimeout,
    NoEngine,
    NoRoute,
    Unreachable,
    WorkError,
)
from meshnode.protocol.control import CONTROL_SERVICE, NOT_NOW
from meshnode.protocol.messages import PROBLEM_EXPIRED, PROBLEM_REJECTED, PROBLEM_SERVICE_UNKNOWN
from meshnode.work.units.shortage import LACKS

REPLY_TIMEOUT = 60.0
"""Seconds for a reply. The slowest are those to a cancel (grace, kill, sync) and to a submission
whose payload must be stored first."""

MAX_TEXT = 4096
"""Characters of a text of another node. The longest details repeat the words of a command, and
every status of the unit repeats the detail."""

NO_ROUTE = "no route"

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)

_LACKS_IN_WORDS = tuple(os.strerror(lack).lower() for lack in LACKS)
"""How receptor, and meshnodes before they said :data:`NOT_NOW`, end such a refusal."""


class RemoteUnavailable(WorkError):
    """The other node cannot be reached, or the conversation broke off: try again.

    ``meant`` is the node that was probably meant, if there is none of that name.
    """

    def __init__(self, text: str, meant: str = "") -> None:
        super().__init__(text)
        self.meant = meant


class RemoteDistrusted(RemoteUnavailable):
    """One end does not take the other's certificate, or has no TLS settings where the other has.

    The text begins with receptor's, which clients match.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"TLS error connecting to remote service: {reason}")


class NotThere(WorkError):
    """A unit that may run on any of several nodes cannot be started on the one that was chosen.

    Nothing of it is there, so another node may be chosen.
    """


class RefusedThere(NotThere):
    """The same, since the node takes no such work of this one; its text says who has refused."""


class NoTlsClient(RemoteUnavailable):
    """The unit asks for TLS settings that this node does not have, or has no more."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown TLS config {name}")


class RemoteRefused(WorkError):
    """The other node answered ``ERROR: <text>``; ``reason`` is the text.

    ``is_passing`` says that it lacks something now and may take the same later.
    """

    def __init__(self, text: str) -> None:
        self.is_passing = text.startswith(NOT_NOW) or text.lower().endswith(_LACKS_IN_WORDS)
        self.reason = printable(text.removeprefix(NOT_NOW))
        super().__init__(self.reason)

    def told_by(self, node: str) -> str:
        """Return for a person what was refused, and by whom."""
        return f"node {node} refused: {self.reason}"

    @property
    def unit_unknown(self) -> bool:
        """Whether the node says that it has no such unit."""
        return self.reason.startswith("unknown work unit")


class NotAsked(RemoteRefused):
    """The other node would refuse what this node cannot sign."""

    def told_by(self, node: str) -> str:
        """Return the reason, which lies here."""
        return self.reason


class NoAnswer(RemoteRefused):
    """What came is no answer to a submission."""

    def told_by(self, node: str) -> str:
        """Return what came instead."""
        return f"node {node} did not answer with the ID of a unit: {self.reason}"


class AlreadySubmitted(RemoteRefused):
    """The other node has a unit with this submission key: ``unit_id``."""

    def __init__(self, reason: str, unit_id: str) -> None:
        super().__init__(reason)
        self.unit_id = unit_id


def as_unavailable(error: RemoteUnavailable | RemoteRefused) -> RemoteUnavailable:
    """Return what is to be recovered from: a refusal that may be another answer later."""
    if isinstance(error, RemoteUnavailable):
        return error
    return RemoteUnavailable(f"refused: {error.reason}")


@contextlib.contextmanager
def translated(own_id: str = "") -> Iterator[None]:
    """Raise RemoteUnavailable, with the reason, for all errors of a conversation.

    ``own_id`` is this node, whose own rules are called so.
    """
    try:
        yield
    except HandshakeRefused as error:
        raise RemoteDistrusted(str(error)) from error
    except MeshError as error:
        meant = error.meant if isinstance(error, NoRoute) else ""
        raise RemoteUnavailable(reason_of(error, own_id), meant) from error
    except trio.TooSlowError as error:
        raise RemoteUnavailable(f"no answer within {REPLY_TIMEOUT:g} s") from error
    except _GONE as error:
        cause = error.__cause__
        why = reason_of(cause, own_id) if isinstance(cause, MeshError) else str(error)
        raise RemoteUnavailable(f"the stream broke: {why}") from error


def reason_of(error: MeshError, own_id: str = "") -> str:
    """Return for a person why the mesh did not do what was asked."""
    match error:
        case NoRoute():
            return NO_ROUTE
        case Unreachable(problem=problem, reporter=reporter) if problem == PROBLEM_REJECTED:
            where = f"of this node ({own_id})" if reporter == own_id else f"at {reporter}"
            return f"blocked by a firewall rule {where}"
        case Unreachable(problem=problem) if problem == PROBLEM_SERVICE_UNKNOWN:
            return f"it has no service {CONTROL_SERVICE} now"
        case Unreachable(problem=problem, reporter=reporter) if problem == PROBLEM_EXPIRED:
            return f"messages went in a circle and expired at {reporter}"
        case MeshTimeout():
            return "the dial timed out"
        case NoEngine():
            return f"this node {error}"
        case _:
            return str(error)


def printable(text: str, most: int = MAX_TEXT) -> str:
    """Return a text of another node as one printable line of at most ``most`` characters."""
    if len(text) <= most and text.isprintable():
        return text  # nearly every text
    # Cut first: an escape is up to ten characters long.
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"
