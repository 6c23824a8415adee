"""Each decoder of what others send is total: any bytes give a value or ProtocolError.

A value that comes out can be written again and reads as the same. The messages are made from the
keys that decoders look for, so that they get past the first check, with anything for values.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from hostile.anything import ANY_TEXT, GOOD_ADVERT, GOOD_NOTICE, GOOD_UPDATE, bodies
from hypothesis import given

from meshnode.errors import OutOfBounds, ProtocolError
from meshnode.policies import LinkPolicy
from meshnode.protocol import fields
from meshnode.protocol.framing import FrameReader, ReadSpace, encode_frames
from meshnode.protocol.messages import (
    DataHeader,
    Unreachable,
    decode_service,
    encode_service,
    is_readable,
    show_service,
)
from meshnode.protocol.peering import Peering
from meshnode.protocol.routing import CopyDetector, RoutingUpdate, ServiceAdvertisement


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of JSON that others send: what a good one says, and how it is read and written."""

    good: dict[str, Any]
    prefix: bytes
    decode: Callable[[bytes], Any]

    def message(self, body: bytes) -> bytes:
        return self.prefix + body

    def with_values(self, **values: object) -> bytes:
        return self.message(json.dumps(self.good | values).encode())


UPDATE = Kind(GOOD_UPDATE, b"\x01", RoutingUpdate.decode)
ADVERT = Kind(GOOD_ADVERT, b"\x02", ServiceAdvertisement.decode)
NOTICE = Kind(GOOD_NOTICE, b"", Unreachable.decode)
NAMED = {"update": UPDATE, "advert": ADVERT, "notice": NOTICE}
KINDS = pytest.mark.parametrize("kind", NAMED.values(), ids=NAMED)


def read(kind: Kind, message: bytes) -> Any:
    """Return what a message says, None if it is refused."""
    try:
        return kind.decode(message)
    except ProtocolError:
        return None


def assert_total(kind: Kind, message: bytes) -> None:
    """Check that a message is refused, or read as a value that can be written and read again."""
    value = read(kind, message)
    if value is not None:
        assert kind.decode(value.encode()) == value


@hypothesis.settings(max_examples=400)
@given(bodies(GOOD_UPDATE))
def test_any_routing_update_is_a_value_or_refused(body):
    assert_total(UPDATE, UPDATE.message(body))


@hypothesis.settings(max_examples=400)
@given(bodies(GOOD_ADVERT))
def test_any_advertisement_is_a_value_or_refused(body):
    assert_total(ADVERT, ADVERT.message(body))


@hypothesis.settings(max_examples=400)
@given(bodies(GOOD_NOTICE))
def test_any_notice_is_a_value_or_refused(body):
    assert_total(NOTICE, body)


@given(bodies(GOOD_UPDATE))
def test_what_is_read_without_parsing_is_what_the_parser_reads(body):
    message = UPDATE.message(body)
    update = read(UPDATE, message)
    if update is not None:
        assert CopyDetector(update.forwarding_node).key(message) in (None, update.key)


@given(st.lists(bodies(GOOD_UPDATE), max_size=6), st.sampled_from([None, frozenset({"peer"})]))
def test_no_update_that_can_be_read_raises_in_the_judgement_of_a_link(bodies, allowed):
    peering = Peering("me", LinkPolicy(1.0, {"peer": 2.0}, allowed), 0.0)
    for body in bodies:
        update = read(UPDATE, UPDATE.message(body))
        if update is not None:
            peering.on_update(update, {"other": SimpleNamespace(epoch=1)})


@given(st.binary(max_size=60))
def test_any_header_is_a_value_or_refused(data):
    if len(data) < 36:
        with pytest.raises(ProtocolError):
            DataHeader.decode(data)
    else:
        header = DataHeader.decode(data)
        assert DataHeader.decode(header.encode()) == header


def in_field(text: str) -> bytes:
    """Return a text as it would stand in a field, cut off if it is too long."""
    return text.encode()[:8].ljust(8, b"\0")


@given(st.binary(min_size=8, max_size=8) | st.text(max_size=8).map(in_field))
def test_any_field_of_a_service_is_a_name_or_refused(field):
    shown = show_service(field)
    assert shown.isprintable()
    if is_readable(field):
        assert encode_service(decode_service(field)) == field
    else:
        with pytest.raises(ProtocolError):
            decode_service(field)


@given(ANY_TEXT)
def test_any_name_of_a_service_fits_its_field_or_is_refused(name):
    try:
        field = encode_service(name)
    except ProtocolError:
        return
    assert len(field) == 8
    assert decode_service(field) == name


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_any_byte_stream_is_messages_or_refused_however_it_is_cut(data, cuts):
    reader = FrameReader(ReadSpace())
    found: list[bytes] = []
    rest = data
    try:
        while rest:
            piece, rest = rest[: cuts[len(found) % len(cuts)]], rest[cuts[len(found) % len(cuts)] :]

            def read_into(view: memoryview, piece: bytes = piece) -> int:
                view[: len(piece)] = piece
                return len(piece)

            found += [bytes(m) for m in reader.read(read_into) or ()]
    except ProtocolError:
        return
    assert data.startswith(encode_frames(found))


# --- whose fault it is ---------------------------------------------------------------------------


def texts_of(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Return the places of all texts in JSON, keys of objects that peers choose included."""
    if isinstance(value, str):
        return [path]
    if isinstance(value, list):
        return [p for i, item in enumerate(value) for p in texts_of(item, (*path, i))]
    if isinstance(value, dict):
        chosen_by_peers = path in {("Connections",), ("Tags",)}
        named = [(*path, key, "key") for key in value] if chosen_by_peers else []
        return named + [p for k, item in value.items() for p in texts_of(item, (*path, k))]
    return []


def with_text(value: Any, path: tuple[object, ...], text: str) -> Any:
    """Return JSON with another text in one place."""
    if not path:
        return text
    if path[1:] == ("key",):
        return {text if key == path[0] else key: item for key, item in value.items()}
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = with_text(value[path[0]], path[1:], text)
    return copy


EVERY_TEXT = [
    pytest.param(kind, path, id=f"{name}-{'-'.join(map(str, path))}")
    for name, kind in NAMED.items()
    for path in texts_of(kind.good)
]


def test_every_text_of_a_message_is_tried():
    assert len(EVERY_TEXT) == 5 + 6 + 5


@pytest.mark.parametrize(("kind", "path"), EVERY_TEXT)
@pytest.mark.parametrize("surrogate", ["\ud800", "a\udfff", "\udc00\ud800"])
def test_a_lone_surrogate_is_refused_in_every_text(kind, path, surrogate):
    body = json.dumps(with_text(kind.good, path, surrogate)).encode()
    with pytest.raises(ProtocolError) as caught:
        kind.decode(kind.message(body))
    if kind is UPDATE:  # who passes an update on writes it anew: the peer itself made this one
        assert not isinstance(caught.value, OutOfBounds)


@pytest.mark.parametrize(("kind", "path"), EVERY_TEXT)
@pytest.mark.parametrize("text", ["a\nb", "a\x1b[2J", "\x9b2J", "\0", "n" * 5000])
def test_control_characters_and_great_lengths_are_out_of_bounds_in_every_text(kind, path, text):
    body = json.dumps(with_text(kind.good, path, text)).encode()
    if path[0] == "Connections":
        # An honest node tells of a peer of that name: only that connection is left out.
        assert len(kind.decode(kind.message(body)).connections) == 1
        return
    with pytest.raises(ProtocolError):
        kind.decode(kind.message(body))


@pytest.mark.parametrize(
    ("rule", "key", "kind"),
    [
        (fields.NODE_ID, "NodeID", UPDATE),
        (fields.NODE_ID, "NodeID", ADVERT),
        (fields.NODE_ID, "ToNode", NOTICE),
        (fields.UPDATE_ID, "UpdateID", UPDATE),
        (fields.SERVICE, "Service", ADVERT),
        (fields.PROBLEM, "Problem", NOTICE),
    ],
)
def test_a_text_may_have_as_many_bytes_as_it_may_and_no_more(rule, key, kind):
    for text in ("n" * rule.most, "ü" * (rule.most // 2)):
        assert kind.decode(kind.with_values(**{key: text}))
        for longer in (text + "n", text + "ü"):
            if len(longer.encode()) > rule.most:
                with pytest.raises(OutOfBounds):
                    kind.decode(kind.with_values(**{key: longer}))


def test_an_advertisement_of_hundreds_of_work_types_is_taken_and_a_longer_one_is_not():
    types = [{"WorkType": f"work-type-{number:03}", "Secure": True} for number in range(300)]
    assert len(ADVERT.decode(ADVERT.with_values(WorkCommands=types)).work_types) == 300
    with pytest.raises(OutOfBounds):
        ADVERT.decode(ADVERT.with_values(WorkCommands=types * 2))


@KINDS
@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_takes_for_json_is_refused(kind, literal):
    body = json.dumps(kind.good).encode()[:-1] + f',"Unknown":{literal}}}'.encode()
    with pytest.raises(ProtocolError):
        kind.decode(kind.message(body))


@KINDS
def test_a_key_that_stands_twice_is_refused(kind):
    for key, value in kind.good.items():
        body = json.dumps(kind.good).encode()[:-1] + f',"{key}":{json.dumps(value)}}}'.encode()
        with pytest.raises(ProtocolError):
            kind.decode(kind.message(body))


@pytest.mark.parametrize("cost", [5e-324, 1e-300, 1e-7, 0.1, 1, 1e20, 1e21, 1.7976931348623157e308])
def test_every_cost_that_go_can_write_is_taken(cost):
    update = UPDATE.decode(UPDATE.with_values(Connections={"me": cost}))
    assert update.connections == {"me": cost}
    assert UPDATE.decode(update.encode()) == update


@pytest.mark.parametrize("cost", [0, -0.0, -1, -5e-324, -1e308])
def test_a_connection_that_costs_nothing_is_left_out_as_an_honest_node_may_pass_it_on(cost):
    update = UPDATE.decode(UPDATE.with_values(Connections={"me": 1, "x": cost}))
    assert update.connections == {"me": 1}


@pytest.mark.parametrize("cost", ["1e309", "-1e309", "1" + "0" * 400, "null", '"1"', "true", "[]"])
def test_a_cost_that_go_cannot_write_is_the_fault_of_the_peer(cost):
    body = json.dumps(GOOD_UPDATE | {"Connections": {"me": 0}}).replace('"me": 0', f'"me": {cost}')
    with pytest.raises(ProtocolError) as caught:
        UPDATE.decode(UPDATE.message(body.encode()))
    assert not isinstance(caught.value, OutOfBounds)
