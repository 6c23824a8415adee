"""A node's directory goes, comes late or comes back, with files missing: what it knew is not lost.

A store that says that it never saw a submission is believed. So it must know all that it ever knew,
or say that it does not.
"""

import errno
import itertools
import os

import pytest
import trio

from meshnode import files
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units import tombstones
from meshnode.work.units.keys import KeyState, Receipt
from meshnode.work.units.submissions import SYNC_DELAY

numbers = itertools.count(1)


async def run_and_release(bar, key: str) -> tuple[str, Receipt]:
    """Have a unit of that key run to its end and be released; return what a submitter knows."""
    receipt = bar.units.submissions.receipt()
    unit_id = await bar.submit("bar", "cat", submissionkey=key)
    await bar.wait_final(unit_id)
    assert await bar.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']
    await trio.sleep(2 * SYNC_DELAY)
    return unit_id, receipt


async def look_at_the_directory(bar) -> None:
    """Submit something that is never started: that makes the node look where its units are."""
    fields = {"command": "work", "subcommand": "submit", "node": "bar", "worktype": "cat"}
    lines = await bar.talk(fields | {"stdinsize": "5"})
    assert lines[-1].startswith("ERROR"), lines


def proves_that_nothing_ran(bar, key: str, unit_id: str, receipt: Receipt) -> bool:
    """Whether a submitter that asks now would submit the work again."""
    submissions = bar.units.submissions
    found = submissions.find("", key, unit_id, receipt)
    return submissions.receipt().store == receipt.store and found.key_state is KeyState.NOTHING


@pytest.mark.parametrize("released", ["before the restart", "just before the restart"])
async def test_a_directory_that_comes_late_knows_what_was_released_in_it(
    bar, tmp_path, autojump_clock, released
):
    """As a mount that was missing when the node started, and is there later."""
    async with bar.running():
        receipt = bar.units.submissions.receipt()
        unit_id = await bar.submit("bar", "cat", submissionkey="k")
        await bar.wait_final(unit_id)
        await bar.talk(f"work release {unit_id}")
        if released == "before the restart":
            await trio.sleep(2 * SYNC_DELAY)
        else:
            bar.kill()
    bar.mesh.heal()
    bar.store.root.rename(tmp_path / "mount")
    async with bar.running():
        assert not proves_that_nothing_ran(bar, "k", unit_id, receipt)
        bar.store.root.rename(tmp_path / "covered")
        (tmp_path / "mount").rename(bar.store.root)
        await look_at_the_directory(bar)
        assert not proves_that_nothing_ran(bar, "k", unit_id, receipt)
        lines = await bar.talk("work list")
        assert lines == ["{}"] or "never" not in lines[0]


async def test_a_directory_that_was_away_for_a_while_still_knows_what_was_released_in_it(
    bar, tmp_path, autojump_clock
):
    async with bar.running():
        first = await run_and_release(bar, "first")
        bar.store.root.rename(tmp_path / "unmounted")
        await look_at_the_directory(bar)
        await run_and_release(bar, "elsewhere")
        bar.store.root.rename(tmp_path / "covered")
        (tmp_path / "unmounted").rename(bar.store.root)
        await look_at_the_directory(bar)
        last = await run_and_release(bar, "last")
        assert last[1].store == first[1].store
    async with bar.running():
        for key, known in (("first", first), ("last", last)):
            assert not proves_that_nothing_ran(bar, key, *known)


async def test_a_store_without_its_tombstones_says_that_it_has_forgotten(bar, autojump_clock):
    async with bar.running():
        known = await run_and_release(bar, "k")
    (bar.store.root / tombstones.FILE).unlink()
    async with bar.running():
        assert not proves_that_nothing_ran(bar, "k", *known)
    async with bar.running():
        assert not proves_that_nothing_ran(bar, "k", *known)
        # What comes later is known.
        await trio.sleep(1)
        receipt = bar.units.submissions.receipt()
        assert proves_that_nothing_ran(bar, "later", "aaaaaaaa", receipt)


async def test_a_store_that_never_released_anything_has_forgotten_nothing(bar, autojump_clock):
    async with bar.running():
        receipt = bar.units.submissions.receipt()
    for _ in range(2):
        async with bar.running():
            assert proves_that_nothing_ran(bar, "k", "aaaaaaaa", receipt)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
async def test_tombstones_that_cannot_be_read_at_a_start_are_not_written_over(
    bar, autojump_clock, monkeypatch, number
):
    """Nor can the file be replaced at that start, for want of the same."""
    async with bar.running():
        known = await run_and_release(bar, "k")

    def refuse(path, *args):
        raise OSError(number, os.strerror(number))

    read_file = files.read_file
    with monkeypatch.context() as patch:
        patch.setattr(files, "open_scratch", refuse)
        patch.setattr(
            files,
            "read_file",
            lambda path, most: (refuse if str(path).endswith(tombstones.FILE) else read_file)(
                path, most
            ),
        )
        submissions = bar.store.root
        again = tombstones.TombstoneFile(submissions, tombstones_log())
        stones = tombstones.Tombstones(7 * 86400)
        again.load(stones, bar.mesh.now().timestamp())
    stone = tombstones.Tombstone.of("", "other", "unit0002", 2, stones.now(0))
    stones.add(stone)
    if again.is_due:
        again.replace(stones.prune())
    else:
        again.append([stone])
    async with bar.running():
        assert not proves_that_nothing_ran(bar, "k", *known)


def tombstones_log():
    from meshnode.logs import subject_logger

    return subject_logger("test")


@pytest.mark.parametrize("ended", [False, True])
async def test_a_unit_whose_status_was_taken_away_is_no_unit_that_never_began(
    bar, autojump_clock, ended
):
    """One without input that has printed nothing: all that it had was its status."""
    async with bar.running():
        receipt = bar.units.submissions.receipt()
        unit_id = await bar.submit("bar", "wait", submissionkey="k")
        (supervisor,) = bar.launcher.supervisors.values()
        if ended:
            supervisor.finish(UnitState.FAILED, "exit status 1", 1)
            await bar.wait_final(unit_id)
        (bar.store.directory(unit_id) / "status").unlink()
        bar.kill()
    bar.mesh.heal()
    for _ in range(2):
        async with bar.running():
            assert not proves_that_nothing_ran(bar, "k", unit_id, receipt)
