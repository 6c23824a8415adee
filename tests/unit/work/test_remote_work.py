"""Remote units between two nodes in memory: the real control service and parsing on both ends."""

import json
import random
from datetime import timedelta
from itertools import pairwise

import pytest
import trio
from work_fakes import FakeDialer

from meshnode.errors import CommandError, Unreachable
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.remote.runner import FORCE_TIMEOUT
from meshnode.work.units.store import UnitStore
from meshnode.work.units.submissions import SYNC_DELAY
from meshnode.work.units.tasks import FIRST_TIMEOUT


def only_unit(node):
    (unit,) = node.units.all()
    return unit.unit_id


def remote_id(node, unit_id):
    return node.status(unit_id).remote.unit_id


@pytest.fixture(params=["meshnode", "receptor"])
def target(request, bar):
    """The other node, as one of us and as one that cannot push."""
    bar.is_receptor = request.param == "receptor"
    return bar


async def test_remote_work_brings_output_and_end_home(foo, target, autojump_clock):
    async with foo.running(), target.running():
        unit_id = await foo.submit("bar", "cat", b"payload \x00\xff without newline")
        status = await foo.wait_final(unit_id)
        assert (status.state, status.detail) == (UnitState.SUCCEEDED, "exit status 0")
        assert foo.stdout(unit_id) == b"payload \x00\xff without newline"
        assert status.stdout_size == len(foo.stdout(unit_id))
        assert status.remote.unit_id == only_unit(target)
        assert status.remote.started
        assert target.launcher.started == [("cat",)]
        assert foo.launcher.started == []


async def test_parameters_reach_the_other_node_but_not_the_command_line_of_a_type_without_them(
    foo, bar, autojump_clock
):
    async with foo.running(), bar.running():
        await foo.submit("bar", "wait", params="--all 'a b'")
        assert bar.launcher.started == [("wait", "for", "the end", "--all", "a b")]


async def test_what_is_on_record_when_the_node_ends_is_submitted_by_its_next_start(
    foo, bar, monkeypatch, autojump_clock
):
    async with bar.running():
        async with foo.running():
            write_status = UnitStore.write_status

            def write_and_end(store, unit_id, status, *, durable=False, **how):
                write_status(store, unit_id, status, durable=durable, **how)
                if durable:
                    foo.units._tasks._nursery = None

            with monkeypatch.context() as patch:
                patch.setattr(UnitStore, "write_status", write_and_end)
                lines = await foo.talk("work submit bar cat", b"payload")
            unit_id = json.loads(lines[-1])["unitid"]
            assert json.loads(lines[-1])["result"] == "Job Submitted"
            assert bar.launcher.started == []
        async with foo.running():
            await foo.wait_final(unit_id)
            assert_once(foo, bar, unit_id, b"payload")


async def test_output_comes_while_the_work_runs_and_state_and_detail_follow(
    foo, target, autojump_clock
):
    async with foo.running(), target.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        supervisor = target.launcher.supervisors[remote_id(foo, unit_id)]
        assert foo.status(unit_id).detail == "Running: PID 601"
        supervisor.write(b"first")
        with trio.fail_after(60):
            while foo.stdout(unit_id) != b"first":
                await trio.sleep(0.01)
        (line,) = await foo.talk(f"work status {unit_id}")
        assert json.loads(line)["StdoutSize"] == 5
        supervisor.write(b"second")
        supervisor.finish(UnitState.FAILED, "exit status 3", 3)
        status = await foo.wait_final(unit_id)
        assert (status.state, status.detail) == (UnitState.FAILED, "exit status 3")
        assert foo.stdout(unit_id) == b"firstsecond"


async def test_a_meshnode_target_tells_exit_code_and_times(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat")
        status = await foo.wait_final(unit_id)
        assert status.exit_code == 0
        assert status.started == "2026-11-02T03:00:01.000000Z"
        assert status.finished == "2026-11-02T03:00:09.000000Z"


async def test_against_a_receptor_target_the_times_are_when_we_saw_it(foo, bar, autojump_clock):
    bar.is_receptor = True
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat")
        status = await foo.wait_final(unit_id)
        assert status.exit_code is None
        assert status.created <= status.started <= status.finished


async def test_a_pushing_target_is_asked_once_and_not_every_second(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        operations = foo.mesh.operations
        await trio.sleep(1000)
        assert foo.mesh.operations == operations


async def test_an_unknown_work_type_over_there_fails_the_submission_with_its_words(
    foo, bar, autojump_clock
):
    async with foo.running(), bar.running():
        lines = await foo.talk("work submit bar nosuchtype")
        assert lines[1] == "ERROR: node bar refused: unknown work type nosuchtype"
        assert foo.status(only_unit(foo)).detail == (
            "Error starting worker: node bar refused: unknown work type nosuchtype"
        )


async def test_a_submission_to_an_unreachable_node_waits_costs_nothing_and_runs_when_it_appears(
    foo, bar, autojump_clock
):
    async with foo.running():
        lines = await foo.talk("work submit bar cat", b"late")
        reply = json.loads(lines[1])
        assert reply["result"] == "Job Submitted"
        await trio.testing.wait_all_tasks_blocked(0.1)
        dials = foo.mesh.dials
        await trio.sleep(100_000)
        assert foo.mesh.dials == dials
        status = foo.status(reply["unitid"])
        assert (status.state, status.detail) == (UnitState.PENDING, "Starting Worker")
        async with bar.running():
            await foo.wait_final(reply["unitid"])
            assert foo.stdout(reply["unitid"]) == b"late"


async def test_a_waiting_submission_survives_a_restart_of_the_submitter(foo, bar, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat", b"late")
    async with foo.running(), bar.running():
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.SUCCEEDED
        assert foo.stdout(unit_id) == b"late"


async def test_work_not_started_within_its_ttl_expires(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat", ttl="1h30m")
        assert foo.status(unit_id).remote.expiration == foo.mesh.now() + timedelta(minutes=90)
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail == (
            "Work unit expired on Mon Nov 2 04:30:00; "
            "it waited for node bar: no route since 03:00:00"
        )


async def test_the_ttl_goes_on_over_a_restart(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat", ttl="1m")
    async with foo.running():
        status = await foo.wait_final(unit_id)
        assert status.detail.startswith("Work unit expired on Mon Nov 2 03:01:00; it waited")


async def test_a_ttl_that_ends_while_the_submitter_is_down_says_so(foo, bar, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat", ttl="1m")
    await trio.sleep(100)
    async with foo.running(), bar.running():
        assert (await foo.wait_final(unit_id)).detail == (
            "Work unit expired on Mon Nov 2 03:01:00; this node was not running then"
        )


async def test_a_ttl_that_ends_during_the_first_try_says_that_there_was_no_answer(
    foo, bar, autojump_clock, monkeypatch
):
    async def dial(self, node, service, tls=None):
        await trio.sleep_forever()

    monkeypatch.setattr(FakeDialer, "dial", dial)
    async with foo.running(), bar.running():
        lines = await foo.talk(
            {
                "command": "work",
                "subcommand": "submit",
                "node": "bar",
                "worktype": "cat",
                "ttl": "9s",
            }
        )
        assert lines[1] == (
            "ERROR: Work unit expired on Mon Nov 2 03:00:09; node bar had not answered yet"
        )


async def test_the_ttl_does_not_end_what_has_started(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait", ttl="1s")
        await trio.sleep(100)
        assert foo.status(unit_id).state is UnitState.RUNNING


async def test_a_reachable_node_without_its_service_is_tried_with_growing_pauses(
    foo, bar, autojump_clock, monkeypatch
):
    dialed = []

    async def dial(self, node, service, tls=None):
        dialed.append(trio.current_time())
        raise Unreachable("service unknown", node)

    monkeypatch.setattr(FakeDialer, "dial", dial)
    async with foo.running(), bar.running():
        lines = await foo.talk("work submit bar cat")
        assert "Job Submitted" in lines[1]
        await trio.sleep(200)
    pauses = [later - earlier for earlier, later in pairwise(dialed)]
    assert pauses == sorted(pauses)
    assert max(pauses) == pytest.approx(20)
    assert len(dialed) < 30


async def test_a_node_that_greets_with_another_name_gets_no_work(foo, bar, autojump_clock):
    bar.node_id = "impostor"
    foo.mesh.nodes["bar"] = bar
    async with foo.running(), bar.running():
        foo.mesh.nodes["bar"] = bar
        lines = await foo.talk("work submit bar cat")
        assert "Job Submitted" in lines[1]
        assert bar.units.all() == ()
        del foo.mesh.nodes["bar"]


# --- cancel and release ---------------------------------------------------------------------------


async def test_cancel_reaches_the_other_node_and_is_answered_when_done(foo, target, autojump_clock):
    async with foo.running(), target.running():
        unit_id = await foo.submit("bar", "wait")
        assert await foo.talk(f"work cancel {unit_id}") == [f'{{"cancelled":"{unit_id}"}}']
        assert target.status(remote_id(foo, unit_id)).state is UnitState.CANCELED
        status = foo.status(unit_id)
        assert (status.state, status.detail) == (UnitState.CANCELED, "Canceled")
        assert status.remote.cancelled


async def test_what_the_other_node_never_heard_of_is_canceled_at_once(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat")
        dials = foo.mesh.dials
        assert await foo.talk(f"work cancel {unit_id}") == [f'{{"cancelled":"{unit_id}"}}']
        assert foo.status(unit_id).state is UnitState.CANCELED
        assert await foo.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert foo.mesh.dials == dials
        assert foo.left() == []


async def test_a_cancel_without_a_way_is_pending_survives_a_restart_and_is_done(
    foo, target, autojump_clock
):
    async with target.running():
        async with foo.running():
            unit_id = await foo.submit("bar", "wait")
            there = remote_id(foo, unit_id)
            foo.mesh.cut()
            assert await foo.talk(f"work cancel {unit_id}") == [f'{{"cancel pending":"{unit_id}"}}']
            assert foo.status(unit_id).remote.cancelled
        async with foo.running():
            await trio.sleep(1000)
            assert target.status(there).state is UnitState.RUNNING
            foo.mesh.heal()
            assert (await foo.wait_final(unit_id)).state is UnitState.CANCELED
            assert target.status(there).state is UnitState.CANCELED


async def test_release_removes_both_units(foo, target, autojump_clock):
    async with foo.running(), target.running():
        unit_id = await foo.submit("bar", "wait")
        assert await foo.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert foo.left() == []
        assert target.units.all() == ()
        await trio.sleep(2 * SYNC_DELAY)
        assert target.left() == []


@pytest.mark.parametrize("work_type", ["cat", "wait"])
async def test_a_release_without_a_way_is_pending_survives_a_restart_and_is_done(
    foo, bar, autojump_clock, work_type
):
    async with bar.running():
        async with foo.running():
            unit_id = await foo.submit("bar", work_type)
            await trio.sleep(10)
            foo.mesh.cut()
            assert await foo.talk(f"work release {unit_id}") == [
                f'{{"release pending":"{unit_id}"}}'
            ]
            assert unit_id in foo.units._units
        async with foo.running():
            await trio.sleep(1000)
            assert unit_id in foo.units._units
            foo.mesh.heal()
            with trio.fail_after(1000):
                unit = foo.units.find(unit_id)
                while not unit.released:
                    await unit.wait_changed(unit.version)
            await trio.sleep(2 * SYNC_DELAY)
            assert foo.left() == []
            assert bar.left() == []


async def test_a_pending_release_may_be_forced(foo, bar, autojump_clock):
    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        foo.mesh.cut()
        await foo.talk(f"work release {unit_id}")
        assert await foo.talk(f"work force-release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert foo.left() == []
        assert len(bar.units.all()) == 1


async def test_a_forced_release_does_it_properly_where_it_can(foo, bar, autojump_clock):
    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.talk(f"work force-release {unit_id}")
        assert bar.units.all() == foo.units.all() == ()


async def test_release_of_a_unit_that_the_other_node_has_forgotten_succeeds(
    foo, bar, autojump_clock
):
    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "cat")
        await foo.wait_final(unit_id)
        await bar.talk(f"work release {remote_id(foo, unit_id)}")
        assert await foo.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']


async def test_a_unit_that_is_gone_over_there_fails(foo, target, autojump_clock):
    async with target.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        foo.mesh.cut()
        await target.talk(f"work release {remote_id(foo, unit_id)}")
        foo.mesh.heal()
        status = await foo.wait_final(unit_id)
        assert (status.state, status.detail) == (UnitState.FAILED, "Remote work unit is gone")


async def test_results_that_the_other_node_has_lost_end_the_unit_with_the_reason(
    foo, bar, autojump_clock
):
    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        supervisor = bar.launcher.supervisors[remote_id(foo, unit_id)]
        foo.mesh.cut()
        supervisor.write(b"0123456789")
        supervisor.finish()
        await trio.testing.wait_all_tasks_blocked()
        bar.store.stdout_path(supervisor.unit_id).write_bytes(b"0123")
        foo.mesh.heal()
        status = await foo.wait_final(unit_id)
        assert status.detail == "results of the remote unit ended at byte 4 of 10"


async def test_the_first_try_bounds_how_long_a_client_waits(foo, bar, autojump_clock, monkeypatch):
    async def dial(self, node, service, tls=None):
        await trio.sleep_forever()

    monkeypatch.setattr(FakeDialer, "dial", dial)
    async with foo.running(), bar.running():
        before = trio.current_time()
        lines = await foo.talk("work submit bar cat")
        assert "Job Submitted" in lines[1]
        assert trio.current_time() - before == pytest.approx(FIRST_TIMEOUT)


@pytest.mark.parametrize("subcommand", ["cancel", "release"])
async def test_what_the_other_node_refuses_is_told_and_the_unit_is_followed_on(
    foo, bar, autojump_clock, monkeypatch, subcommand
):
    async def refuse(*args, **options):
        raise CommandError("not today")

    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        monkeypatch.setattr(bar.units.ender, subcommand, refuse)
        (line,) = await foo.talk(f"work {subcommand} {unit_id}")
        assert line.startswith("ERROR: error ")
        assert line.endswith("ing remote unit: not today")
        supervisor = bar.launcher.supervisors[remote_id(foo, unit_id)]
        supervisor.write(b"on and on")
        supervisor.finish()
        await foo.wait_final(unit_id)
        assert foo.stdout(unit_id) == b"on and on"


async def test_cancel_of_a_unit_that_is_gone_over_there_says_that_it_is_gone(
    foo, bar, autojump_clock
):
    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        foo.mesh.cut()
        await bar.talk(f"work release {remote_id(foo, unit_id)}")
        await foo.talk(f"work cancel {unit_id}")
        foo.mesh.heal()
        assert (await foo.wait_final(unit_id)).detail == "Remote work unit is gone"


@pytest.mark.parametrize("reply", [{"State": 9}, {"State": None}, {}, {"State": 1}])
async def test_a_status_that_makes_no_sense_is_asked_for_again(
    foo, bar, autojump_clock, monkeypatch, reply
):
    bar.is_receptor = True
    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        with monkeypatch.context() as patch:
            patch.setattr("meshnode.work.units.follow.status_reply", lambda status, size: reply)
            await trio.sleep(100)
            assert foo.status(unit_id).state is UnitState.RUNNING
        bar.launcher.supervisors[remote_id(foo, unit_id)].finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


async def test_a_forced_release_does_not_wait_long_for_a_node_that_does_not_answer(
    foo, bar, autojump_clock, monkeypatch
):
    async def release(*args, **options):
        await trio.sleep_forever()

    async with bar.running(), foo.running():
        unit_id = await foo.submit("bar", "wait")
        monkeypatch.setattr(bar.units.ender, "release", release)
        before = trio.current_time()
        assert await foo.talk(f"work force-release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert trio.current_time() - before == pytest.approx(FORCE_TIMEOUT)


# --- once, whatever breaks --------------------------------------------------------------------


def assert_once(foo, bar, unit_id, payload):
    status = foo.status(unit_id)
    assert (status.state, status.detail) == (UnitState.SUCCEEDED, "exit status 0")
    assert foo.stdout(unit_id) == payload
    assert bar.launcher.started == [("cat",)]


async def operations_of_one_submission(foo, bar):
    async with foo.running(), bar.running():
        await foo.wait_final(await foo.submit("bar", "cat", b"payload"))
        await trio.testing.wait_all_tasks_blocked()
    return foo.mesh.operations


STEPS = 40
"""More than one submission has sends and receives, on either end (checked below)."""


async def test_the_steps_below_cover_a_whole_submission(foo, target, autojump_clock):
    assert 10 < await operations_of_one_submission(foo, target) < STEPS


@pytest.mark.parametrize("step", range(1, STEPS))
async def test_a_link_cut_at_any_step_only_delays(foo, target, autojump_clock, step):
    """And if the cut is before the start, nothing is left over on the other node but one unit."""
    async with foo.running(), target.running():
        foo.mesh.before_operation = lambda count: foo.mesh.cut() if count == step else None
        unit_id = await foo.submit("bar", "cat", b"payload")
        await trio.sleep(7)
        foo.mesh.heal()
        await foo.wait_final(unit_id)
        assert_once(foo, target, unit_id, b"payload")


@pytest.mark.parametrize("step", range(1, STEPS))
async def test_a_break_that_only_the_submitter_has_noticed_at_any_step_only_delays(
    foo, target, autojump_clock, step
):
    """The other node still waits for the payload, until its idle time-out or our asking."""
    async with foo.running(), target.running():

        async def time_out():
            await trio.sleep(30)
            foo.mesh.break_all()

        def break_at_step(count):
            if count == step:
                foo.mesh.break_dialers()
                target.nursery.start_soon(time_out)

        foo.mesh.before_operation = break_at_step
        unit_id = await foo.submit("bar", "cat", b"payload")
        await foo.wait_final(unit_id)
        assert_once(foo, target, unit_id, b"payload")


@pytest.mark.parametrize("seed", range(40))
async def test_a_link_that_flaps_throughout_only_delays(foo, target, autojump_clock, seed):
    gaps = random.Random(seed)
    async with foo.running(), target.running():
        next_break = 0

        def flap(count):
            nonlocal next_break
            if count >= next_break:
                next_break = count + gaps.randrange(1, 40)
                foo.mesh.break_all()

        foo.mesh.before_operation = flap
        unit_id = await foo.submit("bar", "cat", b"payload")
        await foo.wait_final(unit_id)
        assert_once(foo, target, unit_id, b"payload")


@pytest.mark.parametrize("step", range(1, STEPS))
async def test_a_submitter_killed_at_any_step_goes_on_when_it_is_back(
    foo, target, autojump_clock, step
):
    async with target.running():
        async with foo.running():
            foo.mesh.before_operation = lambda count: foo.kill() if count == step else None
            client = foo.connect()
            await client.send_all(b"work submit bar cat\npayload")
            await client.send_eof()
            await trio.testing.wait_all_tasks_blocked()
            unit_id = only_unit(foo)
        foo.mesh.heal()
        async with foo.running():
            await foo.wait_final(unit_id)
            assert_once(foo, target, unit_id, b"payload")


@pytest.mark.parametrize("step", range(1, STEPS))
async def test_a_target_killed_at_any_step_runs_the_work_once(foo, target, autojump_clock, step):
    """Or not at all where it is a receptor node, which cannot show that it has not started it."""
    async with foo.running():
        async with target.running():
            foo.mesh.before_operation = lambda count: target.kill() if count == step else None
            unit_id = await foo.submit("bar", "cat", b"payload")
            await trio.testing.wait_all_tasks_blocked()
        foo.mesh.heal()
        async with target.running():
            status = await foo.wait_final(unit_id)
            if target.is_receptor and not target.launcher.started:
                assert status.state is UnitState.FAILED
                assert status.detail.startswith("lost: the node ended before")
            else:
                assert_once(foo, target, unit_id, b"payload")


async def test_a_submitter_killed_while_the_work_runs_mirrors_on_from_the_byte_on_disk(
    foo, target, autojump_clock
):
    async with target.running():
        async with foo.running():
            unit_id = await foo.submit("bar", "wait")
            supervisor = target.launcher.supervisors[remote_id(foo, unit_id)]
            supervisor.write(b"before,")
            await trio.sleep(3)
            assert foo.stdout(unit_id) == b"before,"
        supervisor.write(b"meanwhile,")
        async with foo.running():
            await trio.sleep(3)
            supervisor.write(b"after")
            supervisor.finish()
            status = await foo.wait_final(unit_id)
            assert status.state is UnitState.SUCCEEDED
            assert foo.stdout(unit_id) == b"before,meanwhile,after"
            assert len(target.launcher.started) == 1


async def test_a_payload_that_breaks_off_at_the_submitter_is_never_submitted(
    foo, bar, autojump_clock
):
    async with bar.running():
        async with foo.running():
            client = foo.connect()
            await client.send_all(b"work submit bar cat\nhalf")
            await trio.testing.wait_all_tasks_blocked()
        async with foo.running():
            await trio.sleep(1000)
            assert foo.status(only_unit(foo)).state is UnitState.FAILED
            assert bar.units.all() == ()
