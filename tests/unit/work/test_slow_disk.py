"""A disk that is slow holds up whoever waits for it, and nobody else in the node's loop."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from meshnode.errors import CommandError, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.access import Caller
from meshnode.work.units.intake import UnitFile
from meshnode.work.units.keys import ALREADY_SUBMITTED
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.store import SLOW_FOR, SLOW_SECONDS, UnitStore
from meshnode.work.units.submission import Submission

PATIENCE = 60.0
"""Seconds until what never comes fails the test."""

STATUS = UnitStatus(UnitState.PENDING, "Waiting for Input Data", "cat")
ENDED = replace(STATUS, state=UnitState.CANCELED, detail="Canceled")


class Clock:
    """Tells the time that a test gives it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> UnitStore:
    store = UnitStore(tmp_path / "foo", clock=clock)
    store.prepare()
    return store


class HeldDisk:
    """An operation of a store that goes on only when a ping came back through the loop."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str) -> None:
        self.begun = trio.Event()
        self.answered = threading.Event()
        self.in_loop = False
        token, loop = trio.lowlevel.current_trio_token(), threading.get_ident()
        real = getattr(UnitStore, name)

        def held(store: UnitStore, *args: Any, **options: Any) -> Any:
            self.in_loop = threading.get_ident() == loop
            if not self.in_loop:
                token.run_sync_soon(self.begun.set)
                assert self.answered.wait(PATIENCE)
            return real(store, *args, **options)

        patch.setattr(UnitStore, name, held)

    async def answers_pings(self) -> None:
        """Have a ping answered in this loop while the disk stands still."""
        await self.begun.wait()
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, b"pong")
            assert await ours.receive_some(4) == b"pong"
        self.answered.set()


async def make_slow(store: UnitStore, clock: Clock) -> None:
    """Let the store see that the disk takes its time."""

    def take_long(*args: Any) -> list[str]:
        clock.now += 2 * SLOW_SECONDS
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnitStore, "warnings", take_long)
        await store.find_warnings()


Operation = Callable[[UnitStore, str], Any]
SHORT: dict[str, Operation] = {
    "create": lambda store, unit_id: store.add(STATUS),
    "open_stdin": lambda store, unit_id: store.open_input(unit_id, lambda: True),
    "take_stdin_away": lambda store, unit_id: store.withdraw_input(unit_id),
    "open_stream": lambda store, unit_id: store.open_output(unit_id),
    "read_stream": lambda store, unit_id: store.read_output(unit_id, 9),
    "read_status": lambda store, unit_id: store.load(unit_id),
    "warnings": lambda store, unit_id: store.find_warnings(),
    "unlink": lambda store, unit_id: store.take_away(unit_id),
    "write_status": lambda store, unit_id: store.record(
        unit_id, STATUS, replace(STATUS, detail="Starting Worker"), durable=False
    ),
}
LONG: dict[str, Operation] = {
    "prepare": lambda store, unit_id: store.open(),
    "scan": lambda store, unit_id: store.load_all(),
    "drop_stdin": lambda store, unit_id: store.drop_input(unit_id),
    "purge": lambda store, unit_id: store.delete(store.directory(unit_id), keeps_status=False),
    "empty": lambda store, unit_id: store.delete(store.directory(unit_id), keeps_status=True),
    "write_status": lambda store, unit_id: store.record(unit_id, STATUS, ENDED, durable=True),
}


def close(result: object) -> None:
    """Close what an operation has opened."""
    if isinstance(result, UnitFile):
        result.close()
    elif isinstance(result, int):
        os.close(result)


async def check_pings_go_on(store: UnitStore, name: str, operation: Operation) -> None:
    unit_id = store.create(STATUS)
    with pytest.MonkeyPatch.context() as patch, trio.fail_after(2 * PATIENCE):
        disk = HeldDisk(patch, name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.answers_pings)
            result = await operation(store, unit_id)
            # Or nothing would ever set it.
            disk.begun.set()
    assert not disk.in_loop
    close(result)


@pytest.mark.parametrize("name", SHORT)
async def test_while_the_disk_is_slow_pings_go_on_through_short_operations(
    store: UnitStore, clock: Clock, name: str
) -> None:
    await make_slow(store, clock)
    await check_pings_go_on(store, name, SHORT[name])


@pytest.mark.parametrize("name", LONG)
async def test_pings_go_on_through_long_operations_of_any_disk(store: UnitStore, name: str) -> None:
    if name == "prepare":
        store.close()
    await check_pings_go_on(store, name, LONG[name])


@pytest.mark.parametrize("name", SHORT)
async def test_no_thread_is_asked_for_what_a_quick_disk_does_in_no_time(
    store: UnitStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unit_id = store.create(STATUS)
    monkeypatch.setattr(trio.to_thread, "run_sync", lambda *args: pytest.fail("in a thread"))
    close(await SHORT[name](store, unit_id))


async def test_a_disk_that_was_slow_counts_as_quick_again_after_a_while(
    store: UnitStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit_id = store.create(STATUS)
    await make_slow(store, clock)
    clock.now += SLOW_FOR
    monkeypatch.setattr(trio.to_thread, "run_sync", lambda *args: pytest.fail("in a thread"))
    assert await store.load(unit_id) == STATUS


async def test_two_submissions_with_one_key_make_one_unit_also_on_a_slow_disk(foo) -> None:
    submission = Submission("foo", "cat", key="k")
    outcomes: list[str] = []

    async def submit() -> None:
        try:
            unit = await foo.units.create(submission, Caller(trusted=True))
        except CommandError as error:
            outcomes.append(str(error))
        else:
            outcomes.append(unit.unit_id)

    async with foo.running():
        real_add = foo.mortal.add

        async def add_slowly(status: UnitStatus) -> str:
            await trio.testing.wait_all_tasks_blocked()
            return await real_add(status)

        foo.mortal.add = add_slowly
        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            nursery.start_soon(submit)
        (unit,) = foo.units.all()
        refusal = f"{ALREADY_SUBMITTED} {unit.unit_id}"
        assert sorted(outcomes) == sorted([unit.unit_id, refusal])


async def test_a_store_counts_what_was_slow_and_what_was_refused(
    store: UnitStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_this_thread(act: Callable[..., Any], *args: object) -> Any:
        return act(*args)

    monkeypatch.setattr("meshnode.work.units.store.in_thread_or_here", in_this_thread)
    unit_id = await store.add(STATUS)
    assert (store.slow_operations, store.refused_writes) == (0, 0)

    def full(*args: object, **how: object) -> None:
        clock.now += 2 * SLOW_SECONDS
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_first", full)
    with pytest.raises(WorkError):
        await store.add(STATUS)
    assert (store.slow_operations, store.refused_writes) == (1, 1)
    monkeypatch.setattr(store, "write_status", full)
    with pytest.raises(OSError, match="No space"):
        await store.record(unit_id, STATUS, ENDED, durable=True)
    assert store.refused_writes == 2
    assert (await store.room()).f_bavail > 0
