"""This node's own links: their updates can always be sent, and forged ones are told apart."""

import hypothesis.strategies as st
from hypothesis import given, settings

from meshnode.protocol.own_links import OwnLinks, OwnVerdict


def test_of_two_nodes_with_one_name_the_newcomer_is_told():
    old, new = OwnLinks("a", epoch=1), OwnLinks("a", epoch=2)
    newcomers_update = new.next_update("n1")
    assert old.judge(newcomers_update) is OwnVerdict.NEWER_THAN_OURS
    claim = old.next_update("o1", suspected_duplicate=newcomers_update.epoch)
    assert new.judge(claim) is OwnVerdict.WE_ARE_DUPLICATE
    assert new.judge(old.next_update("o2")) is OwnVerdict.IGNORE
    assert old.judge(old.next_update("o3")) is OwnVerdict.IGNORE


PEERS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('<>&"\\\u2028'),
    min_size=1,
    max_size=63,
)


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(PEERS, st.sampled_from([1.0, 1e300, 1e-7, 123456.789])), min_size=5, max_size=30
    )
)
def test_whatever_peers_call_themselves_our_update_can_be_sent(peers):
    links = OwnLinks("own" * 85, epoch=(1 << 64) - 1)
    for name, cost in peers:
        for number in range(200):
            peer = (f"{number}" + 4 * name)[:63]
            if links.has_place(peer, cost, expected=True):
                links.add(peer, cost)
    message = links.next_update("i" * 64, (1 << 64) - 1).encode("<" * 255)
    as_go_writes = message.decode()
    for letter in "<>&\u2028\u2029":
        as_go_writes = as_go_writes.replace(letter, "\\u0000")
    assert len(as_go_writes.encode()) <= 65_535


def fill(links, name, *, expected):
    """Add links to peers with numbered names until one has no place; return how many."""
    number = 0
    while links.has_place(peer := name.format(number), 1.0, expected=expected):
        links.add(peer, 1.0)
        number += 1
    return number


def test_long_names_leave_places_for_others_and_those_for_links_that_are_asked_for():
    links = OwnLinks("own", epoch=1)
    assert fill(links, "{:0255}", expected=False) > 100
    assert fill(links, "short-{:06}", expected=False) > 1000
    assert not links.has_place("other", 1.0, expected=False)
    assert fill(links, "wanted-{:0248}", expected=True) > 25
    links.remove(f"{0:0255}")
    assert links.has_place(f"{0:0255}", 1.0, expected=True)


def test_two_thousand_ordinary_links_have_a_place():
    links = OwnLinks("own", epoch=1)
    for number in range(2000):
        peer = f"node-{number:04}.example"
        assert links.has_place(peer, 1.0, expected=False)
        links.add(peer, 1.0)
