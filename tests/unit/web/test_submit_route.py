"""Submissions that are sent again under their Idempotency-Key, several of them at once."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from meshnode.config import HttpService
from meshnode.control.budgets import SessionBudgets
from meshnode.control.registry import CommandRegistry, JsonObject
from meshnode.errors import CommandError, UnknownUnit
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.access import AccessRules
from meshnode.web.api.submit import FEEDING
from meshnode.web.app import make_app
from meshnode.web.commands import Commands
from meshnode.web.identity import Caller
from meshnode.web.routing import WebNode
from meshnode.web.session import Body
from meshnode.web.spool import Spool
from meshnode.work.units.keys import ALREADY_SUBMITTED
from tests.unit.web.asgi import Client, Reply


class Units(Commands):
    """Runs what a submission needs of ``work``; every command takes some turns of the loop."""

    def __init__(self) -> None:
        super().__init__("foo", CommandRegistry(AccessRules(())), SessionBudgets())
        self.units: dict[str, JsonObject] = {}
        self.by_key: dict[str, str] = {}
        self.made = 0
        self.hides = False
        self.changed = trio.Event()

    def make(self, key: str, state: UnitState, size: int | None) -> str:
        self.made += 1
        unit_id = f"unit{self.made}"
        self.units[unit_id] = {"State": int(state), "StdinSize": size}
        self.by_key[key] = unit_id
        return unit_id

    async def run(
        self,
        caller: Caller,
        command: JsonObject,
        body: Body,
        send: Callable[[bytes], Awaitable[None]],
        *more: Any,
        **others: Any,
    ) -> JsonObject | None:
        await trio.lowlevel.checkpoint()
        unit_id = str(command.get("unitid"))
        match command.get("subcommand"):
            case "submit":
                return self._submit(str(command["submissionkey"]))
            case "watch":
                await self._tell(send, unit_id)
            case "can":
                return {"Allowed": unit_id in self.units and not self.hides}
            case "status" | "release" if unit_id not in self.units or self.hides:
                raise UnknownUnit(unit_id)
            case "release":
                del self.units[unit_id]
                self.by_key = {k: unit for k, unit in self.by_key.items() if unit != unit_id}
        return dict(self.units.get(unit_id, {}))

    async def _tell(self, send: Callable[[bytes], Awaitable[None]], unit_id: str) -> None:
        while True:
            await send(json.dumps(self.units[unit_id]).encode() + b"\n")
            await self.changed.wait()
            self.changed = trio.Event()

    def _submit(self, key: str) -> JsonObject:
        if key in self.by_key:
            raise CommandError(f"{ALREADY_SUBMITTED} {self.by_key[key]}")
        return {"unitid": self.make(key, UnitState.RUNNING, 5)}


async def nothing_short() -> str:
    return ""


@pytest.fixture
def units() -> Units:
    return Units()


async def send_at_once(units: Units, count: int) -> list[Reply]:
    node = WebNode("foo", "1.2", units, nothing_short, Spool(Path("/nonexistent")))
    client = Client(make_app(HttpService(port=8043), node))
    replies: list[Reply] = []

    async def send() -> None:
        body = json.dumps({"type": "cat", "payload": "hello"}).encode()
        named = {"content_type": "application/json", "idempotency_key": "k"}
        replies.append(await client.ask("/api/v1/units", "POST", body, **named))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(send)
    return replies


async def broken_off(units: Units) -> None:
    """Have a unit under the key of the requests whose payload never came whole."""
    await send_at_once(units, 1)
    [unit] = units.units.values()
    unit |= {"State": int(UnitState.FAILED), "StdinSize": None}


@pytest.mark.parametrize("count", [1, 2, 10])
async def test_all_who_send_a_broken_submission_again_are_told_of_the_one_new_unit(
    units: Units, count: int
) -> None:
    await broken_off(units)
    replies = await send_at_once(units, count)
    assert sorted(reply.status for reply in replies) == [*[200] * (count - 1), 201]
    assert {reply.json["ID"] for reply in replies} == set(units.units) == {"unit2"}


TAKING_IN = {"State": int(UnitState.PENDING), "StdinSize": None}


@pytest.mark.parametrize(
    ("becomes", "status", "told"),
    [
        ({"State": int(UnitState.FAILED)}, 201, "unit2"),
        ({"StdinSize": 5}, 200, "unit1"),
        ({"State": int(UnitState.RUNNING), "StdinSize": 5}, 200, "unit1"),
        ({"State": int(UnitState.CANCELED)}, 200, "unit1"),
    ],
)
async def test_who_sends_a_submission_again_whose_payload_still_comes_is_told_what_becomes_of_it(
    units: Units, becomes: JsonObject, status: int, told: str, autojump_clock: MockClock
) -> None:
    await send_at_once(units, 1)
    [unit] = units.units.values()
    unit |= TAKING_IN

    async def change() -> None:
        await trio.sleep(FEEDING / 2)
        unit.update(becomes)
        units.changed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        [reply] = await send_at_once(units, 1)
    assert (reply.status, reply.json["ID"]) == (status, told)


async def test_who_sends_a_submission_again_whose_payload_takes_long_is_to_come_later(
    units: Units, autojump_clock: MockClock
) -> None:
    await send_at_once(units, 1)
    [unit] = units.units.values()
    unit |= TAKING_IN
    [reply] = await send_at_once(units, 1)
    assert (reply.status, reply.headers["retry-after"]) == (503, "10")
    assert "unit1 still takes in the payload of another request" in reply.json["detail"]
    assert list(units.units) == ["unit1"]


async def test_a_unit_that_its_submitter_may_not_see_is_told_by_its_id(units: Units) -> None:
    await broken_off(units)
    units.hides = True
    [reply] = await send_at_once(units, 1)
    assert (reply.status, reply.json) == (200, {"ID": "unit1"})
    assert list(units.units) == ["unit1"]
