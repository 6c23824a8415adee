"""A lock that takes memory only while it is needed."""

import pytest
import trio

from meshnode.resources import BriefLock


async def test_one_holds_it_and_the_others_follow_in_the_order_in_which_they_came(autojump_clock):
    lock = BriefLock()
    seen = []

    async def hold(name):
        async with lock:
            seen.append(f"{name} in")
            await trio.sleep(1)
            seen.append(f"{name} out")

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(hold, name)
            await trio.testing.wait_all_tasks_blocked()
    assert seen == ["a in", "a out", "b in", "b out", "c in", "c out"]


async def test_nothing_is_kept_when_nobody_needs_it_whatever_happened_within():
    lock = BriefLock()
    with pytest.raises(ValueError, match="within"):
        async with lock:
            raise ValueError("within")
    assert lock._lock is None


async def test_one_that_gave_up_waiting_leaves_the_lock_to_the_others(autojump_clock):
    lock = BriefLock()
    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(_try_for_a_second, lock)
            await trio.sleep(2)
        async with lock:
            assert lock._lock is not None
    assert lock._lock is None


async def _try_for_a_second(lock):
    with trio.move_on_after(1):
        async with lock:
            raise AssertionError("somebody else has it")
