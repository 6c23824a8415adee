"""Has the files of ended jobs collected before their units are final.

1. The supervisor of a unit that brings files back records the end of its command as held: the unit
   is Running on disk, and its record says how it will have ended.
2. This node collects the files, and puts the tar in its place.
3. It records the end, with the size of the tar.

Whatever is killed in between, the next run of the node finds what is held and does 2 and 3 again.
The tar is made of the same files then, and replaces the other. The command is never run again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import trio

from meshnode import files
from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.files.archive import CannotCollect
from meshnode.work.files.collecting import Collection
from meshnode.work.local.launcher.records import FILES, SIZE_KEYS
from meshnode.work.local.startrequest import say
from meshnode.work.units.endedby import CANCELED, EndedBy
from meshnode.work.units.jsonreader import NOTHING
from meshnode.work.units.shortage import LACKS, Pauses, in_thread_or_here, shortage_of
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit

MOST_AT_ONCE: Final = 2
"""Units whose files are collected at once: they take a thread each, and the same disk."""

COLLECTING: Final = (
    "work unit {} has ended, but its files are being collected; cancel it again to go without them"
)
"""What a cancel is told that does not wait for them."""


class _LeftOut(Exception):
    """Somebody who ends the unit does not wait for its files."""


class FileCollector:
    """Collects the files of the units of one node."""

    def __init__(self, store: UnitStore) -> None:
        self._store = store
        self._places = trio.Semaphore(MOST_AT_ONCE)
        self._at: dict[str, trio.CancelScope] = {}
        """Units whose files are being collected, or wait for that."""
        self._unwanted: set[str] = set()

    def has(self, unit: Unit) -> bool:
        """Whether the files of a unit are being collected."""
        return unit.unit_id in self._at

    def leave(self, unit: Unit) -> None:
        """Have a unit end without its files, if they are being collected."""
        if (scope := self._at.get(unit.unit_id)) is not None:
            scope.cancel()

    @contextmanager
    def unwanted(self, unit: Unit) -> Iterator[None]:
        """Have a unit end without its files meanwhile: they are about to be deleted."""
        self._unwanted.add(unit.unit_id)
        self.leave(unit)
        try:
            yield
        finally:
            self._unwanted.discard(unit.unit_id)

    async def settle(self, unit: Unit) -> None:
        """Collect the files of a unit whose end is held, if it is, and record that."""
        if not unit.status.held:
            return
        try:
            words, state = await self._collect(unit), None
        except CannotCollect as error:
            words, state = f"its files were not collected: {error}", UnitState.FAILED
        except _LeftOut:
            words, state = "", UnitState.CANCELED
        if unit.is_final:
            return
        size = self._store.output_size(unit.unit_id, FILES)

        def end(old: UnitStatus) -> UnitStatus:
            ended = _end_of(old, words, state)
            return ended.with_sizes({SIZE_KEYS[FILES]: size})

        await unit.change(end)

    async def save(self, unit: Unit) -> str:
        """Collect what is there of a unit whose end nobody has recorded; return what to tell."""
        try:
            words = await self._collect(unit)
        except CannotCollect as error:
            words = f"its files were not collected: {error}"
        except _LeftOut:
            return ""
        return f"; {words}" if words else ""

    async def _collect(self, unit: Unit) -> str:
        """Make the tar of a unit; return what there was. Raises CannotCollect, _LeftOut."""
        if not unit.status.job.files.output:
            return ""
        words = ""
        if unit.unit_id not in self._unwanted:
            with trio.CancelScope() as scope:
                self._at[unit.unit_id] = scope
                try:
                    async with self._places:
                        words = await self._make(unit)
                finally:
                    del self._at[unit.unit_id]
        if not words:
            raise _LeftOut
        return words

    async def _make(self, unit: Unit) -> str:
        place = self._store.output_path(unit.unit_id, FILES)
        work = self._store.work_directory(unit.unit_id)
        pauses = Pauses()
        while True:
            collection = Collection(work, place, unit.status.job.files.output)
            try:
                while not await in_thread_or_here(collection.step):
                    pass
                return collection.words
            except OSError as error:
                if error.errno not in LACKS:
                    raise CannotCollect(files.reason(error)) from error
                await say(unit, f"Collecting files: waiting for {shortage_of(error)}")
            finally:
                collection.close()
            await pauses.take()


def _end_of(old: UnitStatus, words: str, instead: UnitState | None) -> UnitStatus:
    """Return the status in which a unit ends whose end is held."""
    held: Mapping[str, Any] = old.held
    try:
        ended = replace(old.merged(held), held=NOTHING)
    except WorkError as error:
        detail = f"lost: the record of its end cannot be read: {error}"
        return replace(old, state=UnitState.FAILED, detail=detail, held=NOTHING)
    if not ended.state.is_final:
        detail = "lost: the record of its end names none"
        return replace(ended, state=UnitState.FAILED, detail=detail)
    return end_with_files(ended, words, instead, old.ended_by)


def end_with_files(
    ended: UnitStatus, words: str, instead: UnitState | None, by: EndedBy | None
) -> UnitStatus:
    """Return how a unit ends whose command ended like this, and whose files came as ``words`` say.

    ``instead`` is how it ends if it would have succeeded, and ``by`` who has asked for that.
    """
    if ended.state is UnitState.SUCCEEDED and instead is UnitState.CANCELED:
        return replace(ended, state=instead, detail=CANCELED, ended_by=by)
    if ended.state is UnitState.CANCELED or not words:
        # Its detail says who has canceled it, and nothing else.
        return ended
    state = instead if ended.state is UnitState.SUCCEEDED and instead else ended.state
    return replace(ended, state=state, detail=f"{ended.detail}; {words}")
