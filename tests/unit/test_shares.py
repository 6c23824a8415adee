"""Nobody can take everybody's part."""

import hypothesis
import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshnode.shares import Holder, Shares

TOTAL, KEPT, FEW = 100, 10, 2
NODES = st.sampled_from([Holder(name) for name in "abcde"])


class Takers(RuleBasedStateMachine):
    """Nodes that take and give back as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = Shares(TOTAL, 0, kept=KEPT, few=FEW)
        self.held: dict[Holder, int] = {}

    @rule(node=NODES, count=st.integers(1, 120))
    def take(self, node, count):
        left = self.shares.left(node)
        taken = self.shares.take(node, count)
        assert taken == (count <= left)
        if taken:
            self.held[node] = self.held.get(node, 0) + count

    @rule(node=NODES, data=st.data())
    def give_back(self, node, data):
        if count := self.held.get(node, 0):
            returned = data.draw(st.integers(1, count))
            self.shares.give_back(node, returned)
            self.held[node] -= returned

    @invariant()
    def what_is_counted_is_what_was_taken_and_no_more_than_there_is(self):
        assert self.shares.used == sum(self.held.values()) <= TOTAL
        assert all(self.shares.held(node) == count for node, count in self.held.items())
        assert set(self.shares._by_holder) == {
            node.name for node, count in self.held.items() if count
        }

    @invariant()
    def a_node_that_has_none_finds_some(self):
        assert self.shares.left(Holder("newcomer")) >= 1


TestTakers = Takers.TestCase
TestTakers.settings = hypothesis.settings(max_examples=50)


def greedy(shares, node):
    taken = 0
    while shares.take(node):
        taken += 1
    return taken


def test_one_alone_has_half_and_the_others_find_the_rest():
    shares = Shares(1000, 0)
    assert [greedy(shares, Holder(str(n))) for n in range(4)] == [500, 250, 125, 62]


def test_those_who_have_next_to_none_find_what_is_kept_for_them():
    shares = Shares(1000, 0, kept=100, few=2)
    assert greedy(shares, Holder("first")) == 450
    for number in range(30):
        greedy(shares, Holder(f"greedy{number}"))
    assert shares.left(Holder("newcomer")) == 2
    assert greedy(shares, Holder("newcomer")) == 2


@hypothesis.given(st.integers(0, 200))
def test_as_many_at_once_as_one_by_one(count):
    at_once, one_by_one = Shares(200, 0, kept=20, few=4), Shares(200, 0, kept=20, few=4)
    assert at_once.take(Holder("a"), count) == all(
        one_by_one.take(Holder("a")) for _ in range(count)
    )
