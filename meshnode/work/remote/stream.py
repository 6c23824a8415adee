"""Brings one file of output of a unit on another node here: its stdout, its stderr or its index.

Bytes are appended, beginning where the copy ends here, so that a lost connection costs nothing
twice. Each file has a conversation of its own, since results take one up until the unit's end.
"""

from collections.abc import Awaitable, Callable, Mapping

import trio

from meshnode.errors import WorkError
from meshnode.work.local.launcher.records import STDOUT
from meshnode.work.remote.adopted import why_gone
from meshnode.work.remote.failures import RemoteRefused, RemoteUnavailable
from meshnode.work.remote.reconnect import Reconnector
from meshnode.work.remote.storage import CannotStore, OutputCopy, TooMuch
from meshnode.work.units.unit import Unit

SHORT_TRIES = 3
"""Times that results of a final unit end short of its size, without a new byte, before the unit
fails: the other node has lost part of them."""

GATHER_BYTES = 512 * 1024
"""Bytes of results for one write where they come quickly. A write is a hop to a thread and wakes
the readers here, which costs as much as copying half of this."""

GATHER_TIME = 0.02
"""Seconds for which results may gather before the next write, at most."""

STEADY = 20.0
"""Seconds after which a conversation that brings results counts as a success. One that brings a
byte and breaks off must not be repeated without a pause."""

AHEAD = 64 * 1024 * 1024
"""Bytes of results that may come beyond the last size that the other node reported: receptor
measures it once a second."""


class GivenUp(WorkError):
    """There is no use in going on with a unit; the text says why.

    ``may_run_on`` says that its work may still run there: a node that sends too much may be wrong
    about the end as well.
    """

    def __init__(self, text: str, *, may_run_on: bool = True) -> None:
        super().__init__(text)
        self.may_run_on = may_run_on


class OutputStream:
    """One file of a unit's output.

    Attributes:
        name: of the file.
        reported: its bytes on the other node, as that last told.
    """

    def __init__(
        self,
        name: str,
        unit: Unit,
        copy: OutputCopy,
        reconnector: Reconnector,
        ask_sizes: Callable[[], Awaitable[Mapping[str, int]]],
        told: Callable[[], None],
    ) -> None:
        """``copy`` has it here, and is not closed by this.

        ``ask_sizes`` asks the other node for the sizes of its files now. ``told`` is called when
        the file may be complete.
        """
        self.name = name
        self.reported = 0
        self._unit = unit
        self._copy = copy
        self._reconnector = reconnector
        self._ask_sizes = ask_sizes
        self._told = told
        self._wanted = trio.Event()
        self._ended = trio.Event()
        self._end: int | None = None

    @property
    def size(self) -> int:
        """Bytes of it that are here."""
        return self._copy.size

    @property
    def is_asked_for(self) -> bool:
        """Whether the other node is asked for it, or is about to be."""
        return self._wanted.is_set()

    @property
    def is_complete(self) -> bool:
        """Whether it has ended, and all of it is here."""
        return self._end is not None and self.size >= self._end

    def ask(self) -> None:
        """Ask for it from now on: there is something, or the other node would not say so."""
        self._wanted.set()

    def end_at(self, size: int | None) -> None:
        """Take the size that it has ended with; without one it has ended with what is here."""
        self._end = self.size if size is None else size
        self._ended.set()
        self._told()

    def begin_again(self) -> None:
        """Forget the end: what is here may be lost."""
        self._end, self._ended = None, trio.Event()

    async def append(self, data: bytes, *, small: bool = False) -> None:
        """Store what comes next. Raises GivenUp."""
        if self._end is not None:
            # Bytes beyond the final size are no part of the results.
            data = data[: max(0, self._end - self.size)]
        try:
            await self._copy.append(data, small=small)
        except TooMuch as error:
            node = self._unit.remote.node
            raise GivenUp(f"stopped: node {node} sent {error} (remote-maxoutput)") from error
        except CannotStore as error:
            raise GivenUp(str(error)) from error

    async def run(self) -> None:
        """Append what the other node has beyond the copy here, until that is complete.

        Raises:
            GivenUp: it cannot be.
        """
        await self._wanted.wait()
        short = 0
        while short < SHORT_TRIES and not self.is_complete:
            before, knew_end = self.size, self._ended.is_set()
            try:
                await self._receive()
            except RemoteUnavailable as error:
                await self._reconnector.recover(error)
                continue
            except RemoteRefused as refusal:
                if refusal.unit_unknown:
                    gone = await why_gone(self._unit, self._reconnector)
                    raise GivenUp(gone, may_run_on=False) from refusal
                await self._reconnector.recover(RemoteUnavailable(f"results refused: {refusal}"))
                continue
            # The other node closes results when its unit is final; the status has their size.
            await self._ended.wait()
            if knew_end and self.size == before:
                short += 1
            if knew_end and not self.is_complete:
                await self._reconnector.recover(RemoteUnavailable(self._shortfall()))
        if not self.is_complete:
            raise GivenUp(self._shortfall(), may_run_on=False)

    def _shortfall(self) -> str:
        return f"{self._what} of the remote unit ended at byte {self.size} of {self._end}"

    @property
    def _what(self) -> str:
        return "results" if self.name == STDOUT else self.name

    async def _receive(self) -> None:
        async with await self._reconnector.open() as node:
            await node.start_results(self._unit.remote.unit_id, self.size, self.name)
            self._reconnector.outage.end()
            opened = begun = trio.current_time()
            before = self.size
            while not self.is_complete and (data := await node.receive_results()):
                taken = trio.current_time()
                if self.size + len(data) > self.reported + AHEAD:
                    await self._check_reported()
                await self.append(data)
                if taken - opened >= STEADY or self.size - before >= GATHER_BYTES:
                    self._reconnector.succeeded()
                self._told()
                # Pause for as long as the next GATHER_BYTES need at the pace of these.
                pause = (taken - begun) * GATHER_BYTES / len(data)
                begun = taken
                await trio.sleep_until(taken + min(pause, GATHER_TIME))

    async def _check_reported(self) -> None:
        """Ask for the size: a watcher is told of growth only with other changes.

        Raises:
            RemoteUnavailable: it is less than was sent, or there is no answer now.
        """
        if self._ended.is_set():
            return
        self.reported = (await self._ask_sizes()).get(self.name, 0)
        if self.size > self.reported + AHEAD:
            raise RemoteUnavailable(
                f"it sends more {self._what} than the {self.reported} bytes that it says there are"
            )
