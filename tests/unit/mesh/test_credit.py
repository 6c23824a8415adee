"""How far ahead of their readers peers may send: a part for each node, whatever it opens."""

import hypothesis
import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshnode.mesh.streams.flowcontrol import (
    FIRST_WINDOW,
    LEAST_WINDOW,
    MAX_BYTES,
    MAX_OPEN,
    MAX_PEER_STREAMS,
    WIDE_WINDOW,
    Credit,
    CreditPool,
)
from meshnode.shares import Holder

OTHERS = [Holder("n", "10.0.0.1"), Holder("n", "10.0.0.1", is_near=True), Holder("n")]

NODES = st.sampled_from([Holder(name) for name in "abc"])


class Peers(RuleBasedStateMachine):
    """Nodes that open connections and streams as they like, and read of them what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = CreditPool()
        self.open: list[tuple[Holder, Credit, dict[int, int]]] = []

    @rule(node=NODES, streams=st.sampled_from([1, MAX_PEER_STREAMS]))
    def connect(self, node, streams):
        credit = Credit(self.pool, node)
        credit.promise(streams)
        assert 1 <= credit.streams <= streams
        assert LEAST_WINDOW <= credit.window <= FIRST_WINDOW
        self.open.append((node, credit, {}))

    @rule(data=st.data(), stream=st.integers(0, 127))
    def read(self, data, stream):
        if self.open:
            _, credit, windows = data.draw(st.sampled_from(self.open))
            if stream < credit.streams:
                window = credit.widen(4 * stream)
                assert window >= windows.get(stream, credit.window)
                assert window == credit.window_of(4 * stream)
                windows[stream] = window

    @rule(data=st.data(), stream=st.integers(0, 127))
    def end_stream(self, data, stream):
        if self.open:
            _, credit, windows = data.draw(st.sampled_from(self.open))
            credit.forget(4 * stream)
            windows.pop(stream, None)

    @rule(data=st.data())
    def disconnect(self, data):
        if self.open:
            found = data.draw(st.sampled_from(self.open))
            found[1].close()
            self.open.remove(found)

    @invariant()
    def all_that_is_promised_is_bounded_and_nothing_is_lost(self):
        promised: dict[Holder, int] = {}
        for node, credit, windows in self.open:
            # What a peer can send ahead, above the least of each stream.
            ahead = (credit.window - LEAST_WINDOW) * credit.streams
            ahead += sum(window - credit.window for window in windows.values())
            promised[node] = promised.get(node, 0) + ahead
        assert all(count <= MAX_BYTES // 2 for count in promised.values())
        assert sum(promised.values()) <= MAX_BYTES
        many = sum(credit.streams for _, credit, _ in self.open if credit.streams > 1)
        assert many <= MAX_OPEN
        if not self.open:
            assert self.pool.bytes.used == self.pool.streams.used == 0


TestPeers = Peers.TestCase
TestPeers.settings = hypothesis.settings(max_examples=60, stateful_step_count=40)


def test_an_ordinary_node_has_fast_streams_and_room_for_more():
    credit = Credit(CreditPool(), Holder("node"))
    credit.promise(MAX_PEER_STREAMS)
    assert (credit.streams, credit.window) == (MAX_PEER_STREAMS, FIRST_WINDOW)
    assert [credit.widen(4 * n) for n in range(5)] == [WIDE_WINDOW] * 5


def test_a_node_that_opens_all_it_can_leaves_windows_for_another():
    pool = CreditPool()
    greedy = [Credit(pool, Holder("greedy")) for _ in range(1000)]
    for credit in greedy:
        credit.promise(MAX_PEER_STREAMS)
        for n in range(credit.streams):
            credit.widen(4 * n)
    assert sum(credit.streams for credit in greedy) <= MAX_OPEN // 2 + 1000
    other = Credit(pool, Holder("other"))
    other.promise(1)
    assert other.window == FIRST_WINDOW
    assert other.widen(0) == WIDE_WINDOW


@pytest.mark.parametrize("is_near", [True, False])
@pytest.mark.parametrize(
    "other", [Holder("n", "10.0.0.1"), Holder("n", "10.0.0.1", is_near=True), Holder("n")]
)
def test_nodes_that_a_peer_invents_leave_windows_and_streams_to_all_others(other, is_near):
    pool = CreditPool()
    for number in range(500):
        credit = Credit(pool, Holder(str(number), "10.0.0.66", is_near and number % 2 == 0))
        credit.promise(MAX_PEER_STREAMS)
        for n in range(credit.streams):
            credit.widen(4 * n)
    credit = Credit(pool, other)
    credit.promise(MAX_PEER_STREAMS)
    assert credit.streams == MAX_PEER_STREAMS
    assert credit.window > LEAST_WINDOW
    assert is_near or credit.widen(0) == WIDE_WINDOW
