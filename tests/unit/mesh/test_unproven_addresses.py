"""Nobody whose address is not proven gets more than three times what it sent, or takes memory."""

import hypothesis
import hypothesis.strategies as st
import pytest

from meshnode.mesh.links import strangers as strangers_module
from meshnode.mesh.links.strangers import (
    AMPLIFICATION,
    ANSWER_TYPE,
    CHALLENGE_TYPE,
    COOKIE_LENGTH,
    GIVEN_UP,
    LIFETIME,
    MAX_STRANGERS,
    PREFIX_LENGTH,
    READ_AT_ONCE,
    REQUEST,
    STEPS,
    CookieJar,
    Proven,
    Strangers,
    answer,
    read_challenge,
)
from meshnode.protocol.messages import MessageType
from meshnode.protocol.routing import RoutingUpdate


class FakeGreeter:
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

    def expect(self, service, heard) -> None:
        self.expected[service] = heard

    def expect_no_more(self, service) -> None:
        del self.expected[service]


def hello_of(name: str, peers: int = 0) -> bytes:
    """Return the first word of a node."""
    connections = {f"peer{number}": 1.0 for number in range(peers)}
    return RoutingUpdate(name, "abcdefgh", 1 << 54, 1, connections, name).encode()


def address(number: int) -> tuple[str, int]:
    return (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 2222)


def make(greeter: FakeGreeter) -> Strangers:
    return Strangers(greeter, greeter.proven.append)


def proven_of(strangers: Strangers) -> list[Proven]:
    """Return the addresses that have shown that they read there since the last call."""
    proven = [*strangers.greeter.proven]
    strangers.greeter.proven.clear()
    return proven


@pytest.fixture
def greeter() -> FakeGreeter:
    return FakeGreeter()


@pytest.fixture
def strangers(greeter) -> Strangers:
    return make(greeter)


HERE = address(1)


def test_a_stranger_is_told_who_we_are_and_then_pinged_a_few_times(strangers):
    strangers.take(HERE, hello_of("bar"), 0.0)
    said = []
    while (now := strangers.next_due()) < GIVEN_UP:
        said += [(now, *message) for message in strangers.due(now)]
    assert said[0] == (STEPS[0], HERE, b"\x01hello")
    assert said[1:] == [(step, HERE, b"\x00pingbar00000001") for step in STEPS[1:]]
    assert len(strangers) == 1
    strangers.due(now)
    assert len(strangers) == 0


@pytest.mark.parametrize("by_the_link", [True, False], ids=["here", "by another link"])
def test_an_answer_to_a_ping_proves_the_address_once(strangers, greeter, by_the_link):
    first, last = hello_of("bar"), hello_of("bar", peers=3)
    strangers.take(HERE, first, 0.0)
    strangers.take(HERE, last, 0.2)
    if by_the_link:
        strangers.take(HERE, b"\x00" * 28 + b"00000001", 0.4)
    else:
        greeter.expected[b"00000001"]()
    assert proven_of(strangers) == [Proven(HERE, last)]
    assert proven_of(strangers) == []
    assert (len(strangers), greeter.expected) == (0, {})


def test_what_another_address_was_told_proves_nothing(strangers):
    strangers.take(HERE, hello_of("bar"), 0.0)
    strangers.take(address(2), hello_of("baz"), 0.0)
    strangers.take(HERE, b"\x00" * 28 + b"00000002", 0.4)
    assert proven_of(strangers) == []


def test_a_long_word_of_ours_waits_until_enough_has_come(greeter):
    strangers = make(FakeGreeter(bytes([MessageType.ROUTE]) * 2 * AMPLIFICATION * 150))
    hello = hello_of("bar")
    strangers.take(HERE, hello, 0.0)
    assert strangers.due(STEPS[0]) == []
    strangers.take(HERE, hello, 1.0)
    strangers.take(HERE, hello, 1.5)
    assert [len(message) for _, message in strangers.due(2.0)] == [900]


@pytest.mark.parametrize("data", [b"\x01", b"\x01{}", b"\x00" * 36, b"\x02{}", b"\x03[]", b"x"])
def test_only_a_hello_begins_anything(strangers, data):
    strangers.take(HERE, data, 0.0)
    assert len(strangers) == 0


def test_a_flood_of_addresses_takes_no_more_than_its_bounds(strangers, greeter):
    now = 0.0
    for number in range(2000):
        now += 0.02
        strangers.take(
            address(number), hello_of("bar", peers=number % 200 * (number % 10 == 0)), now
        )
        assert strangers._kept <= strangers_module.KEPT_BYTES
    assert 1 <= len(strangers) <= MAX_STRANGERS
    assert len(greeter.expected) == len(strangers)
    strangers.clear()
    assert (len(strangers), strangers._kept, len(strangers._held)) == (0, 0, 0)
    assert greeter.expected == {}


def test_who_sends_many_hellos_at_once_has_few_of_them_read(strangers):
    for number in range(10 * READ_AT_ONCE):
        strangers.take(address(number), hello_of("bar"), 0.0)
    assert len(strangers) == READ_AT_ONCE


def test_the_one_network_with_most_strangers_gives_way_to_others(strangers, monkeypatch):
    monkeypatch.setattr(strangers_module, "MAX_STRANGERS", 10)
    strangers.take(HERE, hello_of("honest"), 0.0)
    for port in range(50):
        strangers.take(("10.9.9.9", port), hello_of("bar"), 0.0)
    strangers.take(HERE, b"\x00" * 28 + b"00000001", 0.4)
    assert [proven.address for proven in proven_of(strangers)] == [HERE]


def test_the_ports_of_one_network_of_ipv6_are_one_holder(strangers, monkeypatch):
    monkeypatch.setattr(strangers_module, "MAX_STRANGERS", 10)
    strangers.take(HERE, hello_of("honest"), 0.0)
    for number in range(50):
        strangers.take((f"2001:db8::{number:x}", 7, 0, 0), hello_of("bar"), 0.0)
    strangers.take(HERE, b"\x00" * 28 + b"00000001", 0.4)
    assert len(proven_of(strangers)) == 1


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
    greeter = FakeGreeter(b"\x01" * size)
    strangers, jar = make(greeter), CookieJar()
    now = 0.0
    came: dict[object, int] = {}
    went: dict[object, int] = {}

    def send_what_is_due(until: float) -> None:
        while (due := strangers.next_due()) <= until:
            for receiver, message in strangers.due(due):
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
            strangers.take(sender, data, now)
        assert went.get(sender, 0) <= AMPLIFICATION * came[sender]
    send_what_is_due(now + GIVEN_UP)
    assert len(strangers) == 0


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
