"""What it costs to remember submissions: counted, since times depend on the machine."""

import os
from collections import Counter
from pathlib import Path

import pytest
import trio

from meshnode.work.units import tombstones
from meshnode.work.units.submissions import SYNC_DELAY

RELEASED = 20


@pytest.fixture
def syncs(monkeypatch):
    """How often each file or directory was synced, by node and name."""
    counts: Counter[tuple[str, str]] = Counter()
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def sync(descriptor, real=real):
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            counts[path.parent.name, path.name] += 1
            real(descriptor)

        monkeypatch.setattr(os, name, sync)
    return counts


async def test_a_remote_unit_costs_no_session_and_no_sync_for_its_key(
    foo, bar, syncs, autojump_clock
):
    async with foo.running(), bar.running():
        await trio.testing.wait_all_tasks_blocked()
        dials, _ = foo.mesh.dials, syncs.clear()
        unit_id = await foo.submit("bar", "cat", b"payload")
        await foo.wait_final(unit_id)
        assert foo.mesh.dials == dials + 1
        assert not [name for _, name in syncs if name.startswith(".")]


async def test_releases_of_a_second_cost_one_sync_together_and_none_before_their_answer(
    foo, bar, syncs, autojump_clock
):
    async with foo.running(), bar.running():
        units = [await foo.submit("bar", "cat") for _ in range(RELEASED)]
        for unit_id in units:
            await foo.wait_final(unit_id)
        there = [unit.unit_id for unit in bar.units.all()]
        syncs.clear()
        for unit_id in there:
            await bar.talk(f"work release {unit_id}")
        assert not syncs
        await trio.sleep(2 * SYNC_DELAY)
        # The first ever makes the file, which its directory has to keep.
        assert syncs == {("bar", tombstones.FILE): 1, (bar.store.root.parent.name, "bar"): 1}
        assert bar.left() == []


async def test_units_without_a_key_are_not_remembered(foo, syncs, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat")
        await foo.wait_final(unit_id)
        syncs.clear()
        await foo.talk(f"work release {unit_id}")
        assert foo.left() == []
        await trio.sleep(2 * SYNC_DELAY)
        assert not syncs
