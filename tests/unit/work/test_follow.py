"""The session of a submission goes on to tell of the unit, which spares others."""

import json
from dataclasses import replace

import pytest
import trio

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.follow import INLINE_BYTES
from meshnode.work.units.placement import ChosenHost


def supervisor_of(foo, bar, unit_id):
    return bar.launcher.supervisors[foo.status(unit_id).remote.unit_id]


async def until(condition):
    with trio.fail_after(600):
        while not condition():
            await trio.sleep(0.01)


async def test_a_short_unit_needs_no_conversation_but_that_of_its_submission(
    foo, bar, autojump_clock
):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat", b"payload")
        status = await foo.wait_final(unit_id)
        assert (status.state, status.stdout_size) == (UnitState.SUCCEEDED, 7)
        assert foo.stdout(unit_id) == b"payload"
        assert foo.mesh.dials == 1


async def test_a_longer_output_is_asked_for(foo, bar, autojump_clock):
    payload = b"p" * (INLINE_BYTES + 1)
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat", payload)
        assert (await foo.wait_final(unit_id)).stdout_size == len(payload)
        assert foo.stdout(unit_id) == payload
        assert foo.mesh.dials == 2


async def test_results_are_asked_for_once_there_are_any(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        await trio.sleep(1000)
        assert foo.mesh.dials == 1
        supervisor = supervisor_of(foo, bar, unit_id)
        supervisor.write(b"first")
        await until(lambda: foo.stdout(unit_id) == b"first")
        assert foo.mesh.dials == 2
        supervisor.write(b" and last")
        supervisor.finish()
        await foo.wait_final(unit_id)
        assert foo.stdout(unit_id) == b"first and last"


async def test_a_unit_that_goes_on_is_brought_to_disk(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await until(lambda: foo.store.read_status(unit_id).state is UnitState.RUNNING)
        assert foo.store.read_status(unit_id).remote.started
        supervisor_of(foo, bar, unit_id).finish()
        await foo.wait_final(unit_id)


async def test_what_breaks_off_is_taken_up_by_watching(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        foo.mesh.break_all()
        supervisor = supervisor_of(foo, bar, unit_id)
        supervisor.write(b"after the break")
        await until(lambda: foo.stdout(unit_id) == b"after the break")
        supervisor.finish(UnitState.FAILED, "exit status 3", 3)
        assert (await foo.wait_final(unit_id)).detail == "exit status 3"


async def test_a_follower_is_told_in_lines_and_the_output_comes_with_the_end(foo, autojump_clock):
    async with foo.running():
        client = foo.connect()
        await client.send_all(
            b'{"command":"work","subcommand":"submit","node":"foo","worktype":"cat",'
            b'"submissionfollow":"true","submissionkey":"bar:1"}\nhello'
        )
        await client.send_eof()
        *_, reply, end = b"".join([data async for data in client]).splitlines()
        assert b'"follows":true' in reply
        assert b'"Stdout":"aGVsbG8="' in end
        assert b'"StateName":"Succeeded"' in end


async def test_a_follower_of_a_unit_that_is_released_hears_no_more(foo, autojump_clock):
    async with foo.running():
        client = foo.connect()
        await client.send_all(
            b'{"command":"work","subcommand":"submit","node":"foo","worktype":"wait",'
            b'"submissionfollow":"true"}\n'
        )
        await client.send_eof()
        await until(lambda: bool(foo.launcher.supervisors))
        (unit_id,) = foo.launcher.supervisors
        await foo.talk(f"work release {unit_id}")
        lines = b"".join([data async for data in client]).splitlines()
        assert b"follows" in lines[2]


LIMITS = {"cpu": 1.5, "memory": 2.0**28}
ANNA = ChosenHost("anna", "random of 2")
APART = "pid, network: none"


@pytest.mark.parametrize("breaks_off", [False, True])
async def test_the_status_of_a_remote_unit_says_what_it_may_have_and_uses_while_it_runs_and_after(
    foo, bar, autojump_clock, breaks_off
):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        supervisor = supervisor_of(foo, bar, unit_id)
        there = bar.units.find(supervisor.unit_id)
        used = {"CpuSeconds": 1.0, "PeakMemory": 4096}
        there.measure = lambda: {"Usage": dict(used)}
        if breaks_off:
            foo.mesh.break_all()
        await there.note(lambda status: replace(status, limits=LIMITS, isolation=APART, host=ANNA))
        for seconds in (1.0, 9.5):
            used["CpuSeconds"] = seconds
            await until(lambda: foo.status(unit_id).usage == used)
        (line,) = await foo.talk(f"work status {unit_id}")
        told = json.loads(line)
        assert (told["Usage"], told["Limits"]) == (used, LIMITS)
        assert (told["Isolation"], told["Pid"]) == (APART, there.status.pid)
        assert told["Host"] == ANNA.to_json()
        end = {"CpuSeconds": 10.0, "PeakMemory": 8192}
        supervisor.finish(usage=end)
        assert (await foo.wait_final(unit_id)).usage == end
    status = foo.store.read_status(unit_id)
    assert (status.usage, status.limits) == (end, LIMITS)
    assert (status.isolation, status.pid) == (APART, there.status.pid)
    assert status.host == ANNA
