"""A unit keeps the work type that it was submitted as, whatever a reload makes of that type."""

import json

import pytest
import trio

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.runner import CANCEL_MARGIN
from meshnode.work.local.worktypes import CommandType

OLD = CommandType("old", env={"A": "old"}, cwd="/old", timeout=100.0, max_output=1000, grace=500.0)
NEW = CommandType("new", env={"A": "new"}, cwd="/new", timeout=1.0, max_output=1, grace=1.0)
FATES = pytest.mark.parametrize("fate", [{"job": NEW}, {}], ids=["changed", "removed"])


def ran_as(request) -> CommandType:
    """Return what a request to the launcher tells of the type."""
    return CommandType(
        request.argv[0],
        env={"A": request.env["A"]},
        cwd=request.cwd,
        timeout=request.timeout,
        max_output=request.max_output,
        grace=request.grace,
    )


@pytest.fixture
def requests(foo, monkeypatch):
    """All that is asked of foo's launcher."""
    asked = []
    start = foo.launcher.start_now

    def note(request):
        asked.append(request)
        return start(request)

    monkeypatch.setattr(foo.launcher, "start_now", note)
    foo.work_types = {"job": OLD}
    return asked


def replace_types(node, types) -> None:
    node.work_types.clear()
    node.work_types.update(types)


@FATES
async def test_a_unit_whose_payload_still_comes_runs_as_it_was_submitted(foo, requests, fate):
    async with foo.running():
        client = foo.connect()
        submission = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "job"}
        await client.send_all(json.dumps(submission).encode() + b"\n")
        reply = b""
        while b"Send stdin data" not in reply:
            reply += await client.receive_some()
        replace_types(foo, fate)
        await client.send_eof()
        assert b"unitid" in b"".join([chunk async for chunk in client])
        (request,) = requests
        assert ran_as(request) == OLD


@FATES
async def test_a_cancel_of_what_runs_waits_as_long_as_it_was_promised(
    foo, requests, fate, monkeypatch, autojump_clock
):
    """The supervisor gives the command the time that it was started with."""
    async with foo.running():
        unit_id = await foo.submit("foo", "job")
        supervisor = foo.launcher.supervisors[unit_id]
        replace_types(foo, fate)

        async def end_slowly(handle) -> None:
            await trio.sleep(OLD.grace)
            supervisor.finish(UnitState.CANCELED, "Canceled", None)

        monkeypatch.setattr("work_fakes.FakeHandle._be_canceled", end_slowly)
        assert OLD.grace > NEW.grace + CANCEL_MARGIN
        assert await foo.talk(f"work cancel {unit_id}") == [f'{{"cancelled":"{unit_id}"}}']
        assert foo.status(unit_id).state is UnitState.CANCELED


@FATES
async def test_new_units_are_of_the_new_types(foo, requests, fate):
    async with foo.running():
        replace_types(foo, fate)
        if fate:
            await foo.submit("foo", "job")
            assert [ran_as(request) for request in requests] == [NEW]
        else:
            request = {"command": "work", "subcommand": "submit", "node": "foo"}
            assert await foo.talk(request | {"worktype": "job"}) == ["ERROR: unknown work type job"]
