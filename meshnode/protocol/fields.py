"""Typed values out of JSON that others wrote, and the bounds of those values.

Behind this module a text can be written in UTF-8 again and has no more bytes than it may, and a
number is within its range. Anything else raises :exc:`ProtocolError`. The work is in proportion to
the bytes: Python refuses numbers of more than 4,300 digits and brackets that are nested too deep.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from meshnode.errors import OutOfBounds, ProtocolError

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that no name has: they could forge log lines and control terminals, and no ``.`` of a
pattern matches a newline."""


@dataclass(frozen=True, slots=True)
class Text:
    """What a text may be: ``least`` to ``most`` bytes of UTF-8, without control characters."""

    most: int
    least: int = 0


def presentable(text: str, rule: Text) -> str:
    """Return a text of ours (a path need not even be text) as other nodes accept it.

    What is too long is cut off; what is not text becomes ``?``.
    """
    readable = CONTROL.sub("?", text.encode(errors="replace").decode())
    return readable.encode()[: rule.most].decode(errors="ignore")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Parsers disagree about an object that has a key twice: it is refused."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


# Made once: json.loads and json.dumps with these arguments would make one for each message, which
# takes as long again as the decoding itself (3 of 7 µs for an update).
_from_json = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique).decode
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return an object as the compact JSON that messages carry."""
    return _to_json(value).encode()


class Fields:
    """The typed fields of one JSON object in a message.

    A receptor node decodes the updates that it forwards, and encodes them anew. So two kinds of
    faults are told apart. What no such node could have written (bytes that are not JSON, a lone
    surrogate, another type) is the peer's own fault: :exc:`ProtocolError`. A text that is too long
    for us, or has control characters, may come from far away over an honest peer:
    :exc:`OutOfBounds`.
    """

    def __init__(self, body: bytes | bytearray | memoryview, what: str) -> None:
        self._what = what
        try:
            # Decoded here: from bytes, json would guess UTF-16 and the like.
            value = _from_json(bytes(body).decode())
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(f"{what}: not valid JSON") from exc
        self._object = self.mapping_of(value, "the whole")

    def __len__(self) -> int:
        return len(self._object)

    def fault(self, key: str) -> ProtocolError:
        """Return the error for a value of another type, or one that cannot be written."""
        return ProtocolError(f"{self._what}: bad value of {key}")

    def out_of_bounds(self, key: str) -> OutOfBounds:
        """Return the error for a text that is too long or too short or has control characters."""
        return OutOfBounds(f"{self._what}: value of {key} is out of bounds")

    def get(self, key: str) -> object:
        """Return a value as it is, None if there is none."""
        return self._object.get(key)

    def text(self, key: str, rule: Text) -> str:
        """Return a text; the empty one if there is none."""
        return self.text_of(self._object.get(key, ""), rule, key)

    def text_of(self, value: object, rule: Text, key: str) -> str:
        """Return a value as the text that it must be; ``key`` is for the error."""
        if not isinstance(value, str):
            raise self.fault(key)
        if value.isascii():
            size, printable = len(value), value.isprintable()
        else:
            try:
                size = len(value.encode())
            except UnicodeEncodeError:  # a lone surrogate, written as \ud800 in the JSON
                raise self.fault(key) from None
            printable = CONTROL.search(value) is None
        if printable and rule.least <= size <= rule.most:
            return value
        raise self.out_of_bounds(key)

    def unsigned(self, key: str, below: int) -> int:
        """Return a whole number of less than ``below``; 0 if there is none."""
        value = self._object.get(key, 0)
        if type(value) is not int or not 0 <= value < below:  # not isinstance: True is an int
            raise self.fault(key)
        return value

    def flag(self, key: str) -> bool:
        """Return a truth value; False if there is none."""
        return self.flag_of(self._object.get(key, False), key)

    def flag_of(self, value: object, key: str) -> bool:
        """Return a value as the truth value that it must be."""
        if not isinstance(value, bool):
            raise self.fault(key)
        return value

    def mapping(self, key: str) -> Mapping[str, object]:
        """Return an object; an empty one if there is none. Its keys are not checked yet."""
        value = self._object.get(key)
        return {} if value is None else self.mapping_of(value, key)

    def mapping_of(self, value: object, key: str) -> Mapping[str, object]:
        """Return a value as the object that it must be."""
        if not isinstance(value, dict):
            raise self.fault(key)
        return value


# --- Bounds of what others say: more than any receptor node sends (docs/links.md)

NODE_ID = Text(255, least=1)
"""A node ID is also a directory name; no file system allows longer ones."""

UPDATE_ID = Text(64, least=1)
"""Receptor's have 8 letters and digits."""

SERVICE_LENGTH = 8
"""Bytes of a service name on the wire, right-padded with NUL."""

SERVICE = Text(SERVICE_LENGTH, least=1)

MAX_ADVERTISEMENT = 16 * 1024
"""Bytes of the longest advertisement: hundreds of work types fit."""

TIME = Text(40)
"""RFC 3339 with nanoseconds and an offset has 35 bytes."""

TAG_NAME, TAG_VALUE = Text(255), Text(4096)
"""Receptor's values are addresses, networks and paths, and Linux allows paths of 4,096 bytes."""

WORK_TYPE = Text(255)
"""As long as our own configuration allows."""

MAX_NOTICE = 8 * 1024
"""Bytes of the longest unreachable notice: two of the longest node IDs, all characters escaped."""

PROBLEM = Text(256)
"""Receptor's have 15 to 19 bytes."""

UNSIGNED_64 = 1 << 64
"""Epochs and sequences are below this (Go's uint64)."""

UNSIGNED_8 = 1 << 8
"""Kinds of connections are below this (Go's byte)."""
