"""What a node makes of the units that its last run left on disk."""

import json
import os
from dataclasses import replace

import pytest
import trio
from work_fakes import FakeLauncher, FakeSupervisor

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.launcherprocess import LauncherClosed
from meshnode.work.local.processes import ProcessId
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.shortage import NotNow
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import UnitStore

PENDING = UnitStatus(
    UnitState.PENDING,
    "Starting Worker",
    "cat",
    stdin_size=0,
    params=("cat",),
    boot="first boot",
)


def put(node, status):
    node.store.prepare()
    try:
        return node.store.create(status)
    finally:
        node.store.close()


async def test_a_finished_unit_is_listed_with_its_results(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", b"abc")
        before = await foo.wait_final(unit_id)
    async with foo.running():
        assert foo.status(unit_id) == before
        lines = await foo.talk(f"work results {unit_id} 1")
        assert lines[1:] == ["bc"]


async def test_a_running_command_is_adopted_and_its_end_noticed_at_once(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
    async with foo.running():
        assert foo.status(unit_id).state is UnitState.RUNNING
        await trio.testing.wait_all_tasks_blocked()
        foo.launcher.supervisors[unit_id].finish(UnitState.FAILED, "exit status 9", 9)
        status = await foo.wait_final(unit_id)
        assert (status.detail, status.exit_code) == ("exit status 9", 9)
        assert foo.launcher.started == [("wait", "for", "the end")]


async def test_an_adopted_command_can_be_canceled(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
    async with foo.running():
        await foo.talk(f"work cancel {unit_id}")
        assert foo.status(unit_id).state is UnitState.CANCELED


async def test_an_end_that_was_recorded_while_the_node_was_down_is_read_from_disk(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
    foo.launcher.supervisors[unit_id].finish()
    async with foo.running():
        assert foo.status(unit_id).state is UnitState.SUCCEEDED


async def test_a_command_that_ends_between_the_scan_and_the_adoption_is_not_lost(foo, monkeypatch):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
    supervisor: FakeSupervisor = foo.launcher.supervisors[unit_id]

    def open_process(process):
        supervisor.finish()
        raise ProcessLookupError

    monkeypatch.setattr(foo.launcher, "open_process", open_process)
    async with foo.running():
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.SUCCEEDED


async def test_a_command_whose_supervisor_is_gone_is_lost(foo):
    unit_id = put(foo, replace(PENDING, state=UnitState.RUNNING, supervisor=ProcessId(4, 5), pid=6))
    async with foo.running():
        status = await foo.wait_final(unit_id)
        assert status.detail == "lost: its supervisor (PID 4) ended without recording an end"
        assert foo.launcher.gone_leftovers == [foo.store.directory(unit_id)]


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        # A payload that is not what its record says.
        (replace(PENDING, stdin_size=1), "lost: the node ended before the work was started"),
        (
            replace(PENDING, stdin_size=None),
            "lost: the node ended before it had all of the input data, or started the work",
        ),
        (
            replace(PENDING, stdin_size=None, remote=RemoteExtra("bar", "cat"), work_type="remote"),
            "lost: the node ended before it had all of the input data",
        ),
        (replace(PENDING, state=UnitState.RUNNING), "lost: nobody watched over it"),
    ],
)
async def test_what_nobody_can_bring_to_an_end_any_more_is_lost(foo, status, detail):
    unit_id = put(foo, status)
    async with foo.running():
        await trio.testing.wait_all_tasks_blocked()
        assert (foo.status(unit_id).state, foo.status(unit_id).detail) == (3, detail)
        assert foo.store.read_status(unit_id).state is UnitState.FAILED
        assert foo.launcher.started == []


async def test_a_unit_that_an_old_supervisor_takes_just_now_runs_and_is_not_called_lost(
    foo, monkeypatch
):
    """The launcher of a killed node may still be starting what it was asked to start."""
    unit_id = put(foo, replace(PENDING, stdin_size=1))
    supervisor = FakeSupervisor(foo.store, unit_id, 77)
    foo.launcher.supervisors[unit_id] = supervisor
    scan = UnitStore.scan

    def scan_then_claim(store):
        found = scan(store)
        supervisor.set(
            state=UnitState.RUNNING, detail="Running: PID 78", supervisor=supervisor.process
        )
        return found

    monkeypatch.setattr(UnitStore, "scan", scan_then_claim)
    async with foo.running():
        await trio.testing.wait_all_tasks_blocked()
        assert foo.status(unit_id).state is UnitState.RUNNING
        supervisor.finish()
        assert (await foo.wait_final(unit_id)).detail == "exit status 0"
        assert foo.launcher.started == []


async def test_a_start_that_fails_after_an_old_supervisor_was_first_leaves_it_in_charge(foo):
    async with foo.running():

        class Claimed(FakeLauncher):
            async def start(self, request):
                supervisor = FakeSupervisor(self.store, request.unit_id, 77)
                self.supervisors[request.unit_id] = supervisor
                supervisor.set(
                    state=UnitState.RUNNING, detail="Running: PID 78", supervisor=supervisor.process
                )
                raise WorkError("the launcher ended 3 times, the command was not started")

        foo.launcher.__class__ = Claimed
        unit_id = await foo.submit("foo", "wait")
        assert foo.status(unit_id).state is UnitState.RUNNING
        foo.launcher.supervisors[unit_id].finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


async def test_a_status_that_is_damaged_while_the_command_runs_is_written_anew(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        (foo.store.directory(unit_id) / "status").write_text("{")
        foo.launcher.supervisors[unit_id].ended.set()
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert foo.store.read_status(unit_id) == status


@pytest.mark.parametrize("content", ['{"State":', "{}", None])
async def test_an_unreadable_unit_is_set_aside_listed_as_such_and_never_deleted(
    foo, caplog, content
):
    directory = foo.store.directory("BROKEN01")
    for _ in range(2):
        directory.mkdir(parents=True)
        (directory / "stdout").write_text("precious")
        if content is not None:
            (directory / "status").write_text(content)
        async with foo.running():
            assert foo.units.all() == ()
        assert not directory.exists()
    aside = foo.store.root / ".broken"
    assert sorted(p.name for p in aside.iterdir()) == ["BROKEN01", "BROKEN01.2"]
    assert (aside / "BROKEN01" / "stdout").read_text() == "precious"
    assert "unit BROKEN01 is set aside as" in caplog.text
    assert any("unit BROKEN01.2 cannot be read" in line for line in await foo.units.warnings())


async def test_a_unit_that_a_crash_cut_short_while_it_was_made_leaves_nothing(foo):
    directory = foo.store.directory("BROKEN01")
    directory.mkdir(parents=True)
    for name in ("stdin", "stdout"):
        (directory / name).touch()
    (directory / "status.tmp").write_text("{")
    async with foo.running():
        assert foo.units.all() == ()
    assert foo.left() == []


async def test_what_is_no_unit_is_left_alone(foo):
    (foo.store.root / "lost+found").mkdir(parents=True)
    (foo.store.root / "BROKEN01").write_text("a file")
    async with foo.running():
        assert foo.units.all() == ()
    assert foo.left() == ["BROKEN01", "lost+found"]


async def test_a_lack_of_descriptors_sets_nothing_aside(foo, monkeypatch):
    unit_id = put(foo, PENDING)

    def refuse(path, most):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("meshnode.files.read_file", refuse)
        assert foo.store.scan() == []
        assert "is left out: cannot read" in foo.store.warnings()[0]
    assert [unit.unit_id for unit in foo.store.scan()] == [unit_id]


async def test_a_deletion_that_a_crash_cut_short_is_finished(foo):
    unit_id = put(foo, PENDING)
    trash = foo.store.unlink(unit_id)
    assert trash.exists()
    async with foo.running():
        assert foo.units.all() == ()
    assert not trash.exists()


async def test_a_unit_of_a_receptor_node_is_listed(foo):
    directory = foo.store.directory("NImim5WA")
    directory.mkdir(parents=True)
    (directory / "status").write_text(
        '{"State":2,"Detail":"exit status 0","StdoutSize":3,"WorkType":"echo","ExtraData":null}\n'
    )
    (directory / "stdout").write_text("HI\n")
    async with foo.running():
        assert foo.status("NImim5WA").detail == "exit status 0"
        assert (await foo.talk("work results NImim5WA"))[1:] == ["HI"]


async def test_a_fault_in_one_unit_fails_only_that_unit(foo, monkeypatch, caplog):
    unit_id = put(foo, replace(PENDING, state=UnitState.RUNNING, supervisor=ProcessId(4, 5), pid=6))

    real_open = foo.launcher.open_process

    def open_process(process):
        return 1 // 0 if process.pid == 4 else real_open(process)

    monkeypatch.setattr(foo.launcher, "open_process", open_process)
    async with foo.running():
        status = await foo.wait_final(unit_id)
        assert status.detail == "internal error: ZeroDivisionError"
        assert "Traceback" in caplog.text
        assert (await foo.wait_final(await foo.submit("foo", "cat"))).state == 2


async def test_a_lack_of_descriptors_does_not_end_the_watch_over_a_running_command(
    foo, monkeypatch, autojump_clock
):
    real_open = foo.launcher.open_process
    refusals = iter(range(5))

    def open_process(process):
        for _ in refusals:
            raise OSError(24, "Too many open files")
        return real_open(process)

    monkeypatch.setattr(foo.launcher, "open_process", open_process)
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        assert foo.status(unit_id).state is UnitState.RUNNING
        foo.launcher.supervisors[unit_id].finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


@pytest.mark.parametrize("fields", [{}, {"submissionkey": "bar:x"}])
@pytest.mark.parametrize("lack", ["frozen", "no process", "ending"])
async def test_a_local_start_that_was_only_submitted_is_made_by_the_next_start_of_the_node(
    foo, autojump_clock, monkeypatch, lack, fields
):
    gone = trio.Event()

    async def start(request):
        if lack == "frozen":
            await gone.wait()
        await trio.lowlevel.checkpoint()
        raise NotNow("no process") if lack == "no process" else LauncherClosed("the node is ending")

    async with foo.running():
        with monkeypatch.context() as patched:
            patched.setattr(foo.launcher, "start", start)
            request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
            lines = await foo.talk(request | fields, b"payload")
            reply = json.loads(lines[1])
            assert reply["result"] == "Job Submitted"
            foo.kill()
            gone.set()
    foo.mesh.heal()
    async with foo.running():
        status = await foo.wait_final(reply["unitid"])
        assert status.state is UnitState.SUCCEEDED
        assert foo.stdout(reply["unitid"]) == b"payload"
    assert foo.launcher.started == [("cat",)]


async def test_a_start_is_not_answered_before_it_is_on_record(foo, autojump_clock, monkeypatch):
    """The launcher is frozen, and the disk is full: the client waits, and hears what has become."""
    let_go = trio.Event()
    start = foo.launcher.start

    async def start_late(request):
        await let_go.wait()
        return await start(request)

    def refuse(*args, **options):
        raise OSError(28, "No space left on device")

    async with foo.running():
        monkeypatch.setattr(foo.launcher, "start", start_late)
        monkeypatch.setattr(foo.mortal, "write_status", refuse)
        monkeypatch.setattr(foo.mortal, "create", foo.store.create)
        client = foo.connect()
        await client.send_all(b"work submit foo cat\n")
        await client.send_eof()
        told = b""
        with trio.move_on_after(1000):
            while data := await client.receive_some():
                told += data
        assert b"Job" not in told
        let_go.set()
        while data := await client.receive_some():
            told += data
        assert b"Job Started" in told


async def test_after_another_start_of_the_machine_nothing_is_started_whose_payload_may_be_gone(foo):
    unit_id = put(foo, PENDING)
    foo.boot = "second boot"
    async with foo.running():
        await trio.testing.wait_all_tasks_blocked()
        assert foo.status(unit_id).state is UnitState.FAILED
    assert foo.launcher.started == []


@pytest.mark.parametrize("place", [b"", b".broken", b".released-", b".released-abcdefgh"])
async def test_no_name_that_somebody_leaves_in_the_datadir_stops_a_start(bar, place):
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
    names += [b"\xed\xa0\x80", "ü".encode(), b"a.b", b"abcdefgh"]
    directory = os.fsencode(bar.store.root)
    for name in names:
        where = os.path.join(directory, place, name) if place == b".broken" else directory
        for path in (where, os.path.join(directory, place + name)):
            if not os.path.lexists(path):
                os.makedirs(path, mode=0o700)
    for _ in range(2):
        async with bar.running():
            assert await bar.talk("work list")


async def test_a_record_without_a_command_fails_its_unit_and_says_so(bar):
    unit_id = put(bar, replace(PENDING, params=()))
    async with bar.running():
        status = await bar.wait_final(unit_id)
    assert status.detail == "Error starting worker: its record names no command"
