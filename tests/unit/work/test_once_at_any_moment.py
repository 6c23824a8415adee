"""Once, between nodes: every event at every moment of a submission, and what becomes of the unit.

docs/guarantees.md has the table. A moment is one send or receive on either side of any stream, from
the first dial to the last byte of results.
"""

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import trio
import trio.testing
from work_fakes import LONG, FakeMesh, FakeNode, inline_run_sync

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.submissions import SYNC_DELAY

PAYLOAD = b"payload"

STEPS = 36
"""More than one submission has sends and receives, on either end (test_remote_work checks it)."""

MEMORY = Path("/dev/shm")


@dataclass
class Scene:
    """foo submits to bar, and at one moment something happens."""

    foo: FakeNode
    bar: FakeNode
    root: Path
    step: int
    happened: bool = False
    unit_id: str = ""

    async def submit(self) -> None:
        """Submit, as a client that need not live to see the answer."""
        client = self.foo.connect()
        await client.send_all(b"work submit bar cat\n" + PAYLOAD)
        await client.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        (unit,) = self.foo.units.all()
        self.unit_id = unit.unit_id

    def at_the_moment(self, act: Callable[[], None]) -> None:
        def before_operation(count: int) -> None:
            if count == self.step:
                self.happened = True
                act()

        self.foo.mesh.before_operation = before_operation

    def is_over(self) -> None:
        """Have nothing happen any more."""
        self.foo.mesh.before_operation = lambda count: None
        self.foo.mesh.heal()

    async def release_all_at_bar(self) -> None:
        for unit in self.bar.units.all():
            await self.bar.talk(f"work release {unit.unit_id}")

    async def ends(self) -> UnitState:
        """Wait until the unit has ended at foo; return how, after a look at the truth of it."""
        status = await self.foo.wait_final(self.unit_id)
        started = len(self.bar.launcher.started)
        assert started <= 1
        if status.state is UnitState.SUCCEEDED:
            assert started == 1
            assert self.foo.stdout(self.unit_id) == PAYLOAD
        elif status.state is UnitState.CANCELED:
            assert started == 0
        elif self.bar.is_receptor and status.detail.startswith("Error reading input data"):
            # It has noticed the break, and that is all that became of the work.
            assert started == 0
        else:
            assert status.detail.startswith(("lost: ", "Remote work unit is gone"))
        assert self.foo.store.read_status(self.unit_id) == status
        return status.state

    def was_canceled(self) -> None:
        """Check that what somebody canceled before it ran is not told as another's failure."""
        assert not self.foo.status(self.unit_id).detail.startswith("Error reading input data")


Event = Callable[[Scene], Awaitable[UnitState | None]]
EVENTS: dict[str, Event] = {}
ONLY_A_DELAY = set()
"""Events that no evidence is lost by: the work runs and succeeds."""


def event(*, only_a_delay: bool = False) -> Callable[[Event], Event]:
    def enter(function: Event) -> Event:
        name = function.__name__.replace("_", " ")
        EVENTS[name] = function
        if only_a_delay:
            ONLY_A_DELAY.add(name)
        return function

    return enter


@event(only_a_delay=True)
async def the_link_is_cut(scene):
    async with scene.foo.running(), scene.bar.running():
        scene.at_the_moment(scene.foo.mesh.cut)
        await scene.submit()
        await trio.sleep(7)
        scene.foo.mesh.heal()
        return await scene.ends()


@event(only_a_delay=True)
async def foo_is_killed(scene):
    async with scene.bar.running():
        async with scene.foo.running():
            scene.at_the_moment(scene.foo.kill)
            await scene.submit()
        scene.foo.mesh.heal()
        async with scene.foo.running():
            return await scene.ends()


@event(only_a_delay=True)
async def bar_is_killed(scene):
    async with scene.foo.running():
        async with scene.bar.running():
            scene.at_the_moment(scene.bar.kill)
            await scene.submit()
        scene.foo.mesh.heal()
        async with scene.bar.running():
            return await scene.ends()


@event(only_a_delay=True)
async def both_are_killed(scene):
    async with scene.bar.running(), scene.foo.running():
        scene.at_the_moment(lambda: (scene.foo.kill(), scene.bar.kill()))
        await scene.submit()
    scene.foo.mesh.heal()
    async with scene.bar.running(), scene.foo.running():
        return await scene.ends()


@event()
async def the_link_is_cut_and_somebody_releases_what_bar_has(scene):
    async with scene.foo.running(), scene.bar.running():
        scene.at_the_moment(scene.foo.mesh.cut)
        await scene.submit()
        await scene.release_all_at_bar()
        scene.foo.mesh.heal()
        return await scene.ends()


@event()
async def foo_is_killed_and_somebody_releases_what_bar_has(scene):
    async with scene.bar.running():
        async with scene.foo.running():
            scene.at_the_moment(scene.foo.kill)
            await scene.submit()
        await scene.release_all_at_bar()
        scene.foo.mesh.heal()
        async with scene.foo.running():
            return await scene.ends()


@event()
async def foo_is_killed_and_bar_restarted_after_a_release_there(scene):
    async with scene.bar.running():
        async with scene.foo.running():
            scene.at_the_moment(scene.foo.kill)
            await scene.submit()
        await scene.release_all_at_bar()
        await trio.sleep(2 * SYNC_DELAY)
    scene.foo.mesh.heal()
    async with scene.bar.running(), scene.foo.running():
        return await scene.ends()


@event()
async def foo_is_killed_and_bar_killed_just_after_a_release_there(scene):
    """Before the tombstone is on disk: what is buried tells the same."""
    async with scene.bar.running():
        async with scene.foo.running():
            scene.at_the_moment(scene.foo.kill)
            await scene.submit()
        await scene.release_all_at_bar()
        scene.bar.kill()
    scene.foo.mesh.heal()
    async with scene.bar.running(), scene.foo.running():
        return await scene.ends()


@event()
async def bar_comes_back_with_another_directory(scene):
    async with scene.foo.running():
        async with scene.bar.running():
            scene.at_the_moment(scene.bar.kill)
            await scene.submit()
        scene.foo.mesh.heal()
        if scene.happened:
            scene.bar.store.root.rename(scene.root / "unmounted")
        async with scene.bar.running():
            return await scene.ends()


@event()
async def foo_is_killed_and_bar_has_another_directory_when_it_is_back(scene):
    async with scene.bar.running(), scene.foo.running():
        scene.at_the_moment(scene.foo.kill)
        await scene.submit()
    scene.foo.mesh.heal()
    if scene.happened:
        shutil.rmtree(scene.bar.store.root)
    async with scene.bar.running(), scene.foo.running():
        return await scene.ends()


@event()
async def bar_comes_back_with_a_copy_from_before(scene):
    async with scene.bar.running():
        await trio.testing.wait_all_tasks_blocked()
    shutil.copytree(scene.bar.store.root, scene.root / "backup")
    async with scene.foo.running():
        async with scene.bar.running():
            scene.at_the_moment(scene.bar.kill)
            await scene.submit()
        scene.foo.mesh.heal()
        if scene.happened:
            shutil.rmtree(scene.bar.store.root)
            shutil.copytree(scene.root / "backup", scene.bar.store.root)
        async with scene.bar.running():
            return await scene.ends()


@event()
async def bars_directory_is_away_while_it_takes_the_work(scene):
    """It makes another one; the first is there again after its restart."""
    async with scene.foo.running():
        async with scene.bar.running():
            await trio.testing.wait_all_tasks_blocked()
            scene.bar.store.root.rename(scene.root / "unmounted")
            scene.at_the_moment(scene.bar.kill)
            await scene.submit()
        scene.foo.mesh.heal()
        if scene.happened:
            if scene.bar.store.root.exists():
                scene.bar.store.root.rename(scene.root / "covered")
            (scene.root / "unmounted").rename(scene.bar.store.root)
        async with scene.bar.running():
            return await scene.ends()


@event()
async def bar_comes_back_with_its_units_damaged(scene):
    async with scene.foo.running():
        async with scene.bar.running():
            scene.at_the_moment(scene.bar.kill)
            await scene.submit()
        scene.foo.mesh.heal()
        if scene.happened:
            for name in scene.bar.left():
                (scene.bar.store.directory(name) / "status").write_bytes(b"{")
                scene.bar.launcher.supervisors.pop(name, None)
        async with scene.bar.running():
            return await scene.ends()


@event()
async def bars_damaged_units_are_deleted_by_hand_before_foo_is_back(scene):
    async with scene.bar.running(), scene.foo.running():
        scene.at_the_moment(scene.foo.kill)
        await scene.submit()
    for name in scene.bar.left():
        (scene.bar.store.directory(name) / "status").write_bytes(b"{")
    async with scene.bar.running():
        shutil.rmtree(scene.bar.store.root / ".broken", ignore_errors=True)
    scene.foo.mesh.heal()
    async with scene.bar.running(), scene.foo.running():
        return await scene.ends()


@event()
async def the_link_is_cut_and_the_unit_canceled(scene):
    async with scene.foo.running(), scene.bar.running():
        scene.at_the_moment(scene.foo.mesh.cut)
        await scene.submit()
        await scene.foo.talk(f"work cancel {scene.unit_id}")
        scene.is_over()
        state = await scene.ends()
        scene.was_canceled()
        await scene.foo.talk(f"work release {scene.unit_id}")
        await nothing_is_left(scene)
        return state


@event()
async def foo_is_killed_and_the_unit_canceled_when_it_is_back(scene):
    async with scene.bar.running():
        async with scene.foo.running():
            scene.at_the_moment(scene.foo.kill)
            await scene.submit()
        async with scene.foo.running():
            await scene.foo.talk(f"work cancel {scene.unit_id}")
            scene.is_over()
            state = await scene.ends()
            scene.was_canceled()
            await scene.foo.talk(f"work release {scene.unit_id}")
            await nothing_is_left(scene)
            return state


@event()
async def the_link_is_cut_and_the_unit_released(scene):
    async with scene.foo.running(), scene.bar.running():
        scene.at_the_moment(scene.foo.mesh.cut)
        await scene.submit()
        await scene.foo.talk(f"work release {scene.unit_id}")
        scene.is_over()
        await trio.sleep(100)
        assert len(scene.bar.launcher.started) <= 1
        assert scene.foo.units.all() == ()
        await nothing_is_left(scene)
        return


async def nothing_is_left(scene):
    """Neither at the submitting node nor at the running one."""
    await trio.sleep(60)
    assert scene.foo.left() == []
    if not scene.bar.is_receptor:
        assert scene.bar.units.all() == ()
        assert scene.bar.left() == []


def play(name: str, step: int, kind: str) -> tuple[bool, UnitState | None]:
    """Have the event happen before that operation; return whether it did, and the unit's end."""
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory,
        mock.patch.object(trio.to_thread, "run_sync", inline_run_sync),
    ):
        root, mesh = Path(directory), FakeMesh()
        scene = Scene(FakeNode(mesh, "foo", root), FakeNode(mesh, "bar", root), root, step)
        scene.bar.is_receptor = kind == "receptor"

        async def main() -> UnitState | None:
            with trio.fail_after(LONG):
                return await EVENTS[name](scene)

        state = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        return scene.happened, state


@pytest.mark.parametrize("kind", ["meshnode", "receptor"])
@pytest.mark.parametrize("name", EVENTS)
def test_whatever_happens_at_whatever_moment_work_runs_once_at_most_and_its_state_is_true(
    name, kind
):
    moments = 0
    for step in range(1, STEPS):
        happened, state = play(name, step, kind)
        moments += happened
        if not happened or (name in ONLY_A_DELAY and kind == "meshnode"):
            assert state in {UnitState.SUCCEEDED, None} or "cancel" in name or "release" in name
    assert moments > 10


@pytest.mark.parametrize("name", sorted(ONLY_A_DELAY))
def test_what_loses_no_evidence_only_delays(name):
    for step in range(1, STEPS):
        assert play(name, step, "meshnode")[1] is UnitState.SUCCEEDED
