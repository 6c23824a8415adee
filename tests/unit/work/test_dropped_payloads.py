"""The payload of a unit that is never started gives its room back."""

import os

import pytest
import trio
from work_fakes import FakeDialer

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState

PAYLOAD = b"p" * 3_000_000
"""Several pieces."""


def stdin_of(node, unit):
    return os.stat(node.store.stdin_path(unit.unit_id)).st_size


async def begin(node, client, target="foo"):
    """Send the first half of a payload; return the unit."""
    await client.send_all(f"work submit {target} cat\n".encode() + PAYLOAD)
    await trio.testing.wait_all_tasks_blocked()
    (unit,) = node.units.all()
    return unit


@pytest.mark.parametrize("target", ["foo", "bar"])
async def test_of_a_unit_that_is_canceled_during_its_payload(foo, target):
    async with foo.running():
        client = foo.connect()
        unit = await begin(foo, client, target)
        assert stdin_of(foo, unit) > 0
        await foo.talk(f"work cancel {unit.unit_id}")
        assert stdin_of(foo, unit) == 0
        # What the client sends on does not come to the disk.
        await client.send_all(PAYLOAD)
        await trio.testing.wait_all_tasks_blocked()
        assert stdin_of(foo, unit) == 0
        await client.send_eof()
        reply = b"".join([chunk async for chunk in client]).decode()
        assert reply.endswith(f"work unit {unit.unit_id} was canceled before it was started\n")
        assert stdin_of(foo, unit) == 0
        assert foo.launcher.started == []


async def test_of_a_client_that_vanishes(mesh, foo):
    async with foo.running():
        client = await FakeDialer(mesh, "elsewhere").dial("foo", "control")
        unit = await begin(foo, client)
        mesh.cut()
        await unit.wait_final()
        assert unit.status.detail.startswith("Error reading input data: ")
        assert stdin_of(foo, unit) == 0


async def test_of_another_payload_than_was_announced(foo):
    async with foo.running():
        await foo.talk(
            {
                **{"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"},
                **{"stdinsize": str(len(PAYLOAD) + 1)},
            },
            PAYLOAD,
        )
        (unit,) = foo.units.all()
        assert unit.status.state is UnitState.FAILED
        assert stdin_of(foo, unit) == 0


async def test_of_a_unit_that_the_launcher_cannot_start(foo):
    foo.launcher.refuses = WorkError("no such thing")
    async with foo.running():
        await foo.talk("work submit foo cat", PAYLOAD)
        (unit,) = foo.units.all()
        assert unit.status.state is UnitState.FAILED
        assert stdin_of(foo, unit) == 0


async def test_of_a_unit_that_the_other_node_refuses(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        await foo.talk("work submit bar nosuchtype", PAYLOAD)
        (unit,) = foo.units.all()
        await unit.wait_final()
        assert stdin_of(foo, unit) == 0


async def test_of_a_unit_that_is_canceled_before_its_node_is_reached(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat", PAYLOAD)
        assert stdin_of(foo, foo.units.find(unit_id)) == len(PAYLOAD)
        await foo.talk(f"work cancel {unit_id}")
        assert foo.status(unit_id).state is UnitState.CANCELED
        assert stdin_of(foo, foo.units.find(unit_id)) == 0


async def test_of_a_unit_whose_time_to_start_is_over(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat", PAYLOAD, ttl="10s")
        await foo.wait_final(unit_id)
        assert stdin_of(foo, foo.units.find(unit_id)) == 0


async def test_of_a_unit_that_a_kill_left_unstarted(foo):
    async with foo.running():
        client = foo.connect()
        unit = await begin(foo, client)
        foo.kill()
    assert stdin_of(foo, unit) > 0
    async with foo.running():
        (unit,) = foo.units.all()
        assert unit.status.state is UnitState.FAILED
        assert stdin_of(foo, unit) == 0


async def test_but_not_of_one_that_ran(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", PAYLOAD)
        await foo.wait_final(unit_id)
        assert stdin_of(foo, foo.units.find(unit_id)) == len(PAYLOAD)


async def test_the_room_is_free_for_the_record_of_the_end(foo, monkeypatch):
    """On a full disk it is the payload itself that leaves no room for the end of its unit."""
    async with foo.running():
        client = foo.connect()
        unit = await begin(foo, client)
        write_status, seen = foo.mortal.write_status, []

        def look(unit_id, status, **how):
            seen.append(stdin_of(foo, unit))
            write_status(unit_id, status, **how)

        monkeypatch.setattr(foo.mortal, "write_status", look)
        await foo.talk(f"work cancel {unit.unit_id}")
        assert seen == [0]


@pytest.mark.parametrize("target", ["foo", "bar"])
async def test_that_is_not_there_is_no_news(foo, caplog, target, autojump_clock):
    caplog.set_level("DEBUG")
    async with foo.running():
        unit = await begin(foo, foo.connect(), target)
        foo.store.stdin_path(unit.unit_id).unlink()
        await foo.talk(f"work cancel {unit.unit_id}")
        foo.store.take_stdin_away(unit.unit_id)
        assert unit.is_final
    assert "stays" not in caplog.text
