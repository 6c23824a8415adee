"""Conversations with a node that comes and goes."""

import trio

from meshnode.logs import SubjectLogger
from meshnode.work.remote.client import Dialer, RemoteControl, Sign
from meshnode.work.remote.farside import LongLines, RemoteUnavailable

_FIRST_DELAY = 0.1
_DELAY_GROWTH = 1.5
_LONGEST_DELAY = 20.0
"""Seconds between tries against a node that is there and refuses: quick at first, since a service
may be starting, at most as slow as receptor's redial. An unreachable node costs no tries at all."""


class Reconnector:
    """Opens conversations with one node, and says when to try again after one failed."""

    def __init__(
        self,
        dialer: Dialer,
        node: str,
        log: SubjectLogger,
        long_lines: LongLines,
        *,
        sign: Sign | None = None,
    ) -> None:
        self._dialer = dialer
        self._all_long_lines = long_lines
        self._long_lines = long_lines.of(node)
        self._sign = sign
        self._node = node
        self._log = log
        self._delay = _FIRST_DELAY
        self._told = ""

    def another(self) -> "Reconnector":
        """Return one for conversations of another purpose, whose failures are its own."""
        return Reconnector(
            self._dialer, self._node, self._log, self._all_long_lines, sign=self._sign
        )

    async def open(self) -> RemoteControl:
        """Try once. Raises RemoteUnavailable."""
        return await RemoteControl.open(self._dialer, self._node, self._long_lines, sign=self._sign)

    def succeeded(self) -> None:
        """A conversation did what it was for: the next failure is a new one."""
        self._delay = _FIRST_DELAY
        self._told = ""

    async def recover(self, error: RemoteUnavailable) -> None:
        """Return when another try makes sense: the node is reachable, and has had a pause."""
        # An outage is one event to a reader of the log, however many tries it takes.
        level = self._log.debug if str(error) == self._told else self._log.info
        level("node %s: %s; trying on", self._node, error)
        self._told = str(error)
        if error.no_route:
            self._delay = _FIRST_DELAY
        # Not in place of an event: that a service will answer the next time is announced by none.
        await trio.sleep(self._delay)
        self._delay = min(self._delay * _DELAY_GROWTH, _LONGEST_DELAY)
        await self._dialer.wait_reachable(self._node)
