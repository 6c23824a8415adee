"""What the system calls its users: looked up in threads, remembered for a while.

A look-up may ask a directory service over the network, and a node must not wait for that: a name is
for people, and a session without one is as good.
"""

import pwd
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import trio

from meshnode.resources import in_thread
from meshnode.security.identity import MAX_USER, shown_text

PATIENCE = 1.0
"""Seconds that the first session of a user waits for the name. A file of users takes 0.1 ms, a
directory service some 10."""

REMEMBERED = 600.0
"""Seconds for which a name is good: users are renamed, and numbers given away, by people."""

RETRY = 60.0
"""Seconds until a name is looked up again that was not found, or not in time."""

MOST_NAMES = 1024
"""Users that are remembered, those that came last."""

THREADS = 2
"""Look-ups at a time; each may hang for as long as a directory service does not answer."""


@dataclass(frozen=True, slots=True)
class _Name:
    text: str
    until: float


def look_up(uid: int) -> str:
    """Return what the system calls a user, empty if it has no name. Blocks."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return ""


class UserNames:
    """The names of the users who have sessions."""

    def __init__(self, look: Callable[[int], str] = look_up) -> None:
        self._look = look
        self._names: OrderedDict[int, _Name] = OrderedDict()
        self._limiter = trio.CapacityLimiter(THREADS)

    async def name_of(self, uid: int) -> str:
        """Return a user's name, empty if it is not known in time."""
        known = self._names.get(uid)
        if known is not None and trio.current_time() < known.until:
            return known.text
        # Of many sessions at once one looks it up, and if it hangs nobody does for a while.
        old = "" if known is None else known.text
        self._remember(uid, old, RETRY)
        with trio.move_on_after(PATIENCE):
            try:
                found = await in_thread(self._look, uid, abandon=True, limiter=self._limiter)
            except OSError:  # no thread
                return old
            text = shown_text(found, MAX_USER)
            self._remember(uid, text, REMEMBERED if text else RETRY)
            return text
        return old

    def _remember(self, uid: int, text: str, seconds: float) -> None:
        self._names[uid] = _Name(text, trio.current_time() + seconds)
        self._names.move_to_end(uid)
        while len(self._names) > MOST_NAMES:
            self._names.popitem(last=False)
