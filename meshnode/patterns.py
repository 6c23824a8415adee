"""Patterns for names in receptor's notation: ``foo`` is that name, ``/f.*/`` a regular expression.

The expressions are RE2's, as receptor's are, and not Python's: the same text means the same in a
mesh that mixes both, and matching takes time in proportion to the name. Peers choose the names, so
an expression like ``/(a+)+/`` must not let them choose how long we think.
"""

from dataclasses import dataclass, field
from typing import Any, Self

SLASH = "/"
"""Begins and ends a regular expression."""

MAX_MEMORY = 1 << 20
"""Bytes that one expression may take: far above any that a person writes, and thousands of rules
still fit a small machine."""


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
        if not text.startswith(SLASH):
            return cls(text)
        if len(text) < 2 or not text.endswith(SLASH):
            raise ValueError("begins with / and does not end with it; write /expression/")
        # Imported here: a megabyte of engine, for the few who write expressions.
        import re2  # noqa: PLC0415

        options = re2.Options()
        options.log_errors = False
        options.max_mem = MAX_MEMORY
        try:
            return cls(text, re2.compile(f"^{text[1:-1]}$", options))
        except re2.error as exc:
            reason = exc.args[0].decode(errors="replace")
            raise ValueError(f"is not a regular expression of RE2: {reason}") from None
        except UnicodeEncodeError:
            raise ValueError("has characters that are not UTF-8 text") from None

    def matches(self, name: str) -> bool:
        """Whether ``name`` is what the pattern means."""
        return name == self.text if self._regex is None else bool(self._regex.search(name))
