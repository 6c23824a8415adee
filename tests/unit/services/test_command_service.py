"""Commands on a terminal, by themselves and as a service of the mesh."""

import os
import shlex
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from service_helpers import read_all, two_nodes

from meshnode.config.service_directives import CommandService
from meshnode.mesh.mesh import Mesh
from meshnode.net.pump import reset
from meshnode.net.sockets import CannotListen
from meshnode.services import terminal as terminals
from meshnode.services.terminal import Terminal, TerminalService, session_members


def is_gone(pid: int) -> bool:
    """Whether a process has ended and been reaped."""
    return not Path(f"/proc/{pid}").exists()


def has_ended(pid: int) -> bool:
    """Whether a process that is not our child has ended; somebody else reaps it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


async def until(condition) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.01)


async def read_until(stream, end: bytes) -> bytes:
    data = b""
    with trio.fail_after(60):
        while end not in data:
            part = await stream.receive_some(65536)
            assert part, f"the end came before {end!r}; there was {data!r}"
            data += part
    return data


# --- the terminal --------------------------------------------------------------------------------


async def test_a_command_has_a_controlling_terminal_and_a_session_of_its_own():
    terminal = Terminal.open(
        ["python3", "-c", "import os; os.write(os.open('/dev/tty', 1), b'%d' % os.getsid(0))"]
    )
    assert await read_all(terminal) == b"%d" % terminal.pid
    assert await terminal.aclose() == 0
    assert is_gone(terminal.pid)


@pytest.mark.parametrize("begun", [b"", b"a line\nand the start of another"])
async def test_the_end_of_input_is_typed(begun: bytes):
    terminal = Terminal.open(["bash", "-c", "stty -echo; echo ready; wc -c"])
    await read_until(terminal, b"ready\r\n")
    await terminal.send_all(begun)
    await terminal.send_eof()
    assert await read_all(terminal) == b"%d\r\n" % len(begun)
    assert await terminal.aclose() == 0


async def test_a_command_ends_with_its_terminal_and_its_jobs_with_it(monkeypatch):
    terminal = Terminal.open(
        ["bash", "-ic", "set -m; trap '' HUP; nohup sleep 1000 > /dev/null 2>&1 & echo =$!=; cat"]
    )
    job = int((await read_until(terminal, b"=\r\n")).split(b"=")[1])
    assert job in session_members(terminal.pid)
    monkeypatch.setattr(terminals, "GRACE", 0.1)
    await terminal.aclose()
    assert is_gone(terminal.pid)
    await until(lambda: has_ended(job))


async def test_a_command_that_is_not_there_is_an_error_and_leaves_nothing_open():
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            Terminal.open(["nosuchcommand-4711"])
    assert os.listdir("/proc/self/fd") == before


async def test_a_process_without_a_descriptor_to_watch_it_is_not_left_running(monkeypatch):
    started: list[int] = []

    def full(pid: int) -> int:
        started.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Too many"):
        Terminal.open(["sleep", "1000"])
    assert is_gone(started[0])
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def no_thread(monkeypatch) -> None:
    async def run_sync(*args, **options):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


async def test_what_runs_on_a_terminal_is_ended_also_where_there_is_no_thread(
    monkeypatch, no_thread
):
    before = os.listdir("/proc/self/fd")
    terminal = Terminal.open(["bash", "-c", "trap '' HUP; sleep 1000 & echo =$!=; wait"])
    job = int((await read_until(terminal, b"=\r\n")).split(b"=")[1])
    monkeypatch.setattr(terminals, "GRACE", 0.5)
    await terminal.aclose()
    assert is_gone(terminal.pid)
    await until(lambda: has_ended(job))
    assert os.listdir("/proc/self/fd") == before


async def test_a_command_is_reaped_also_where_there_is_no_descriptor(monkeypatch):
    def full(path: str) -> list[str]:
        raise OSError(24, "Too many open files")

    terminal = Terminal.open(["bash", "-c", "trap '' HUP; echo ready; while :; do read; done"])
    await read_until(terminal, b"ready")
    monkeypatch.setattr(terminals, "GRACE", 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", full)
        assert await terminal.aclose() == -9
    assert is_gone(terminal.pid)


async def test_a_command_that_may_not_be_killed_is_left_alone(monkeypatch):
    def not_ours(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = os.listdir("/proc/self/fd")
    terminal = Terminal.open(["bash", "-c", "trap '' HUP; echo ready; while :; do sleep 0.1; done"])
    await read_until(terminal, b"ready")
    monkeypatch.setattr(terminals, "GRACE", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", not_ours)
        assert await terminal.aclose() is None
    assert os.listdir("/proc/self/fd") == before
    os.kill(terminal.pid, 9)
    os.waitpid(terminal.pid, 0)


async def test_the_end_of_input_cannot_be_typed_on_a_terminal_that_is_gone(monkeypatch):
    def gone(descriptor: int) -> list[object]:
        raise termios.error(5, "Input/output error")

    terminal = Terminal.open(["true"])
    monkeypatch.setattr(termios, "tcgetattr", gone)
    with pytest.raises(trio.BrokenResourceError):
        await terminal.send_eof()
    await terminal.aclose()


async def test_pipelines_end_as_in_a_shell_because_no_signal_is_ignored():
    terminal = Terminal.open(["bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}"])
    assert await read_all(terminal) == b"y\r\n141\r\n"
    await terminal.aclose()


# --- the service ---------------------------------------------------------------------------------


@pytest.fixture
async def world() -> AsyncIterator[tuple[Mesh, Mesh, trio.Nursery]]:
    async with two_nodes() as (foo, bar), trio.open_nursery() as nursery:
        yield foo, bar, nursery
        nursery.cancel_scope.cancel()


async def serve(world, command: str) -> Mesh:
    foo, bar, nursery = world
    service = TerminalService(
        CommandService(service="shell", command=tuple(shlex.split(command))), bar
    )
    await nursery.start(lambda task_status: service.run(task_status=task_status))
    return foo


async def test_bash_answers_and_its_last_words_come_before_the_end(world):
    foo = await serve(world, "bash --norc --noprofile")
    async with await foo.dial("bar", "shell") as stream:
        await stream.send_all(b"stty -echo; PS1=; echo $((6*7)) is it\n")
        await read_until(stream, b"42 is it\r\n")
        await stream.send_all(b"tty; trap 'echo bye' EXIT\n")
        await read_until(stream, b"/dev/pts/")
        await stream.send_eof()
        assert (await read_all(stream)).endswith(b"bye\r\n")


async def test_words_are_split_as_a_shell_splits_them(world):
    foo = await serve(world, "printf '%s|' 'a b' c")
    async with await foo.dial("bar", "shell") as stream:
        assert await read_all(stream) == b"a b|c|"


async def test_the_service_is_advertised_with_receptors_tag(world):
    foo = await serve(world, "bash")
    await foo.ping("bar")
    (advert,) = foo.status().advertisements
    assert (advert.service, advert.conn_type) == ("shell", 1)
    assert advert.tags["type"] == "Command Service"


async def test_many_commands_at_once_each_with_its_own_terminal(world):
    foo = await serve(world, "cat")
    answers = set()

    async def one(number: int) -> None:
        async with await foo.dial("bar", "shell") as stream:
            await stream.send_all(b"I am %d\n" % number)
            # What the terminal echoes, and what cat says.
            await read_until(stream, b"I am %d\r\nI am %d\r\n" % (number, number))
            await stream.send_eof()
            await read_all(stream)
            answers.add(number)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)
    assert answers == set(range(20))


async def test_a_stream_that_breaks_ends_the_command(world):
    foo = await serve(world, "bash -c 'echo =$$=; sleep 1000'")
    stream = await foo.dial("bar", "shell")
    pid = int((await read_until(stream, b"=\r\n")).split(b"=")[1])
    await reset(stream)
    await until(lambda: is_gone(pid))


async def test_a_command_that_ends_ends_the_stream_although_input_goes_on(world):
    foo = await serve(world, "bash -c 'echo done'")
    async with await foo.dial("bar", "shell") as stream:
        assert await read_all(stream) == b"done\r\n"


async def test_a_stopped_service_ends_its_commands(world):
    foo, bar, _ = world
    service = TerminalService(
        CommandService(service="shell", command=("bash", "-c", "echo =$$=; sleep 1000")), bar
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: service.run(task_status=task_status))
        stream = await foo.dial("bar", "shell")
        pid = int((await read_until(stream, b"=\r\n")).split(b"=")[1])
        nursery.cancel_scope.cancel()
    assert is_gone(pid)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()


async def test_output_that_nobody_reads_holds_up_the_command(world):
    foo = await serve(world, "bash -c 'echo =$$=; exec yes'")
    stream = await foo.dial("bar", "shell")
    pid = int((await read_until(stream, b"=\r\n")).split(b"=")[1])
    states = []
    # Asleep, again and again: blocked in its write.
    with trio.fail_after(60):
        while states[-5:] != ["S"] * 5:
            await trio.sleep(0.05)
            states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    await reset(stream)
    await until(lambda: is_gone(pid))


async def test_a_command_that_cannot_be_run_breaks_the_stream_with_one_line(world, caplog):
    foo = await serve(world, "nosuchcommand-4711")
    stream = await foo.dial("bar", "shell")
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert line.endswith("cannot run nosuchcommand-4711: No such file or directory")


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("openpty", OSError(28, "out of pty devices")),
        ("openpty", OSError(24, "Too many open files")),
        ("posix_spawnp", BlockingIOError(11, "Resource temporarily unavailable")),
        ("pidfd_open", OSError(24, "Too many open files")),
    ],
)
async def test_what_the_system_has_none_of_costs_that_stream_and_the_next_is_served(
    world, caplog, monkeypatch, function: str, error: OSError
):
    def none_left(*args, **options):
        raise error

    foo = await serve(world, "bash -c 'echo done'")
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(os, function, none_left)
        for _ in range(3):
            stream = await foo.dial("bar", "shell")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
    assert os.listdir("/proc/self/fd") == before
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(lines) == 3
    assert all(line.endswith(f"cannot run bash: {error.strerror}") for line in lines)
    async with await foo.dial("bar", "shell") as stream:
        assert await read_all(stream) == b"done\r\n"


async def test_a_service_name_that_is_taken_is_named(world):
    await serve(world, "bash")
    second = TerminalService(CommandService(service="shell", command=("bash",)), world[1])
    with pytest.raises(CannotListen, match="service shell: "):
        await second.run()
