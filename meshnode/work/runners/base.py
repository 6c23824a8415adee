"""What the registry of units asks of a runner, and what a runner may ask of the registry."""

from typing import Protocol

import trio

from meshnode.errors import MeshnodeError
from meshnode.work.unit import Unit


class Attempt:
    """The outcome of the first try of something, for a client that waits while it is made.

    Only the first outcome counts, and nobody need be waiting: a client may leave, the try goes on.
    """

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._done = False
        self._error: MeshnodeError | None = None

    def done(self) -> None:
        """It has happened."""
        self._settle(done=True)

    def pending(self) -> None:
        """It could not be done at once, and is tried again until it is."""
        self._settle(done=False)

    def fail(self, error: MeshnodeError) -> None:
        """It was refused, and is not tried again."""
        if not self._settled.is_set():
            self._error = error
        self._settle(done=False)

    def _settle(self, *, done: bool) -> None:
        if not self._settled.is_set():
            self._done = done
            self._settled.set()

    async def wait(self, seconds: float) -> bool:
        """Return whether it is done; what takes longer than ``seconds`` counts as pending.

        Raises:
            MeshnodeError: it was refused.
        """
        with trio.move_on_after(seconds):
            await self._settled.wait()
        if self._error is not None:
            raise self._error
        return self._done


class UnitTasks(Protocol):
    """What a runner may ask of the registry, which owns the task of each unit."""

    def spawn(self, unit: Unit) -> Attempt:
        """Have the unit's runner drive it in a task of its own, from what its record says."""
        ...

    async def stop(self, unit: Unit) -> None:
        """End the unit's task and return when it has ended; the record says where it stood."""
        ...

    async def remove(self, unit: Unit) -> None:
        """Delete the unit. May be called from the unit's own task, as the last thing it does."""
        ...


class Runner(Protocol):
    """Runs the units of one kind. All that a runner must know of a unit is in its record.

    So a task may be ended at any await, by a wish of a client or by a kill, and be spawned again.
    """

    async def run(self, unit: Unit, attempt: Attempt, tasks: UnitTasks) -> None:
        """Drive the unit to its end, from wherever its record says that it stands.

        ``attempt`` is settled with the outcome of the first try.
        """
        ...

    async def cancel(self, unit: Unit, tasks: UnitTasks) -> bool:
        """Stop a unit that is not final; return False if that must wait for another node.

        Raises:
            MeshnodeError: it cannot be stopped.
        """
        ...

    async def release(self, unit: Unit, tasks: UnitTasks, *, force: bool) -> bool:
        """Stop and remove a unit; return False if that must wait for another node.

        ``force`` removes it in any case, after one try to do it properly.

        Raises:
            MeshnodeError: it cannot be released.
        """
        ...
