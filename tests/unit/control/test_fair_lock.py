"""Many who ask for much at the same moment have lock, and nobody else waits for them."""

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from meshnode.control.service import ControlService
from meshnode.shares import FairLock, Holder


async def test_each_origin_has_its_turn_as_often_as_others() -> None:
    lock = FairLock()
    order: list[str] = []
    go_on = trio.Event()

    async def one(name: str) -> None:
        async with lock.turn(Holder(name)):
            order.append(name)
            if name == "first":
                await go_on.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "first")
        await wait_all_tasks_blocked()
        for name in ["mallory"] * 100 + ["alice"] * 2:
            nursery.start_soon(one, name)
        await wait_all_tasks_blocked()
        go_on.set()
    assert len(order) == 103
    # Whoever of the two was first in the queue: alice waits for no more than two of mallory's.
    assert order[:6].count("alice") == 2


async def test_nodes_that_a_peer_invents_have_no_more_turns_than_one_of_another_branch() -> None:
    lock = FairLock()
    order: list[str] = []
    go_on = trio.Event()

    async def one(holder: Holder) -> None:
        async with lock.turn(holder):
            order.append(holder.name)
            if holder.name == "first":
                await go_on.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, Holder("first"))
        await wait_all_tasks_blocked()
        for number in range(100):
            nursery.start_soon(one, Holder(f"invented {number}", "10.0.0.66"))
        await wait_all_tasks_blocked()
        for name, branch in [("alice", "10.0.0.1"), ("bob", "10.0.0.1"), ("own", "")]:
            nursery.start_soon(one, Holder(name, branch))
        await wait_all_tasks_blocked()
        go_on.set()
    assert len(order) == 104
    # A round has a turn of each source: three lock, and alice and bob share theirs.
    assert {"alice", "bob", "own"} <= set(order[:7])


async def test_a_status_for_each_of_many_sessions_leaves_the_loop_to_others(
    mesh, registry, nursery
) -> None:
    rounds = 0
    computed_in: list[int] = []
    known = mesh.status()

    def status():
        computed_in.append(rounds)
        return known

    async def others() -> None:
        nonlocal rounds
        while len(computed_in) < 200:
            rounds += 1
            await trio.lowlevel.checkpoint()

    mesh.status = status
    service = ControlService("foo", registry)
    clients = []
    for _ in range(200):
        ours, theirs = memory_stream_pair()
        nursery.start_soon(service.serve, theirs, "mesh", "mallory")
        clients.append(ours)
    await wait_all_tasks_blocked()
    for client in clients:
        nursery.start_soon(client.send_all, b"status\n")
    async with trio.open_nursery() as waiting:
        waiting.start_soon(others)
    assert max(map(computed_in.count, computed_in)) <= 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.sampled_from(["run", "cancel", "fail"]), st.integers(0, 9)
        )
    )
)
def test_whoever_leaves_in_whatever_way_the_next_has_its_turn(steps) -> None:
    async def main() -> None:
        lock = FairLock()
        inside = 0
        scopes: list[trio.CancelScope] = []

        async def one(name: str, fails: bool) -> None:
            nonlocal inside
            with trio.CancelScope() as scope:
                scopes.append(scope)
                try:
                    branch = "x" if name in "cd" else ""
                    async with lock.turn(Holder(name, branch)):
                        inside += 1
                        assert inside == 1
                        try:
                            await trio.lowlevel.checkpoint()
                            if fails:
                                raise ValueError
                        finally:
                            inside -= 1
                except ValueError:
                    pass

        async with trio.open_nursery() as nursery:
            for name, what, number in steps:
                if what == "cancel" and scopes:
                    scopes.pop(number % len(scopes)).cancel()
                else:
                    nursery.start_soon(one, name, what == "fail")
                    await trio.lowlevel.checkpoint()
        with trio.fail_after(60):
            async with lock.turn(Holder("last")):
                pass

    trio.run(main)
