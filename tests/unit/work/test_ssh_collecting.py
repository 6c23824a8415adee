"""Files that come back from hosts with only SSH, whatever breaks and whatever the host says."""

import errno
import io
import json
import os
import tarfile
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ssh_fakes import FakeHosts, add_ssh, break_at, heal, kill_at, listed, packed, reaches, ssh_type
from tars import entry, tar_of
from work_fakes import LONG, FakeMesh, FakeNode

from meshnode.protocol.control import OUTPUT_KEY
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.files.archive import Archive
from meshnode.work.ssh import finding

STEPS = range(1, 34)
"""Steps of a unit's sessions, from the first look to the removal, and a few more."""

FILES = {"out/a.txt": b"1" * 250_000, "out/b/c.txt": b"2", "log": b"not asked for"}

EXPECTED = {name: data for name, data in FILES.items() if name != "log"}


@pytest.fixture
def hosts():
    return FakeHosts()


def add(foo, hosts, *names, **more):
    add_ssh(foo, hosts, ssh_type(*(names or ("anna", "bert")), **more))


async def submit(foo, *globs, **fields):
    fields[OUTPUT_KEY] = json.dumps(globs or ("out",))
    return await foo.submit("foo", "far", b"in", **fields)


async def ask(foo, subcommand, unit_id):
    return await foo.talk({"command": "work", "subcommand": subcommand, "unitid": unit_id})


def brought(foo, unit_id) -> dict[str, bytes]:
    data = foo.store.output_path(unit_id, "files").read_bytes()
    assert foo.status(unit_id).files_size == len(data)
    if not data:
        return {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar if one.isreg()}


async def let_all_end(hosts, files=FILES, code=0):
    """Have each command write files and end as soon as it is started, until cancelled."""
    while True:
        for job in tuple(hosts.jobs.values()):
            if job.is_claimed and job.end is None:
                job.files |= files
                job.write(b"out")
                job.finish(code)
        await trio.sleep(0.5)


async def end_of(foo, hosts, *globs, files=FILES, code=0):
    """Run one unit to its end; return its ID and its status."""
    foo.nursery.start_soon(let_all_end, hosts, files, code)
    unit_id = await submit(foo, *globs)
    return unit_id, await foo.wait_final(unit_id)


# --- Moments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_lost", [False, True])
async def test_files_come_whole_over_a_session_that_breaks_at_any_step(
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
        assert status.detail == "exit status 0; collected 2 files"
        assert (foo.stdout(unit_id), brought(foo, unit_id)) == (b"out", EXPECTED)
        assert len(hosts.starts) == 1
        assert hosts.jobs == {} or "left" in status.runner_data
        await ask(foo, "release", unit_id)
        assert (hosts.jobs, foo.left()) == ({}, [])


@pytest.mark.parametrize("step", STEPS)
async def test_a_node_that_is_killed_at_any_step_collects_again_and_runs_nothing_again(
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
        assert status.detail == "exit status 0; collected 2 files"
        assert (foo.stdout(unit_id), brought(foo, unit_id)) == (b"out", EXPECTED)
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
        foo.nursery.start_soon(let_all_end, hosts)
        unit_id = await submit(foo)
        with trio.move_on_after(30):
            await reached.wait()
        unit = foo.units.find(unit_id)
        await ask(foo, subcommand, unit_id)
        with trio.fail_after(LONG):
            await unit.wait_final()
        if subcommand == "cancel":
            assert unit.status.state in {UnitState.CANCELED, UnitState.SUCCEEDED}
            brought(foo, unit_id)
        assert hosts.jobs == {}
        assert len(hosts.starts) <= 1


async def test_the_directory_there_is_removed_only_when_the_files_are_here(
    foo, hosts, autojump_clock
):
    add(foo, hosts, "anna")

    def before(now):
        if foo.units.all() and not hosts.jobs and hosts.starts:
            (unit,) = foo.units.all()
            path = foo.store.output_path(unit.unit_id, "files")
            removed.append(path.stat().st_size)

    removed: list[int] = []
    hosts.before = before
    async with foo.running():
        _, status = await end_of(foo, hosts)
        assert set(removed) == {status.files_size}
        assert status.files_size > 250_000


# --- What is waited for, and what is not ---------------------------------------------------------


async def stuck(foo, hosts, *, is_down=True) -> str:
    """Return a unit whose command has ended and whose host is not reached to bring its files."""

    def before(now):
        if is_down and hosts.lists:
            hosts.down.add("anna")

    hosts.before = before
    foo.nursery.start_soon(let_all_end, hosts)
    unit_id = await submit(foo, host="anna")
    await trio.sleep(200)
    assert foo.status(unit_id).state is UnitState.RUNNING
    return unit_id


async def test_a_host_that_is_away_is_waited_for_and_its_place_is_held_meanwhile(
    foo, hosts, autojump_clock
):
    add(foo, hosts, "anna", max_concurrent=1)
    async with foo.running():
        unit_id = await stuck(foo, hosts)
        unit = foo.units.find(unit_id)
        assert unit.status.detail == "Collecting files"
        assert unit.outage == "waiting: host anna: connect: Connection refused"
        other = await submit(foo)
        await trio.sleep(100)
        assert foo.units.find(other).place() == "Queued: 1 of 1 for anna (maxconcurrent 1 a host)"
        hosts.before = lambda now: None
        hosts.down.clear()
        await foo.wait_final(unit_id)
        assert brought(foo, unit_id) == EXPECTED
        await foo.wait_final(other)


@pytest.mark.parametrize("how", ["cancel", "release", "force-release"])
@pytest.mark.parametrize("is_away", [True, False])
async def test_who_ends_a_unit_while_its_files_are_brought_does_not_wait_for_them(
    foo, hosts, how, is_away, autojump_clock
):
    add(foo, hosts, "anna")
    async with foo.running():
        unit_id = await stuck(foo, hosts)
        unit = foo.units.find(unit_id)
        lists = hosts.lists
        if not is_away:
            hosts.before = lambda now: None
            # Nobody has tried again yet.
            hosts.down.clear()
        await ask(foo, how, unit_id)
        if how == "cancel":
            with trio.fail_after(LONG):
                await unit.wait_final()
            assert (unit.status.state, unit.status.detail) == (UnitState.CANCELED, "Canceled")
            assert unit.status.ending is not None
            assert brought(foo, unit_id) == {}
        hosts.before = lambda now: None
        hosts.down.clear()
        if how == "cancel":
            await ask(foo, "release", unit_id)
        with trio.fail_after(LONG):
            while foo.left():
                await trio.sleep(1)
        assert hosts.lists == lists
        assert hosts.jobs == {} or (how, is_away) == ("force-release", True)


async def test_files_that_do_not_come_in_time_fail_a_unit_that_would_have_succeeded(
    foo, hosts, autojump_clock
):
    add(foo, hosts, "anna", collect=100.0)
    hosts.is_frozen = True
    async with foo.running():
        unit_id, status = await end_of(foo, hosts)
        assert status.state is UnitState.FAILED
        assert status.exit_code == 0
        assert status.detail == (
            "exit status 0; its files were not collected: host anna: collect: not done within 100 s"
        )
        assert brought(foo, unit_id) == {}
        assert hosts.jobs == {}
        assert len(hosts.starts) == 1


async def test_a_disk_without_room_is_waited_for_and_told(foo, hosts, monkeypatch, autojump_clock):
    add(foo, hosts, "anna")

    def no_room(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    async with foo.running():
        with monkeypatch.context() as full:
            full.setattr(Archive, "write", no_room)
            unit_id = await stuck(foo, hosts, is_down=False)
            unit = foo.units.find(unit_id)
            assert unit.outage == "waiting: this node lacks disk space"
            assert not list(foo.store.directory(unit_id).glob("files.new"))
        await foo.wait_final(unit_id)
        assert brought(foo, unit_id) == EXPECTED


# --- What a host says ----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1])
async def test_a_host_whose_tar_is_gone_is_told_in_a_line(foo, hosts, code, autojump_clock):
    add(foo, hosts, "anna")
    hosts.says["bring"] = lambda job, names: (b"", 127)
    async with foo.running():
        unit_id, status = await end_of(foo, hosts, code=code)
        assert status.state is UnitState.FAILED
        assert status.detail == (
            f"exit status {code}; its files were not collected: host anna: collect: there is no "
            "tar, which brings files back: install it"
        )
        assert brought(foo, unit_id) == {}
        assert hosts.jobs == {}


async def test_files_that_came_before_their_end_was_recorded_are_counted_whatever_comes_then(
    foo, hosts, autojump_clock
):
    add(foo, hosts, "anna")
    hosts.says["bring"] = lambda job, names: (b"", 127)
    async with foo.running():
        unit_id = await submit(foo)
        foo.store.output_path(unit_id, "files").write_bytes(tar_of(entry("out/a.txt", b"1")))
        foo.nursery.start_soon(let_all_end, hosts)
        assert (await foo.wait_final(unit_id)).state is UnitState.FAILED
        assert brought(foo, unit_id) == {"out/a.txt": b"1"}


@pytest.mark.parametrize(("globs", "needed"), [(("a",), True), ((), False)])
async def test_a_host_must_have_tar_only_for_what_brings_files(
    foo, hosts, globs, needed, autojump_clock
):
    add(foo, hosts, "anna")
    async with foo.running():
        foo.nursery.start_soon(let_all_end, hosts)
        fields = {OUTPUT_KEY: json.dumps(globs)} if globs else {}
        await foo.wait_final(await foo.submit("foo", "far", b"in", **fields))
        assert hosts.with_tar == [needed]


async def test_a_directory_that_somebody_has_removed_is_told_and_no_failure(
    foo, hosts, autojump_clock
):
    add(foo, hosts, "anna")
    hosts.says["list"] = lambda job, names: listed(None, names)
    async with foo.running():
        unit_id, status = await end_of(foo, hosts)
        assert status.detail == "exit status 0; collected no files: its directory is gone"
        assert brought(foo, unit_id) == {}


async def test_the_operator_s_script_is_not_brought_back(foo, hosts, tmp_path, autojump_clock):
    script = tmp_path / "job.sh"
    script.write_bytes(b"#!/bin/sh\n")
    named = {"script": b"1", "out/script": b"2"}
    for kind, names in (
        (replace(ssh_type("anna"), command="", script=script), {"out/script"}),
        (ssh_type("anna"), {"script", "out/script"}),
    ):
        add_ssh(foo, hosts, kind)
        async with foo.running():
            unit_id, _ = await end_of(foo, hosts, "*", files=named)
            assert brought(foo, unit_id).keys() == names


@pytest.mark.parametrize("bad", [{"3"}, {"0", "7"}, set("0123456789")])
async def test_a_file_that_cannot_be_read_there_is_left_out_and_the_others_come(
    foo, hosts, bad, autojump_clock
):
    add(foo, hosts, "anna")
    files = {str(number): b"x" * number for number in range(10)}

    def bring(job, names):
        # As a tar does that fills up with zeros what it cannot read.
        data, status = packed(job, names)
        return data, 2 if bad & set(names) else status

    hosts.says["bring"] = bring
    async with foo.running():
        unit_id, status = await end_of(foo, hosts, "*", files=files)
        assert brought(foo, unit_id) == {n: data for n, data in files.items() if n not in bad}
        assert status.state is UnitState.SUCCEEDED
        assert f"collected {10 - len(bad)} files" in status.detail
        assert "(it cannot be read there)" in status.detail


@pytest.mark.parametrize("links", [1, 5])
async def test_hard_links_come_as_files(foo, hosts, links, autojump_clock):
    add(foo, hosts, "anna")
    files = {f"{letter}{number}": letter.encode() for letter in "ab" for number in range(links + 1)}

    def bring(job, names):
        entries, first = [], {}
        for name in names:
            same = first.setdefault(name[:3], name)
            more = {} if same == name else {"type": tarfile.LNKTYPE, "linkname": f"./{same}"}
            entries.append(entry(f"./{name}", b"" if more else job.files[name], **more))
        return tar_of(*entries), 0

    hosts.says["bring"] = bring
    async with foo.running():
        unit_id, status = await end_of(foo, hosts, "*", files=files)
        assert status.detail == f"exit status 0; collected {len(files)} files"
        assert brought(foo, unit_id) == files


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "twice\0ftwice", "n" * 5000]
)
async def test_a_name_that_is_none_fails_the_unit_and_nothing_is_asked_for(
    foo, hosts, name, autojump_clock
):
    add(foo, hosts, "anna")
    hosts.says["list"] = lambda job, names: (f"f{name}\0\0".encode(), 0)
    hosts.says["bring"] = lambda job, names: pytest.fail("it was asked for")
    async with foo.running():
        unit_id, status = await end_of(foo, hosts, "**")
        assert status.detail == (
            "exit status 0; its files were not collected: host anna: collect: its answer makes no "
            "sense"
        )
        assert brought(foo, unit_id) == {}


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("u", "permission denied"),
        ("o", "neither a file nor a directory"),
        ("?", "neither a file nor a directory"),
    ],
)
async def test_what_cannot_be_brought_is_told_with_the_reason_and_not_asked_for(
    foo, hosts, kind, why, autojump_clock
):
    add(foo, hosts, "anna")
    hosts.says["list"] = lambda job, names: (f"{kind}x\0fa\0\0".encode(), 0)
    async with foo.running():
        unit_id, status = await end_of(foo, hosts, "*", files={"a": b"1"})
        assert status.detail == f"exit status 0; collected 1 file; left out 'x' ({why})"
        assert brought(foo, unit_id) == {"a": b"1"}


@pytest.mark.parametrize(
    ("bound", "value", "told"),
    [
        ("MAX_LISTED", 70, "there are more than 70 names to look through"),
        ("MAX_MEMBERS", 50, "there are more than 100000 files and directories to bring back"),
        ("MAX_NAMES", 500, "their names have more than 500 bytes"),
    ],
)
async def test_what_a_host_lists_is_remembered_up_to_a_bound(
    foo, hosts, monkeypatch, bound, value, told, autojump_clock
):
    add(foo, hosts, "anna")
    monkeypatch.setattr(finding, bound, value)
    # Each directory has one more in it, without an end.
    hosts.says["list"] = lambda job, names: (b"dfurther-and-further\0f1\0\0" * len(names), 0)
    async with foo.running():
        _, status = await end_of(foo, hosts, "**/*")
        assert status.detail.endswith(f"host anna: collect: {told}")


@pytest.mark.parametrize("said", [b"\0", b"funmatched\0", b"o\xff\0"])
async def test_a_host_that_lists_without_an_end_is_not_listened_to_until_the_deadline(
    foo, hosts, monkeypatch, said, autojump_clock
):
    add(foo, hosts, "anna", collect=10_000.0)
    monkeypatch.setattr(finding, "MAX_LISTED", 1000)
    hosts.says["list"] = lambda job, names: (said * 5000, 0)
    async with foo.running():
        started = trio.current_time()
        _, status = await end_of(foo, hosts, "a")
        assert status.detail.endswith("collect: there are more than 1000 names to look through")
        assert trio.current_time() - started < 100


ANSWERS = st.lists(
    st.sampled_from(
        [b"da", b"fa", b"lb", b"db", b"f..", b"f", b"", b"d.", b"fa/b", b"\xff\xfe", b"ux"]
    )
    | st.binary(max_size=6),
    max_size=6,
).map(lambda entries: b"".join(entry + b"\0" for entry in entries))
TARS = st.binary(max_size=2000) | st.lists(
    st.builds(
        entry,
        st.sampled_from(["./a", "a", "./b", "./a/b", "../a", "/a", "./x"]),
        st.binary(max_size=600),
        type=st.sampled_from(
            [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE]
        ),
        linkname=st.sampled_from(["", "a", "./a", "../a", "/etc/passwd"]),
    ),
    max_size=4,
).map(lambda entries: tar_of(*entries))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(ANSWERS, min_size=1), st.lists(TARS, min_size=1), st.integers(0, 255))
def test_whatever_a_host_says_the_unit_ends_and_nothing_is_written_but_its_tar(
    inline_threads, tmp_path_factory, answers, tars, status
):
    """Of what comes, only what was asked for is in that tar, and whoever unpacks it is safe."""
    root = tmp_path_factory.mktemp("any")

    async def main() -> None:
        foo, hosts = FakeNode(FakeMesh(), "foo", root), FakeHosts()
        add_ssh(foo, hosts, ssh_type("anna", collect=60.0))
        lists, brings, asked = iter(answers * 50), iter(tars * 50), set()

        def bring(job, names):
            asked.update(names)
            return next(brings, b""), status

        hosts.says = {"list": lambda job, names: (next(lists, b""), 0), "bring": bring}
        async with foo.running():
            unit_id, final = await end_of(foo, hosts, "**")
            assert final.state in {UnitState.SUCCEEDED, UnitState.FAILED}
            assert final.detail.isprintable()
            assert brought(foo, unit_id).keys() <= asked
            known = {"stdin", "stdout", "status", "files"}
            assert {path.name for path in foo.store.directory(unit_id).iterdir()} <= known
            assert not os.path.lexists(foo.store.root / "a")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
