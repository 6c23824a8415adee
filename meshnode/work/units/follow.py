"""Follows a unit for the node that submitted it, in the session of the submission itself.

It sends the status now and after each change, as ``work watch`` does, and two things more: that
there is output, and with the final status a short output. So a short unit needs no other session,
and a long one needs one for its results only once there are any.
"""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping

import trio

from meshnode.protocol.control import encode_reply
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.launcher.records import INDEX, SIZE_KEYS, STDOUT
from meshnode.work.units.jsonreader import NOTHING, JsonObject
from meshnode.work.units.shortage import in_thread_or_here
from meshnode.work.units.statusreply import status_reply
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit
from meshnode.work.units.watcher import FileWatcher

INLINE_BYTES = 4096
"""Bytes of the longest output that goes with the final status, its index included: small reads and
one line."""

OUTPUT_DELAY = 0.02
"""Seconds that the first output waits for the unit's end, which then brings it along; results are
promised within 50 ms."""

USAGE_INTERVAL = 5.0
"""Seconds between two looks at what a unit with limits uses, for who follows it: each is some reads
of files in a thread, and a line."""

SIZES = frozenset(SIZE_KEYS.values())
"""Keys of a status that grow with the output."""

Send = Callable[[bytes], Awaitable[None]]


async def send_followed(
    unit: Unit, store: UnitStore, watcher: FileWatcher, send: Send, *, shows_output: bool = True
) -> None:
    """Send a follower each change, until the unit is final or released.

    Without ``shows_output`` a short output does not come along.

    Raises:
        Exception: whatever ``send`` raises.
    """
    follower = _Follower(unit, store, send, shows_output=shows_output)
    unit.add_listener(follower.wake)
    try:
        # Every output is in the index, where there is one.
        grows = STDOUT if unit.status.index_size is None else INDEX
        with watcher.watch(store.output_path(unit.unit_id, grows), follower.wake):
            await follower.until_output()
        await follower.until_final()
    finally:
        unit.remove_listener(follower.wake)


def without_sizes(told: JsonObject) -> JsonObject:
    """Return what clients see of a unit without what grows all the time."""
    return {key: value for key, value in told.items() if key not in SIZES}


def shown(unit: Unit) -> JsonObject:
    """Return what clients see of a unit at this moment.

    While it waits in the queue, or for its node, the detail says so. A unit that has started on
    another node also has the detail that was last heard.
    """
    sizes = unit.sizes()
    reply = status_reply(unit.status, sizes[SIZE_KEYS[STDOUT]]) | sizes
    if awaits := unit.awaits:
        has_started = unit.status.state is not UnitState.PENDING or (
            unit.status.remote is not None and unit.status.remote.started
        )
        detail = f"{unit.status.detail}; {awaits}" if has_started else awaits
        reply |= {"Detail": detail, "Waiting": awaits}
    return reply


async def wait_news(
    unit: Unit, wait_changed: Callable[[], Awaitable[object]], used: Mapping[str, object]
) -> Mapping[str, object]:
    """Wait for a change, or until it is time to say what a unit with limits uses by now.

    Returns what it uses, as keys of a status; ``used`` is what was last said.
    """
    if unit.measure is None:
        await wait_changed()
        return used
    with trio.move_on_after(USAGE_INTERVAL):
        await wait_changed()
        return used
    return await in_thread_or_here(unit.measure) or used


class _Follower:
    def __init__(self, unit: Unit, store: UnitStore, send: Send, *, shows_output: bool) -> None:
        self._unit = unit
        self._shows_output = shows_output
        self._store = store
        self._send = send
        self._sent: JsonObject = {}
        self._used: Mapping[str, object] = NOTHING
        self._changed = trio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def until_output(self) -> None:
        """Send changes until a unit that goes on has output."""
        while not self._unit.is_final:
            if any(self._unit.sizes().values()):
                with trio.move_on_after(OUTPUT_DELAY):
                    await self._unit.wait_final()
                return
            await self._send_change()
            await self._wait()

    async def until_final(self) -> None:
        """Send that there is output, further changes, and the end."""
        while not self._unit.is_final:
            await self._send_change()
            await self._wait()
        if not self._unit.released:
            await self._send(encode_reply(await self._final()))

    async def _wait(self) -> None:
        self._used = await wait_news(self._unit, self._changed.wait, self._used)
        self._changed = trio.Event()

    async def _send_change(self) -> None:
        told = {**self._used, **shown(self._unit)}
        # More output is no change, but the first is.
        news = {key: bool(value) if key in SIZES else value for key, value in told.items()}
        if news != self._sent:
            self._sent = news
            await self._send(encode_reply(told))

    async def _final(self) -> JsonObject:
        told = shown(self._unit)
        sizes = self._unit.sizes()
        if self._shows_output and sum(sizes.values()) <= INLINE_BYTES:
            for stream, key in SIZE_KEYS.items():
                if size := sizes.get(key):
                    output = await self._read(stream)
                    if len(output) == size:
                        told[stream.capitalize()] = b64encode(output).decode()
        return told

    async def _read(self, stream: str) -> bytes:
        try:
            return await self._store.read_output(self._unit.unit_id, INLINE_BYTES, stream)
        except OSError as error:
            self._unit.log.warning("%s is not sent with the end: %s", stream, error)
            return b""
