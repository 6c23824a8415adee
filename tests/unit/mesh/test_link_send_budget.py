"""What waits on all links together: a budget, of which each link has its part."""

import tracemalloc
from collections.abc import Sequence

import pytest
import trio
from hostile import forge
from hypothesis import given
from hypothesis import strategies as st
from mesh_helpers import meshes

from meshnode.mesh.links.base import Link, Message
from meshnode.mesh.peers.sendqueue import (
    LEAST_WAITING,
    MAX_LENT,
    MAX_WAITING,
    QUEUE_BYTES,
    LinkSendBudget,
    SendQueue,
)

MESSAGE = bytes(16 * 1024)
SPACE = 512 * 1024


def fill(queue: SendQueue, message: Message = MESSAGE) -> int:
    count = 0
    while queue.put_data(message):
        count += 1
    return count * len(message)


@pytest.mark.parametrize("links", [1, 4, 10, 300, 2000])
def test_links_that_read_nothing_hold_no_more_than_the_budget_and_their_least_parts(links):
    outgoing = LinkSendBudget()
    queues = [SendQueue(outgoing) for _ in range(links)]
    for queue in queues:
        queue.open()
    held = [fill(queue) for queue in queues]
    assert outgoing.waiting == sum(held)
    assert sum(held) <= 2 * MAX_WAITING + links * (LEAST_WAITING + len(MESSAGE))
    if links <= MAX_WAITING // QUEUE_BYTES:
        assert held == [QUEUE_BYTES] * links
    assert min(held) >= min(LEAST_WAITING, QUEUE_BYTES)


def test_a_link_that_reads_has_its_part_while_all_others_are_behind():
    outgoing = LinkSendBudget()
    deaf = [SendQueue(outgoing) for _ in range(100)]
    reader = SendQueue(outgoing)
    for queue in (*deaf, reader):
        queue.open()
    for queue in deaf:
        fill(queue)
    assert fill(reader) >= MAX_WAITING // 101 - len(MESSAGE)


async def test_what_has_left_or_belonged_to_a_link_that_is_gone_counts_no_more():
    outgoing = LinkSendBudget()
    one, other = SendQueue(outgoing), SendQueue(outgoing)
    for queue in (one, other):
        queue.open()
        fill(queue, memoryview(bytearray(MESSAGE)))
    taken = await one.take_batch()
    assert outgoing.waiting == 2 * QUEUE_BYTES
    one.batch_sent()
    assert outgoing.waiting == 2 * QUEUE_BYTES - sum(map(len, taken))
    await one.take_batch()
    one.clear()
    assert outgoing.waiting == QUEUE_BYTES
    other.clear()
    assert outgoing.waiting == 0
    assert outgoing.may_lend(MAX_LENT)


OPERATION = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["data", "view", "routing", "take", "sent", "rest", "clear"]),
    st.integers(1, 3000),
)


@given(st.lists(OPERATION, max_size=200))
def test_whatever_links_do_the_count_is_of_what_waits(operations):
    outgoing = LinkSendBudget()
    queues = [SendQueue(outgoing) for _ in range(3)]
    taken = [0, 0, 0]

    async def main() -> None:
        for index, what, size in operations:
            queue = queues[index]
            match what:
                case "data":
                    queue.put_data(bytes(size))
                case "view":
                    queue.put_data(memoryview(bytearray(size)))
                case "routing":
                    queue.put_routing(bytes(size))
                case "take" if not queue.is_empty:
                    taken[index] += sum(map(len, await queue.take_batch(size) or []))
                case "rest":
                    queue.leave_rest(size % 5, size)
                    taken[index] += size
                case "sent":
                    queue.batch_sent()
                    taken[index] = 0
                case "clear":
                    queue.clear()
                    queues[index], taken[index] = SendQueue(outgoing), 0
            waiting = sum(q.routing_bytes + q._data_bytes for q in queues) + sum(taken)
            assert outgoing.waiting == waiting
        for queue in queues:
            queue.clear()

    trio.run(main)
    assert outgoing.waiting == 0
    assert outgoing.may_lend(MAX_LENT)


def is_held(space: bytearray) -> bool:
    """Whether somebody looks at a space: its size cannot be changed then."""
    try:
        space.append(0)
    except BufferError:
        return True
    return False


def test_messages_that_wait_hold_few_of_the_spaces_that_they_were_read_into():
    outgoing = LinkSendBudget()
    spaces = [bytearray(SPACE // 64) for _ in range(4 * MAX_LENT)]
    queues = [SendQueue(outgoing) for _ in range(4)]
    for number, space in enumerate(spaces):
        assert queues[number % 4].put_data(memoryview(space)[100:140])
    assert sum(map(is_held, spaces)) == MAX_LENT
    for queue in queues:
        queue.clear()
    assert not any(map(is_held, spaces))


class DeafLink(Link):
    """A link that says hello, and takes nothing ever."""

    def __init__(self, name: str) -> None:
        self.name = f"deaf {name}"
        self._hello: list[memoryview] = [memoryview(bytearray(forge.update(name)))]

    async def send(self, messages: Sequence[Message]) -> None:
        await trio.sleep_forever()

    async def receive(self) -> list[memoryview]:
        if self._hello:
            await trio.lowlevel.checkpoint()
            said, self._hello = self._hello, []
            return said
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_node_whose_peers_do_not_read_keeps_the_budget_and_its_memory(autojump_clock):
    peers = [f"deaf{number}" for number in range(100)]
    async with meshes("victim") as (victim,), trio.open_nursery() as nursery:
        for name in peers:
            nursery.start_soon(victim.run_link, DeafLink(name))
        for name in peers:
            await victim.wait_reachable(name)
        messages = [forge.data("talker", name, "x", "y", MESSAGE) for name in peers]
        tracemalloc.start()
        for _ in range(100):
            victim._router.handle([memoryview(bytearray(m)) for m in messages])
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 2 * MAX_WAITING
        assert kept > MAX_WAITING / 2
        nursery.cancel_scope.cancel()
