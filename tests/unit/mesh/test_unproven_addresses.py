"""Nobody whose address is not proven gets more than three times what it sent, or takes memory."""

import hypothesis
import hypothesis.strategies as st
import pytest

from meshnode.mesh.links import unproven as unproven_module
from meshnode.mesh.links.unproven import (
    AMPLIFICATION,
    ANSWER_TYPE,
    CHALLENGE_TYPE,
    COOKIE_LENGTH,
    GIVEN_UP,
    LIFETIME,
    MAX_UNPROVEN,
    PREFIX_LENGTH,
    READ_AT_ONCE,
    REQUEST,
    STEPS,
    CookieJar,
    Proven,
    UnprovenAddresses,
    answer,
    read_challenge,
)
from meshnode.protocol.messages import MessageType
from meshnode.protocol.routing import RoutingUpdate


class FakeProbe:
    """Says recognisable things, and counts what is expected."""

    def __init__(self, hello: bytes = b"\x01hello") -> None:
        self._hello = hello
        self.expected: dict[bytes, object] = {}
        self._services = 0
        self.proven: list[Proven] = []

    def hello(self) -> bytes:
        return self._hello

    def ping(self, peer: str, service: bytes) -> bytes:
        return b"\x00ping" + peer.encode() + service

    def free_service(self) -> bytes:
        self._services += 1
        return b"%08d" % self._services

    def expect_reply(self, service, heard) -> None:
        self.expected[service] = heard

    def expect_no_reply(self, service) -> None:
        del self.expected[service]


def hello_of(name: str, peers: int = 0) -> bytes:
    """Return the first word of a node."""
    connections = {f"peer{number}": 1.0 for number in range(peers)}
    return RoutingUpdate(name, "abcdefgh", 1 << 54, 1, connections, name).encode()


def address(number: int) -> tuple[str, int]:
    return (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 2222)


def make(probe: FakeProbe) -> UnprovenAddresses:
    return UnprovenAddresses(probe, probe.proven.append)


def proven_of(unproven: UnprovenAddresses) -> list[Proven]:
    """Return the addresses that have shown that they read there since the last call."""
    proven = [*unproven.probe.proven]
    unproven.probe.proven.clear()
    return proven


@pytest.fixture
def probe() -> FakeProbe:
    return FakeProbe()


@pytest.fixture
def unproven(probe) -> UnprovenAddresses:
    return make(probe)


HERE = address(1)


def test_a_stranger_is_told_who_we_are_and_then_pinged_a_few_times(unproven):
    unproven.take(HERE, hello_of("bar"), 0.0)
    said = []
    while (now := unproven.next_due()) < GIVEN_UP:
        said += [(now, *message) for message in unproven.due(now)]
    assert said[0] == (STEPS[0], HERE, b"\x01hello")
    assert said[1:] == [(step, HERE, b"\x00pingbar00000001") for step in STEPS[1:]]
    assert len(unproven) == 1
    unproven.due(now)
    assert len(unproven) == 0


@pytest.mark.parametrize("by_the_link", [True, False], ids=["here", "by another link"])
def test_an_answer_to_a_ping_proves_the_address_once(unproven, probe, by_the_link):
    first, last = hello_of("bar"), hello_of("bar", peers=3)
    unproven.take(HERE, first, 0.0)
    unproven.take(HERE, last, 0.2)
    if by_the_link:
        unproven.take(HERE, b"\x00" * 28 + b"00000001", 0.4)
    else:
        probe.expected[b"00000001"]()
    assert proven_of(unproven) == [Proven(HERE, last)]
    assert proven_of(unproven) == []
    assert (len(unproven), probe.expected) == (0, {})


def test_what_another_address_was_told_proves_nothing(unproven):
    unproven.take(HERE, hello_of("bar"), 0.0)
    unproven.take(address(2), hello_of("baz"), 0.0)
    unproven.take(HERE, b"\x00" * 28 + b"00000002", 0.4)
    assert proven_of(unproven) == []


def test_a_long_word_of_ours_waits_until_enough_has_come(probe):
    unproven = make(FakeProbe(bytes([MessageType.ROUTE]) * 2 * AMPLIFICATION * 150))
    hello = hello_of("bar")
    unproven.take(HERE, hello, 0.0)
    assert unproven.due(STEPS[0]) == []
    unproven.take(HERE, hello, 1.0)
    unproven.take(HERE, hello, 1.5)
    assert [len(message) for _, message in unproven.due(2.0)] == [900]


@pytest.mark.parametrize("data", [b"\x01", b"\x01{}", b"\x00" * 36, b"\x02{}", b"\x03[]", b"x"])
def test_only_a_hello_begins_anything(unproven, data):
    unproven.take(HERE, data, 0.0)
    assert len(unproven) == 0


def test_a_flood_of_addresses_takes_no_more_than_its_bounds(unproven, probe):
    now = 0.0
    for number in range(2000):
        now += 0.02
        unproven.take(
            address(number), hello_of("bar", peers=number % 200 * (number % 10 == 0)), now
        )
        assert unproven._kept <= unproven_module.KEPT_BYTES
    assert 1 <= len(unproven) <= MAX_UNPROVEN
    assert len(probe.expected) == len(unproven)
    unproven.clear()
    assert (len(unproven), unproven._kept, len(unproven._held)) == (0, 0, 0)
    assert probe.expected == {}


def test_who_sends_many_hellos_at_once_has_few_of_them_read(unproven):
    for number in range(10 * READ_AT_ONCE):
        unproven.take(address(number), hello_of("bar"), 0.0)
    assert len(unproven) == READ_AT_ONCE


def test_the_one_network_with_most_strangers_gives_way_to_others(unproven, monkeypatch):
    monkeypatch.setattr(unproven_module, "MAX_UNPROVEN", 10)
    unproven.take(HERE, hello_of("honest"), 0.0)
    for port in range(50):
        unproven.take(("10.9.9.9", port), hello_of("bar"), 0.0)
    unproven.take(HERE, b"\x00" * 28 + b"00000001", 0.4)
    assert [proven.address for proven in proven_of(unproven)] == [HERE]


def test_the_ports_of_one_network_of_ipv6_are_one_holder(unproven, monkeypatch):
    monkeypatch.setattr(unproven_module, "MAX_UNPROVEN", 10)
    unproven.take(HERE, hello_of("honest"), 0.0)
    for number in range(50):
        unproven.take((f"2001:db8::{number:x}", 7, 0, 0), hello_of("bar"), 0.0)
    unproven.take(HERE, b"\x00" * 28 + b"00000001", 0.4)
    assert len(proven_of(unproven)) == 1


DATAGRAMS = st.one_of(
    st.binary(min_size=1, max_size=100),
    st.builds(hello_of, st.text("abc", min_size=1, max_size=255), st.integers(0, 50)),
    st.builds(lambda head, rest: bytes([head]) + rest, st.integers(0, 255), st.binary(max_size=40)),
    st.just(REQUEST),
)


@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 3), DATAGRAMS, st.floats(0, 3))),
    st.integers(1, 3000),
)
def test_no_unproven_address_is_sent_more_than_thrice_what_it_sent(datagrams, size):
    probe = FakeProbe(b"\x01" * size)
    unproven, jar = make(probe), CookieJar()
    now = 0.0
    came: dict[object, int] = {}
    went: dict[object, int] = {}

    def send_what_is_due(until: float) -> None:
        while (due := unproven.next_due()) <= until:
            for receiver, message in unproven.due(due):
                went[receiver] = went.get(receiver, 0) + len(message)
                assert went[receiver] <= AMPLIFICATION * came[receiver]

    for number, data, later in datagrams:
        now += later
        send_what_is_due(now)
        sender = address(number)
        came[sender] = came.get(sender, 0) + len(data)
        if data == REQUEST:  # as the listener does
            went[sender] = went.get(sender, 0) + len(jar.challenge(sender, now))
        else:
            unproven.take(sender, data, now)
        assert went.get(sender, 0) <= AMPLIFICATION * came[sender]
    send_what_is_due(now + GIVEN_UP)
    assert len(unproven) == 0


# --- cookies -------------------------------------------------------------------------------------


def test_a_cookie_is_taken_from_its_address_only_and_for_a_while():
    jar, other = CookieJar(), CookieJar()
    datagram = answer(read_challenge(jar.challenge(HERE, 100.0)), b"\x01hello")
    assert datagram[PREFIX_LENGTH:] == b"\x01hello"
    assert jar.accepts(datagram, HERE, 100.0)
    assert jar.accepts(datagram, HERE, 100.0 + LIFETIME)
    assert not jar.accepts(datagram, HERE, 100.0 + 2 * LIFETIME)
    assert not jar.accepts(datagram, (HERE[0], HERE[1] + 1), 100.0)
    assert not jar.accepts(datagram, address(2), 100.0)
    assert not other.accepts(datagram, HERE, 100.0)


@hypothesis.given(st.binary(max_size=40))
def test_any_other_datagram_is_no_answer(data):
    jar = CookieJar()
    assert not jar.accepts(data, HERE, 0.0)
    assert not jar.accepts(bytes([ANSWER_TYPE]) + data, HERE, 0.0)


@hypothesis.given(st.binary(max_size=40))
def test_only_a_challenge_is_read_as_one(data):
    is_one = len(data) == PREFIX_LENGTH and data[0] == CHALLENGE_TYPE
    assert (read_challenge(data) == data[1:]) is is_one
    assert read_challenge(bytes([CHALLENGE_TYPE]) + bytes(COOKIE_LENGTH)) == bytes(COOKIE_LENGTH)


def test_asking_for_a_cookie_brings_no_more_bytes_than_it_takes():
    assert len(CookieJar().challenge(HERE, 0.0)) <= len(REQUEST)
