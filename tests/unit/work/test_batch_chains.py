"""A batch waits for units and batches that it was told to come after, and begins once."""

import errno
import json
import os

import pytest
import trio
from test_batches import ask, in_flight, run_commands, status, submit, wait
from work_fakes import LONG, MortalBatchFiles

from meshnode.errors import CommandError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.batches.spec import BatchSpec
from meshnode.work.units.access import Caller
from meshnode.work.units.after import MAX_AFTER, After, parse_after


def test_what_a_batch_comes_after_is_read_as_it_is_written():
    found = parse_after("AAAAbbbb,b-12345678:end,CCCCdddd:success")
    assert found == (After("AAAAbbbb"), After("b-12345678", False), After("CCCCdddd"))
    assert parse_after(",".join(map(str, found))) == found
    data = {"node": "foo", "worktype": "cat", "array": "1", "submissionafter": "AAAAbbbb:end"}
    spec = BatchSpec.parse(data, Caller(), "now")
    assert spec.after == (After("AAAAbbbb", False),)
    assert BatchSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("text", [",", "x:y", "a b", "é:end:end", ":end", ",".join(["a"] * 65)])
def test_what_names_nothing_to_come_after_is_refused(text):
    assert MAX_AFTER == 64
    with pytest.raises(CommandError):
        parse_after(text)


@pytest.mark.parametrize("state", [UnitState.SUCCEEDED, UnitState.FAILED])
@pytest.mark.parametrize("condition", ["", ":success", ":end"])
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_batch_begins_when_a_unit_has_ended_as_it_must(
    autojump_clock, foo, state, condition, restarts
):
    begins = state is UnitState.SUCCEEDED or condition == ":end"
    async with foo.running():
        unit = await foo.submit("foo", "wait")
        batch = await submit(foo, "1-3", submissionafter=f"{unit}{condition}")
        what = "end" if condition == ":end" else "succeed"
        told = await status(foo, batch)
        assert (told["StateName"], told["Waiting"]) == ("Pending", 3)
        assert told["Detail"] == f"waits for unit {unit} to {what}"
        if restarts:
            foo.kill()
    async with foo.running():
        assert (await status(foo, batch))["StateName"] == "Pending"
        assert len(foo.units.all()) == 1
        foo.launcher.supervisors[unit].finish(state, "it ended", 1)
        ends, last = await wait(foo, batch)
        assert len(ends) == (3 if begins else 0)
        assert last["StateName"] == ("Succeeded" if begins else "Canceled")
        assert last.get("Detail", "") == ("" if begins else f"unit {unit} failed")


async def test_batches_form_a_chain_that_ends_with_the_first_failure(autojump_clock, foo):
    async with foo.running():
        first = await submit(foo, "1-2", worktype="wait")
        second = await submit(foo, "1-2", submissionafter=first)
        third = await submit(foo, "1-2", submissionafter=f"{second},{first}:end")
        await run_commands(foo, first, UnitState.FAILED, 1)
        _, last = await wait(foo, third)
        assert (last["StateName"], last["Canceled"]) == ("Canceled", 2)
        assert last["Detail"] == f"batch {second} was canceled"
        assert len(foo.launcher.started) == 2
        # What was missing is made good, from the beginning of the chain.
        for batch in (first, second, third):
            assert json.loads((await ask(foo, "retry", batch))[0])["retried"] == 2
            await run_commands(foo, batch)
            assert (await wait(foo, batch))[1]["StateName"] == "Succeeded"


async def test_a_batch_that_waits_can_be_canceled_and_released(autojump_clock, foo):
    async with foo.running():
        unit = await foo.submit("foo", "wait")
        one, other = [await submit(foo, "1-3", submissionafter=unit) for _ in range(2)]
        assert json.loads((await ask(foo, "cancel", one))[0]) == {"cancelled": one}
        assert (await status(foo, one))["StateName"] == "Canceled"
        assert json.loads((await ask(foo, "release", other))[0]) == {"released": other}
        foo.launcher.supervisors[unit].finish()
        await foo.wait_final(unit)
        assert in_flight(foo) == []
    assert len(foo.launcher.started) == 1


async def test_a_batch_that_has_begun_needs_what_it_came_after_no_more(autojump_clock, foo):
    async with foo.running():
        unit = await foo.submit("foo", "wait")
        batch = await submit(foo, "1-3%1", worktype="wait", submissionafter=unit)
        foo.launcher.supervisors[unit].finish()
        with trio.fail_after(LONG):
            while len(foo.launcher.started) < 2:
                await trio.sleep(0.1)
        await foo.talk(f"work release {unit}")
        foo.kill()
    async with foo.running():
        await run_commands(foo, batch)
        assert (await wait(foo, batch))[1]["Succeeded"] == 3


@pytest.mark.parametrize("tries", [0, 3])
async def test_that_a_batch_has_begun_outlives_a_power_cut_before_it_submits_anything(
    autojump_clock, foo, monkeypatch, tries
):
    append, seen = MortalBatchFiles.append, []

    def watched(self, batch_id, lines, *, durable):
        if b'"begin"' in lines:
            seen.append((durable, len(foo.units.all())))
            if len(seen) <= tries:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, batch_id, lines, durable=durable)

    monkeypatch.setattr(MortalBatchFiles, "append", watched)
    async with foo.running():
        unit = await foo.submit("foo", "wait")
        batch = await submit(foo, "1-3", submissionafter=unit)
        foo.launcher.supervisors[unit].finish()
        assert (await wait(foo, batch))[1]["Succeeded"] == 3
    assert seen == [(True, 1)] * (tries + 1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_a_batch_that_cannot_begin_any_more_ends_whatever_else_it_waits_for(
    autojump_clock, foo, order
):
    async with foo.running():
        units = [await foo.submit("foo", "wait") for _ in range(3)]
        words = [units[0], f"{units[1]}:end", units[2]]
        batch = await submit(foo, "1-3", submissionafter=",".join(words[n] for n in order))
        foo.launcher.supervisors[units[1]].finish(UnitState.FAILED, "exit status 1", 1)
        await foo.wait_final(units[1])
        assert (await status(foo, batch))["StateName"] == "Pending"
        foo.launcher.supervisors[units[2]].finish(UnitState.FAILED, "exit status 1", 1)
        _, last = await wait(foo, batch)
        assert (last["StateName"], last["Detail"]) == ("Canceled", f"unit {units[2]} failed")
        assert not foo.status(units[0]).state.is_final


async def test_a_unit_that_is_released_before_its_end_was_no_success(autojump_clock, foo):
    async with foo.running():
        unit = await foo.submit("foo", "wait")
        batch = await submit(foo, "1-3", submissionafter=unit)
        await foo.talk(f"work release {unit}")
        _, last = await wait(foo, batch)
        assert last["Detail"] == f"unit {unit} was canceled"


@pytest.mark.parametrize("target", ["AAAAAAAA", "b-AAAAAAAA", "AAAAAAAA:end"])
async def test_what_is_not_there_cannot_be_waited_for(autojump_clock, foo, target):
    async with foo.running():
        given = {"node": "foo", "worktype": "cat", "array": "1"}
        (line,) = await ask(foo, "submit", **given, submissionafter=target)
        assert line.startswith("ERROR: unknown ")
        assert json.loads((await ask(foo, "list"))[0]) == {}
