"""A world without a mesh, for targets that feed the functions which read what others write."""

from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

import trio

from fuzz.engine import Harm, World


class FunctionWorld(World):
    """Functions that return a value or raise one error each, whatever they are given."""

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        """Make what the functions need."""
        world = cls()
        async with AsyncExitStack() as stack:
            world.prepare(stack)
            yield world

    def prepare(self, stack: AsyncExitStack) -> None:
        """Make what the functions need; ``stack`` takes it away."""

    async def feed(self, item: object) -> None:
        """Call them; any other error than theirs is harm."""
        await trio.lowlevel.checkpoint()
        self.call(item)

    async def check(self) -> None:
        """Call them with what is good."""
        await trio.lowlevel.checkpoint()
        self.try_good()

    @abstractmethod
    def call(self, item: object) -> None:
        """Call the functions with an input. Raises Harm, if they take it for what it is not."""

    @abstractmethod
    def try_good(self) -> None:
        """See that what is good is still taken. Raises Harm."""


def must(holds: bool, what: str) -> None:
    """Raise Harm unless something holds."""
    if not holds:
        raise Harm(what)


def check_line(text: str) -> None:
    """See that a message is one printable line of bounded length. Raises Harm."""
    must(text.isprintable(), f"a message is not printable: {text!r:.300}")
    must(len(text) < 5000, f"a message has {len(text)} characters")
    text.encode()
