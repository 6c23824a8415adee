"""A system that starts no thread is told from a fault of ours, and waited for where that helps."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
import trio

from meshnode.net.addresses import MAX_OF_ONE, Lookups
from meshnode.resources import NoThread, in_thread


@pytest.fixture
def no_thread(monkeypatch) -> Callable[[float], None]:
    """Have the system start no thread until a time."""
    until = float("inf")
    start = trio.to_thread.run_sync

    async def run_sync(function, *args, **options):
        if trio.current_time() < until:
            raise RuntimeError("can't start new thread")
        return await start(function, *args, **options)

    def set_until(time: float) -> None:
        nonlocal until
        until = time

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    return set_until


async def test_a_thread_that_cannot_be_had_is_an_error_of_the_system(no_thread) -> None:
    with pytest.raises(OSError, match="no thread can be started now"):
        await in_thread(int)


async def test_a_thread_is_waited_for_as_long_as_is_asked(no_thread, autojump_clock) -> None:
    no_thread(trio.current_time() + 5)
    with pytest.raises(NoThread):
        await in_thread(int, "7", wait=2)
    assert await in_thread(int, "7", wait=6) == 7


async def test_what_a_function_raises_is_its_own() -> None:
    def fail() -> None:
        raise RuntimeError("another fault")

    with pytest.raises(RuntimeError, match="another fault"):
        await in_thread(fail, wait=1)


def test_python_says_what_we_look_for() -> None:
    program = """
import threading, trio
from meshnode.resources import NoThread, in_thread
threading.stack_size(1 << 46)  # more than there is address space
try:
    trio.run(in_thread, int)
except NoThread:
    print("none")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "none\n"


async def test_a_name_is_looked_up_and_an_error_is_the_systems(monkeypatch) -> None:
    trio.socket.set_custom_hostname_resolver(Lookups())
    assert await trio.socket.getaddrinfo("localhost", 80)
    name = await trio.socket.getnameinfo(("127.0.0.1", 80), 0)
    assert name[1] in {"80", "http"}


async def test_a_look_up_without_a_thread_is_an_error_of_the_connection(no_thread) -> None:
    trio.socket.set_custom_hostname_resolver(Lookups())
    with pytest.raises(OSError, match="no thread can be started now"):
        await trio.open_tcp_stream("localhost", 1)


async def test_look_ups_that_hang_leave_threads_to_others(monkeypatch, autojump_clock) -> None:
    """Names are those of the configuration, but peers decide how often they are looked up."""
    waiting: Counter[bytes] = Counter()

    async def run_sync(function, host, *args, limiter, **options):
        async with limiter:
            waiting[host] += 1
            await trio.sleep(60)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    lookups = Lookups()
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(lookups.getaddrinfo, b"slow.example", 80)
        await trio.sleep(1)
        assert waiting == {b"slow.example": MAX_OF_ONE}
        nursery.start_soon(lookups.getaddrinfo, b"peer.example", 80)
        await trio.sleep(1)
        assert waiting[b"peer.example"] == 1
        assert trio.to_thread.current_default_thread_limiter().available_tokens > 0
        nursery.cancel_scope.cancel()
