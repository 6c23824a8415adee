"""Payloads that come in parts: what came before a cut is kept until their client sends the rest.

That is so for submissions that ask for it and say what the whole is: with a key, the size and the
digest. Their client submits the same again, is told how much is here, and sends what is missing.
Nothing is started before all of it is here and has that digest.

One session at a time has the payload of a unit. A newer one takes it over, since the one before may
be a connection whose end has not been noticed yet: it writes nothing more from then on.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from meshnode.errors import MeshnodeError
from meshnode.work.units.intake import Digest, Receive
from meshnode.work.units.shortage import NotNow
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Clock, Unit

PATIENCE = 3600.0
"""Seconds for which what has come of a payload waits for the rest, from the last byte on: long
enough for a machine that restarts or a link that is repaired, and no longer than an hour's disk."""

LEAST_KEPT = 64 * 1024
"""Bytes of a payload that are worth being kept. Fewer are sent again sooner than asked about."""


class TakenOver(trio.BrokenResourceError):
    """Another session goes on with the payload."""

    def __init__(self) -> None:
        super().__init__("another session goes on with it")


@dataclass(slots=True, eq=False)
class Upload:
    """The payload of one unit, while a session brings it, and between two of them."""

    deps: Digest = field(default_factory=Digest)
    stdin: Digest = field(default_factory=Digest)
    _is_over: bool = False
    _scope: trio.CancelScope | None = None
    _left: trio.Event = field(default_factory=trio.Event)

    def receiving(self, receive: Receive) -> Receive:
        """Return what receives the payload until another session takes it over.

        Raises:
            TakenOver: one has.
        """

        async def receive_unless_over(most: int) -> bytes:
            with trio.CancelScope() as self._scope:
                if self._is_over:
                    raise TakenOver
                return await receive(most)
            raise TakenOver

        return receive_unless_over

    async def take_over(self) -> None:
        """Return when the session that has it has written its last byte."""
        self._is_over = True
        if self._scope is not None:
            self._scope.cancel()
        await self._left.wait()

    def leave(self) -> "Upload":
        """End the session's part; return what the next one goes on with."""
        self._left.set()
        return Upload(self.deps, self.stdin)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A payload whose rest is awaited."""

    unit: Unit
    upload: Upload
    deadline: float
    """In trio's time."""
    look: Callable[[], None]
    """Called after each change of the unit."""


class Uploads:
    """Which payloads come in parts, and which of those wait for their rest."""

    def __init__(self, store: UnitStore, now: Clock) -> None:
        self._store = store
        self._now = now
        self._open: dict[str, Upload] = {}
        self._cut: dict[str, _Cut] = {}
        self._news = trio.Event()

    def __len__(self) -> int:
        return len(self._cut)

    @asynccontextmanager
    async def session(self, unit: Unit) -> AsyncIterator[Upload | None]:
        """Have the payload of a unit while the context lasts; None if it comes in one part.

        Raises:
            NotNow: the unit does not wait for it any more.
        """
        if not unit.status.resumes:
            yield None
            return
        while former := self._open.get(unit.unit_id):
            await former.take_over()
        upload = self._open[unit.unit_id] = self._go_on(unit)
        try:
            if not awaits_rest(unit):
                raise NotNow(f"unit {unit.unit_id} does not wait for its payload any more")
            yield upload
        finally:
            del self._open[unit.unit_id]
            rest = upload.leave()
            if awaits_rest(unit):
                self._await_rest(unit, rest, PATIENCE)

    def is_worth_keeping(self, unit: Unit) -> bool:
        """Whether enough has come of a payload that was cut off to wait for the rest."""
        return awaits_rest(unit) and self.received(unit) >= LEAST_KEPT

    def received(self, unit: Unit) -> int:
        """Return how many bytes have come of a payload whose rest may come; 0 of any other unit."""
        if not awaits_rest(unit):
            return 0
        return sum(self.parts(unit))

    def parts(self, unit: Unit) -> tuple[int, int]:
        """Return the bytes here of a unit's tar and of the input behind it."""
        return self._store.payload_parts(unit.unit_id, unit.status.deps_size)

    async def show(self, unit: Unit) -> None:
        """Say in the detail what the unit waits for. Raises UnknownUnit if it is released."""
        text = f"Waiting for the rest of its input data: {self.received(unit)} bytes are here"

        def waiting(status: UnitStatus) -> UnitStatus:
            return status if status.state.is_final else replace(status, detail=text)

        await unit.note(waiting)

    async def adopt(self, unit: Unit) -> bool:
        """Have a unit of the last run of the node wait on; False if there is nothing to wait for.

        The time until then counts: a node that is restarted often keeps nothing for ever.
        """
        if not self.is_worth_keeping(unit):
            return False
        written = self._store.payload_written(unit.unit_id)
        age = max((self._now() - written).total_seconds(), 0.0)
        self._await_rest(unit, Upload(), PATIENCE - age)
        await self.show(unit)
        return True

    async def run(self, drop: Callable[[Unit, str], Awaitable[object]]) -> None:
        """Drop payloads whose rest does not come, with ``drop``, until cancelled."""
        while True:
            self._news = trio.Event()
            with trio.move_on_at(min((c.deadline for c in self._cut.values()), default=math.inf)):
                await self._news.wait()
            now = trio.current_time()
            for unit_id, cut in list(self._cut.items()):
                # Its client may have come back while others were dropped.
                if cut.deadline <= now and self._cut.get(unit_id) is cut:
                    await self._drop(cut.unit, drop)

    async def _drop(self, unit: Unit, drop: Callable[[Unit, str], Awaitable[object]]) -> None:
        try:
            # As a session, so that a client that comes now begins anew and not with half of it.
            async with self.session(unit):
                await drop(unit, f"the rest did not come within {PATIENCE / 60:g} minutes")
        except MeshnodeError as error:
            unit.log.warning("what came of its payload stays for now: %s", error)

    def _await_rest(self, unit: Unit, upload: Upload, seconds: float) -> None:
        look = partial(self._look, unit)
        deadline = trio.current_time() + seconds
        self._cut[unit.unit_id] = _Cut(unit, upload, deadline, look)
        unit.add_listener(look)
        self._news.set()

    def _go_on(self, unit: Unit) -> Upload:
        """Return what the last session has left, if one has."""
        cut = self._cut.pop(unit.unit_id, None)
        if cut is None:
            return Upload()
        cut.unit.remove_listener(cut.look)
        return cut.upload

    def _look(self, unit: Unit) -> None:
        """Forget a unit that has ended otherwise."""
        if not awaits_rest(unit):
            self._go_on(unit)


def awaits_rest(unit: Unit) -> bool:
    """Whether the payload of a unit is not all here, and may come in several parts."""
    status = unit.status
    return status.resumes and not (unit.is_final or unit.end_waits or status.input_complete)
