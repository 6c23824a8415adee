"""A unit on another node says what it waits for, since when, and waits for all that may pass."""

import errno
import json
import logging
import os
from datetime import datetime

import pytest
import trio
from remote_fakes import RemoteNode
from work_fakes import FakeDialer

from meshnode.errors import (
    MeshTimeout,
    NoEngine,
    NoRoute,
    StreamError,
    Unreachable,
    WorkError,
)
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.remote.failures import reason_of
from meshnode.work.units import unit as unit_module
from meshnode.work.units.shortage import LACKS
from meshnode.work.units.unit import Unit


@pytest.fixture(params=["meshnode", "receptor"])
def target(request, bar):
    """The other node, as one of us and as a receptor node."""
    bar.is_receptor = request.param == "receptor"
    return bar


async def told(node, unit_id: str) -> str:
    """Return the detail that clients see."""
    (line,) = await node.talk(f"work status {unit_id}")
    return json.loads(line)["Detail"]


async def wait_told(node, unit_id: str, text: str) -> None:
    """Return once clients see this detail; it must come by an event of the unit."""
    unit = node.units.find(unit_id)
    with trio.fail_after(1000):
        while True:
            seen = unit.version
            if (detail := await told(node, unit_id)) == text:
                return
            assert not unit.is_final, detail
            await unit.wait_changed(seen)


REASONS = [
    (NoRoute("bar"), "no route"),
    (Unreachable("blocked by firewall", "n2"), "blocked by a firewall rule at n2"),
    (Unreachable("blocked by firewall", "foo"), "blocked by a firewall rule of this node (foo)"),
    (Unreachable("service unknown", "bar"), "it has no service control now"),
    (Unreachable("message expired", "n2"), "messages went in a circle and expired at n2"),
    (MeshTimeout("no handshake within 15 s"), "the dial timed out"),
    (StreamError("TLS alert 40: x"), "TLS alert 40: x"),
    (
        NoEngine("cannot load what streams need: Too many open files"),
        "this node cannot load what streams need: Too many open files",
    ),
]


@pytest.mark.parametrize(("error", "reason"), REASONS)
async def test_a_unit_says_what_keeps_the_dial_from_its_node_and_since_when(
    foo, bar, autojump_clock, monkeypatch, error, reason
):
    async def dial(self, node, service, tls=None):
        raise error

    async with foo.running(), bar.running():
        with monkeypatch.context() as patch:
            patch.setattr(FakeDialer, "dial", dial)
            unit_id = await foo.submit("bar", "cat")
            assert await told(foo, unit_id) == f"waiting for node bar: {reason} since 03:00:00"
            await trio.sleep(100)
            # However often it is tried: the moment is the first one.
            assert await told(foo, unit_id) == f"waiting for node bar: {reason} since 03:00:00"
        assert (await foo.wait_final(unit_id)).detail == "exit status 0"


class OneNode:
    """Stands for what a router knows of nodes that can be reached."""

    def advise(self, node: str) -> str:
        return "known nodes: bar"

    def meant(self, node: str) -> str:
        return "bar"


async def test_a_unit_for_a_mistyped_node_asks_once_whether_another_was_meant(
    foo, bar, autojump_clock, monkeypatch
):
    async def dial(self, node, service, tls=None):
        raise NoRoute(node, OneNode())

    monkeypatch.setattr(FakeDialer, "dial", dial)
    async with foo.running():
        unit_id = await foo.submit("bra", "cat")
        waiting = "waiting for node bra: no route since 03:00:00; did you mean bar?"
        assert await told(foo, unit_id) == waiting
        await trio.sleep(100)
        assert await told(foo, unit_id) == waiting


def test_each_reason_of_the_mesh_has_words_of_its_own():
    assert len({reason_of(error, "foo") for error, _ in REASONS}) == len(REASONS)


async def test_a_reason_that_changes_has_a_moment_of_its_own(foo, bar, autojump_clock, monkeypatch):
    errors = [Unreachable("service unknown", "bar"), Unreachable("blocked by firewall", "n2")]

    async def dial(self, node, service, tls=None):
        raise errors[0]

    monkeypatch.setattr(FakeDialer, "dial", dial)
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat")
        await trio.sleep(60)
        del errors[0]
        await trio.sleep(30)
        detail = await told(foo, unit_id)
        assert detail.startswith("waiting for node bar: blocked by a firewall rule at n2 since ")
        assert "03:01:00" <= detail[-8:] <= "03:01:30"


async def test_a_wait_costs_no_write_and_a_unit_that_goes_through_at_once_shows_none(
    foo, bar, autojump_clock, monkeypatch
):
    shown, written = [], []
    record = unit_module.Unit._write

    async def write(self, status, *args, **options):
        written.append(status.detail)
        await record(self, status, *args, **options)

    def show(self, text):
        shown.append(text)
        show_outage(self, text)

    show_outage = Unit.show_outage
    async with foo.running():
        monkeypatch.setattr(Unit, "_write", write)
        waiting = await foo.submit("bar", "cat")
        at_submission = len(written)
        await trio.sleep(5000)
        assert len(written) == at_submission
        assert not any("waiting" in detail for detail in written)
        async with bar.running():
            await foo.wait_final(waiting)
            monkeypatch.setattr(Unit, "show_outage", show)
            await foo.wait_final(await foo.submit("bar", "cat"))
            assert shown == []


# --- what the other node lacks now -------------------------------------------------------------


STAGES = ["create", "open_stdin"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("lack", sorted(LACKS))
async def test_work_that_the_other_node_lacks_something_for_waits_and_then_runs_once(
    foo, target, autojump_clock, monkeypatch, stage, lack
):
    lacks = True
    words = os.strerror(lack)

    def fail(original):
        def act(*args, **options):
            if lacks:
                raise OSError(lack, words)
            return original(*args, **options)

        return act

    async with foo.running(), target.running():
        name = {"create": "_new_directory", "open_stdin": "open_stdin"}[stage]
        monkeypatch.setattr(target.mortal, name, fail(getattr(target.mortal, name)))
        lines = await foo.talk("work submit bar cat", b"payload" * 1000)
        reply = json.loads(lines[1])
        assert reply["result"] == "Job Submitted"
        unit_id = reply["unitid"]
        detail = await told(foo, unit_id)
        assert detail.startswith("waiting for node bar: refused: ")
        assert words in detail
        assert detail.endswith(" since 03:00:00")
        await trio.sleep(300)
        lacks = False
        status = await foo.wait_final(unit_id)
        assert (status.state, status.detail) == (UnitState.SUCCEEDED, "exit status 0")
        assert foo.stdout(unit_id) == b"payload" * 1000
        assert target.launcher.started == [("cat",)]


PASSING = [
    b"not now: too many sessions; this one has waited longest",
    "not now: \x1b[31m anything é".encode(),
    # receptor's, which has no mark.
    b"mkdir /tmp/receptor/bar/x: no space left on device",
    b"open /tmp/receptor/bar/x/status: too many open files",
    b"fork/exec /usr/bin/receptor: cannot allocate memory",
]


@pytest.mark.parametrize("when", ["submit", "submitted"])
@pytest.mark.parametrize("text", PASSING)
async def test_a_refusal_that_says_that_it_passes_is_waited_out(foo, autojump_clock, text, when):
    async with foo.running():
        far = RemoteNode(foo.mesh, foo.nursery)
        far.finish(3, "Error reading input data: x")

        async def refuse(far, stream):
            await stream.send_all(b"ERROR: " + text + b"\n")
            return True

        far.lies[when] = refuse
        unit_id = await foo.submit("bar", "cat")
        shown = text.decode().removeprefix("not now: ").replace("\x1b", "\\x1b")
        since = " since 03:00:00"
        assert await told(foo, unit_id) == f"waiting for node bar: refused: {shown}{since}"
        await trio.sleep(60)
        del far.lies[when]
        far.finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


@pytest.mark.parametrize("subcommand", ["cancel", "release"])
async def test_a_request_that_the_other_node_lacks_something_for_is_pending_and_then_done(
    foo, target, autojump_clock, monkeypatch, subcommand
):
    async def refuse(*args, **options):
        raise WorkError("cannot record the status: Too many open files")

    async with foo.running(), target.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        there = foo.status(unit_id).remote.unit_id
        with monkeypatch.context() as patch:
            patch.setattr(target.units.ender, subcommand, refuse)
            answer = await foo.talk(f"work {subcommand} {unit_id}")
            assert answer == [f'{{"{subcommand} pending":"{unit_id}"}}']
            assert "refused: cannot record the status: Too many" in await told(foo, unit_id)
        unit = foo.units.find(unit_id)
        with trio.fail_after(1000):
            await unit.wait_final()
        if subcommand == "cancel":
            assert target.status(there).state is UnitState.CANCELED
        else:
            assert target.units.all() == ()


async def test_what_the_other_node_refuses_for_good_ends_the_unit_with_its_words(
    foo, target, autojump_clock, monkeypatch
):
    def refuse():
        raise OSError(errno.EROFS, "Read-only file system")

    async with foo.running(), target.running():
        monkeypatch.setattr(target.mortal, "_new_directory", refuse)
        lines = await foo.talk("work submit bar cat")
        assert lines[1] == (
            "ERROR: node bar refused: cannot create a work unit: Read-only file system"
        )


async def test_work_that_comes_while_the_other_node_stops_is_submitted_to_its_next_life(
    foo, bar, autojump_clock
):
    async with foo.running():
        async with bar.running():
            tasks = bar.units._tasks
            nursery, tasks._nursery = tasks._nursery, None
            unit_id = await foo.submit("bar", "cat", b"payload")
            assert "refused: the node is stopping since" in await told(foo, unit_id)
            tasks._nursery = nursery
        async with bar.running():
            await foo.wait_final(unit_id)
            assert foo.stdout(unit_id) == b"payload"
            assert bar.launcher.started == [("cat",)]


async def test_a_payload_that_is_refused_is_sent_again_ever_less_often(
    foo, bar, autojump_clock, monkeypatch
):
    tries = []

    async def open_input(unit_id, wanted, size):
        await trio.sleep(30)
        tries.append(trio.current_time())
        raise OSError(errno.ENOSPC, "No space left on device")

    async with foo.running(), bar.running():
        monkeypatch.setattr(bar.mortal, "open_input", open_input)
        await foo.submit("bar", "cat", b"payload")
        await trio.sleep(3000)
    assert 2 <= len(tries) <= 3000 // 300


# --- a state that is stale ----------------------------------------------------------------------


async def test_a_running_unit_says_since_when_its_state_is_stale_and_recovers(
    foo, target, autojump_clock
):
    async with foo.running(), target.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        before = foo.status(unit_id).detail
        await trio.sleep(30)
        foo.mesh.cut()
        unit = foo.units.find(unit_id)
        with trio.fail_after(10):
            while not unit.outage:
                await unit.wait_changed(unit.version)
        detail = await told(foo, unit_id)
        shown, _, stale = detail.partition("; last heard from bar at ")
        assert shown == before
        heard, _, reason = stale.partition(": ")
        assert reason == "no route"
        assert datetime.strptime(heard, "%H:%M:%S")
        await trio.sleep(500)
        assert await told(foo, unit_id) == detail
        foo.mesh.heal()
        await wait_told(foo, unit_id, before)
        assert foo.status(unit_id).detail == before


async def test_after_a_restart_nobody_knows_when_the_other_node_was_last_heard_from(
    foo, bar, autojump_clock
):
    async with bar.running():
        async with foo.running():
            unit_id = await foo.submit("bar", "wait")
            await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
            before = foo.status(unit_id).detail
            await trio.sleep(10)
        foo.mesh.cut()
        async with foo.running():
            await wait_told(
                foo,
                unit_id,
                f"{before}; not heard from bar since this node started: no route since 03:00:10",
            )
            foo.mesh.heal()
            await wait_told(foo, unit_id, before)


@pytest.mark.parametrize("lack", [errno.ENOSPC, errno.EROFS])
async def test_the_node_that_refuses_says_so_in_its_own_log(
    foo, bar, autojump_clock, monkeypatch, caplog, lack
):
    def refuse():
        raise OSError(lack, os.strerror(lack))

    async with foo.running(), bar.running():
        monkeypatch.setattr(bar.mortal, "_new_directory", refuse)
        with caplog.at_level(logging.INFO, "meshnode"):
            await foo.talk("work submit bar cat")
    text = f"submission refused to mesh client foo: cannot create a work unit: {os.strerror(lack)}"
    (line,) = [r for r in caplog.records if r.getMessage() == f"session foo: {text}"]
    assert line.levelname == ("WARNING" if lack == errno.ENOSPC else "INFO")


async def test_a_running_unit_says_so_as_soon_as_the_way_is_lost_and_not_when_its_stream_ends(
    foo, bar, autojump_clock
):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        before = foo.status(unit_id).detail
        dials = foo.mesh.dials
        for _ in range(2):
            foo.mesh.lose_routes()
            await trio.sleep(10)
            assert "; last heard from bar at " in await told(foo, unit_id)
            foo.mesh.heal()
            await trio.sleep(10)
            assert await told(foo, unit_id) == before
        assert foo.mesh.dials == dials


async def test_a_way_that_is_replaced_at_once_is_no_news(foo, bar, autojump_clock, monkeypatch):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        version = foo.units.find(unit_id).version
        foo.mesh.lose_routes()
        await trio.sleep(0.5)
        foo.mesh.heal()
        await trio.sleep(100)
        assert foo.units.find(unit_id).version == version


async def test_a_time_of_another_day_has_its_date(foo, autojump_clock):
    async with foo.running():
        await trio.sleep(23 * 3600)
        unit_id = await foo.submit("bar", "cat", ttl="200h")
        await trio.sleep(200 * 3600)
        status = await foo.wait_final(unit_id)
        assert status.detail == (
            "Work unit expired on Wed Nov 11 10:00:00; "
            "it waited for node bar: no route since 2026-11-03 02:00:00"
        )


async def test_a_wait_of_days_shows_the_date_and_costs_a_wake_a_day(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat")
        unit = foo.units.find(unit_id)
        await trio.sleep(20 * 3600)
        assert await told(foo, unit_id) == "waiting for node bar: no route since 03:00:00"
        version = unit.version
        await trio.sleep(72 * 3600)
        dated = "waiting for node bar: no route since 2026-11-02 03:00:00"
        assert await told(foo, unit_id) == dated
        assert unit.version == version + 1
        assert foo.mesh.dials == 1


async def test_a_release_that_waits_says_so(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat")
        await foo.wait_final(unit_id)
        foo.mesh.cut()
        await foo.talk(f"work release {unit_id}")
        detail = await told(foo, unit_id)
        assert detail.startswith("exit status 0; its release waits for node bar: no route since ")


async def test_a_start_that_fails_is_logged_once(foo, bar, autojump_clock, caplog):
    async with foo.running(), bar.running():
        with caplog.at_level(logging.INFO, "meshnode"):
            lines = await foo.talk("work submit bar nosuchtype")
        unit_id = lines[0].split()[5].rstrip(".")
    about_it = [r for r in caplog.records if f"unit {unit_id}" in r.getMessage()]
    assert [(r.levelname, r.getMessage()) for r in about_it if "ailed" in r.getMessage()] == [
        (
            "WARNING",
            f"unit {unit_id}: Failed: Error starting worker: "
            "node bar refused: unknown work type nosuchtype",
        )
    ]
