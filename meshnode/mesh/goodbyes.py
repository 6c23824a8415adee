"""Whether a peer has really said what ends its link, where anybody may speak in its name."""

import math
from collections.abc import Callable

import trio

from meshnode.mesh.boundary import Ended

ASKED_EVERY = 0.5
"""Seconds between two pings of a peer that is said to have left: one may get lost."""

BELIEVED_AFTER = 3.0
"""Seconds of silence after which it is believed. A peer that lives answers within a round trip."""


class Goodbyes:
    """What a forgeable link does about words that end it.

    A peer that has said them says nothing more, so it is asked. Whatever else comes from it then
    shows that it is still there, and that somebody else has spoken.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        """``ask`` sends the peer something that it must answer."""
        self._ask = ask
        self._asked_at = -math.inf
        self._word: Ended | None = None
        self._begun = trio.Event()
        self._denied = trio.Event()

    def said(self, word: Ended) -> None:
        """Note that something was said which would end the link."""
        if self._word is None:
            self._word = word
            self._denied = trio.Event()
            self._begun.set()

    def denied(self) -> None:
        """Note that the peer has said something else."""
        if self._word is not None:
            self._word = None
            self._begun = trio.Event()
            self._denied.set()

    async def run(self) -> None:
        """Look into each word; raises it when the peer says nothing else."""
        while True:
            await self._begun.wait()
            word = self._word
            with trio.move_on_after(BELIEVED_AFTER):
                while not self._denied.is_set():
                    await trio.sleep_until(self._asked_at + ASKED_EVERY)
                    self._asked_at = trio.current_time()
                    self._ask()
                    with trio.move_on_after(ASKED_EVERY):
                        await self._denied.wait()
            if word is not None and not self._denied.is_set():
                raise word
