"""The boundary of a link: whatever goes wrong in what is done for a link ends that link only."""

from collections.abc import Callable
from types import TracebackType

import trio

from meshnode.errors import ProtocolError
from meshnode.logs import SubjectLogger

FAULT_TEXT = 200
"""Characters of an unforeseen error in its line of the log; all of it is there at level debug."""


class Ended(Exception):
    """A link is over.

    ``fault`` says that somebody should look at why; ``rejected_by_us`` that the peer is owed a
    reject message; ``is_told`` that whoever ended the link has logged it.
    """

    def __init__(
        self,
        reason: str,
        *,
        fault: bool = False,
        rejected_by_us: bool = False,
        is_told: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault = fault
        self.rejected_by_us = rejected_by_us
        self.is_told = is_told


class Boundary:
    """A context that any error leaves as the end of its link.

    This is the one place where a link's errors of all kinds are caught. Most are foreseen, and say
    what the peer or the network did. The others are faults of ours, and what brings one about is
    nearly always something that the peer sent. Passed on it would end the node, so that one peer
    could end it; a link that went on would be left with half of a message done, and its peer could
    bring about the fault again as fast as it can send. So the link is what it costs.
    """

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
                return error.with_traceback(None)  # it is kept, the messages in its frames are not
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
    if isinstance(cause, OSError) and cause.strerror:
        return f"the link broke: {cause.strerror.lower()}"
    return "the link broke"
