"""The files of requests that are on their way to units: bounds, and what is left of them."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.shares import Holder
from meshnode.web.api.jobfiles import Tar
from meshnode.web.api.multipart import Parts
from meshnode.web.problems import Problem
from meshnode.web.spool import LUMP, Room, Spool
from meshnode.work.units.shortage import KEPT_BYTES, LOW_BYTES

TEN = 10 * LUMP
KIND = "multipart/form-data; boundary=next"


def parts_of(size: int, ends: bool = True) -> Parts:
    """Return a body with one file of so many bytes, or that never ends behind them."""
    head = b'--next\r\nContent-Disposition: form-data; name="dep"; filename="f"\r\n\r\n'
    pieces = [head, bytes(size), b"\r\n--next--\r\n"][: 3 if ends else 2]

    async def receive(most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not pieces and not ends:
            await trio.sleep_forever()
        piece = pieces[0][:most]
        pieces[0] = pieces[0][most:]
        if not pieces[0]:
            del pieces[0]
        return piece

    return Parts(KIND, receive)


async def fill(room: Room, size: int) -> int:
    async with Tar(room) as tar:
        parts = parts_of(size)
        await parts.next_part()
        await tar.add("f", parts, is_script=False)
        await tar.finish()
        return tar.size


@given(st.integers(0, 2**33 - 1), st.integers(0, 2**33 - 1))
def test_the_same_files_are_the_same_tar_whenever_they_are_sent(first: int, then: int) -> None:
    """What is sent again under its Idempotency-Key must be the same work."""

    async def main() -> str:
        async with Tar(Spool(Path("/tmp"), TEN).room(Holder("a"))) as tar:
            parts = parts_of(700)
            await parts.next_part()
            await tar.add("f", parts, is_script=True)
            await tar.finish()
            return tar.digest

    digests = set()
    for moment in (first, then):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda moment=moment: moment)
            digests.add(trio.run(main))
    assert len(digests) == 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, TEN), st.booleans())))
def test_all_clients_together_have_no_more_than_there_is_and_each_leaves_half(
    steps: list[tuple[str, int, bool]],
) -> None:
    spool = Spool(Path("/nonexistent"), 4 * TEN)
    open_rooms: dict[str, list[tuple[Room, int]]] = {}
    for name, size, ends in steps:
        mine = open_rooms.setdefault(name, [])
        if ends and mine:
            mine.pop()[0].give_back()
        room = spool.room(Holder(name))
        try:
            room.count(size)
        except Problem:
            continue
        mine.append((room, size))
        kept = sum(size for rooms in open_rooms.values() for _, size in rooms)
        assert kept <= spool.used <= 4 * TEN
        own = sum(size for _, size in mine)
        assert own <= (4 * TEN - (kept - own)) / 2
    for room, _ in (one for rooms in open_rooms.values() for one in rooms):
        room.give_back()
    assert spool.used == 0


async def test_who_has_its_share_is_told_to_wait_and_another_client_finds_room(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path, TEN)
    room = spool.room(Holder("a"))
    room.count(4 * LUMP)
    with pytest.raises(Problem, match=r"5 MiB of files on the way; wait") as refused:
        await fill(spool.room(Holder("a")), 2 * LUMP)
    assert refused.value.kind.status == 429
    assert refused.value.headers["retry-after"]
    assert await fill(spool.room(Holder("b")), 2 * LUMP) > 2 * LUMP
    with pytest.raises(Problem, match="try again later") as refused:
        await fill(spool.room(Holder("b")), 5 * LUMP)
    assert refused.value.kind.status == 503
    room.give_back()
    assert spool.used == 0


@pytest.mark.parametrize("when", range(6))
async def test_nothing_is_left_or_counted_whenever_a_client_goes(tmp_path: Path, when: int) -> None:
    """No file ever has a name: the kernel removes it with the process, however that ends."""
    spool = Spool(tmp_path, TEN)
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            async with Tar(spool.room(Holder("a"))) as tar:
                parts = parts_of(3 * LUMP, ends=False)
                await parts.next_part()
                await tar.add("f", parts, is_script=False)

        nursery.start_soon(send)
        while spool.used < when / 2 * LUMP:
            await trio.lowlevel.checkpoint()
        assert list(tmp_path.iterdir()) == []
        nursery.cancel_scope.cancel()
    assert spool.used == 0
    assert list(tmp_path.iterdir()) == []


def disk(free: int) -> SimpleNamespace:
    return SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_blocks=1 << 40)


@pytest.mark.parametrize(
    ("free", "size", "takes"),
    [
        (LOW_BYTES, 3 * LUMP, True),
        (LOW_BYTES - 4096, 3 * LUMP, False),
        (LOW_BYTES - 4096, LUMP // 2, True),
        (KEPT_BYTES, LUMP // 2, True),
        (KEPT_BYTES - 4096, LUMP // 2, False),
        (KEPT_BYTES - 4096, 1, False),
    ],
)
async def test_a_disk_with_little_room_keeps_it_for_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, size: int, takes: bool
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: disk(free))
    spool = Spool(tmp_path)
    if takes:
        assert await fill(spool.room(Holder("a")), size) > size
    else:
        with pytest.raises(Problem, match="too little room left") as refused:
            await fill(spool.room(Holder("a")), size)
        assert refused.value.kind.status == 503
        assert refused.value.headers["retry-after"]
    assert spool.used == 0


async def test_a_disk_that_does_not_say_how_full_it_is_refuses(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "gone")
    with pytest.raises(Problem, match="cannot keep the files: No such file"):
        await fill(spool.room(Holder("a")), 1)
    assert spool.used == 0
