"""Who may begin a connection: proof of address, shares, places that are given back."""

import hypothesis
import hypothesis.strategies as st
import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicProtocolVersion
from test_quic import CLIENT, SERVER, exchange, new_credit

from meshnode.mesh.streams.admission import (
    KEPT_CONNECTIONS,
    MAX_CONNECTIONS,
    MAX_HALF_OPEN,
    MAX_UNPROVEN,
    TOKEN_SECONDS,
    Admission,
    Admitted,
    Initial,
    Refused,
    Retry,
    RetryTokens,
    first_packet,
)
from meshnode.mesh.streams.identity import make_insecure_identity
from meshnode.mesh.streams.quic import MeshQuicConnection
from meshnode.mesh.streams.quicsettings import ALPN
from meshnode.protocol.messages import encode_service
from meshnode.shares import Holder

SERVICE = encode_service("control")
DIALER = (b"nodehash", encode_service("abcdefgh"))


def initial(token=b"", cid=b"original"):
    return Initial(cid, b"dialers", token)


def judge(admission, address, first, branch="", is_near=False):
    """Judge a first packet of a dialer, whose name is its hash."""
    holder = Holder(address[0].decode(), branch, is_near)
    return admission.judge(address, SERVICE, first, 0.0, holder)


def crowd(admission, node=b"nodehash"):
    """Take all places for dialers that have not shown that answers reach them."""
    places = []
    while isinstance(place := judge(admission, (node, b"%08d" % len(places)), initial()), Admitted):
        places.append(place)
    return places


# --- tokens --------------------------------------------------------------------------------------


def test_a_token_is_good_for_the_address_and_connection_that_it_was_sent_to():
    tokens = RetryTokens()
    token = tokens.make(DIALER, SERVICE, initial(), b"retrycid", 5.0)
    back = initial(token, b"retrycid")
    assert tokens.read(DIALER, SERVICE, back, 5.0) == b"original"
    assert tokens.read(DIALER, SERVICE, back, 5.0 + TOKEN_SECONDS) == b"original"


@pytest.mark.parametrize(
    ("address", "service", "cid", "late"),
    [
        ((b"another-", DIALER[1]), SERVICE, b"retrycid", 0.0),
        ((DIALER[0], b"another-"), SERVICE, b"retrycid", 0.0),
        (DIALER, b"another-", b"retrycid", 0.0),
        (DIALER, SERVICE, b"another-", 0.0),
        (DIALER, SERVICE, b"retrycid", TOKEN_SECONDS + 0.01),
    ],
)
def test_a_token_is_good_for_nothing_else(address, service, cid, late):
    tokens = RetryTokens()
    token = tokens.make(DIALER, SERVICE, initial(), b"retrycid", 5.0)
    assert tokens.read(address, service, initial(token, cid), 5.0 + late) is None


@hypothesis.given(st.binary(max_size=60), st.integers(0, 60), st.integers(1, 255))
def test_no_other_bytes_are_a_token(data, position, change):
    tokens = RetryTokens()
    assert tokens.read(DIALER, SERVICE, initial(data), 0.0) is None
    token = bytearray(tokens.make(DIALER, SERVICE, initial(), b"retrycid", 5.0))
    token[position % len(token)] ^= change
    assert tokens.read(DIALER, SERVICE, initial(bytes(token), b"retrycid"), 5.0) is None
    assert RetryTokens().read(DIALER, SERVICE, initial(bytes(token), b"retrycid"), 5.0) is None


# --- places --------------------------------------------------------------------------------------


def test_an_ordinary_dialer_is_asked_for_nothing():
    assert isinstance(judge(Admission(), DIALER, initial()), Admitted)


def test_a_crowd_is_asked_to_show_itself_and_is_let_in_when_it_does():
    crowded = Admission()
    places = crowd(crowded)
    assert 16 <= len(places) < MAX_UNPROVEN
    answer = judge(crowded, DIALER, initial())
    assert isinstance(answer, Retry)
    assert len(answer.answer) < 150
    assert isinstance(judge(Admission(), DIALER, initial(b"made up")), Refused)
    # Another node still begins at once.
    assert isinstance(judge(crowded, (b"another-", DIALER[1]), initial()), Admitted)


def test_handshakes_that_are_done_or_over_make_room():
    found = Admission()
    places = crowd(found)
    for number, place in enumerate(places):
        (place.ready if number % 2 else place.leave)()
    assert len(crowd(found)) == len(places)


def proven(admission, node, number):
    """Return the judgement of a dialer that has done what a Retry says."""
    address = (node, b"%08d" % number)
    token = admission._tokens.make(address, SERVICE, initial(), b"retrycid", 0.0)
    return judge(admission, address, initial(token, b"retrycid"))


def test_one_node_with_real_addresses_cannot_take_all_handshakes():
    found = Admission()
    mine = [proven(found, b"greedy--", n) for n in range(MAX_HALF_OPEN)]
    assert sum(isinstance(place, Admitted) for place in mine) == 128
    assert isinstance(proven(found, b"another-", 0), Admitted)


def test_one_node_cannot_take_all_connections_and_those_that_end_are_free_again():
    found = Admission()
    places = []
    for number in range(MAX_CONNECTIONS):
        place = proven(found, b"greedy--", number)
        if isinstance(place, Admitted):
            place.ready()
            places.append(place)
    assert len(places) == 1024
    assert isinstance(judge(found, DIALER, initial()), Admitted)
    for place in places:
        place.leave()
        place.leave()
    assert found.connections.held(Holder("greedy--")) == 0
    assert isinstance(proven(found, b"greedy--", 0), Admitted)


# --- a Retry as dialers take it ------------------------------------------------------------------


def receptor_dialer():
    """Return a dialer of the make of receptor's: plain QUIC, connection IDs of 4 bytes."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=[ALPN],
        connection_id_length=4,
        supported_versions=[QuicProtocolVersion.VERSION_1],
        verify_mode=0,
    )
    client = QuicConnection(configuration=configuration)
    # quic-go makes up 8 to 20 bytes for the listener, whatever its own have.
    client._peer_cid.cid = client._original_destination_connection_id = bytes(range(12))
    client.connect(SERVER, 0.0)
    return client


@pytest.mark.parametrize(
    "make", [receptor_dialer, lambda: MeshQuicConnection.client("foo", SERVER, 0.0, new_credit())]
)
def test_dialers_begin_again_as_a_retry_says(make):
    client, found = make(), Admission()
    crowd(found)
    ((first, _),) = client.datagrams_to_send(0.0)
    answer = judge(found, DIALER, first_packet(first).initial)
    client.receive_datagram(answer.answer, SERVER, 0.0)
    ((again, _),) = client.datagrams_to_send(0.0)
    place = judge(found, DIALER, first_packet(again).initial)
    assert isinstance(place, Admitted)
    server = MeshQuicConnection.server(
        make_insecure_identity(), new_credit(), place.original_cid, place.retry_cid
    )
    server.receive_datagram(again, CLIENT, 0.0)
    exchange(client, server)
    assert client._handshake_confirmed
    assert server.ended is None


def test_nodes_that_a_peer_invents_leave_connections_and_handshakes_to_others() -> None:
    admission = Admission()
    honest = (b"honest--", encode_service("x"))
    for number in range(4000):
        node = b"%08d" % (number // 2)
        found = judge(admission, (node, b"%08d" % number), initial(), "10.0.0.66")
        if number % 3 and isinstance(found, Admitted):
            found.ready()
    assert isinstance(judge(admission, honest, initial(), "10.0.0.1"), Admitted)
    token = admission._tokens.make(honest, SERVICE, initial(), b"retrycid", 0.0)
    back = initial(token, b"retrycid")
    assert isinstance(judge(admission, honest, back, "10.0.0.1"), Admitted)


@pytest.mark.parametrize("proven", [False, True])
def test_connections_of_invented_nodes_leave_some_to_the_rest(proven) -> None:
    admission = Admission()
    taken = 0
    for number in range(2 * MAX_CONNECTIONS):
        address = (b"%08d" % (number // 4), b"%08d" % number)
        first = initial()
        if proven:
            first = initial(
                admission._tokens.make(address, SERVICE, first, b"retrycid", 0.0), b"retrycid"
            )
        found = judge(admission, address, first, "10.0.0.66")
        if isinstance(found, Admitted):
            found.ready()
            taken += 1
    assert taken == MAX_CONNECTIONS - KEPT_CONNECTIONS // 2
    assert isinstance(judge(admission, DIALER, initial(), "10.0.0.1"), Admitted)
    assert isinstance(judge(admission, DIALER, initial(), "10.0.0.66", is_near=True), Admitted)
