"""Reads typed values from JSON objects that may hold anything: a file may be damaged, or forged.

Python's JSON lets through more than JSON is: NaN, and halves of surrogate pairs. A value that is
taken here can be written and shown again.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import chain
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, TypeVar

from meshnode.errors import WorkError

JsonObject = dict[str, Any]

T = TypeVar("T")

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
"""One empty mapping for all who have none."""

MAX_SIZE = 2**63 - 1
"""The most bytes that a file can have: sizes are 64-bit numbers in receptor, too."""

SIZES = range(MAX_SIZE + 1)
"""What a size can be."""

MAX_DEPTH = 16
"""Objects within objects; the deepest of receptor's has two."""


class Reader:
    """Takes typed values out of a JSON object; what nobody took is ``rest``."""

    __slots__ = ("rest",)

    def __init__(self, data: object) -> None:
        if not isinstance(data, dict):
            raise WorkError("a JSON object was expected")
        self.rest: JsonObject = dict(data)

    def drop(self, key: str) -> None:
        """Leave ``key`` out of ``rest`` without reading its value."""
        self.rest.pop(key, None)

    def require(self, key: str, kind: type) -> Any:
        """Return the value of ``key``. Raises WorkError, as all of these do."""
        value = self.take(key, kind, None)
        if value is None:
            raise WorkError(f"{key} is missing")
        return value

    def take(self, key: str, kind: type, default: Any) -> Any:
        """Return the value of ``key``; null and absent are ``default``."""
        value = self.rest.pop(key, None)
        if value is None:
            return default
        # JSON makes these types and no classes of them; a bool is no int in these files.
        if type(value) is not kind and kind is not object:
            raise WorkError(f"{key} has a value of the wrong type")
        if kind is str and not value.isascii():
            check_json(key, value)
        return value

    def whole(self, key: str, allowed: range = SIZES) -> int | None:
        """Return the whole number of ``key``, None if there is none."""
        value: int | None = self.rest.pop(key, None)
        if value is None:
            return None
        if type(value) is not int:
            raise WorkError(f"{key} has a value of the wrong type")
        if value not in allowed:
            raise WorkError(f"{key} has a value that is out of range")
        return value

    def time(self, key: str) -> str | None:
        """Return the RFC 3339 time of ``key``, None if there is none."""
        value: str | None = self.take(key, str, None)
        if value is not None:
            try:
                datetime.fromisoformat(value)
            except ValueError:
                raise WorkError(f"{key} is no RFC 3339 time") from None
        return value

    def understood(self, key: str, read: Callable[[object], T]) -> T:
        """Return what ``read`` makes of the value of ``key``.

        What it makes nothing of, as of a later version's, is left to :meth:`others`.
        """
        value = self.rest.get(key)
        found = read(value)
        if found is not None or value is None:
            self.drop(key)
        return found

    def others(self) -> Mapping[str, Any]:
        """Return what nobody took."""
        for key, value in self.rest.items():
            check_json("a key", key)
            check_json(key, value)
        return self.rest or NOTHING


def check_json(key: str, value: object, depth: int = 0) -> None:
    """Refuse what no reply could hold. Raises WorkError."""
    match value:
        case str():
            if not _is_text(value):
                raise WorkError(f"{key} holds half of a surrogate pair")
        case float():
            if not isfinite(value):
                raise WorkError(f"{key} holds a number out of range")
        case bool() | None:
            pass
        case int():
            if abs(value) > MAX_SIZE:
                raise WorkError(f"{key} holds a number out of range")
        case dict() | list():
            if depth == MAX_DEPTH:
                raise WorkError(f"{key} is nested too deep")
            for part in chain(value, value.values()) if isinstance(value, dict) else value:
                check_json(key, part, depth + 1)
        case _:
            raise WorkError(f"{key} holds what is not JSON")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def format_datetime(moment: datetime) -> str:
    """Return an aware time as RFC 3339 in UTC, e.g. ``2026-11-22T03:00:00.123456Z``."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return text.removesuffix("+00:00") + "Z"
