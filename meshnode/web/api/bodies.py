"""Bodies that are kept whole, and the JSON in them: how much there may be of both.

JSON of many small values takes thirty times its bytes in memory, and while Python reads it nothing
else of the node runs. So they are counted before.
"""

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from starlette.requests import Request

from meshnode.web.identity import caller_of
from meshnode.web.problems import MALFORMED, TOO_LARGE, TOO_MANY, Problem
from meshnode.web.routing import WebNode

MAX_BODY: Final = 16 * 1024 * 1024
"""Bytes of a job or a batch in JSON, a payload in it included; a larger payload is a part of its
own."""

MAX_VALUES: Final = 200_000
"""Values in one JSON; Python reads them in some 50 ms."""

REMEDY: Final = "split it, or send a payload as a part of its own"

Count = Callable[[int], None]
"""Counts how many bytes of a body are kept by now. Raises Problem."""


@contextmanager
def kept(node: WebNode, request: Request) -> Iterator[Count]:
    """Count what is kept of a body, for as long as this lasts."""
    with node.commands.keeping(caller_of(request)) as held:

        def count(size: int) -> None:
            if not held.count(size):
                text = "you send too many bodies at a time; wait, or send payloads as parts"
                raise Problem(TOO_MANY, text)

        yield count


async def whole_body(receive: Callable[[int], Awaitable[bytes]], count: Count, what: str) -> bytes:
    """Return a body when all of it is there.

    Raises:
        Problem: it is too large, or too much is kept.
        trio.BrokenResourceError: the client is gone.
    """
    data = bytearray()
    while piece := await receive(MAX_BODY):
        data += piece
        if len(data) > MAX_BODY:
            raise Problem(TOO_LARGE, f"{what} has more than {MAX_BODY} bytes; {REMEDY}")
        count(len(data))
    return bytes(data)


def read_object(data: bytes, what: str) -> dict[str, Any]:
    """Return an object that stands in JSON. Raises Problem."""
    if _values_in(data) > MAX_VALUES:
        raise Problem(TOO_LARGE, f"{what} has more than {MAX_VALUES} values; {REMEDY}")
    try:
        # Never another encoding: what was counted would not be what is read.
        found = json.loads(data.decode("utf-8-sig"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Problem(MALFORMED, f"{what} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(MALFORMED, f'{what} must be an object, as {{"type": "echo"}}')
    return found


def _no_number(word: str) -> float:
    """Refuse what Python takes for a number and JSON does not. Raises ValueError."""
    raise ValueError(f"{word} is no number")


def _values_in(data: bytes) -> int:
    """Return about how many values there are in JSON, by what stands before each of them."""
    plain = data.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 4 * MAX_VALUES:  # a value is a text and has a name at most
        return MAX_VALUES + 1
    outside = b"".join(plain.split(b'"')[::2])
    return sum(outside.count(mark) for mark in (b",", b"[", b"{"))
