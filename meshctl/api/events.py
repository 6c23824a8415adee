"""What changes at a node, as it tells it: the control command ``events``.

A session that breaks is no end: the node may be restarting. The next one goes on after the last
event that was read, and the node says so if it does not know any more what came in between.
"""

import json
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from meshctl.api import JsonObject
from meshctl.api.errors import AWAY, ControlError, ProtocolMismatch
from meshctl.api.status import ASK_INTERVAL, NODE_RETURNS, Absence

if TYPE_CHECKING:  # the commands need what is here before they need sockets
    from meshctl.api.connection import Connection

TOPICS = ("units", "links", "routes", "services", "mesh")
"""What a client may ask for; the last are all but units."""

_HEAD = "Streaming events"


class NodeEvents:
    """What one node tells.

    Args:
        take: Returns an exclusive session (``ControlClient.take``).
        topics: Some of TOPICS; none for all that the client may have.
        since: The ``seq`` of the last event that is known; None for what changes from now on.
        on_away: Called with the reason when the node goes away, once until it is back.
    """

    def __init__(
        self,
        take: "Callable[[], Connection]",
        topics: Sequence[str] = (),
        since: int | None = None,
        on_away: Callable[[str], object] | None = None,
    ) -> None:
        self._take = take
        self._topics = list(topics)
        self._last = since
        self._began = False
        self._absence = Absence(on_away)

    def events(self) -> Generator[JsonObject]:
        """Yield each event as it comes; it does not end by itself.

        The line that begins each session is an event of the topic ``start``. After one of the topic
        ``lost`` ask for everything anew.

        Raises:
            CommandRefused: the node has no such command, or does not let the client.
            SessionLost, CannotReach, ProtocolMismatch: the node is away, and stays so.
        """
        while True:
            try:
                yield from self._session()
            except AWAY as error:
                self._check_away(error)
            time.sleep(ASK_INTERVAL)

    def _session(self) -> Generator[JsonObject]:
        session = self._take()
        try:
            session.send_line(json.dumps(self._request()))
            head = session.read_line()
            if head != _HEAD:
                raise ProtocolMismatch(f"the node's reply is not one to events: {head[:60]!r}")
            while True:
                event = session.read_json()
                seq = event.get("seq")
                self._last = seq if isinstance(seq, int) else self._last
                self._began = True
                self._absence.ends()
                yield event
        finally:
            session.close()

    def _request(self) -> JsonObject:
        request: JsonObject = {"command": "events"}
        if self._topics:
            request["topics"] = self._topics
        return request if self._last is None else request | {"since": self._last}

    def _check_away(self, error: ControlError) -> None:
        """Return if the node may come back; raise the error if it has not for long."""
        if not (self._began and self._absence.lasts(str(error), NODE_RETURNS)):
            raise error
