"""Why a link is refused, in the words of both ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.policies import LinkPolicy
from meshnode.protocol.messages import MessageType
from meshnode.protocol.peering import Peering
from meshnode.protocol.rejection import LONGEST, Ground, Rejection
from meshnode.protocol.routing import RoutingUpdate

COSTS = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
REJECTIONS = st.builds(Rejection, st.sampled_from(Ground), st.just("bar"), COSTS, COSTS)


@given(REJECTIONS)
def test_the_other_end_hears_the_ground_and_sees_the_costs_from_its_side(rejection):
    message = rejection.encode()
    assert message[0] == MessageType.REJECT
    assert len(message) <= LONGEST
    heard = Rejection.decode(message)
    if rejection.ground is Ground.COST:
        assert heard == Rejection(Ground.COST, "", rejection.other_cost, rejection.cost)
    else:
        assert heard == Rejection(rejection.ground)


@given(st.binary(max_size=300) | REJECTIONS.map(lambda r: r.encode()[1:] + b" "))
def test_any_bytes_behind_the_type_are_a_rejection_or_none(body):
    heard = Rejection.decode(bytes([MessageType.REJECT]) + body)
    assert heard is None or (heard.reason and heard.peer == "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'["of a later version"]',
        b'["cost"]',
        b'["cost","x","1"]',
        b'["cost","1","0"]',
        b'["cost","nan","1"]',
        b'["linked","1","2"]',
        b"[[[[",
        b"[1]",
        b'{"a":"b"}',
        b"\xff",
    ],
)
def test_a_reject_message_without_a_ground_that_is_known_says_nothing(body):
    assert Rejection.decode(bytes([MessageType.REJECT]) + body) is None


@pytest.mark.parametrize("ground", Ground)
def test_each_ground_has_words_of_its_own_at_either_end(ground):
    here, there = Rejection(ground, "bar", 5.0, 1.0), Rejection(ground, "", 1.0, 5.0)
    assert here.reason
    assert there.reason
    assert here.reason != there.reason


@pytest.mark.parametrize("ground", Ground)
def test_a_list_of_the_allowed_is_each_ends_own_and_an_id_in_use_is_seen_by_both(ground):
    here, there = Rejection(ground, "bar", 5.0, 1.0), Rejection(ground, "", 5.0, 1.0)
    both = {Ground.OWN_ID, Ground.LINKED, Ground.TWICE, Ground.COST}
    assert there.repeats(here) is (ground in both)
    other = Ground.COST if ground is Ground.NOT_ALLOWED else Ground.NOT_ALLOWED
    assert not there.repeats(Rejection(other, "bar"))


def test_the_neighbour_of_a_duplicate_says_what_receptor_says_behind_its_own_words():
    reason = Rejection(Ground.LINKED, "bar").reason
    assert reason.startswith("a link to bar exists already")
    assert reason.endswith("connected using a node ID we are already connected to")


def rejected(*updates: RoutingUpdate, cost: float = 1.0) -> str:
    """Return why foo thinks that it was rejected, by a node that does not say."""
    link = Peering("foo", LinkPolicy(cost), 0.0)
    for update in updates:
        link.on_update(update, {})
    return link.guess_why_rejected()


def test_a_receptor_node_says_nothing_and_what_it_listed_tells_why_it_may_be():
    silent = RoutingUpdate("bar", "id", 1, 1, {}, "bar")
    lists_us = RoutingUpdate("bar", "id", 1, 1, {"foo": 1.0}, "bar")
    assert "lists a link to our node ID already" in rejected(lists_us)
    assert "allowedpeers, or the link does not cost 2.5 there" in rejected(silent, cost=2.5)
    assert rejected().endswith("we may not be in its allowedpeers")
