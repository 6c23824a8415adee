"""``work batch`` of the control service, in JSON only; its subcommand is the key ``action``.

Who may ask what is in :mod:`.access`. The members of a batch are submitted for the client that has
submitted it.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from meshnode.control.registry import ControlSession, JsonObject, while_client_is_there
from meshnode.errors import CommandError, MeshnodeError
from meshnode.permissions import Verb
from meshnode.protocol.control import encode_reply
from meshnode.work.batches.batch import Batch
from meshnode.work.batches.batches import Batches
from meshnode.work.batches.intake import Turn
from meshnode.work.batches.spec import BatchSpec
from meshnode.work.units.access import Caller
from meshnode.work.units.requestfields import MAX_POSITION, read_string
from meshnode.work.units.requests import BatchRequest, Handlers

PATIENCE: Final = 5.0
"""Seconds in which a cancel or a release is answered, done or not."""

STATUS_EVERY: Final = 0.1
"""Seconds between two lines with the status of a batch for one who waits: a thousand members may
end in a second."""

GREETING: Final = b"Send the lines of the batch and EOF.\n"
GREETING_FILES: Final = b"Send the files of the batch, then its lines if it has any, and EOF.\n"
"""Asks a client for what comes with a batch."""

SUBMITTED: Final = "Batch Submitted"
ALREADY: Final = "Batch Already Submitted"
"""What has become of a submission: it has made a batch, or an earlier one of its key has."""

Action = Callable[[JsonObject, ControlSession, Caller], Awaitable[JsonObject | None]]


def batch_handlers(batches: Batches) -> Handlers:
    """Return what answers requests about batches."""
    return {BatchRequest: BatchCommands(batches).run}


class BatchCommands:
    """Runs the actions."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._actions: dict[str, Action] = {
            "submit": self._submit,
            "list": self._list,
            "status": self._status,
            "wait": self._wait,
            "members": self._members,
            "may": self._may,
            "cancel": self._cancel,
            "release": self._release,
            "retry": self._retry,
        }

    async def run(self, request: BatchRequest, session: ControlSession) -> JsonObject | None:
        """Do what a request asks for. Raises MeshnodeError."""
        action = self._actions.get(request.action)
        if action is None:
            raise CommandError(
                f"work batch has no action {request.action[:16]}: {', '.join(self._actions)}"
            )
        return await action(request.data, session, Caller.of(session))

    # --- submit -------------------------------------------------------------------------------

    async def _submit(
        self, data: JsonObject, session: ControlSession, caller: Caller
    ) -> JsonObject | None:
        spec = BatchSpec.parse(data, caller, self._batches.time())
        self._batches.units.access.check(Verb.SUBMIT, None, caller)
        has_payload = spec.has_lines or spec.files.size > 0
        async with self._batches.once(spec) as (known, turn):
            if known is None:
                for one in spec.after:
                    self._batches.units.check_known(one.target, caller)
            try:
                if known is None and has_payload:
                    await session.send(GREETING_FILES if spec.files.size else GREETING)
                batch = known or await self._create(spec, session, turn, has_payload=has_payload)
            finally:
                # Whatever comes of it, what is left of the payload is no command. Not before: of
                # what is no payload the service bounds no silence.
                if has_payload:
                    session.finish()
        if batch is None:
            return None
        reply = {
            "batch": batch.batch_id,
            "result": SUBMITTED if known is None else ALREADY,
            "members": len(batch.members),
        }
        if not has_payload:
            return reply
        await session.send(encode_reply(reply))
        return None

    async def _create(
        self, spec: BatchSpec, session: ControlSession, turn: Turn, *, has_payload: bool
    ) -> Batch | None:
        if not has_payload:
            return await self._batches.create(spec, _nothing)
        try:
            return await self._batches.create(spec, partial(turn.receive, session.receive_some))
        except MeshnodeError as error:
            # What is raised where a payload may be on its way is answered to nobody.
            await session.send(f"ERROR: {error}\n".encode())
            return None

    # --- looking ------------------------------------------------------------------------------

    async def _list(self, data: JsonObject, session: ControlSession, caller: Caller) -> JsonObject:
        self._batches.units.access.check(Verb.LIST, None, caller)
        return {
            batch.batch_id: batch.status()
            for batch in self._batches.all()
            if self._batches.access.sees(batch, caller, Verb.LIST)
        }

    async def _status(
        self, data: JsonObject, session: ControlSession, caller: Caller
    ) -> JsonObject:
        return self._find(data, caller, Verb.STATUS).status()

    async def _wait(self, data: JsonObject, session: ControlSession, caller: Caller) -> None:
        """Send a line for each member that has ended, from ``startpos`` on, and the status at each
        change; the last line is the status at the end."""
        batch, start = self._find(data, caller, Verb.STATUS), _position(data)
        shows_members = data.get("members") == "true"
        session.finish()
        await while_client_is_there(
            session, lambda: self._send_changes(batch, session, start if shows_members else None)
        )

    async def _send_changes(
        self, batch: Batch, session: ControlSession, position: int | None
    ) -> None:
        sent: JsonObject = {}
        while True:
            seen, is_done, told = batch.version, batch.is_done, batch.status()
            if position is not None and not batch.gone:
                position = await self._send_members(batch, session, position)
            if told != sent or is_done:
                await session.send(encode_reply(told))
                sent = told
            if is_done:
                return
            await trio.sleep(STATUS_EVERY)
            await batch.wait_changed(seen)

    async def _members(self, data: JsonObject, session: ControlSession, caller: Caller) -> None:
        """Send a line for each member that has ended so far, and the status."""
        batch, start = self._find(data, caller, Verb.STATUS), _position(data)
        session.finish()
        await self._send_members(batch, session, start)
        await session.send(encode_reply(batch.status()))

    async def _may(self, data: JsonObject, session: ControlSession, caller: Caller) -> JsonObject:
        """Return what the client may do with a batch that it may see."""
        return {**self._batches.access.may(self._find(data, caller, Verb.STATUS), caller)}

    async def _send_members(self, batch: Batch, session: ControlSession, position: int) -> int:
        while part := await self._batches.read_part(batch, position):
            await session.send(part)
            position += len(part)
        return position

    # --- ending -------------------------------------------------------------------------------

    async def _cancel(
        self, data: JsonObject, session: ControlSession, caller: Caller
    ) -> JsonObject:
        batch = self._find(data, caller, Verb.CANCEL)
        await batch.cancel(caller)
        is_done = await _ends(batch, lambda: batch.is_done)
        return {"cancelled" if is_done else "cancel pending": batch.batch_id}

    async def _release(
        self, data: JsonObject, session: ControlSession, caller: Caller
    ) -> JsonObject:
        batch = self._find(data, caller, Verb.RELEASE)
        await self._batches.release(batch, caller)
        is_gone = await _ends(batch, lambda: batch.gone)
        return {"released" if is_gone else "release pending": batch.batch_id}

    async def _retry(self, data: JsonObject, session: ControlSession, caller: Caller) -> JsonObject:
        batch = self._find(data, caller, Verb.CANCEL)
        # The members run for who has submitted the batch, so nobody else may have them run again.
        self._batches.access.check_own(batch, caller)
        return {"batch": batch.batch_id, "retried": await self._batches.retry(batch)}

    def _find(self, data: JsonObject, caller: Caller, verb: Verb) -> Batch:
        return self._batches.access.find(read_string(data, "batch"), caller, verb)


async def _ends(batch: Batch, is_so: Callable[[], bool]) -> bool:
    with trio.move_on_after(PATIENCE):
        while not is_so():
            await batch.wait_changed(batch.version)
    return is_so()


async def _nothing(size: int) -> bytes:
    await trio.lowlevel.checkpoint()
    return b""


def _position(data: JsonObject) -> int:
    value = data.get("startpos", 0)
    if type(value) is not int or not 0 <= value <= MAX_POSITION:
        raise CommandError("field startpos is no position in a journal")
    return value
