"""Units with the real launcher, supervisors and processes."""

import json
import os
import random
import signal
from contextlib import ExitStack, suppress

import pytest
import trio
from work_fakes import FakeMesh, FakeNode

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.client import Launcher
from meshnode.work.local.processes import ProcessHandle, end_unit_processes, find_unit_processes
from meshnode.work.local.worktypes import CommandType

TYPES = {
    "cat": CommandType("cat"),
    "count": CommandType("bash", ("-c", "for i in {1..5}; do echo $i; done")),
    "upper": CommandType("bash", ("-c", "while read -r line; do echo ${line^^}; done")),
    "ls": CommandType("ls", allow_runtime_params=True),
    "sleep": CommandType("bash", ("-c", "echo started; setsid -f sleep 600; sleep 600")),
    "locks": CommandType(
        "bash", ("-c", 'exec 9<"$MESHNODE_UNIT_DIR"; flock 9; echo locked; sleep 600')
    ),
    "endless": CommandType("yes", max_output=70_000),
    "nosuch": CommandType("no-such-program"),
    "fail": CommandType("bash", ("-c", "echo out; echo err >&2; exit 7")),
}


class RealLauncher(Launcher):
    open_process = staticmethod(ProcessHandle.open)
    end_leftovers = staticmethod(end_unit_processes)


class RealNode(FakeNode):
    def __init__(self, mesh, node_id, root):
        super().__init__(mesh, node_id, root)
        self.work_types = TYPES

    def running(self):
        self.launcher = RealLauncher()
        return super().running()


@pytest.fixture
async def foo(tmp_path):
    node = RealNode(FakeMesh(), "foo", tmp_path)
    yield node
    for name in node.left():
        directory = node.store.directory(name)
        with trio.CancelScope(shield=True):
            await end_unit_processes(directory, 0)


@pytest.fixture
def bar(foo, tmp_path):
    return RealNode(foo.mesh, "bar", tmp_path)


async def test_the_guides_commands_give_the_guides_results(foo):
    async with foo.running():
        count = await foo.submit("foo", "count")
        upper = await foo.submit("foo", "upper", b"hi\ni am foo\nwhat is your name\n")
        assert (await foo.talk(f"work results {count}"))[1:] == ["1", "2", "3", "4", "5"]
        assert (await foo.talk(f"work results {upper}"))[1:] == [
            "HI",
            "I AM FOO",
            "WHAT IS YOUR NAME",
        ]
        status = await foo.wait_final(upper)
        assert (status.detail, status.exit_code, status.stdin_size) == ("exit status 0", 0, 30)


async def test_runtime_params_are_words_and_stderr_is_output(foo, tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "file").touch()
    async with foo.running():
        listed = await foo.submit("foo", "ls", params=f"--all '{tmp_path}/a b'")
        assert (await foo.talk(f"work results {listed}"))[1:] == [".", "..", "file"]
        failed = await foo.submit("foo", "fail")
        status = await foo.wait_final(failed)
        assert (status.state, status.detail) == (UnitState.FAILED, "exit status 7")
        assert foo.stdout(failed) == b"out\nerr\n"


async def test_a_command_that_is_not_there_fails_its_unit_with_the_reason(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "nosuch")
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.FAILED
        assert status.detail == 'exec: "no-such-program": executable file not found in $PATH'
        assert (await foo.talk(f"work results {unit_id}"))[1:] == []


async def test_cancel_ends_the_whole_tree_also_what_changed_its_session(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "sleep")
        directory = foo.store.directory(unit_id)
        assert find_unit_processes(directory)
        await foo.talk(f"work cancel {unit_id}")
        assert foo.status(unit_id).state is UnitState.CANCELED
        assert find_unit_processes(directory) == []


async def test_a_unit_whose_command_locked_its_directory_is_canceled_and_released(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "locks")
        stdout = foo.store.stdout_path(unit_id)
        while b"locked" not in stdout.read_bytes():
            await trio.sleep(0.01)
        assert await foo.talk(f"work cancel {unit_id}") == [f'{{"cancelled":"{unit_id}"}}']
        assert await foo.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']


async def test_a_killed_supervisor_is_noticed_and_its_processes_are_ended(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "sleep")
        with ExitStack() as stack:
            commands = []
            for process in find_unit_processes(foo.store.directory(unit_id)):
                with suppress(ProcessLookupError):  # of those that only start others
                    commands.append(stack.enter_context(ProcessHandle.open(process)))
            os.kill(foo.status(unit_id).supervisor.pid, signal.SIGKILL)
            status = await foo.wait_final(unit_id)
            assert status.detail.startswith("lost: ")
            for command in commands:
                await command.wait_end()


async def test_a_restarted_node_adopts_what_runs(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "sleep")
    async with foo.running():
        assert foo.status(unit_id).state is UnitState.RUNNING
        assert (await foo.talk(f"work cancel {unit_id}")) == [f'{{"cancelled":"{unit_id}"}}']
        assert foo.status(unit_id).state is UnitState.CANCELED


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
async def test_remote_work_is_byte_exact(foo, bar, size):
    payload = random.Random(size).randbytes(size)
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat", payload)
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.SUCCEEDED
        assert foo.stdout(unit_id) == payload


async def test_a_limit_of_output_is_exact_on_both_nodes(foo, bar):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "endless")
        status = await foo.wait_final(unit_id)
        assert status.detail == "stopped: it printed more than 70000 bytes"
        assert foo.stdout(unit_id) == b"y\n" * 35_000
        (there,) = bar.units.all()
        assert bar.stdout(there.unit_id) == foo.stdout(unit_id)


async def test_many_units_at_once_all_end(foo, bar):
    async with foo.running(), bar.running():
        ended = []

        async def one(number):
            unit_id = await foo.submit("bar" if number % 2 else "foo", "cat", b"%d" % number)
            await foo.wait_final(unit_id)
            ended.append(foo.stdout(unit_id))

        async with trio.open_nursery() as clients:
            for number in range(20):
                clients.start_soon(one, number)
        assert sorted(ended) == sorted(b"%d" % number for number in range(20))
        (line,) = await foo.talk("work list")
        assert {unit["StateName"] for unit in json.loads(line).values()} == {"Succeeded"}
