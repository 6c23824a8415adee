"""How a link ends: which errors end it, whether a forgeable end is real, and what the log says.

Who ends it: the timer after the idle time; the writer when the peer reads nothing; the reader when
the link closes or breaks, or the peer rejects us or breaks the protocol; the mesh and the endpoint
(:meth:`PeerSession.close`); any fault, through the ``Boundary``. On a forgeable link (UDP) anybody
can send in the peer's name. There, once confirmed, a reject or refusal is only suspected until
``EndCheck`` has found the peer silent; once established, malformed messages are dropped.
"""

import math
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import trio

from meshnode.errors import OtherProtocol, ProtocolError, TlsRefused
from meshnode.logs import SubjectLogger, subject_logger
from meshnode.mesh.links.base import Link
from meshnode.protocol.messages import MessageType
from meshnode.protocol.rejection import Rejection

FAULT_TEXT = 200
"""Characters of an unforeseen error in its log line; level debug has all of it."""

ASKED_EVERY = 0.5
"""Seconds between two pings of a peer whose end is suspected: one may get lost."""

BELIEVED_AFTER = 3.0
"""Seconds of silence after which an end is believed. A live peer answers within a round trip."""

REPEATED_AFTER = 3600.0
"""Seconds after which the same line is logged again, so that each day's log has it."""

REMEMBERED = 256
"""Lines that are remembered of the links of one listener or dialer."""

LONGEST_REASON = 200
"""Characters of a reason that are compared."""


class Ended(Exception):
    """A link is over.

    ``fault`` says that somebody should look at why; ``rejection`` is why we reject the peer, if
    that is why, and ``answer`` why it rejects us as well; ``is_logged`` says that
    whoever ended the link has logged it.
    """

    def __init__(
        self,
        reason: str,
        *,
        fault: bool = False,
        rejection: Rejection | None = None,
        is_logged: bool = False,
    ) -> None:
        super().__init__(reason)
        self._reason = reason
        self.fault = fault
        self.rejection = rejection
        self.answer: Rejection | None = None
        self.is_logged = is_logged

    @classmethod
    def rejecting(cls, rejection: Rejection) -> Self:
        """Return the end of a link whose peer we reject."""
        return cls(
            f"we rejected it: {rejection.reason}", fault=rejection.is_fault, rejection=rejection
        )

    @classmethod
    def rejected(cls, said: Rejection | None, guess: str) -> Self:
        """Return the end of a link whose peer rejects us; it may not say why."""
        why = guess if said is None else said.reason
        return cls(f"the peer rejected us: {why}", fault=said is None or said.is_fault)

    @property
    def reason(self) -> str:
        """Why, in words."""
        return self._reason + self.also

    @property
    def also(self) -> str:
        """What the peer finds wrong as well, in words that go behind ours."""
        if self.answer is None or self.rejection is None or self.answer.repeats(self.rejection):
            return ""
        return f"; and it rejects us: {self.answer.reason}"

    @property
    def awaits_answer(self) -> bool:
        """Whether the peer may have rejected us at the same moment, for a reason of its own."""
        return self.rejection is not None and self.rejection.is_fault and self.answer is None

    def take_answer(self, messages: Iterable[memoryview]) -> None:
        """Take why the peer rejects us as well, if one of these messages says so."""
        if self.awaits_answer:
            rejects = (m for m in messages if m[0] == MessageType.REJECT)
            self.answer = next(filter(None, map(Rejection.decode, rejects)), None)

    async def hear_answer(self, link: Link) -> None:
        """Read on for why the peer rejects us as well; its first reject message is its last."""
        has_answered = False
        while self.awaits_answer and not has_answered and (messages := await link.receive()):
            self.take_answer(messages)
            has_answered = any(message[0] == MessageType.REJECT for message in messages)
            del messages  # the link reads into the same buffer again


class Boundary:
    """A context that turns every error into the end of one link.

    This is the only place that catches all errors of a link. Most are foreseen: the peer or the
    network did something. The others are faults of this node, and nearly always something that the
    peer sent brings them out. If they were passed on, one peer could end the node. If the link went
    on, it would be left with half of a message handled, and its peer could cause the fault again
    as fast as it can send. So the fault costs the link.
    """

    __slots__ = ("_end", "_log")

    def __init__(self, end: Callable[[Ended], None], log: SubjectLogger) -> None:
        self._end = end
        self._log = log

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False  # nothing, a cancellation, or Ctrl-C
        self.catch(error)
        return True

    def catch(self, error: Exception) -> None:
        """End the link for an error: for callers to whom entering a context costs too much."""
        self._end(self._ended_by(error))

    def _ended_by(self, error: Exception) -> Ended:
        match error:
            case Ended():
                # It is kept; the traceback would keep the messages in its frames, too.
                return error.with_traceback(None)
            case OtherProtocol():
                return Ended(str(error), fault=True)
            case TlsRefused():
                return Ended(str(error), fault=True)
            case ProtocolError():
                return Ended(f"the peer broke the protocol: {error}", fault=True)
            case trio.BrokenResourceError() | trio.ClosedResourceError():
                return Ended(_how_it_broke(error))
            case _:
                self._log.debug("a fault of this node", exc_info=error)
                text = f"{type(error).__name__}: {error}"[:FAULT_TEXT]
                return Ended(f"a fault of this node, see log-level debug: {text}", fault=True)


def _how_it_broke(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(cause, TlsRefused):
        return str(cause)
    if isinstance(cause, OSError) and cause.strerror:
        return f"the link broke: {cause.strerror.lower()}"
    return "the link broke"


class EndCheck:
    """Checks on a forgeable link whether its peer is really gone.

    A peer that has ended the link sends nothing more. So it is pinged, and anything that comes
    from it shows that the end was forged.
    """

    def __init__(self, ping: Callable[[], None]) -> None:
        """``ping`` sends the peer something that it must answer."""
        self._ping = ping
        self._pinged_at = -math.inf
        self._suspected: Ended | None = None
        self._begun = trio.Event()
        self._refuted = trio.Event()

    def suspect(self, end: Ended) -> None:
        """Take an end that anybody may have forged; :meth:`run` checks it."""
        if self._suspected is None:
            self._suspected = end
            self._refuted = trio.Event()
            self._begun.set()

    def refute(self) -> None:
        """Note that the peer has sent something else."""
        if self._suspected is not None:
            self._suspected = None
            self._begun = trio.Event()
            self._refuted.set()

    async def run(self, boundary: Boundary) -> None:
        """Check each suspected end; it ends the link when the peer stays silent."""
        with boundary:
            while True:
                await self._begun.wait()
                end = self._suspected
                with trio.move_on_after(BELIEVED_AFTER):
                    await self._ping_until_refuted()
                if end is not None and not self._refuted.is_set():
                    raise end

    async def _ping_until_refuted(self) -> None:
        while not self._refuted.is_set():
            await trio.sleep_until(self._pinged_at + ASKED_EVERY)
            self._pinged_at = trio.current_time()
            self._ping()
            with trio.move_on_after(ASKED_EVERY):
                await self._refuted.wait()


class RepeatFilter:
    """Knows which log lines would only repeat others.

    A peer that is away or rejected for a day is one event, not four thousand. After a link has
    lasted, its next failure is news again.
    """

    def __init__(self) -> None:
        self._logged: dict[tuple[str, str], float] = {}
        """When each reason was logged of whom; the last one is at the end."""

    def is_news(self, who: str, reason: str) -> bool:
        """Whether this was not logged lately; from now on it was."""
        now = trio.current_time()
        line = (who, reason[:LONGEST_REASON])
        if now < self._logged.get(line, -math.inf) + REPEATED_AFTER:
            return False
        self._logged.pop(line, None)
        self._logged[line] = now
        if len(self._logged) > REMEMBERED:
            del self._logged[next(iter(self._logged))]
        return True

    def reset(self, who: str) -> None:
        """Forget what was logged of somebody whose link has lasted."""
        for line in [line for line in self._logged if line[0] == who]:
            del self._logged[line]


class LinkLog:
    """The log of one link: that it came up, and why it ended."""

    __slots__ = ("_holder", "_log", "_repeats")

    def __init__(self, name: str, holder: str, repeats: RepeatFilter) -> None:
        """``holder`` stands for the peer while that is not known."""
        self._log = subject_logger("link", name)
        self._holder = holder
        self._repeats = repeats

    def confirmed(self, peer: str, cost: float) -> None:
        """Log that both ends accept the link: of a rejected link only the reason is logged."""
        self._log.info("established with %s, cost %g", peer, cost)

    def ended(self, peer: str, end: Ended | None, *, lasted: bool) -> None:
        """Log why the link is over; ``peer`` is empty if it never came up.

        ``end`` is None if this node stops.
        """
        end = end or Ended("this node is stopping")
        who = peer or self._holder
        if lasted:
            self._repeats.reset(who)
        elif end.is_logged or not self._repeats.is_news(who, end.reason):
            self._log.debug("closed again (%s): %s", peer or "peer unknown", end.reason)
            return
        if end.rejection is not None and not end.rejection.is_fault:
            self._log.info("closed (%s): %s", end.rejection.peer, end.reason)
        elif not peer:
            # Another text, which logs limit by itself: a flood of these must not hide real ends.
            self._log.warning("closed (peer unknown): %s", end.reason)
        else:
            (self._log.warning if end.fault else self._log.info)(
                "closed (%s): %s", peer, end.reason
            )
