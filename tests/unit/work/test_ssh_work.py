"""Units on hosts with only SSH, at every moment at which something may break; hosts in memory."""

import json
import tarfile

import pytest
import trio
import trio.testing
from ssh_fakes import FakeHosts, FakeSession, add_ssh, break_at, heal, kill_at, reaches, ssh_type
from tars import entry, link, tar_of
from work_fakes import LONG

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.ssh.record import FarEnd

STEPS = range(1, 30)
"""Steps of a unit's sessions, from the first look to the removal, and a few more."""


@pytest.fixture
def hosts():
    return FakeHosts()


def add(foo, hosts, *names, **more):
    add_ssh(foo, hosts, ssh_type(*(names or ("anna", "bert")), **more))


async def submit(foo, payload=b"in", **fields):
    return await foo.submit("foo", "far", payload, **fields)


async def ask(foo, subcommand, unit_id):
    return await foo.talk({"command": "work", "subcommand": subcommand, "unitid": unit_id})


async def shown(foo, unit_id):
    *_, line = await ask(foo, "status", unit_id)
    return json.loads(line)


async def let_all_end(hosts):
    """Have each command end as soon as it is started, until cancelled."""
    while True:
        for job in tuple(hosts.jobs.values()):
            if job.is_claimed and job.end is None:
                job.write(b"out")
                job.finish(0)
        await trio.sleep(0.5)


# --- Moments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_session_that_breaks_at_any_step_costs_nothing_and_nothing_runs_twice(
    foo, hosts, step, is_lost, autojump_clock
):
    add(foo, hosts)
    break_at(hosts, step, is_lost=is_lost)
    async with foo.running():
        foo.nursery.start_soon(let_all_end, hosts)
        unit_id = await submit(foo)
        await trio.sleep(50)
        hosts.down.clear()
        status = await foo.wait_final(unit_id)
        assert (status.state, foo.stdout(unit_id)) == (UnitState.SUCCEEDED, b"out")
        assert len(hosts.starts) == 1
        assert hosts.jobs == {} or "left" in status.runner_data
        await ask(foo, "release", unit_id)
        assert hosts.jobs == {}


@pytest.mark.parametrize("step", STEPS)
async def test_a_node_that_is_killed_at_any_step_starts_nothing_twice(
    foo, hosts, step, autojump_clock
):
    add(foo, hosts)
    killed = kill_at(foo, hosts, step)
    async with foo.running():
        with trio.move_on_after(60):
            foo.nursery.start_soon(let_all_end, hosts)
            unit_id = await submit(foo)
            await killed.wait()
        unit_id = foo.units.all()[0].unit_id
    heal(foo, hosts)
    async with foo.running():
        foo.nursery.start_soon(let_all_end, hosts)
        status = await foo.wait_final(unit_id)
        assert (status.state, foo.stdout(unit_id)) == (UnitState.SUCCEEDED, b"out")
        assert len(hosts.starts) == 1
        assert hosts.jobs == {}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("subcommand", ["cancel", "release"])
async def test_a_request_at_any_step_ends_the_unit_there_and_here(
    foo, hosts, step, subcommand, autojump_clock
):
    add(foo, hosts)
    reached = reaches(hosts, step)
    async with foo.running():
        foo.nursery.start_soon(
            foo.talk,
            {"command": "work", "subcommand": "submit"} | {"node": "foo", "worktype": "far"},
        )
        with trio.move_on_after(30):
            await reached.wait()
        unit = foo.units.all()[0]
        await ask(foo, subcommand, unit.unit_id)
        with trio.fail_after(LONG):
            await unit.wait_final()
        if subcommand == "cancel":
            assert unit.status.state is UnitState.CANCELED
        assert [job for job in hosts.jobs.values() if job.is_claimed] == []
        assert len(hosts.starts) <= 1


@pytest.mark.parametrize("after", [0, 1])
async def test_a_directory_that_is_gone_after_the_start_makes_the_unit_lost_and_not_run_again(
    foo, hosts, after, autojump_clock
):
    add(foo, hosts, "anna")

    def before(now):
        if hosts.starts:
            hosts.cut()
            hosts.down.add("anna")

    hosts.before = before
    async with foo.running():
        unit_id = await submit(foo)
        if not after:
            await foo.wait_for(unit_id, lambda status: status.started is not None)
        await trio.sleep(5)
        hosts.before = lambda now: None
        hosts.jobs.clear()
        hosts.boot = "second"
        hosts.down.clear()
        status = await foo.wait_final(unit_id)
        assert status.detail == "lost: its directory on host anna is gone"
        assert hosts.starts == ["anna"]


# --- Choice, seats and sessions -----------------------------------------------------------------


async def test_a_host_that_cannot_be_used_is_replaced_and_a_named_one_is_waited_for(
    foo, hosts, autojump_clock
):
    add(foo, hosts)
    hosts.down.add("anna")
    async with foo.running():
        foo.nursery.start_soon(let_all_end, hosts)
        for _ in range(4):
            await foo.wait_final(await submit(foo))
        assert hosts.starts == ["bert"] * 4
        unit_id = await submit(foo, host="anna")
        unit = foo.units.find(unit_id)
        await trio.sleep(100)
        assert unit.status.state is UnitState.PENDING
        assert unit.outage == "waiting: host anna: connect: Connection refused"
        hosts.down.clear()
        await foo.wait_final(unit_id)
        assert hosts.starts[-1] == "anna"


async def test_a_host_whose_disk_is_full_is_replaced_by_the_next(foo, hosts, autojump_clock):
    add(foo, hosts)
    hosts.refuses["anna"] = "the disk there is full"
    async with foo.running():
        foo.nursery.start_soon(let_all_end, hosts)
        for _ in range(4):
            await foo.wait_final(await submit(foo))
        assert hosts.starts == ["bert"] * 4


async def test_a_unit_fails_at_once_when_no_host_will_ever_let_it_in(foo, hosts, autojump_clock):
    add(foo, hosts)
    hosts.lasting |= {"anna", "bert"}
    async with foo.running():
        lines = await foo.talk(
            {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "far"}
        )
        (unit,) = foo.units.all()
        assert unit.status.state is UnitState.FAILED
        assert unit.status.detail.startswith("no host can run it: ")
        assert "host anna: connect: may not log in" in lines[-1]
        assert "host bert: connect: may not log in" in lines[-1]


async def test_a_unit_fails_when_no_host_could_be_used_for_its_patience(foo, hosts, autojump_clock):
    add(foo, hosts, patience=100.0)
    hosts.down |= {"anna", "bert"}
    async with foo.running():
        status = await foo.wait_final(await submit(foo))
        assert status.state is UnitState.FAILED
        assert status.detail.startswith("no host could be used for 1")


async def test_what_waits_for_a_seat_does_not_lose_its_patience(foo, hosts, autojump_clock):
    add(foo, hosts, "anna", patience=10.0, max_concurrent=1)
    async with foo.running():
        first, second = await submit(foo), await submit(foo)
        await foo.wait_for(first, lambda status: status.state is UnitState.RUNNING)
        await trio.sleep(1000)
        hosts.down.add("anna")
        hosts.on("anna")[0].finish(0)
        await trio.sleep(5)
        hosts.down.clear()
        hosts.cut()
        await foo.wait_for(second, lambda status: status.state is UnitState.RUNNING)


async def test_units_beyond_maxconcurrent_wait_in_order_and_say_where_they_stand(
    foo, hosts, autojump_clock
):
    add(foo, hosts, max_concurrent=2)
    async with foo.running():
        units = [await submit(foo) for _ in range(7)]
        await trio.sleep(1)
        assert sorted(hosts.starts) == ["anna", "anna", "bert", "bert"]
        waiting = [foo.units.find(unit_id) for unit_id in units[4:]]
        assert [unit.place() for unit in waiting] == [
            f"Queued: {number} of 3 for anna, bert (maxconcurrent 2 a host)" for number in (1, 2, 3)
        ]
        next(job for job in hosts.jobs.values() if job.end is None).finish(0)
        await foo.wait_for(units[4], lambda status: status.state is UnitState.RUNNING)
        assert foo.status(units[5]).state is UnitState.PENDING


async def test_seats_are_counted_over_a_restart_before_anything_new_is_placed(
    foo, hosts, autojump_clock
):
    add(foo, hosts, "anna", max_concurrent=3)
    async with foo.running():
        for _ in range(8):
            await submit(foo)
        await trio.sleep(1)
    assert len(hosts.starts) == 3
    hosts.down.add("anna")
    async with foo.running():
        await trio.sleep(100)
        hosts.down.clear()
        await trio.sleep(100)
        assert len(hosts.starts) == 3
        foo.nursery.start_soon(let_all_end, hosts)
        for unit in foo.units.all():
            await foo.wait_final(unit.unit_id)
    assert len(hosts.starts) == 8


async def test_a_released_unit_gives_its_seat_to_the_next(foo, hosts, autojump_clock):
    add(foo, hosts, "anna", max_concurrent=1)
    async with foo.running():
        for subcommand in ("cancel", "release", "force-release"):
            unit_id, other = await submit(foo), await submit(foo)
            await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
            await ask(foo, subcommand, unit_id)
            await foo.wait_for(other, lambda status: status.state is UnitState.RUNNING)
            await ask(foo, subcommand, other)


async def test_a_server_has_no_more_connections_than_sessions_at_once(foo, hosts, autojump_clock):
    add(foo, hosts, "anna", sessions=3)
    async with foo.running():
        foo.nursery.start_soon(let_all_end, hosts)
        units = [await submit(foo) for _ in range(20)]
        for unit_id in units:
            await foo.wait_final(unit_id)
    assert hosts.most_open == {"anna": 3}


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ("least", "least of 2: 1 unit of far there"),
        ("random", "random of 2"),
        ("bert", "named at submission"),
        ("", "named by its work type"),
    ],
)
async def test_a_unit_says_on_which_host_it_ran_and_why_to_its_end_and_after_a_restart(
    foo, hosts, choice, reason, autojump_clock
):
    add(foo, hosts, choice="least" if choice else "bert")
    async with foo.running():
        for name in ("anna", "bert"):
            await submit(foo, host=name)
        await trio.sleep(1)
        unit_id = await submit(foo, **({"host": choice} if choice else {}))
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        host = hosts.starts[-1]
        told = {"Name": host, "Chosen": reason}
        assert (await shown(foo, unit_id))["Host"] == told
        foo.nursery.start_soon(let_all_end, hosts)
        await foo.wait_final(unit_id)
        assert (await shown(foo, unit_id))["Host"] == told
    async with foo.running():
        assert (await shown(foo, unit_id))["Host"] == told


async def test_a_host_that_was_tried_and_does_not_run_the_unit_is_not_said_to(
    foo, hosts, autojump_clock
):
    add(foo, hosts)
    hosts.refuses |= {"anna": "the disk there is full", "bert": "the disk there is full"}
    async with foo.running():
        unit_id = await submit(foo)
        await trio.sleep(5)
        assert "Host" not in await shown(foo, unit_id)
        del hosts.refuses["bert"]
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        assert (await shown(foo, unit_id))["Host"]["Name"] == "bert"


async def test_a_host_without_room_for_one_more_is_not_counted_among_those_it_was_chosen_of(
    foo, hosts, autojump_clock
):
    add(foo, hosts, max_concurrent=1)
    async with foo.running():
        await submit(foo, host="anna")
        await trio.sleep(1)
        unit_id = await submit(foo)
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        told = {"Name": "bert", "Chosen": "least of 1 that fit: 0 units of far there"}
        assert (await shown(foo, unit_id))["Host"] == told


async def test_least_spreads_a_burst_evenly(foo, hosts, autojump_clock):
    add(foo, hosts, "anna", "bert", "carl", sessions=100)
    async with foo.running():
        for _ in range(30):
            await submit(foo)
        await trio.sleep(1)
    assert {name: hosts.starts.count(name) for name in hosts.starts} == {
        "anna": 10,
        "bert": 10,
        "carl": 10,
    }


async def test_dependencies_are_sent_before_the_start_and_are_not_kept_here_afterwards(
    foo, hosts, autojump_clock
):
    add(foo, hosts, "anna")
    tar = tar_of(entry("data", b"content"))
    async with foo.running():
        unit = await submit(foo, tar + b"in", depssize=str(len(tar)))
        await foo.wait_for(unit, lambda status: status.state is UnitState.RUNNING)
        (job,) = hosts.on("anna")
        assert (job.parts["deps"], job.parts["stdin"]) == (tar, b"in")
        await trio.testing.wait_all_tasks_blocked()
        assert not foo.store.deps_path(unit).exists()


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([entry("../x", b"")], "not one inside"),
        ([link("out", "../..")], "leads out"),
        ([link("a", "b"), entry("a/x", b"")], "'a/x' lies behind a link"),
        ([link("a", "b"), entry("a", b"")], "'a' lies behind a link, or is there twice"),
        ([entry("su", b"", mode=0o4755)], "'su' is setuid"),
        ([entry("fifo", type=tarfile.FIFOTYPE)], "named pipe"),
    ],
)
async def test_dependencies_that_no_host_should_unpack_are_not_sent(
    foo, hosts, autojump_clock, entries, why
):
    add(foo, hosts, "anna")
    tar = tar_of(*entries)
    async with foo.running():
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "far"}
        *_, told = await foo.talk(request | {"depssize": str(len(tar))}, tar)
        assert told.startswith("ERROR: ")
        assert "cannot send its dependencies: " in told
        assert why in told
        (unit,) = foo.units.all()
        assert unit.status.state is UnitState.FAILED
        assert hosts.on("anna") == []


async def test_a_script_that_is_not_in_the_tar_is_not_sent_to_a_host(foo, hosts, autojump_clock):
    add(foo, hosts, "anna", allow_scripts=True)
    tar = tar_of(entry("data", b"content"))
    async with foo.running():
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "far"}
        request |= {"depssize": str(len(tar)), "jobscript": "run.sh"}
        *_, told = await foo.talk(request, tar)
        assert "cannot send its dependencies: the script 'run.sh' is none of the files" in told
        assert hosts.on("anna") == []


async def test_a_unit_whose_task_has_a_fault_is_ended_on_its_host(
    foo, hosts, monkeypatch, autojump_clock
):
    add(foo, hosts, "anna")

    async def fault(self):
        await trio.sleep(10)
        raise RuntimeError

    monkeypatch.setattr(FakeSession, "wait_end", fault)
    async with foo.running():
        status = await foo.wait_final(await submit(foo))
        assert status.detail.startswith("internal error: ")
        assert hosts.starts == ["anna"]
        assert hosts.jobs == {}


async def test_a_host_that_sends_more_than_it_says_there_is_cannot_make_more_of_it(
    foo, hosts, autojump_clock
):
    add(foo, hosts, "anna")
    async with foo.running():
        unit_id = await submit(foo)
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        (job,) = hosts.jobs.values()
        job.end = FarEnd(0, "", 3)
        job.write(b"abcdef")
        status = await foo.wait_final(unit_id)
        assert status.stdout_size == len(foo.stdout(unit_id))
        assert foo.stdout(unit_id) in {b"abc", b"abcdef"}
