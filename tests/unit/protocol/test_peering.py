"""Opening and judging a link."""

from typing import NamedTuple

import pytest

from meshnode.policies import LinkPolicy
from meshnode.protocol.peering import (
    HELLO_INTERVAL,
    HELLO_TRIES,
    IDLE_TIMEOUT,
    Apply,
    Close,
    Established,
    Peering,
    Refuse,
    SendHello,
)
from meshnode.protocol.routing import RoutingUpdate


class Life(NamedTuple):
    """An established link."""

    epoch: int


def word(node="bar", connections=None, via=None, sequence=1):
    return RoutingUpdate(node, "id", 1, sequence, connections or {}, via or node)


def peering(**policy):
    return Peering("foo", LinkPolicy(**policy), now=0.0)


def opened(**policy):
    link = peering(**policy)
    assert link.on_update(word(), {})[0] == Established("bar", link.cost)
    return link


def test_hellos_go_out_at_once_and_every_second_until_the_tries_are_used_up():
    link = peering()
    times = []
    for _ in range(HELLO_TRIES):
        now = link.next_deadline()
        times.append(now)
        assert link.on_timer(now) == SendHello()
        assert link.on_timer(now) is None
    assert times == [i * HELLO_INTERVAL for i in range(HELLO_TRIES)]
    assert isinstance(link.on_timer(link.next_deadline()), Close)


def test_the_first_update_names_the_peer_and_a_hello_is_not_applied():
    assert peering().on_update(word(), {}) == [Established("bar", 1.0)]


def test_an_update_about_a_third_node_names_its_forwarder_and_is_applied():
    actions = peering().on_update(word("baz", via="bar"), {})
    assert actions == [Established("bar", 1.0), Apply()]


def test_nodecost_names_the_cost_of_one_peer():
    policy = {"cost": 2.0, "node_costs": {"bar": 7.5}}
    assert opened(**policy).cost == 7.5
    assert peering(**policy).on_update(word("baz"), {}) == [Established("baz", 2.0)]


@pytest.mark.parametrize(
    ("link", "update", "connected", "reason"),
    [
        (peering(), word("foo"), {}, "own node ID"),
        (peering(allowed_peers=frozenset({"baz"})), word(), {}, "allowedpeers"),
        (peering(), word(), {"bar": Life(2)}, "exists already"),
        (peering(), word("baz", via="bar"), {"bar": Life(1)}, "exists already"),
        (peering(), word(), {"bar": Life(1)}, "is up already, and one is enough"),
    ],
)
def test_a_peer_that_must_not_be_is_refused(link, update, connected, reason):
    (action,) = link.on_update(update, connected)
    assert isinstance(action, Refuse)
    assert reason in action.reason
    assert not link.established


def test_a_peer_that_changes_its_name_is_refused():
    (action,) = opened().on_update(word("baz"), {})
    assert isinstance(action, Refuse)


def test_both_ends_must_agree_about_the_cost():
    link = opened(cost=2.0)
    assert link.on_update(word(connections={"foo": 2.0}), {}) == [Apply()]
    (action,) = link.on_update(word(connections={"foo": 3.0}), {})
    assert isinstance(action, Refuse)


def test_a_peer_that_stops_listing_us_is_refused_and_a_late_hello_is_not():
    link = opened()
    assert link.on_update(word(), {}) == []
    assert link.on_update(word(connections={"foo": 1.0}), {}) == [Apply()]
    (action,) = link.on_update(word(), {})
    assert isinstance(action, Refuse)


def test_a_silent_link_is_closed_and_any_message_keeps_it():
    link = opened()
    link.received(5.0)
    assert link.next_deadline() == 5.0 + IDLE_TIMEOUT
    assert link.on_timer(IDLE_TIMEOUT + 1) is None
    assert isinstance(link.on_timer(5.0 + IDLE_TIMEOUT), Close)


def test_updates_of_others_pass_once_the_link_is_up():
    assert opened().on_update(word("baz", {"bar": 1.0}, via="bar"), {}) == [Apply()]


def test_a_hello_that_was_overtaken_by_later_words_is_left_to_the_topology():
    link = opened()
    assert link.on_update(word(connections={"foo": 1.0}, sequence=3), {}) == [Apply()]
    assert link.on_update(word(sequence=2), {}) == [Apply()]
    (action,) = link.on_update(word(sequence=4), {})
    assert isinstance(action, Refuse)


def test_a_link_names_the_life_of_its_peer_by_the_last_update_that_is_the_peers_own():
    link = opened()
    assert link.epoch == 1
    link.on_update(RoutingUpdate("baz", "id", 7, 1, {}, "bar"), {})
    assert link.epoch == 1
    link.on_update(RoutingUpdate("bar", "id", 3, 1, {"foo": 1.0}, "bar"), {})
    assert link.epoch == 3
    link.on_update(word(connections={"foo": 1.0}), {})  # late
    assert link.epoch == 3
