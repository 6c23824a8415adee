"""Follows a unit for the node that submitted it, in the session of the submission itself.

It sends the status now and after each change, as ``work watch`` does, and two things more: that
stdout is no longer empty, and with the final status a short stdout. So a short unit needs no other
session, and a long one needs one for its results only once there are any.
"""

from base64 import b64encode
from collections.abc import Awaitable, Callable

import trio

from meshnode.protocol.control import encode_reply
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.store import UnitStore
from meshnode.work.units.unit import Unit
from meshnode.work.units.watcher import FileWatcher

INLINE_BYTES = 4096
"""Bytes of the longest stdout that goes with the final status, as one small read and line."""

OUTPUT_DELAY = 0.02
"""Seconds that the first output waits for the unit's end, which then brings it along; results are
promised within 50 ms."""

Send = Callable[[bytes], Awaitable[None]]


async def send_followed(
    unit: Unit, store: UnitStore, watcher: FileWatcher, send: Send, *, shows_output: bool = True
) -> None:
    """Send a follower each change, until the unit is final or released.

    Without ``shows_output`` a short stdout does not come along.

    Raises:
        Exception: whatever ``send`` raises.
    """
    follower = _Follower(unit, store, send, shows_output=shows_output)
    unit.add_listener(follower.wake)
    try:
        with watcher.watch(store.stdout_path(unit.unit_id), follower.wake):
            await follower.until_output()
        await follower.until_final()
    finally:
        unit.remove_listener(follower.wake)


def shown(unit: Unit) -> JsonObject:
    """Return what clients see of a unit at this moment.

    While it waits in the queue, or for its node, the detail says so. A unit that has started on
    another node also has the detail that was last heard.
    """
    reply = unit.status.to_reply(unit.stdout_size())
    if awaits := unit.awaits:
        has_started = unit.status.state is not UnitState.PENDING or (
            unit.status.remote is not None and unit.status.remote.started
        )
        detail = f"{unit.status.detail}; {awaits}" if has_started else awaits
        reply |= {"Detail": detail, "Waiting": awaits}
    return reply


class _Follower:
    def __init__(self, unit: Unit, store: UnitStore, send: Send, *, shows_output: bool) -> None:
        self._unit = unit
        self._shows_output = shows_output
        self._store = store
        self._send = send
        self._sent: JsonObject = {}
        self._changed = trio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def until_output(self) -> None:
        """Send changes until a unit that goes on has output."""
        while not self._unit.is_final:
            if self._unit.stdout_size():
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
        await self._changed.wait()
        self._changed = trio.Event()

    async def _send_change(self) -> None:
        told = shown(self._unit)
        # A larger stdout is no change, but the first output is.
        news = {**told, "StdoutSize": bool(told["StdoutSize"])}
        if news != self._sent:
            self._sent = news
            await self._send(encode_reply(told))

    async def _final(self) -> JsonObject:
        told = shown(self._unit)
        if self._shows_output and 0 < told["StdoutSize"] <= INLINE_BYTES:
            output = await self._read_stdout()
            if len(output) == told["StdoutSize"]:
                told["Stdout"] = b64encode(output).decode()
        return told

    async def _read_stdout(self) -> bytes:
        try:
            return await self._store.read_output(self._unit.unit_id, INLINE_BYTES)
        except OSError as error:
            self._unit.log.warning("stdout is not sent with the end: %s", error)
            return b""
