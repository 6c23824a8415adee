"""What waits on a link: bounded for data, never dropped for routing."""

import trio

from meshnode.mesh.peers.sending import FIRST_BATCH, QUICK_SEND, SLOW_SEND, BatchSize
from meshnode.mesh.peers.sendqueue import (
    BATCH_BYTES,
    LOW_WATER,
    QUEUE_BYTES,
    ROUTING_BYTES,
    SendQueue,
)

CHUNK = bytes(64 * 1024)


def fill(queue):
    count = 0
    while queue.put_data(CHUNK):
        count += 1
    return count


def test_data_is_dropped_when_the_queue_is_full_and_routing_is_not():
    queue = SendQueue()
    assert fill(queue) == QUEUE_BYTES // len(CHUNK)
    assert queue.dropped == 1
    assert queue.put_routing(b"update")


def test_routing_is_refused_only_when_the_link_is_hopeless():
    queue = SendQueue()
    for _ in range(ROUTING_BYTES // len(CHUNK)):
        assert queue.put_routing(CHUNK)
    assert not queue.put_routing(CHUNK)


async def test_messages_come_out_in_order_in_batches():
    queue = SendQueue()
    for number in range(10):
        queue.put_data(b"%d" % number)
    assert b"".join(await queue.take_batch()) == b"0123456789"
    fill(queue)
    batch = await queue.take_batch()
    assert sum(map(len, batch)) == BATCH_BYTES


async def test_a_sender_waits_for_room_and_goes_on_when_it_comes(autojump_clock):
    queue = SendQueue()
    assert queue.has_room
    await queue.wait_room()
    fill(queue)
    assert not queue.has_room
    passed = []

    async def sender():
        await queue.wait_room()
        passed.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender)
        await trio.testing.wait_all_tasks_blocked()
        assert not passed
        taken = 0
        while taken < QUEUE_BYTES - LOW_WATER:
            taken += sum(map(len, await queue.take_batch()))
    assert passed


async def test_a_closed_queue_gives_what_it_has_and_then_nothing():
    queue = SendQueue()
    queue.put_data(b"last")
    queue.close()
    assert not queue.put_data(b"too late")
    assert await queue.take_batch() == [b"last"]
    assert await queue.take_batch() is None
    await queue.wait_room()


async def test_routing_goes_before_data_that_waits_and_keeps_its_order():
    queue = SendQueue()
    fill(queue)
    queue.put_routing(b"first")
    queue.put_routing(b"second")
    batch = await queue.take_batch(10)
    assert batch == [b"first", b"second"]
    assert await queue.take_batch(10) == [CHUNK]


def test_a_full_queue_of_data_refuses_no_routing_and_the_other_way_round():
    queue = SendQueue()
    fill(queue)
    for _ in range(ROUTING_BYTES // len(CHUNK)):
        assert queue.put_routing(CHUNK)
    other = SendQueue()
    other.put_routing(bytes(ROUTING_BYTES))
    assert other.put_data(CHUNK)
    assert other.has_room


def test_a_send_carries_more_on_a_quick_link_and_less_on_a_slow_one():
    size = BatchSize()
    assert size.bytes == FIRST_BATCH
    for _ in range(20):
        size.learn(QUICK_SEND / 2)
    assert size.bytes == BATCH_BYTES
    size.learn((QUICK_SEND + SLOW_SEND) / 2)
    assert size.bytes == BATCH_BYTES
    for _ in range(20):
        size.learn(SLOW_SEND * 2)
    assert size.bytes == FIRST_BATCH
