"""Descriptors run out at any moment of work between two nodes: accepted work runs once, to its end.

Both nodes are in this process, so any open of either may be the one that fails.
"""

import errno
import json
import os

import pytest
import trio
from work_fakes import FakeSupervisor

from meshnode.protocol.lifecycle import UnitState

OPENS = 40
"""More opens than a submission has on both nodes together (checked below)."""


class Shortage:
    """Fails opens from the ``first`` one on, so many of them."""

    def __init__(self, first: int, count: int, lack: int = errno.EMFILE) -> None:
        self.range = range(first, first + count)
        self.lack = lack
        self.calls = 0
        self.spared = 0

    def open(self, real):
        def open_(*args, **options):
            if not self.spared:
                self.calls += 1
                if self.calls in self.range:
                    raise OSError(self.lack, os.strerror(self.lack))
            return real(*args, **options)

        return open_

    def sparing(self, function):
        """Supervisors are other processes."""

        def call(*args, **options):
            self.spared += 1
            try:
                return function(*args, **options)
            finally:
                self.spared -= 1

        return call


@pytest.fixture
def short(monkeypatch):
    def begin(*args) -> Shortage:
        shortage = Shortage(*args)
        monkeypatch.setattr(os, "open", shortage.open(os.open))
        for name in ("set", "write", "finish"):
            method = getattr(FakeSupervisor, name)
            monkeypatch.setattr(FakeSupervisor, name, shortage.sparing(method))
        return shortage

    return begin


async def run_one(foo, bar, short, *args) -> Shortage:
    async with foo.running(), bar.running():
        shortage = short(*args)
        lines = await foo.talk("work submit bar cat", b"payload" * 1000)
        accepted = lines[-1].startswith("{")
        for unit in foo.units.all():
            with trio.fail_after(10_000):
                await unit.wait_final()
        shortage.range = range(0)
        if not accepted:
            assert lines[-1].startswith("ERROR: ")
            assert bar.launcher.started == []
            return shortage
        unit_id = json.loads(lines[-1])["unitid"]
        status = foo.status(unit_id)
        assert (status.state, status.detail) == (UnitState.SUCCEEDED, "exit status 0")
        assert foo.stdout(unit_id) == b"payload" * 1000
        assert bar.launcher.started == [("cat",)]
        assert len(bar.units.all()) == 1
        return shortage


async def test_the_moments_below_cover_a_whole_submission(foo, bar, short, autojump_clock):
    assert 5 < (await run_one(foo, bar, short, 0, 0)).calls < OPENS


@pytest.mark.parametrize("count", [1, 3, 25])
@pytest.mark.parametrize("first", range(1, OPENS))
async def test_a_lack_at_any_moment_delays_accepted_work_and_no_more(
    foo, bar, short, autojump_clock, first, count
):
    await run_one(foo, bar, short, first, count)
