"""What every runner does, whatever runs the work: started once, ended on request, never lost.

A runner has a class here that says how its far side is looked at and what can befall it.
"""

import io
import json
import tarfile
from contextlib import asynccontextmanager

import pytest
import trio
from ssh_fakes import FakeHosts, add_ssh, ssh_type
from work_fakes import LONG, FakeNode

from meshnode.protocol.control import OUTPUT_KEY
from meshnode.protocol.lifecycle import UnitState


class OfCommands:
    """Commands of this machine: a supervisor runs each."""

    def __init__(self, foo: FakeNode, bar: FakeNode) -> None:
        self.node = foo

    @asynccontextmanager
    async def there(self):
        yield

    async def submit(self, **fields: str) -> str:
        return await self.node.submit("foo", "wait", b"payload", **fields)

    @property
    def starts(self) -> int:
        return len(self.node.launcher.started)

    def job(self):
        (supervisor,) = self.node.launcher.supervisors.values()
        return supervisor

    def payload(self) -> bytes:
        return self.node.store.stdin_path(self.job().unit_id).read_bytes()

    def finish(self, code: int) -> None:
        state = UnitState.FAILED if code else UnitState.SUCCEEDED
        self.job().finish(state, f"exit status {code}", code)

    def lose(self) -> None:
        self.job().ended.set()

    def runs(self) -> bool:
        return not self.job().ended.is_set()

    def cut(self) -> None:
        """Nothing is between a node and its supervisors."""

    def put(self, files: dict[str, bytes]) -> None:
        put(self.node, self.job().unit_id, files)

    def left(self) -> list[object]:
        return [path for path in self.node.store.root.iterdir() if path.is_dir()]


class OfNodes(OfCommands):
    """Units of other nodes: bar runs each as a command."""

    def __init__(self, foo: FakeNode, bar: FakeNode) -> None:
        self.node = foo
        self.bar = bar

    @asynccontextmanager
    async def there(self):
        async with self.bar.running():
            yield

    async def submit(self, **fields: str) -> str:
        return await self.node.submit("bar", "wait", b"payload", **fields)

    @property
    def starts(self) -> int:
        return len(self.bar.launcher.started)

    def job(self):
        (supervisor,) = self.bar.launcher.supervisors.values()
        return supervisor

    def payload(self) -> bytes:
        return self.bar.store.stdin_path(self.job().unit_id).read_bytes()

    def cut(self) -> None:
        self.node.mesh.break_all()

    def put(self, files: dict[str, bytes]) -> None:
        put(self.bar, self.job().unit_id, files)

    def left(self) -> list[object]:
        return [path for path in self.bar.store.root.iterdir() if path.is_dir()]


class OfHosts:
    """Units of hosts with only SSH."""

    def __init__(self, foo: FakeNode, bar: FakeNode) -> None:
        self.node = foo
        self.hosts = FakeHosts()
        add_ssh(foo, self.hosts, ssh_type("anna", "bert"))

    @asynccontextmanager
    async def there(self):
        yield

    async def submit(self, **fields: str) -> str:
        return await self.node.submit("foo", "far", b"payload", **fields)

    @property
    def starts(self) -> int:
        return len(self.hosts.starts)

    def job(self):
        (job,) = self.hosts.jobs.values()
        return job

    def payload(self) -> bytes:
        return self.job().parts["stdin"]

    def finish(self, code: int) -> None:
        self.job().finish(code)

    def lose(self) -> None:
        self.job().lose()

    def runs(self) -> bool:
        return any(job.is_claimed and job.end is None for job in self.hosts.jobs.values())

    def cut(self) -> None:
        self.hosts.cut()

    def put(self, files: dict[str, bytes]) -> None:
        self.job().files |= files

    def left(self) -> list[object]:
        return list(self.hosts.jobs)


def put(node: FakeNode, unit_id: str, files: dict[str, bytes]) -> None:
    """Write files as the command of a unit does."""
    for name, data in files.items():
        path = node.store.work_directory(unit_id) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def brought(node: FakeNode, unit_id: str) -> dict[str, bytes]:
    """Return the files that a node has of a unit; the status has their size."""
    data = node.store.output_path(unit_id, "files").read_bytes()
    assert node.status(unit_id).files_size == len(data)
    assert node.store.read_status(unit_id).files_size == len(data)
    if not data:
        return {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar if one.isreg()}


@pytest.fixture(params=[OfCommands, OfNodes, OfHosts])
def runner(request, foo, bar):
    return request.param(foo, bar)


async def started(runner, *globs: str) -> str:
    """Submit work that brings files back which match, and return it when it runs."""
    unit_id = await runner.submit(**({OUTPUT_KEY: json.dumps(globs)} if globs else {}))
    await runner.node.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
    return unit_id


async def ask(runner, subcommand: str, unit_id: str) -> list:
    return await runner.node.talk({"command": "work", "subcommand": subcommand, "unitid": unit_id})


@pytest.mark.parametrize("code", [0, 3])
async def test_work_is_started_once_with_its_payload_and_ends_as_it_does(
    runner, code, autojump_clock
):
    async with runner.there(), runner.node.running():
        unit_id = await started(runner)
        assert runner.payload() == b"payload"
        runner.job().write(b"some output")
        runner.finish(code)
        status = await runner.node.wait_final(unit_id)
        assert status.state is (UnitState.FAILED if code else UnitState.SUCCEEDED)
        assert (status.detail, status.exit_code) == (f"exit status {code}", code)
        assert runner.node.stdout(unit_id) == b"some output"
        assert status.stdout_size == len(b"some output")
        assert runner.starts == 1


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_work_goes_on_over_a_restart_and_output_from_the_byte_on_disk(
    runner, how, autojump_clock
):
    async with runner.there():
        async with runner.node.running():
            unit_id = await started(runner)
            runner.job().write(b"before ")
            with trio.fail_after(LONG):
                while runner.node.stdout(unit_id) != b"before ":
                    await trio.sleep(1)
            if how == "killed":
                runner.node.kill()
        runner.node.mesh.heal()
        runner.job().write(b"while ")
        async with runner.node.running():
            runner.job().write(b"after")
            runner.finish(0)
            await runner.node.wait_final(unit_id)
            assert runner.node.stdout(unit_id) == b"before while after"
            assert runner.starts == 1


async def test_what_ended_while_no_node_was_there_is_known_to_its_next_start(
    runner, autojump_clock
):
    async with runner.there():
        async with runner.node.running():
            unit_id = await started(runner)
        runner.job().write(b"all")
        runner.finish(5)
        async with runner.node.running():
            status = await runner.node.wait_final(unit_id)
            assert (status.state, status.exit_code) == (UnitState.FAILED, 5)
            assert runner.node.stdout(unit_id) == b"all"


async def test_a_way_there_that_is_cut_again_and_again_costs_nothing(runner, autojump_clock):
    async with runner.there(), runner.node.running():
        unit_id = await started(runner)
        for number in range(5):
            runner.job().write(f"{number} ".encode())
            runner.cut()
            await trio.sleep(1)
        runner.finish(0)
        status = await runner.node.wait_final(unit_id)
        assert status.state is UnitState.SUCCEEDED
        assert runner.node.stdout(unit_id) == b"0 1 2 3 4 "
        assert runner.starts == 1


async def test_a_cancel_ends_the_work_there_and_then_the_unit(runner, autojump_clock):
    async with runner.there(), runner.node.running():
        unit_id = await started(runner)
        runner.job().write(b"part")
        await ask(runner, "cancel", unit_id)
        status = await runner.node.wait_final(unit_id)
        assert (status.state, status.detail) == (UnitState.CANCELED, "Canceled")
        assert not (runner.left() and runner.runs())
        assert runner.node.stdout(unit_id) == b"part"


@pytest.mark.parametrize("subcommand", ["release", "force-release"])
@pytest.mark.parametrize("ended", [False, True])
async def test_a_release_leaves_nothing_here_and_nothing_there(
    runner, subcommand, ended, autojump_clock
):
    async with runner.there(), runner.node.running():
        unit_id = await started(runner)
        if ended:
            runner.finish(0)
            await runner.node.wait_final(unit_id)
        await ask(runner, subcommand, unit_id)
        with trio.fail_after(LONG):
            while runner.left():
                await trio.sleep(1)
        assert runner.node.units.all() == ()
        assert runner.starts == 1


async def test_work_whose_far_side_is_lost_fails_and_says_so(runner, autojump_clock):
    async with runner.there(), runner.node.running():
        unit_id = await started(runner)
        runner.lose()
        status = await runner.node.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail.startswith("lost: ")
        assert runner.starts == 1


async def test_an_end_stays_what_it_is_over_a_restart(runner, autojump_clock):
    async with runner.there():
        async with runner.node.running():
            unit_id = await started(runner)
            runner.finish(4)
            before = await runner.node.wait_final(unit_id)
        async with runner.node.running():
            assert runner.node.status(unit_id) == before
            record = json.loads((runner.node.store.root / unit_id / "status").read_text())
            assert record["State"] == int(UnitState.FAILED)


FILES = {"out/a.txt": b"1" * 300_000, "out/b.log": b"2", "c.txt": b"", "DEPS/in.txt": b"sent"}


@pytest.mark.parametrize(("code", "state"), [(0, UnitState.SUCCEEDED), (3, UnitState.FAILED)])
async def test_files_that_match_are_here_when_the_unit_is_final_however_it_ended(
    runner, code, state, autojump_clock
):
    async with runner.there(), runner.node.running():
        unit_id = await started(runner, "**/*.txt", "*.png")
        runner.put(FILES)
        runner.finish(code)
        status = await runner.node.wait_final(unit_id)
        told = f"exit status {code}; collected 2 files; nothing matches '*.png'"
        assert (status.state, status.detail) == (state, told)
        assert brought(runner.node, unit_id) == {"out/a.txt": b"1" * 300_000, "c.txt": b""}
        assert runner.starts == 1


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_files_come_over_a_restart_and_nothing_runs_again(runner, how, autojump_clock):
    async with runner.there():
        async with runner.node.running():
            unit_id = await started(runner, "*")
            if how == "killed":
                runner.node.kill()
        runner.node.mesh.heal()
        runner.put(FILES)
        runner.finish(0)
        async with runner.node.running():
            status = await runner.node.wait_final(unit_id)
            assert status.detail == "exit status 0; collected 3 files"
            assert brought(runner.node, unit_id) == {
                name: data for name, data in FILES.items() if not name.startswith("DEPS")
            }
            assert runner.starts == 1


async def test_of_a_unit_that_is_canceled_what_is_there_is_brought_back(runner, autojump_clock):
    async with runner.there(), runner.node.running():
        unit_id = await started(runner, "*")
        runner.put({"a": b"1"})
        await ask(runner, "cancel", unit_id)
        status = await runner.node.wait_final(unit_id)
        assert (status.state, status.detail) == (UnitState.CANCELED, "Canceled")
        assert brought(runner.node, unit_id) == {"a": b"1"}


async def test_of_a_unit_whose_far_side_is_lost_what_is_there_is_brought_back(
    runner, autojump_clock
):
    async with runner.there(), runner.node.running():
        unit_id = await started(runner, "*")
        runner.put({"a": b"1"})
        runner.lose()
        status = await runner.node.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail.startswith("lost: ")
        assert status.detail.endswith("; collected 1 file")
        assert brought(runner.node, unit_id) == {"a": b"1"}


async def test_a_unit_that_brings_nothing_back_has_no_files(runner, autojump_clock):
    async with runner.there(), runner.node.running():
        unit_id = await started(runner)
        runner.finish(0)
        assert (await runner.node.wait_final(unit_id)).files_size is None
