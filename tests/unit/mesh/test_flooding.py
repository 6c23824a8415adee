"""What a peer is told of other nodes: all of it, the newest of it, and no more than fits."""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given

from meshnode.mesh.peers.flooding import BEHIND_BYTES, PORTION_BYTES, PeerFeed
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.routing import RoutingUpdate, ServiceAdvertisement
from meshnode.protocol.topology import Topology


class SlowSession:
    """A link that takes what waits when a test says so."""

    peer = "peer"

    def __init__(self):
        self.sent = []
        self.routing_waiting = 0
        self.most_waiting = 0
        self._asked = False

    def send_routing(self, message):
        self.sent.append(message)
        self.routing_waiting += len(message)
        self.most_waiting = max(self.most_waiting, self.routing_waiting)

    def has_routing_room(self, most):
        return self.routing_waiting < most

    def call_when_drained(self):
        self._asked = True

    def drain(self, feed):
        self.routing_waiting = 0
        while self._asked:
            self._asked = False
            feed.resume()
            self.routing_waiting = 0


def update(node, sequence, links=1):
    names = dict.fromkeys((f"p{i:03}" for i in range(links)), 1.0)
    return RoutingUpdate(node, f"i{sequence}", 1, sequence, names, "source")


def advert(node, service, number, size=10):
    time = f"2026-11-21T00:{number // 60:02}:{number % 60:02}Z"
    return ServiceAdvertisement(node, service, time, 1, {"type": "x" * size})


def scene():
    session, topology, adverts = SlowSession(), Topology("own", 1), AdvertisementTable()
    return session, topology, adverts, PeerFeed("peer", session, topology, adverts)


def test_a_peer_that_joins_is_told_all_in_portions_and_the_first_nodes_first():
    session, topology, adverts, feed = scene()
    nodes = [f"n{number:03}" for number in range(100)]
    for node in nodes:
        topology.apply(update(node, 1, links=1000), 0.0, "via")
        for service in "abc":
            adverts.apply(advert(node, service, 1, 3000), 0.0, None, "via")
    feed.tell_all([*reversed(nodes), "gone", "peer"])
    assert PORTION_BYTES <= session.routing_waiting <= PORTION_BYTES + 65_535
    session.drain(feed)
    assert session.most_waiting <= PORTION_BYTES + 65_535
    updates = [RoutingUpdate.decode(m).node_id for m in session.sent if m[0] == 1]
    assert updates == [*reversed(nodes)]
    told = Counter(ServiceAdvertisement.decode(m).node_id for m in session.sent if m[0] == 2)
    assert told == dict.fromkeys(nodes, 3)


def test_of_itself_a_peer_is_told_its_services_only():
    session, topology, adverts, feed = scene()
    topology.apply(update("peer", 1), 0.0, "peer")
    adverts.apply(advert("peer", "old", 1), 0.0, None, "peer")
    feed.tell_all(["peer"])
    assert [m[0] for m in session.sent] == [2]


NEWS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.booleans(), st.integers(1, 900), st.booleans()),
    min_size=1,
    max_size=150,
)


@given(NEWS)
def test_a_peer_whose_link_is_behind_hears_the_newest_of_all_in_the_end(news):
    session, topology, adverts, feed = scene()
    for number, (node, is_advert, size, drain) in enumerate(news, 1):
        if is_advert:
            word = advert(node, "svc", number, size * 4)
            message = word.encode()
            adverts.apply(word, 0.0, message, "via")
        else:
            word = update(node, number, size)
            topology.apply(word, 0.0, "via")
            message = topology.message_about(node)
        feed.forward(node, message, is_advert=is_advert)
        if drain:
            session.drain(feed)
    session.drain(feed)
    assert session.most_waiting <= BEHIND_BYTES + 65_535
    newest = {}
    for message in session.sent:
        if message[0] == 1:
            newest[RoutingUpdate.decode(message).node_id, False] = message
        else:
            newest[ServiceAdvertisement.decode(message).node_id, True] = message
    for node, is_advert, _, _ in news:
        known = list(adverts.messages(node)) if is_advert else [topology.message_about(node)]
        assert newest[node, is_advert] == known[0]


def test_however_long_a_peer_takes_nothing_no_more_waits_for_it():
    session, topology, _, feed = scene()
    for sequence in range(1, 300):
        topology.apply(update(f"n{sequence % 7}", sequence, 800), 0.0, "via")
        message = topology.message_about(f"n{sequence % 7}")
        feed.forward(f"n{sequence % 7}", message, is_advert=False)
    assert session.routing_waiting <= BEHIND_BYTES + 65_535
