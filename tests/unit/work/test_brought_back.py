"""A unit that brings files back is final when they are there, whatever is killed in between."""

import errno
import io
import json
import os
import tarfile

import pytest
from trio.testing import wait_all_tasks_blocked

from meshnode.protocol.control import OUTPUT_KEY
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.files import collecting
from meshnode.work.files.collecting import Collection
from meshnode.work.local.isolation import IsolationPlan
from meshnode.work.local.worktypes import CommandType
from meshnode.work.units.jobsettings import JobSettings

BIG = os.urandom(200_000)


def asked(*globs: str) -> dict[str, str]:
    return {OUTPUT_KEY: json.dumps(globs)}


def put(node, unit_id: str, files: dict[str, bytes]) -> None:
    """Write files as the command of a unit does."""
    for name, data in files.items():
        path = node.store.work_directory(unit_id) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def brought(node, unit_id: str) -> dict[str, bytes]:
    """Return the files that a node has of a unit; the status has their size."""
    data = node.store.output_path(unit_id, "files").read_bytes()
    assert node.status(unit_id).files_size == len(data)
    if not data:
        return {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            one.name: tar.extractfile(one).read()  # type: ignore[union-attr]
            for one in tar
            if one.isreg()
        }


def results(unit_id: str, start: int = 0) -> dict:
    request = {"command": "work", "subcommand": "results", "unitid": unit_id, "startpos": start}
    return {**request, "stream": "files"}


def there(foo, bar, unit_id: str) -> str:
    return foo.units.find(unit_id).remote.unit_id


# --- Here ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "detail", "expected"),
    [
        (UnitState.SUCCEEDED, "exit status 0", "exit status 0; collected 1 file"),
        (UnitState.FAILED, "exit status 1", "exit status 1; collected 1 file"),
        (UnitState.CANCELED, "Canceled", "Canceled"),
    ],
)
async def test_files_are_there_when_the_unit_is_final_however_it_ended(
    foo, state, detail, expected, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", **asked("out/*.txt"))
        put(foo, unit_id, {"out/a.txt": BIG, "out/b.log": b"2"})
        foo.launcher.supervisors[unit_id].finish(state, detail)
        final = await foo.wait_final(unit_id)
        assert (final.state, final.detail) == (state, expected)
        assert brought(foo, unit_id) == {"out/a.txt": BIG}
        on_disk = foo.store.read_status(unit_id)
        assert (on_disk.state, on_disk.files_size) == (state, final.files_size)
        assert not on_disk.held
        shown = json.loads((await foo.talk(f"work status {unit_id}"))[-1])
        assert shown["FilesSize"] == final.files_size
        assert shown["SubmittedParams"] == "output=out/*.txt"
        await foo.talk(f"work release {unit_id}")
        assert foo.left() == []


async def test_a_unit_without_the_key_has_no_directory_and_no_files(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait")
        assert not foo.store.work_directory(unit_id).exists()
        foo.launcher.supervisors[unit_id].finish()
        assert (await foo.wait_final(unit_id)).files_size is None
        told = (await foo.talk(results(unit_id)))[-1]
        assert told == (
            f"ERROR: work unit {unit_id} has no files: "
            "it was submitted without --output, or never started"
        )


async def test_a_pattern_that_matches_nothing_is_told_and_no_failure(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", b"", **asked("*.png"))
        final = await foo.wait_final(unit_id)
        assert final.state is UnitState.SUCCEEDED
        assert final.detail == "exit status 0; collected 0 files; nothing matches '*.png'"
        assert final.files_size == 0


async def test_results_of_files_wait_for_the_end_and_begin_at_any_byte(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", **asked("*"))
        put(foo, unit_id, {"a": b"plain text"})
        told: list[list[str]] = []

        async def read() -> None:
            told.append(await foo.talk(results(unit_id, 512)))

        foo.nursery.start_soon(read)
        await wait_all_tasks_blocked()
        foo.launcher.supervisors[unit_id].finish()
        await foo.wait_final(unit_id)
        await wait_all_tasks_blocked()
        assert told
        assert told[0][-1].startswith("plain text\0")


@pytest.mark.parametrize("steps", range(12))
async def test_a_node_that_is_killed_at_any_step_collects_again_and_runs_nothing_again(
    foo, steps, monkeypatch, autojump_clock
):
    monkeypatch.setattr(collecting, "STEP_SECONDS", 0)
    step, done = Collection.step, 0

    def step_or_die(self: Collection) -> bool:
        nonlocal done
        done += 1
        if done > steps:
            foo.kill()
            raise OSError(errno.ENOMEM, "as good as dead")
        return step(self)

    async with foo.running():
        unit_id = await foo.submit("foo", "wait", **asked("**"))
        put(foo, unit_id, {"a": BIG, "b/c": b"2"})
        with monkeypatch.context() as killed:
            killed.setattr(Collection, "step", step_or_die)
            foo.launcher.supervisors[unit_id].finish()
            await wait_all_tasks_blocked()
    assert foo.store.read_status(unit_id).state is (
        UnitState.RUNNING if done > steps else UnitState.SUCCEEDED
    )
    async with foo.running():
        final = await foo.wait_final(unit_id)
        assert (final.state, final.detail) == (
            UnitState.SUCCEEDED,
            "exit status 0; collected 2 files",
        )
        assert brought(foo, unit_id) == {"a": BIG, "b/c": b"2"}
        assert len(foo.launcher.started) == 1


async def test_a_full_disk_is_waited_for_and_told(foo, monkeypatch, autojump_clock):
    step = Collection.step

    def no_room(self: Collection) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with foo.running():
        unit_id = await foo.submit("foo", "wait", **asked("a"))
        put(foo, unit_id, {"a": b"1"})
        monkeypatch.setattr(Collection, "step", no_room)
        foo.launcher.supervisors[unit_id].finish()
        await wait_all_tasks_blocked()
        assert foo.status(unit_id).state is UnitState.RUNNING
        assert foo.status(unit_id).detail == "Collecting files: waiting for disk space"
        monkeypatch.setattr(Collection, "step", step)
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert brought(foo, unit_id) == {"a": b"1"}


@pytest.mark.parametrize("code", [0, 1])
async def test_files_that_cannot_be_read_fail_a_unit_that_would_have_succeeded(
    foo, code, monkeypatch, autojump_clock
):
    def broken(self: Collection) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Collection, "step", broken)
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", **asked("a"))
        state = UnitState.FAILED if code else UnitState.SUCCEEDED
        foo.launcher.supervisors[unit_id].finish(state, f"exit status {code}", code)
        final = await foo.wait_final(unit_id)
        assert final.state is UnitState.FAILED
        assert final.exit_code == code
        assert final.detail == (
            f"exit status {code}; its files were not collected: Input/output error"
        )


@pytest.mark.parametrize("how", ["cancel", "release", "force-release"])
async def test_who_ends_a_unit_while_its_files_are_collected_does_not_wait_for_them(
    foo, how, monkeypatch, autojump_clock
):
    def no_room(self: Collection) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Collection, "step", no_room)
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", **asked("a"))
        foo.launcher.supervisors[unit_id].finish()
        await wait_all_tasks_blocked()
        told = (await foo.talk(f"work {how} {unit_id}"))[-1]
        if how == "cancel":
            assert json.loads(told) == {"cancelled": unit_id}
            assert foo.status(unit_id).state is UnitState.CANCELED
            assert foo.status(unit_id).ending is not None
        else:
            assert json.loads(told) == {"released": unit_id}
            assert foo.left() == []


async def test_a_release_of_a_running_unit_collects_nothing(foo, monkeypatch, autojump_clock):
    def unexpected(self: Collection) -> bool:
        raise AssertionError

    monkeypatch.setattr(Collection, "step", unexpected)
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", **asked("a"))
        assert json.loads((await foo.talk(f"work release {unit_id}"))[-1]) == {"released": unit_id}
        assert foo.left() == []


async def test_of_a_unit_whose_supervisor_was_killed_what_is_there_is_collected(
    foo, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", **asked("*.log"))
        put(foo, unit_id, {"a.log": b"so far"})
        foo.launcher.supervisors[unit_id].ended.set()
        final = await foo.wait_final(unit_id)
        assert final.state is UnitState.FAILED
        assert final.detail.startswith("lost: its supervisor")
        assert final.detail.endswith("; collected 1 file")
        assert brought(foo, unit_id) == {"a.log": b"so far"}


AS_ANOTHER = CommandType("cat", isolation=IsolationPlan({"uid": 1}, {}))


@pytest.mark.parametrize(
    ("kind", "fields", "why"),
    [
        (CommandType("cat", cwd="/srv"), {}, "it brings back no files (output), since it runs in"),
        (AS_ANOTHER, {}, "it brings back no files (output), since it runs as another than the"),
        (CommandType("cat"), {OUTPUT_KEY: "*"}, "field joboutput is no list of strings in JSON"),
        (CommandType("cat"), asked("../x"), "field joboutput pattern '../x' leads out of the"),
        (CommandType("cat"), asked("/etc"), "field joboutput pattern '/etc' leads out of the"),
    ],
)
async def test_what_cannot_bring_files_back_is_refused_and_nothing_is_made(
    foo, kind, fields, why, autojump_clock
):
    foo.work_types = {"cat": kind}
    async with foo.running():
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
        lines = await foo.talk(request | asked("*") | fields, b"")
        assert lines[-1].startswith("ERROR: ")
        assert why in lines[-1]
        assert foo.left() == []


def test_settings_with_patterns_are_the_same_from_their_keys_and_from_disk():
    job = JobSettings.parse(asked("a/./b//", "*.png", "*.png"))
    assert job.files.output == ("a/b", "*.png")
    assert JobSettings.parse(job.fields()) == job
    assert JobSettings.from_disk(job.to_disk(secrets=False)) == job
    assert job.as_params()[OUTPUT_KEY] == '["a/b", "*.png"]'


# --- On another node -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 3_000, 3_000_000])
async def test_files_of_a_unit_elsewhere_are_here_when_it_is_final_here(
    foo, bar, size, autojump_clock
):
    data = os.urandom(size)
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait", **asked("a"))
        await wait_all_tasks_blocked()
        remote_id = there(foo, bar, unit_id)
        put(bar, remote_id, {"a": data})
        bar.launcher.supervisors[remote_id].finish()
        final = await foo.wait_final(unit_id)
        assert final.detail == "exit status 0; collected 1 file"
        assert brought(foo, unit_id) == brought(bar, remote_id) == {"a": data}


@pytest.mark.parametrize("who", ["foo", "bar"])
async def test_files_of_a_unit_elsewhere_come_through_restarts(foo, bar, who, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait", **asked("a"))
        await wait_all_tasks_blocked()
        remote_id = there(foo, bar, unit_id)
    put(bar, remote_id, {"a": BIG})
    if who == "foo":
        async with bar.running():
            bar.launcher.supervisors[remote_id].finish()
            await bar.wait_final(remote_id)
    else:
        bar.launcher.supervisors[remote_id].finish()
    async with foo.running(), bar.running():
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        assert brought(foo, unit_id) == {"a": BIG}
        assert len(bar.launcher.started) == 1


async def test_files_count_among_the_output_that_a_node_takes_of_another(foo, bar, autojump_clock):
    foo.max_remote_output = 100_000
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait", **asked("a"))
        await wait_all_tasks_blocked()
        remote_id = there(foo, bar, unit_id)
        put(bar, remote_id, {"a": BIG})
        bar.launcher.supervisors[remote_id].finish()
        final = await foo.wait_final(unit_id)
        assert final.state is UnitState.FAILED
        assert "(remote-maxoutput)" in final.detail


async def test_an_adopted_unit_has_its_files_here_too(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        remote_id = await bar.submit("bar", "wait", **asked("a"))
        put(bar, remote_id, {"a": BIG})
        request = {"command": "work", "subcommand": "adopt", "node": "bar", "unitid": remote_id}
        unit_id = json.loads((await foo.talk(request))[-1])["unitid"]
        bar.launcher.supervisors[remote_id].finish()
        await foo.wait_final(unit_id)
        assert brought(foo, unit_id) == {"a": BIG}


async def test_a_node_that_knows_no_files_to_bring_back_is_not_sent_the_work(
    foo, bar, autojump_clock
):
    bar.more_tags = {"takes": "submissionlabels"}
    async with foo.running(), bar.running():
        request = {"command": "work", "subcommand": "submit", "node": "bar", "worktype": "wait"}
        told = (await foo.talk(request | asked("a"), b""))[-1]
        assert told == (
            "ERROR: node bar is of a version that takes no files to bring back from clients: it is "
            "receptor's, or an older meshnode"
        )
        assert bar.launcher.started == []
