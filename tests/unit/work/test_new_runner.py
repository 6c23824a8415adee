"""A kind of runner that only this test knows: the manager drives its units like all others."""

import json
from dataclasses import replace

import pytest
import trio
from work_fakes import LONG

from meshnode.errors import CommandError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.runner import Outcome, Plan


class Mill:
    """The far side: jobs go on whatever becomes of the node; ``stuck`` says it cannot be asked."""

    def __init__(self) -> None:
        self.jobs: dict[str, trio.Event] = {}
        self.stuck = False
        self.on_run = lambda unit_id: None


class MillType:
    verify_signature = False
    timeout = None

    def plan(self, submission):
        if "grain" not in submission.params:
            raise CommandError("a mill needs grain")
        return Plan(runner="mill", runner_data={"grain": submission.params["grain"]})


class MillRunner:
    """All that it goes on with is in the record: the grain, and the job once there is one."""

    stops_for_requests = True

    def __init__(self, mill: Mill) -> None:
        self.mill = mill

    async def serve(self, *, task_status):
        task_status.started()

    async def run(self, unit, first):
        self.mill.on_run(unit.unit_id)
        if unit.status.release_asked:
            return Outcome.DONE if self.mill.stuck else Outcome.REMOVABLE
        job = f"{unit.status.runner_data['grain']}-{unit.unit_id}"
        if unit.status.state is UnitState.PENDING:
            if self.mill.stuck:
                first.pending()
                await trio.sleep_forever()
            self.mill.jobs[job] = trio.Event()
            await unit.change(lambda old: replace(old, state=UnitState.RUNNING), durable=True)
        first.done()
        await self.mill.jobs[job].wait()
        await unit.end(UnitState.SUCCEEDED, "ground")
        return Outcome.DONE

    async def abandon(self, unit):
        pass

    async def cancel(self, unit):
        return Outcome.IDLE

    async def release(self, unit, *, force, remote):
        await unit.change(lambda old: replace(old, release_asked=True), durable=True)
        return Outcome.REQUESTED


@pytest.fixture
def mill():
    return Mill()


@pytest.fixture
def foo(foo, mill):
    foo.work_types = {**foo.work_types, "grind": MillType()}
    foo.more_runners = {"mill": MillRunner(mill)}
    return foo


def end_of(mill, unit_id):
    return next(event for job, event in mill.jobs.items() if job.endswith(unit_id))


async def ask(node, subcommand, unit_id):
    return await node.talk({"command": "work", "subcommand": subcommand, "unitid": unit_id})


async def test_a_unit_of_a_new_kind_runs_to_its_end(foo, mill, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "grind", grain="rye")
        assert list(mill.jobs) == [f"rye-{unit_id}"]
        end_of(mill, unit_id).set()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert foo.launcher.supervisors == {}


async def test_its_work_type_refuses_a_submission_before_there_is_a_unit(foo, autojump_clock):
    async with foo.running():
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "grind"}
        assert await foo.talk(request) == ["ERROR: a mill needs grain"]
        assert foo.units.all() == ()


async def test_it_is_adopted_after_a_restart_in_another_start_of_the_machine_and_not_begun_twice(
    foo, mill, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "grind", grain="rye")
    mill_job = end_of(mill, unit_id)
    foo.boot = "second boot"
    async with foo.running():
        assert foo.status(unit_id).state is UnitState.RUNNING
        mill_job.set()
        assert (await foo.wait_final(unit_id)).detail == "ground"
    assert end_of(mill, unit_id) is mill_job


async def test_what_waits_is_begun_after_a_restart_since_only_its_runner_knows_what_it_needs(
    foo, mill, autojump_clock
):
    mill.stuck = True
    async with foo.running():
        unit_id = await foo.submit("foo", "grind", grain="rye")
        assert foo.status(unit_id).state is UnitState.PENDING
    foo.store.stdin_path(unit_id).unlink()  # a runner that has sent it on may drop it
    foo.boot, mill.stuck = "second boot", False
    async with foo.running():
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)


async def test_its_submission_is_on_disk_before_its_runner_is_asked_to_run_it(
    foo, mill, autojump_clock
):
    sizes = []
    mill.on_run = lambda unit_id: sizes.append(foo.store.read_status(unit_id).stdin_size)
    async with foo.running():
        await foo.submit("foo", "grind", b"12345", grain="rye")
    assert sizes == [5]


async def test_it_is_canceled(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "grind", grain="rye")
        await ask(foo, "cancel", unit_id)
        assert foo.status(unit_id).state is UnitState.CANCELED


@pytest.mark.parametrize("ends", [False, True])
async def test_its_release_that_must_wait_is_done_after_a_restart(foo, mill, ends, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "grind", grain="rye")
        mill.stuck = True
        if ends:
            end_of(mill, unit_id).set()
            await foo.wait_final(unit_id)
        await ask(foo, "release", unit_id)
        assert foo.status(unit_id).releasing
    mill.stuck = False
    async with foo.running():
        with trio.fail_after(LONG):
            for unit in foo.units.all():
                while not unit.released:
                    await unit.wait_changed(unit.version)
        assert foo.units.all() == ()
        assert not (foo.store.root / unit_id).exists()


async def test_it_waits_for_a_runner_that_is_not_configured_any_more_and_goes_by_force(
    foo, mill, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "grind", grain="rye")
    runners, foo.more_runners = foo.more_runners, {}
    async with foo.running():
        await foo.wait_for(unit_id, lambda status: "runner mill" in status.detail)
        for subcommand in ("cancel", "release"):
            (line,) = await ask(foo, subcommand, unit_id)
            assert line.startswith("ERROR: no work type of this node has the runner mill")
    foo.more_runners = runners
    async with foo.running():
        end_of(mill, unit_id).set()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
    foo.more_runners = {}
    async with foo.running():
        assert (await ask(foo, "release", unit_id))[0].startswith("ERROR: no work type")
        assert foo.status(unit_id).detail == "ground"
        await ask(foo, "force-release", unit_id)
        assert foo.units.all() == ()


async def test_a_record_of_a_command_or_a_remote_unit_has_no_key_of_the_new_kinds(
    foo, autojump_clock
):
    async with foo.running():
        ids = [await foo.submit("foo", "cat"), await foo.submit("bar", "cat")]
        for unit_id in ids:
            record = json.loads((foo.store.root / unit_id / "status").read_text())
            assert not record.keys() & {"Runner", "RunnerData", "ReleaseAsked"}
