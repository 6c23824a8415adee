"""The mesh's messages: recorded ones, made ones, and malformed ones."""

import contextlib
import dataclasses
import itertools
import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hostile.frames import decode_frames
from hypothesis import given

from meshnode.errors import ProtocolError
from meshnode.protocol.messages import (
    DataHeader,
    MessageType,
    Unreachable,
    decode_service,
    encode_service,
)
from meshnode.protocol.namehash import name_hash
from meshnode.protocol.routing import CopyDetector, RoutingUpdate, ServiceAdvertisement, WorkType

DATA = Path(__file__).parents[2] / "data"
FRAMES = json.loads((DATA / "wire-vectors.json").read_text())["frames"]
CAPTURES = sorted((DATA / "captures").glob("*.?2?.bin"))

LETTERS = st.characters(exclude_categories=["Cs", "Cc"])
NODE = st.text(LETTERS, min_size=1, max_size=60)
COST = st.floats(min_value=0.001, max_value=1e6)
UPDATES = st.builds(
    RoutingUpdate,
    node_id=NODE,
    update_id=st.text("abc", min_size=8, max_size=8),
    epoch=st.integers(0, 2**64 - 1),
    sequence=st.integers(0, 2**64 - 1),
    connections=st.dictionaries(NODE, COST, max_size=5),
    forwarding_node=NODE,
    suspected_duplicate=st.integers(0, 2**64 - 1),
)
ADVERTS = st.builds(
    ServiceAdvertisement,
    node_id=NODE,
    service=st.text("abcdefgh", min_size=1, max_size=8),
    time=st.just("2026-11-21T23:27:52.472033389Z"),
    conn_type=st.integers(0, 2),
    tags=st.none()
    | st.dictionaries(st.text(LETTERS, max_size=9), st.text(LETTERS, max_size=9), max_size=3),
    work_types=st.none() | st.lists(st.builds(WorkType, NODE, st.booleans())).map(tuple),
    cancel=st.booleans(),
)


def assert_encodes_back(message: bytes) -> None:
    """Decode a whole message and compare the bytes that it encodes to."""
    match message[0]:
        case MessageType.DATA:
            assert DataHeader.decode(message).encode() == message[:36]
        case MessageType.ROUTE:
            assert RoutingUpdate.decode(message).encode() == message
        case MessageType.ADVERTISEMENT:
            assert ServiceAdvertisement.decode(message).encode() == message
        case other:
            pytest.fail(f"a recorded message of type {other}")


@pytest.mark.parametrize("frame", FRAMES, ids=range(len(FRAMES)))
def test_recorded_frames_encode_back_to_the_same_bytes(frame):
    (message,) = decode_frames(bytes.fromhex(frame["hex"]))
    assert_encodes_back(bytes(message))


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.name)
def test_recorded_sessions_decode_and_encode_back(capture):
    messages = decode_frames(capture.read_bytes())
    assert len(messages) > 20
    for message in messages:
        assert_encodes_back(bytes(message))


def test_the_captures_are_there():
    assert len(CAPTURES) == 4


def test_recorded_data_headers_say_what_was_recorded():
    frame = next(f for f in FRAMES if f["decoded"]["type"] == "data")
    (message,) = decode_frames(bytes.fromhex(frame["hex"]))
    header = DataHeader.decode(message)
    assert header.hops == frame["decoded"]["hops_to_live"]
    assert header.source.hex() == frame["decoded"]["from_hash"]
    assert header.destination.hex() == frame["decoded"]["to_hash"]
    assert decode_service(header.source_service) == frame["decoded"]["from_service"]
    assert decode_service(header.destination_service) == frame["decoded"]["to_service"]


@given(UPDATES)
def test_routing_updates_survive_the_wire(update):
    assert RoutingUpdate.decode(update.encode()) == update


@given(ADVERTS)
def test_advertisements_survive_the_wire(advert):
    assert ServiceAdvertisement.decode(advert.encode()) == advert


def test_whole_costs_are_written_without_a_fraction():
    update = RoutingUpdate("a", "i", 1, 1, {"b": 1.0, "c": 2.5}, "a")
    assert b'"Connections":{"b":1,"c":2.5}' in update.encode()


@pytest.mark.parametrize(
    "change",
    [
        {"NodeID": 1},
        {"NodeID": ""},
        {"NodeID": "x" * 65_000},
        {"NodeID": "\ud800"},
        {"ForwardingNode": None},
        {"UpdateID": []},
        {"UpdateEpoch": -1},
        {"UpdateEpoch": 2**64},
        {"UpdateEpoch": 1.5},
        {"UpdateEpoch": True},
        {"UpdateSequence": "1"},
        {"Connections": []},
        {"Connections": {"a": "1"}},
        {"Connections": {"a": True}},
        {"Connections": {"a": 10**400}},
        {"Connections": {"a": float("nan")}},
        {"Connections": {"a": float("inf")}},
    ],
)
def test_a_wrong_value_in_a_routing_update_is_refused(change):
    good = json.loads(RoutingUpdate("a", "i", 1, 1, {}, "a").encode()[1:])
    with pytest.raises(ProtocolError):
        RoutingUpdate.decode(b"\x01" + json.dumps(good | change).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"NodeID": {}},
        {"Time": "yesterday"},
        {"Time": 5},
        {"Tags": {"a": 1}},
        {"Tags": []},
        {"WorkCommands": {}},
        {"WorkCommands": [1]},
        {"WorkCommands": [{"WorkType": 1}]},
        {"WorkCommands": [{"WorkType": "x", "Secure": "yes"}]},
        {"Cancel": "no"},
        {"ConnType": -1},
    ],
)
def test_a_wrong_value_in_an_advertisement_is_refused(change):
    advert = ServiceAdvertisement("a", "s", "2026-11-21T23:27:52Z", 1)
    good = json.loads(advert.encode()[1:])
    with pytest.raises(ProtocolError):
        ServiceAdvertisement.decode(b"\x02" + json.dumps(good | change).encode())


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b'{"NodeID":' + b"9" * 5000 + b"}"],
)
@pytest.mark.parametrize("kind", [RoutingUpdate, ServiceAdvertisement])
def test_what_is_no_json_object_is_refused(kind, body):
    with pytest.raises(ProtocolError):
        kind.decode(b"\x01" + body)


@given(st.binary(max_size=300))
def test_no_bytes_crash_a_decoder(data):
    for decode in (
        RoutingUpdate.decode,
        ServiceAdvertisement.decode,
        Unreachable.decode,
        DataHeader.decode,
    ):
        with contextlib.suppress(ProtocolError):
            decode(data)


def test_newer_advertisements_are_told_by_their_nanoseconds():
    def at(time: str) -> ServiceAdvertisement:
        return ServiceAdvertisement("a", "s", time, 1)

    # Go drops trailing zeros of the fraction, so ".5" is later than ".499999999".
    times = [
        "2026-11-21T23:27:52Z",
        "2026-11-21T23:27:52.000000001Z",
        "2026-11-21T23:27:52.499999999Z",
        "2026-11-21T23:27:52.5Z",
        "2026-11-21T23:27:53Z",
    ]
    for earlier, later in itertools.pairwise(times):
        assert at(later).nanoseconds > at(earlier).nanoseconds


def test_a_service_name_that_does_not_fit_is_refused():
    assert encode_service("control") == b"control\0"
    for name in ("ninechars", "nul\0"):
        with pytest.raises(ProtocolError):
            encode_service(name)


def test_unreachable_notices_survive_the_wire():
    notice = Unreachable("a", "b", encode_service("s"), encode_service("t"), "service unknown")
    assert Unreachable.decode(notice.encode()) == notice
    assert json.loads(notice.encode()) == {
        "FromNode": "a",
        "ToNode": "b",
        "FromService": "s",
        "ToService": "t",
        "Problem": "service unknown",
    }


def test_the_hash_of_a_node_fills_its_field():
    header = DataHeader(
        3, name_hash("foo"), name_hash("bar"), encode_service("a"), encode_service("b")
    )
    assert len(header.encode()) == 36
    assert DataHeader.decode(header.encode()) == header


FEW = st.builds(
    RoutingUpdate,
    NODE,
    st.text("abc", min_size=1, max_size=2),
    st.integers(0, 2),
    st.integers(0, 2),
    st.dictionaries(st.sampled_from("xyz"), st.sampled_from([1.0, 0.5]), max_size=2),
    NODE,
    st.sampled_from([0, 7]),
)
"""Of which many are nearly alike."""


@given(FEW, NODE)
def test_a_copy_of_an_update_has_its_key_whoever_passed_it_on(update, other):
    first = RoutingUpdate.decode(update.encode())
    copy = RoutingUpdate.decode(update.encode(other))
    assert first.key is not None
    assert first.key == copy.key


@given(FEW, FEW)
def test_two_updates_have_two_keys_also_with_one_identifier(one, other):
    other = dataclasses.replace(other, update_id=one.update_id, forwarding_node=one.forwarding_node)
    keys = [RoutingUpdate.decode(u.encode()).key for u in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@given(FEW, NODE)
def test_a_copy_is_told_without_parsing_or_it_must_be_parsed(update, peer):
    message = memoryview(update.encode(peer))
    key = CopyDetector(peer).key(message)
    assert key in (None, RoutingUpdate.decode(message).key)
    if update.node_id == peer:
        assert key is None


def test_what_receptor_and_meshnode_pass_on_is_told_without_parsing():
    update = RoutingUpdate("node-1.example", "aB3dE5gH", 1, 2, {"b": 1.0}, "c")
    assert CopyDetector("c").key(update.encode()) is not None


@pytest.mark.parametrize(
    "end",
    [
        b'"ForwardingNode":"c","Further":9,"SuspectedDuplicate":0}',
        b'"ForwardingNode":"c","SuspectedDuplicate":0,"Further":9}',
        b'"Further":9,"ForwardingNode":"c","SuspectedDuplicate":0}',
        b'"ForwardingNode":"c","SuspectedDuplicate":8}',
    ],
)
def test_what_says_something_else_behind_the_same_words_is_no_copy(end):
    update = RoutingUpdate("a", "aB3dE5gH", 1, 2, {"b": 1.0}, "c")
    good = update.encode()
    forged = good[: good.index(b'"ForwardingNode"')] + end
    keys = {RoutingUpdate.decode(good).key, CopyDetector("c").key(good)}
    assert RoutingUpdate.decode(forged).key not in keys
    assert CopyDetector("c").key(forged) not in keys
