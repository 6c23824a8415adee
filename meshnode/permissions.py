"""Who may do what from where, as an operator writes it: the values of access rules.

A rule has conditions. It is about a request that meets all of them, and of the rules of a node the
first one that is about a request decides. :mod:`meshnode.security.access` does that.

Texts are compared exactly, or with a regular expression of RE2 between slashes, which must match
all of a text: ``/foo|bar/`` are two texts and no prefix of a third.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Self

from meshnode.policies import compile_re2, expression_in


class Verb(StrEnum):
    """What a client can ask of a node. To start work and to end it are different verbs."""

    SUBMIT = "submit"
    RESULTS = "results"
    LIST = "list"
    STATUS = "status"
    """The status of a unit, now and at each change."""
    CANCEL = "cancel"
    RELEASE = "release"
    ADOPT = "adopt"
    CONNECT = "connect"
    PING = "ping"
    """And traceroute."""
    RELOAD = "reload"
    MESH = "mesh-status"
    """What the node knows of the mesh: ``meshctl status``."""


ON_UNITS: Final = frozenset({Verb.RESULTS, Verb.LIST, Verb.STATUS, Verb.CANCEL, Verb.RELEASE})
"""What is asked of a unit that there is."""

ON_WORK: Final = ON_UNITS | {Verb.SUBMIT}
"""What has a type of work."""

ON_NODES: Final = ON_WORK | {Verb.ADOPT, Verb.CONNECT, Verb.PING}
"""What has a node at which it is done."""


class Way(StrEnum):
    """By what a client came."""

    SOCKET = "socket"
    TCP = "tcp"
    MESH = "mesh"


@dataclass(frozen=True, slots=True)
class TextPattern:
    """What a whole text is compared with; made by :meth:`parse`. Two of the same text are equal."""

    text: str
    regex: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, *, dot_is_any: bool = False) -> Self:
        """Return the pattern that ``text`` means.

        ``dot_is_any`` lets a ``.`` match a line break as well.

        Raises:
            ValueError: it begins with a slash and is no regular expression; the text says why and
                continues a line that names what the pattern is for.
        """
        expression = expression_in(text)
        if expression is None:
            return cls(text)
        # Compiled by itself: brackets put around it could be closed from within.
        return cls(text, compile_re2(expression, dot_is_any=dot_is_any))

    def matches(self, text: str) -> bool:
        """Whether the pattern means all of ``text``, which must be text of UTF-8."""
        return text == self.text if self.regex is None else bool(self.regex.fullmatch(text))


NUMBERS: Final = ("uid", "gid")
"""Facts about a client of the unix socket, which the kernel tells."""

TEXTS: Final = ("subject", "certnode", "node", "key", "token")
"""Facts that are texts: of its certificate, the node that it came from, the key that it signed
with, the name of the token that it has shown."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that must be so of a client: ``uid=1000``, ``node=/b.*/``."""

    name: str
    """One of NUMBERS or TEXTS."""
    number: int = 0
    pattern: TextPattern | None = None

    def __str__(self) -> str:
        return f"{self.name}={self.number if self.pattern is None else self.pattern.text}"


Who = tuple[Fact, ...]
"""Facts that must all be so; none at all is anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """One rule. An empty condition is met by every request, any other one only by those with it.

    A request to reload has no type of work, so a rule with a type is not about it.
    """

    label: str = field(compare=False)
    """Its name or place, for logs."""
    allows: bool
    who: tuple[Who, ...]
    """It is about whoever meets one of them."""
    verbs: frozenset[Verb]
    ways: frozenset[Way] = frozenset(Way)
    work_types: tuple[TextPattern, ...] = ()
    nodes: tuple[TextPattern, ...] = ()
    services: tuple[TextPattern, ...] = ()
    params: Mapping[str, TextPattern] = field(default_factory=lambda: MappingProxyType({}))
    """Patterns of parameters by name; one that is not sent is an empty text. A rule that allows is
    about no submission with parameters besides these."""
    own_only: bool = False
    """Whether of units it is only about those that the client has submitted."""
