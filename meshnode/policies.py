"""What an operator decides, as values: who may link here and at what cost, which messages may pass.

Names are matched in receptor's notation: ``foo`` is that name, ``/f.*/`` a regular expression. The
expressions are RE2's, as receptor's are, and not Python's: the same text means the same in a mesh
that mixes both, and matching takes time in proportion to the name. Peers choose the names, so an
expression like ``/(a+)+/`` must not let them choose how long a match takes.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

SLASH = "/"
"""Begins and ends a regular expression."""

MAX_MEMORY = 1 << 20
"""Bytes that one compiled expression may take: far more than a person's expression needs, and
thousands of rules still fit a small machine."""


def expression_in(text: str) -> str | None:
    """Return what stands between slashes, or None if the text begins with none.

    Raises:
        ValueError: it does not end with one; the text continues a line that names what it is for.
    """
    if not text.startswith(SLASH):
        return None
    if len(text) < 2 or not text.endswith(SLASH):
        raise ValueError("begins with / and does not end with it; write /expression/")
    return text[1:-1]


def compile_re2(expression: str, *, dot_is_any: bool = False) -> Any:
    """Return a compiled expression; ``dot_is_any`` lets a ``.`` match a line break as well.

    Raises:
        ValueError: it is none; the text says why, and continues a line as above.
    """
    # Imported here: a megabyte of engine, for the few who write expressions.
    import re2  # noqa: PLC0415

    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_MEMORY
    options.dot_nl = dot_is_any
    try:
        return re2.compile(expression, options)
    except re2.error as exc:
        reason = exc.args[0].decode(errors="replace")
        raise ValueError(f"is not a regular expression of RE2: {reason}") from None
    except UnicodeEncodeError:
        raise ValueError("has characters that are not UTF-8 text") from None


@dataclass(frozen=True, slots=True)
class NamePattern:
    """What a name is compared with; made by :meth:`parse`. Two of the same text are equal."""

    text: str
    _regex: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pattern that ``text`` means.

        An expression is anchored as receptor does it, by ``^`` before and ``$`` behind the text,
        so that of ``/foo|bar/`` each half has one anchor; ``/(foo|bar)/`` has both on each.

        Raises:
            ValueError: it begins with a slash and is no regular expression; the text says why and
                continues a line that names what the pattern is for.
        """
        expression = expression_in(text)
        return cls(text, None if expression is None else compile_re2(f"^{expression}$"))

    def matches(self, name: str) -> bool:
        """Whether ``name`` is what the pattern means."""
        return name == self.text if self._regex is None else bool(self._regex.search(name))


class Action(enum.Enum):
    """What a firewall rule does with a message that matches it."""

    ACCEPT = "accept"
    REJECT = "reject"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Rule:
    """A firewall rule. It matches messages that match all of its patterns; without any, all."""

    action: Action
    from_node: NamePattern | None = None
    to_node: NamePattern | None = None
    from_service: NamePattern | None = None
    to_service: NamePattern | None = None

    @property
    def patterns(self) -> tuple[NamePattern | None, ...]:
        """The patterns in the order of a data message's header."""
        return (self.from_node, self.to_node, self.from_service, self.to_service)


@dataclass(frozen=True, slots=True)
class LinkPolicy:
    """What a listener or peer directive says about its links.

    ``cost`` applies unless ``node_costs`` names the peer; ``allowed_peers`` None means anybody.
    ``is_dialed`` if the links are those of a peer directive.
    """

    cost: float = 1.0
    node_costs: Mapping[str, float] = field(default_factory=dict)
    allowed_peers: frozenset[str] | None = None
    is_dialed: bool = False

    def cost_of(self, peer: str) -> float:
        """Return the cost of a link to ``peer``."""
        return self.node_costs.get(peer, self.cost)

    def is_expected(self, peer: str) -> bool:
        """Whether the configuration asks for a link to ``peer``, and not only allows it."""
        return self.is_dialed or peer in self.node_costs or peer in (self.allowed_peers or ())
