"""Lines of another node: whole, bounded, and never many long ones at a time."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from meshnode.work.remote.failures import REPLY_TIMEOUT, RemoteUnavailable
from meshnode.work.remote.replies import (
    LONG_LINES,
    MAX_LINE,
    SHORT_LINE,
    LongLines,
    ReplyLines,
)


class Supply(trio.abc.ReceiveStream):
    """Gives what it has as fast as it is taken, then nothing for ever, and counts what is taken."""

    def __init__(self, data: bytes, *, piece: int = 1 << 20, ends: bool = False) -> None:
        self.data = data
        self.piece = piece
        self.ends = ends
        self.taken = 0

    async def receive_some(self, max_bytes=None) -> bytes:
        await trio.lowlevel.checkpoint()
        data = self.data[self.taken : self.taken + min(max_bytes, self.piece)]
        self.taken += len(data)
        if not data and not self.ends:
            await trio.sleep_forever()
        return data

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def lines_of(supply: Supply, node: str = "bar", places: LongLines | None = None) -> ReplyLines:
    return ReplyLines(supply, (places or LongLines()).of(node))


@given(
    st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))),
    st.integers(1, 50),
)
def test_lines_come_as_they_were_sent_in_whatever_pieces(texts, piece):
    async def main():
        sent = "".join(text + "\n" for text in texts).encode() + b"half"
        lines = lines_of(Supply(sent, piece=piece, ends=True))
        assert [await lines.line(None) for _ in texts] == texts
        with pytest.raises(RemoteUnavailable, match="closed"):
            await lines.line(None)

    trio.run(main)


async def test_what_follows_a_line_comes_as_it_is():
    lines = lines_of(Supply(b"line\n\xff\x00raw\n", ends=True))
    assert await lines.line(None) == "line"
    assert await lines.raw() == b"\xff\x00raw\n"
    assert await lines.raw() == b""


@pytest.mark.parametrize("length", [SHORT_LINE, SHORT_LINE + 1, MAX_LINE])
async def test_a_line_may_be_long(length, autojump_clock):
    lines = lines_of(Supply(b"x" * length + b"\nnext\n"))
    assert len(await lines.line(None)) == length
    assert await lines.line(None) == "next"


@pytest.mark.parametrize("most", [1000, SHORT_LINE, MAX_LINE])
@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_line_that_is_longer_than_it_may_be_ends_the_talk_and_is_not_kept(
    most, end, autojump_clock
):
    supply = Supply(b"x" * (most + 1) + b"x" * 9 * MAX_LINE + end)
    with pytest.raises(RemoteUnavailable, match=f"more than {most} bytes"):
        await lines_of(supply).line(None, most)
    assert supply.taken <= 2 * most + SHORT_LINE


async def test_half_lines_of_a_node_hold_little_memory_however_many_they_are(autojump_clock):
    places = LongLines()
    supplies = [Supply(b"x" * (1 << 20)) for _ in range(50)]
    async with trio.open_nursery() as nursery:

        async def wait_for_line(supply):
            with pytest.raises(RemoteUnavailable):
                await lines_of(supply, places=places).line(None)

        for supply in supplies:
            nursery.start_soon(wait_for_line, supply)
        await trio.sleep(REPLY_TIMEOUT / 2)
        long = [supply for supply in supplies if supply.taken > 2 * SHORT_LINE]
        assert len(long) == LONG_LINES
        # Another node's long lines are not held up.
        other = lines_of(Supply(b"y" * (1 << 20) + b"\n"), "baz", places)
        assert len(await other.line(1)) == 1 << 20
        # And nobody keeps a place: in the end each has had its time.


async def test_a_line_that_drips_ends_when_its_time_is_over(autojump_clock):
    class Drip(Supply):
        async def receive_some(self, max_bytes=None) -> bytes:
            await trio.sleep(1)
            return b"x"

    with pytest.raises(RemoteUnavailable, match="no reply within 60 s"):
        await lines_of(Drip(b"")).line(60)
    long = Drip(b"")
    lines = lines_of(long)
    long.receive_some, drip = Supply(b"x" * (SHORT_LINE + 1)).receive_some, long.receive_some
    with trio.move_on_after(1):
        await lines.line(None)
    long.receive_some = drip
    with pytest.raises(RemoteUnavailable, match="no answer within 60 s"):
        await lines.line(None)
