"""What a peer may send that is wrong: a corpus of messages, the same on every run.

The good values pass the gate of a link to ``victim``: an update lists it at the link's cost, a
notice is about a message of it. So a wrong value beside them is met where it would do its harm.
"""

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

from meshnode.protocol.framing import MAX_MESSAGE
from meshnode.protocol.messages import (
    HEADER_LENGTH,
    UNREACHABLE_SERVICE,
    DataHeader,
    MessageType,
)
from meshnode.protocol.namehash import name_hash

LONG = "n" * 65_000
"""A name that fills a message."""

NAME = "ev00"
"""The sender's node ID, which another of the same length may take the place of."""

UPDATE: dict[str, Any] = {
    "NodeID": NAME,
    "UpdateID": "abcdefgh",
    "UpdateEpoch": 1 << 54,
    "UpdateSequence": 7,
    "Connections": {"victim": 1.0, "other": 1.0},
    "ForwardingNode": NAME,
    "SuspectedDuplicate": 0,
}

ADVERT: dict[str, Any] = {
    "NodeID": NAME,
    "Service": "control",
    "Time": "2026-01-01T00:00:00.123456789Z",
    "ConnType": 1,
    "Tags": {"type": "Control Service"},
    "WorkCommands": [{"WorkType": "echo", "Secure": False}],
    "Cancel": False,
}

NOTICE: dict[str, Any] = {
    "FromNode": "victim",
    "ToNode": NAME,
    "FromService": "control",
    "ToService": "x",
    "Problem": "service unknown",
}

WRONG_VALUES: tuple[str, ...] = (
    *("null", "true", "false", "0", "-1", "1.5", "-0.0", "1e308", "1e309", "-1e309", "NaN"),
    *("Infinity", "-Infinity", str(1 << 63), str(1 << 64), "9" * 4000, "9" * 5000, "1" + "0" * 400),
    *('""', '"x"', '"\\u0000"', '"\\ud800"', '"../.."', '"a/b"', '" "', '"localhost"', '"victim"'),
    *("[]", "{}", "[[]]", '{"": {}}', '[{"WorkType": 1}]', '[{"WorkType": "a", "Secure": 2}]'),
    *('[{"WorkType": null, "Secure": true}]', "[1, 2]", '{"a": "b"}', '{"a": -1}', '{"a": 0}'),
    *('{"victim": 1, "\\ud800": 1}', '{"victim": 1, "\\u0000": 1, "a": -1}', '"a\\udfff"'),
    *('{"a": 1e999}', '{"a": NaN}', '{"a": null}', '{"a": []}', '{"\\ud800": 1}', '{"victim": 5}'),
    *('"2026-99-99T99:99:99Z"', '"0000-00-00T00:00:00Z"', '"9999-12-31T23:59:60+99:99"'),
    f'"{LONG}"',
    f'{{"{LONG}": 1}}',
    "[" * 30_000 + "]" * 30_000,
    '{"a":' * 10_000 + "1" + "}" * 10_000,
)
"""Texts that stand where another value should."""

BODIES: tuple[bytes, ...] = (
    *(b"", b" ", b"null", b"[]", b"{}", b"0", b'"x"', b"{", b"}", b'{"NodeID"', b'{"a":1}x'),
    *(b"\xff\xfe", b'{"NodeID": "\xff"}', b"\xef\xbb\xbf{}", b"\0" * 100, b'{"NodeID": "a\0b"}'),
    *(b'{"NodeID": NAME, "NodeID": 7}', "{}".encode("utf-16"), b"[" * 60_000, b"9" * 60_000),
    b'{"' + b"k" * 65_000 + b'": 1}',
    bytes(MAX_MESSAGE - 1),
)
"""What is no object of the expected keys at all."""


def message(kind: MessageType, body: bytes | dict[str, Any]) -> bytes:
    """Return a message of that type."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return bytes([kind]) + text


def hello(name: str) -> bytes:
    """Return a good routing update of a node that is linked to the victim; it opens a link."""
    own = {"NodeID": name, "ForwardingNode": name, "UpdateID": name, "Connections": {"victim": 1}}
    return message(MessageType.ROUTE, UPDATE | own)


def with_value(whole: dict[str, Any], key: str, text: str) -> bytes:
    """Return the object as JSON, with ``text`` as the value of a key."""
    pairs = (
        f"{json.dumps(name)}: {text if name == key else json.dumps(value)}"
        for name, value in whole.items()
    )
    return ("{" + ", ".join(pairs) + "}").encode()


def notice(body: bytes) -> bytes:
    """Return a data message of the sender to the victim that says a message did not arrive."""
    header = DataHeader(
        29, name_hash(NAME), name_hash("victim"), UNREACHABLE_SERVICE, UNREACHABLE_SERVICE
    )
    return header.encode() + body[: MAX_MESSAGE - HEADER_LENGTH]


def fresh(whole: dict[str, Any], numbers: Iterator[int]) -> dict[str, Any]:
    """Return a good update or advertisement that is news: what was seen before is not looked at."""
    number = next(numbers)
    if whole is UPDATE:
        return whole | {"UpdateID": f"id{number:06}", "UpdateSequence": number}
    return whole | {"Time": f"2026-01-01T00:00:00.{number:09}Z"}


def handmade() -> Iterator[bytes]:
    """Yield messages each of which is wrong in a way that somebody thought of."""
    for body in BODIES:
        yield notice(body)
    for key in NOTICE:
        for text in WRONG_VALUES:
            yield notice(with_value(NOTICE, key, text))
    numbers = itertools.count(8)
    for kind, whole in ((MessageType.ROUTE, UPDATE), (MessageType.ADVERTISEMENT, ADVERT)):
        for body in BODIES:
            yield message(kind, body)
        for key in whole:
            good = fresh(whole, numbers)
            yield message(kind, {name: value for name, value in good.items() if name != key})
            yield message(kind, {name.lower(): value for name, value in good.items()})
            for text in WRONG_VALUES:
                yield message(kind, with_value(fresh(whole, numbers), key, text))
    for body in BODIES:
        yield message(MessageType.REJECT, body)
    for size in (0, 1, 2, 10, 34, 35, 36, 40, 1000, MAX_MESSAGE - 1):
        yield bytes([MessageType.DATA]) + bytes(size)
        yield bytes([MessageType.DATA]) + b"\xff" * size
        for kind in (4, 5, 0x2A, 0x7B, 0x80, 0xFF):
            yield bytes([kind]) + b"x" * size


def mutated(seed: int, count: int) -> Iterator[bytes]:
    """Yield good messages with a few bytes changed, cut out, doubled, or cut off."""
    chance = random.Random(seed)
    numbers = itertools.count(1_000_000)
    good = [
        bytes(4) + chance.randbytes(16) + b"ping".ljust(8, b"\0") + b"unreach\0" + b"{}",
        notice(json.dumps(NOTICE).encode()),
        hello(NAME),
    ]
    for _ in range(count):
        update = message(MessageType.ROUTE, fresh(UPDATE, numbers))
        advert = message(MessageType.ADVERTISEMENT, fresh(ADVERT, numbers))
        data = bytearray(chance.choice([update, advert, *good]))
        for _ in range(chance.randint(1, 4)):
            start = chance.randrange(len(data) or 1)
            end = min(len(data), start + chance.randint(1, 8))
            match chance.randrange(5):
                case 0:
                    data[start:end] = chance.randbytes(end - start)
                case 1:
                    del data[start:end]
                case 2:
                    data[start:start] = data[start:end] * chance.randint(1, 50)
                case 3:
                    del data[start:]
                case _:
                    data[start:end] = chance.choice([b"\0", b"\xff", b'"', b"{", b"9" * 30, b"-"])
        yield bytes(data) or b"\0"
