"""Command units through the control service, with a launcher that starts no processes."""

import json
import os
import signal
import stat

import pytest
import trio

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local import runner


async def test_a_submitted_command_runs_and_its_results_are_its_output(foo):
    async with foo.running():
        unit_id = await foo.submit("localhost", "cat", b"one\ntwo")
        status = await foo.wait_final(unit_id)
        assert (status.state, status.detail, status.stdout_size) == (2, "exit status 0", 7)
        assert status.stdin_size == 7
        client = foo.connect()
        await client.send_all(f"work results {unit_id}\n".encode())
        reply = b"".join([chunk async for chunk in client])
        head = f"Receptor Control, node foo\nStreaming results for work unit {unit_id}\n"
        assert reply == head.encode() + b"one\ntwo"


async def test_the_reply_of_a_submission_comes_when_the_command_was_started(foo):
    async with foo.running():
        lines = await foo.talk("work submit LOCALHOST wait a b  c")
        unit_id = json.loads(lines[1])["unitid"]
        assert lines[1] == f'{{"result":"Job Started","unitid":"{unit_id}"}}'
        assert foo.launcher.started == [("wait", "for", "the end", "a", "b", "c")]


async def test_a_running_unit_shows_pid_params_and_its_output_so_far(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", params="--now")
        foo.launcher.supervisors[unit_id].write(b"12345")
        (line,) = await foo.talk(f"work status {unit_id}")
        reply = json.loads(line)
        assert reply["ExtraData"] == {"Pid": 601, "Params": "for 'the end' --now"}
        assert (reply["StateName"], reply["Detail"]) == ("Running", "Running: PID 601")
        assert reply["StdoutSize"] == 5


async def test_a_finished_unit_shows_how_it_ended_beside_receptors_keys(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", b"x")
        (line,) = await foo.talk(f"work list {unit_id}")
        assert json.loads(line) == {
            unit_id: {
                "Detail": "exit status 0",
                "ExtraData": None,
                "State": 2,
                "StateName": "Succeeded",
                "StdoutSize": 1,
                "WorkType": "cat",
                "Created": "2026-11-02T03:00:00.000000Z",
                "Started": "2026-11-02T03:00:01.000000Z",
                "Finished": "2026-11-02T03:00:09.000000Z",
                "ExitCode": 0,
                "Signal": None,
                "StdinSize": 1,
                "SubmittedBy": {"Kind": "unknown"},
                "SubmittedParams": "",
                "EndedBy": None,
                "Pid": 601,
            }
        }


async def test_a_list_of_any_length_is_one_line_in_the_order_of_ids(foo, monkeypatch):
    monkeypatch.setattr("meshnode.work.units.listing.LISTED_AT_ONCE", 2)
    async with foo.running():
        assert await foo.talk("work list") == ["{}"]
        unit_ids = []
        for _ in range(5):
            unit_ids.append(await foo.submit("foo", "cat", b"{}"))
            listed, status = (
                await foo.talk("work list"),
                await foo.talk(f"work status {unit_ids[0]}"),
            )
            assert len(listed) == 1
            assert list(json.loads(listed[0])) == sorted(unit_ids)
            assert json.loads(listed[0])[unit_ids[0]] == json.loads(status[0])


async def test_a_units_directory_is_the_guides_tree_and_private(foo):
    async with foo.running():
        os.umask(os.umask(0o022))
        unit_id = await foo.submit("foo", "cat")
        directory = foo.store.directory(unit_id)
        assert sorted(os.listdir(directory)) == ["status", "stdin", "stdout"]
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for path in directory.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_client_that_breaks_off_its_payload_leaves_a_failed_unit_that_never_ran(mesh, foo):
    async with foo.running():
        client = await _dial(foo)
        await client.send_all(b"work submit foo cat\nhalf a pay")
        await trio.testing.wait_all_tasks_blocked()
        mesh.cut()
        (unit,) = foo.units.all()
        await unit.wait_final()
        assert unit.status.state is UnitState.FAILED
        assert unit.status.detail.startswith("Error reading input data: ")
        assert foo.launcher.started == []


async def test_a_session_that_is_ended_during_the_payload_fails_its_unit(foo):
    async with foo.running():
        client = foo.connect()
        await client.send_all(b"work submit foo cat\nhalf a pay")
        await trio.testing.wait_all_tasks_blocked()
    (stored,) = foo.store.scan()
    assert stored.status.detail == "Error reading input data: the session was ended"
    assert foo.launcher.started == []


async def test_a_full_disk_fails_the_unit_with_the_reason(foo, monkeypatch):
    class FullFile:
        size = 0

        def write(self, data):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    async with foo.running():
        monkeypatch.setattr(foo.mortal, "open_stdin", lambda unit_id, wanted, size: FullFile())
        lines = await foo.talk("work submit foo cat", b"payload")
        assert lines[1:] == ["ERROR: Error reading input data: No space left on device"]
        (unit,) = foo.units.all()
        assert unit.status.state is UnitState.FAILED


async def test_a_launcher_that_cannot_start_fails_the_unit_and_tells_the_client(foo):
    foo.launcher.refuses = WorkError("no processes left")
    async with foo.running():
        lines = await foo.talk("work submit foo cat")
        assert lines[1] == "ERROR: no processes left"
        (unit,) = foo.units.all()
        assert unit.status.detail == "Error starting worker: no processes left"


async def test_cancel_answers_when_the_unit_is_canceled(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        assert await foo.talk(f"work cancel {unit_id}") == [f'{{"cancelled":"{unit_id}"}}']
        assert foo.status(unit_id).state is UnitState.CANCELED


async def test_cancel_of_a_finished_unit_changes_nothing(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat")
        before = await foo.wait_final(unit_id)
        assert await foo.talk(f"work cancel {unit_id}") == [f'{{"cancelled":"{unit_id}"}}']
        assert foo.status(unit_id) == before


async def test_a_unit_canceled_during_its_payload_is_never_started(foo):
    async with foo.running():
        client = foo.connect()
        await client.send_all(b"work submit foo cat\nhalf")
        await trio.testing.wait_all_tasks_blocked()
        (unit,) = foo.units.all()
        await foo.talk(f"work cancel {unit.unit_id}")
        await client.send_eof()
        reply = b"".join([chunk async for chunk in client]).decode()
        assert reply.splitlines()[-1] == (
            f"ERROR: work unit {unit.unit_id} was canceled before it was started"
        )
        assert unit.status.state is UnitState.CANCELED
        assert foo.launcher.started == []


async def test_a_supervisor_that_ignores_the_cancel_is_reported_and_not_waited_for_longer(
    foo, monkeypatch, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        supervisor = foo.launcher.supervisors[unit_id]
        monkeypatch.setattr(supervisor, "finish", lambda *args, **more: None)
        monkeypatch.setattr(runner, "find_supervised", lambda *args: [supervisor.process])
        for wish in ("cancel", "release"):
            assert await foo.talk(f"work {wish} {unit_id}") == [
                f"ERROR: work unit {unit_id} is still being stopped"
            ]
            assert foo.status(unit_id).state is UnitState.RUNNING


async def test_a_unit_whose_end_its_supervisor_cannot_record_is_released_without_force(
    foo, monkeypatch, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        supervisor = foo.launcher.supervisors[unit_id]
        monkeypatch.setattr(supervisor, "finish", lambda *args, **more: None)
        monkeypatch.setattr(runner, "find_supervised", lambda *args: [])
        (line,) = await foo.talk(f"work cancel {unit_id}")
        assert line == (
            f"ERROR: work unit {unit_id}: its command has ended, and its supervisor waits for the "
            "disk to record that"
        )
        assert foo.status(unit_id).state is UnitState.RUNNING
        assert await foo.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert supervisor.ended.is_set()
        assert foo.left() == []


async def test_a_supervisor_that_ignores_the_cancel_is_killed_by_a_forced_release(
    foo, monkeypatch, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        supervisor = foo.launcher.supervisors[unit_id]
        monkeypatch.setattr(supervisor, "finish", lambda *args, **more: None)
        assert await foo.talk(f"work force-release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert supervisor.signals == [signal.SIGTERM, signal.SIGKILL]
        assert foo.store.directory(unit_id) in foo.launcher.gone_leftovers
        assert not foo.store.directory(unit_id).exists()


async def test_a_unit_that_cannot_be_deleted_is_forgotten_only_by_force(foo, monkeypatch, caplog):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat")
        await foo.wait_final(unit_id)

        def refuse(*paths):
            raise OSError(30, "Read-only file system")

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", refuse)
            assert await foo.talk(f"work release {unit_id}") == [
                f"ERROR: cannot delete work unit {unit_id}: Read-only file system"
            ]
            assert await foo.talk(f"work force-release {unit_id}") == [
                f'{{"released":"{unit_id}"}}'
            ]
        assert foo.units.all() == ()
        assert "released by force: cannot delete" in caplog.text


@pytest.mark.parametrize("work_type", ["cat", "wait"])
@pytest.mark.parametrize("subcommand", ["release", "force-release"])
async def test_release_stops_and_deletes_and_ends_readers(foo, work_type, subcommand):
    async with foo.running():
        unit_id = await foo.submit("foo", work_type)
        reader = foo.connect()
        await reader.send_all(f"work results {unit_id}\n".encode())
        await trio.testing.wait_all_tasks_blocked()
        assert await foo.talk(f"work {subcommand} {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert not foo.store.directory(unit_id).exists()
        assert foo.left() == []
        assert await foo.talk(f"work status {unit_id}") == [f"ERROR: unknown work unit {unit_id}"]
        with trio.fail_after(60):
            assert b"".join([chunk async for chunk in reader]).endswith(unit_id.encode() + b"\n")


async def test_release_of_a_unit_that_waits_for_input_deletes_it(foo):
    async with foo.running():
        client = foo.connect()
        await client.send_all(b"work submit foo cat\nhalf")
        await trio.testing.wait_all_tasks_blocked()
        (unit,) = foo.units.all()
        await foo.talk(f"work release {unit.unit_id}")
        await client.send_eof()
        assert b"was canceled before" in b"".join([chunk async for chunk in client])
        assert foo.units.all() == ()


async def test_a_lost_supervisor_fails_its_unit_after_its_leftovers_are_ended(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        supervisor = foo.launcher.supervisors[unit_id]
        supervisor.write(b"abc")
        supervisor.ended.set()
        status = await foo.wait_final(unit_id)
        assert status.detail == "lost: its supervisor (PID 101) ended without recording an end"
        assert (status.state, status.stdout_size) == (UnitState.FAILED, 3)
        assert foo.launcher.gone_leftovers == [foo.store.directory(unit_id)]


async def test_watch_sends_a_line_for_each_change_but_none_for_growth_and_then_closes(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        client = foo.connect()
        await client.send_all(f"work watch {unit_id}\n".encode())
        await trio.testing.wait_all_tasks_blocked()
        supervisor = foo.launcher.supervisors[unit_id]
        supervisor.write(b"abc")
        await trio.testing.wait_all_tasks_blocked()
        supervisor.finish()
        with trio.fail_after(60):
            reply = b"".join([chunk async for chunk in client])
        states = [json.loads(line) for line in reply.splitlines()[1:]]
        assert [(s["StateName"], s["StdoutSize"]) for s in states] == [
            ("Running", 0),
            ("Succeeded", 3),
        ]


async def test_several_readers_get_the_output_as_it_comes_each_from_its_position(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        supervisor = foo.launcher.supervisors[unit_id]
        supervisor.write(b"01234")
        readers = {}
        for start in (0, 3, 7, 100):
            readers[start] = foo.connect()
            await readers[start].send_all(f"work results {unit_id} {start}\n".encode())
        await trio.testing.wait_all_tasks_blocked()
        supervisor.write(b"56789")
        await trio.testing.wait_all_tasks_blocked()
        supervisor.finish()
        for start, reader in readers.items():
            reply = b"".join([chunk async for chunk in reader])
            assert reply.partition(f"unit {unit_id}\n".encode())[2] == b"0123456789"[start:]


async def test_what_is_written_after_the_end_of_a_unit_is_shown_to_nobody(foo):
    """A process that its command has left goes on writing."""
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        supervisor = foo.launcher.supervisors[unit_id]
        supervisor.write(b"01234")
        supervisor.finish()
        await foo.wait_final(unit_id)
        supervisor.write(b"56789")
        for start in (0, 3, 5, 7, 100):
            _, *shown = await foo.talk(f"work results {unit_id} {start}")
            assert shown == ["01234"[start:]] * (start < 5)
        status = json.loads((await foo.talk(f"work status {unit_id}"))[-1])
        assert status["StdoutSize"] == 5


async def test_a_reader_whose_stdout_is_truncated_is_ended_without_a_line_in_its_output(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        foo.launcher.supervisors[unit_id].write(b"01234")
        client = foo.connect()
        await client.send_all(f"work results {unit_id}\n".encode())
        await trio.testing.wait_all_tasks_blocked()
        os.truncate(foo.store.stdout_path(unit_id), 2)
        with trio.fail_after(60):
            reply = b"".join([chunk async for chunk in client])
        assert reply.endswith(b"\n01234")


async def test_results_of_a_client_that_vanishes_end_although_the_unit_says_nothing(mesh, foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        client = await _dial(foo)
        await client.send_all(f"work results {unit_id}\n".encode())
        await trio.testing.wait_all_tasks_blocked()
        tasks_before = len(foo.nursery.child_tasks)
        mesh.cut()
        await trio.testing.wait_all_tasks_blocked()
        assert len(foo.nursery.child_tasks) == tasks_before - 1


async def _dial(node):
    """A client's stream that the mesh can cut."""
    from work_fakes import FakeDialer

    return await FakeDialer(node.mesh, "elsewhere").dial(node.node_id, "control")


async def test_the_command_line_of_a_unit_that_has_ended_is_kept_on_disk_only(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat")
        await foo.wait_final(unit_id)
        assert foo.status(unit_id).params == ()
    async with foo.running():
        assert foo.status(unit_id).params == ()
    on_disk = json.loads((foo.store.directory(unit_id) / "status").read_bytes())
    assert on_disk["Params"] == ["cat"]
