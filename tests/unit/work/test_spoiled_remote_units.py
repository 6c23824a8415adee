"""Remote units end, and are forgotten, whatever became of their files here."""

import os

import pytest
import trio
from strange_files import STRANGE, put_strange

from meshnode.protocol.lifecycle import UnitState

NAMES = ("status", "stdin", "stdout", "status.tmp", "")
CASES = [(name, what) for name in NAMES for what in STRANGE]


def spoil(directory, name, what):
    put_strange(directory / name if name else directory, what)


@pytest.mark.parametrize(("name", "what"), CASES)
@pytest.mark.parametrize("subcommand", ["cancel", "release", "force-release"])
async def test_a_running_remote_unit_can_be_ended(foo, bar, autojump_clock, name, what, subcommand):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        (there,) = bar.units.all()
        spoil(foo.store.directory(unit_id), name, what)
        with trio.fail_after(600):
            word = {"cancel": "cancelled"}.get(subcommand, "released")
            assert await foo.talk(f"work {subcommand} {unit_id}") == [f'{{"{word}":"{unit_id}"}}']
            if subcommand == "cancel":
                assert (await foo.wait_final(unit_id)).state in {
                    UnitState.CANCELED,
                    UnitState.FAILED,
                }
                assert await foo.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert there.is_final
        assert foo.units.all() == bar.units.all() == ()


@pytest.mark.parametrize(("name", "what"), CASES)
async def test_a_finished_remote_unit_is_released(foo, bar, autojump_clock, name, what):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat", b"abc")
        await foo.wait_final(unit_id)
        spoil(foo.store.directory(unit_id), name, what)
        with trio.fail_after(600):
            assert await foo.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert foo.units.all() == bar.units.all() == ()
        assert not os.path.lexists(foo.store.directory(unit_id))
