"""What one peer may bring: enough for any honest mesh, and no more than that."""

import hypothesis.strategies as st
from hypothesis import given

from meshnode.protocol import intake
from meshnode.protocol.intake import (
    AT_ONCE,
    KEPT_FOR_KNOWN,
    NEW_NAME,
    NEWS_BURST,
    NEWS_RATE,
    OTHERS_PACE,
    PACE,
    READ_BURST,
    READ_RATE,
    WAITING_BYTES,
    Allowance,
    Allowances,
    Intake,
)
from meshnode.protocol.routing import RoutingUpdate

NODES = 1000
"""Of the mesh whose nodes must never meet a bound."""


def word(node, sequence, epoch=1, size=300):
    """Return an update as if it had come in a message of that many bytes."""
    update = RoutingUpdate(node, "id", epoch, sequence, {}, "peer")
    object.__setattr__(update, "size", size)
    return update


def test_a_node_that_joins_a_mesh_of_a_thousand_may_be_told_all_of_it_at_once():
    of_one = Intake(Allowance(0.0))
    # Of each six links, some tags and ten work types.
    for number in range(NODES):
        update = word(f"node-{number}.example.org", 1, size=500)
        assert of_one.may_read(update.size, 0.0)
        assert of_one.may_update(update, 0.0, known=False, leads_there=False)
    for number in range(NODES):
        assert of_one.may_read(1500, 0.0)
        assert of_one.may_advertise(f"n{number}", 1500, 0.0, known=True)


def test_a_mesh_of_a_thousand_nodes_may_go_on_for_ever_over_one_link():
    # Each minute of each node an update, and ten services of 1,000 bytes at once.
    of_one = Intake(Allowance(0.0))
    for number in range(4 * NODES):
        now, node = number * 60.0 / NODES, f"n{number % NODES}"
        assert of_one.may_read(300, now)
        assert of_one.may_update(word(node, number), now, known=True, leads_there=False)
        for _ in range(10):
            assert of_one.may_read(1000, now)
            assert of_one.may_advertise(node, 1000, now, known=True)


def test_a_mesh_of_a_thousand_nodes_that_all_started_at_once_may_go_on_too():
    of_one = Intake(Allowance(0.0))
    for number in range(4 * NODES):
        now, node = number // NODES * 60.0, f"n{number % NODES}"
        assert of_one.may_read(300, now)
        assert of_one.may_update(word(node, number), now, known=True, leads_there=False)
        for _ in range(3):
            assert of_one.may_read(700, now)
            assert of_one.may_advertise(node, 700, now, known=True)


def test_hundreds_of_work_types_on_each_of_a_thousand_nodes_are_heard():
    of_one = Intake(Allowance(0.0))
    for number in range(3 * NODES):
        now = number * 60.0 / NODES
        assert of_one.may_read(14_000, now)
        assert of_one.may_advertise(f"n{number % NODES}", 14_000, now, known=True)


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(200, 65_535), st.booleans()), max_size=80))
def test_however_a_peer_floods_what_is_read_and_taken_is_bounded(messages):
    of_one, now, read, taken, unknown = Intake(Allowance(0.0)), 0.0, 0, 0, 0
    for number, (pause, size, known) in enumerate(messages):
        now += pause
        for turn in range(3):
            read += size if of_one.may_read(size, now) else 0
            update = word(f"n{number}x{turn}", 1, size=size)
            fresh = (
                [update] if of_one.may_update(update, now, known=known, leads_there=True) else []
            )
            for one in (*fresh, *of_one.take_due(now)):
                taken += one.size
                unknown += 0 if known else one.size
    assert read <= READ_BURST + READ_RATE * now
    assert taken <= NEWS_BURST + NEWS_RATE * now
    assert of_one._waiting_bytes == sum(w.cost for w in of_one._waiting.values()) <= WAITING_BYTES


def flood(of_one, size, now=0.0):
    """Bring new names until no more are taken, and none can wait."""
    number = 0
    while not of_one.dropped:
        of_one.may_update(word(f"e{number}", 1, size=size), now, known=False, leads_there=False)
        number += 1


def test_a_flood_of_new_names_leaves_room_for_those_that_are_known():
    of_one = Intake(Allowance(0.0))
    flood(of_one, 60_000)
    for number in range(KEPT_FOR_KNOWN // 1000 - 1):
        update = word(f"n{number}", 1, size=300)
        assert of_one.may_update(update, 0.0, known=True, leads_there=False)


def test_a_new_name_that_comes_when_no_more_is_taken_is_taken_a_little_later():
    of_one = Intake(Allowance(0.0))
    flood(of_one, 300)
    # As much as comes back comes in all the time.
    now = of_one.next_due()
    list(of_one.take_due(now))
    assert not of_one.may_update(word("new", 1), now, known=False, leads_there=False)
    until = now + 2 * WAITING_BYTES / NEWS_RATE * (NEW_NAME + 800) / 800
    number = 0
    while now < until:
        now, number = of_one.next_due(), number + 1
        if "new" in [u.node_id for u in of_one.take_due(now)]:
            return
        of_one.may_update(word(f"more{number}", 1), now, known=False, leads_there=False)
    raise AssertionError("it was not taken")


@given(
    st.lists(
        st.tuples(
            st.floats(0, 0.5),
            st.sampled_from("ab"),
            st.integers(1, 9),
            st.integers(1, 99),
            st.booleans(),
            st.booleans(),
        ),
        max_size=80,
    )
)
def test_of_updates_that_come_too_often_the_newest_is_taken_in_the_end(words):
    of_one, now = Intake(Allowance(0.0)), 0.0
    newest = {}
    taken = {"a": [], "b": []}
    for pause, node, epoch, sequence, known, leads_there in words:
        now += pause
        for due in of_one.take_due(now):
            taken[due.node_id].append(due.order)
        update = word(node, sequence, epoch)
        newest[node] = max(newest.get(node, (0, 0)), update.order)
        if of_one.may_update(update, now, known=known, leads_there=leads_there):
            taken[node].append(update.order)
    for orders in taken.values():
        assert len(orders) <= (AT_ONCE + now) / PACE + 1
    while (due := of_one.next_due()) is not None:
        assert due <= now + OTHERS_PACE + AT_ONCE
        now = max(now, due)
        for update in of_one.take_due(now):
            taken[update.node_id].append(update.order)
    assert {node: max(orders) for node, orders in taken.items() if orders} == newest


def test_what_others_say_of_a_node_is_rarer_than_what_comes_from_where_it_is():
    near, far = Intake(Allowance(0.0)), Intake(Allowance(0.0))
    count = {near: 0, far: 0}
    for moment in range(1000):
        for peer in (near, far):
            now = moment * 0.05
            update = word("a", moment + 1)
            count[peer] += peer.may_update(update, now, known=True, leads_there=peer is near)
            count[peer] += sum(1 for _ in peer.take_due(now))
    assert count[far] <= AT_ONCE + 50 / OTHERS_PACE + 1
    assert count[near] >= 50 / PACE


def test_what_waits_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(intake, "AT_ONCE", 1.0)
    of_one = Intake(Allowance(0.0))
    for number in range(200):
        for sequence in (1, 2):
            update = word(f"n{number}", sequence, size=10_000)
            of_one.may_update(update, 0.0, known=True, leads_there=False)
    waiting = list(of_one.take_due(1000.0))
    assert WAITING_BYTES / 2 < sum(u.size for u in waiting) <= WAITING_BYTES
    assert of_one.next_due() is None


def taken_of(peers, seconds, sequence=0):
    """Return how many updates of themselves peers get through that send 50 a second each."""
    taken = 0
    for step in range(int(seconds * 50)):
        now = step / 50
        for number, peer in enumerate(peers):
            update = word(f"n{number}", sequence + step + 1)
            if peer.may_read(update.size, now):
                taken += peer.may_update(update, now, known=True, leads_there=True)
                taken += len(list(peer.take_due(now)))
    return taken


def test_many_peers_at_one_address_bring_no_more_than_one():
    allowances = Allowances()
    together = [Intake(allowances.of("10.0.0.1", 0.0)) for _ in range(100)]
    most = (NEWS_BURST + 100 * NEWS_RATE) / 800
    taken = taken_of(together, 100)
    assert 0.4 * most < taken <= most


def test_peers_at_other_addresses_or_at_none_bring_theirs():
    allowances = Allowances()
    flooders = [Intake(allowances.of("10.0.0.1", 0.0)) for _ in range(50)]
    others = [Intake(allowances.of(a, 0.0)) for a in ("10.0.0.2", "10.0.0.3", "", "")]
    taken_of(flooders, 60)
    for number, peer in enumerate(others):
        assert peer.may_read(300, 60.0)
        assert peer.may_update(word(f"other{number}", 1), 60.0, known=False, leads_there=False)


def test_an_address_that_links_anew_has_what_it_has_left():
    allowances = Allowances()
    before = Intake(allowances.of("10.0.0.1", 0.0))
    while before.may_read(65_000, 0.0):
        pass
    assert not Intake(allowances.of("10.0.0.1", 0.0)).may_read(65_000, 0.0)
    assert Intake(allowances.of("10.0.0.1", 9.0)).may_read(65_000, 9.0)


def test_addresses_that_have_brought_nothing_lately_are_not_remembered():
    allowances, now = Allowances(), 0.0
    for number in range(5000):
        now += 1.0
        Intake(allowances.of(f"10.0.{number // 256}.{number % 256}", now)).may_read(5000, now)
    assert len(allowances) < 600
