"""The code of streams is loaded late, perhaps when the machine has no descriptor for that."""

import errno
import os

import pytest
import trio
from mesh_helpers import line

from meshnode import node
from meshnode.errors import NoEngine
from meshnode.mesh.streams import connections

LACKS = [
    OSError(errno.EMFILE, os.strerror(errno.EMFILE), "congestion.py"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ImportError("_rust.abi3.so: cannot open shared object file: Too many open files"),
]


@pytest.fixture
def failing(monkeypatch):
    """Return a function that makes the next imports fail, and a list of those there were."""

    def begin(error: Exception, count: int) -> list[int]:
        tries: list[int] = []
        real = connections._import_engine

        def import_engine() -> None:
            tries.append(len(tries))
            if len(tries) <= count:
                raise error
            real()

        monkeypatch.setattr(connections, "_import_engine", import_engine)
        return tries

    return begin


@pytest.mark.parametrize("error", LACKS)
async def test_a_node_loads_it_as_soon_as_the_machine_has_what_that_takes(
    failing, monkeypatch, autojump_clock, error
):
    async def inline(function):
        await trio.lowlevel.checkpoint()
        return function()

    monkeypatch.setattr(node, "in_thread", inline)
    tries = failing(error, 5)
    await node._load_engine()
    assert len(tries) == 6


@pytest.mark.parametrize("error", LACKS)
async def test_a_dial_without_it_fails_as_dials_do_and_the_next_one_is_answered(
    failing, autojump_clock, error
):
    async with line("foo", "bar") as (foo, bar):
        await bar.listen("svc")
        failing(error, 1)
        with pytest.raises(NoEngine, match="cannot load what streams need"):
            await foo.dial("bar", "svc")
        async with await foo.dial("bar", "svc"):
            pass


@pytest.mark.parametrize("error", LACKS)
async def test_a_dialer_is_answered_once_the_listener_has_it(
    failing, monkeypatch, autojump_clock, error
):
    async with line("foo", "bar") as (foo, bar):
        listener = await bar.listen("svc")
        monkeypatch.setattr("meshnode.mesh.streams.layer.load_engine", lambda: None)
        tries = failing(error, 2)
        async with await foo.dial("bar", "svc") as near, await listener.accept() as far:
            assert len(tries) == 3
            await near.send_all(b"x")
            assert await far.receive_some() == b"x"


def test_what_is_not_installed_is_no_lack_that_passes(failing):
    failing(ImportError("No module named 'aioquic'"), 1)
    with pytest.raises(ImportError):
        connections.load_engine()
