"""What plugins import: :func:`plugin_export` marks the functions that ``work-python`` may call.

A plugin is an installed package with an entry point of group ``meshnode.worker`` (or
``receptor.worker``, receptor's own) that names a module. Functions of it that are marked with
:func:`plugin_export` can be called::

    from meshnode.plugins import BYTES_PAYLOAD, plugin_export

    @plugin_export(payload_type=BYTES_PAYLOAD)
    def shout(payload, config, results):
        results.put(payload.decode().upper())

``payload`` is the unit's input, ``config`` the directive's ``config`` and under ``params`` what the
client gave, ``results`` a queue: each item that is put there becomes one line of JSON in the unit's
stdout at once. A function that returns has succeeded; one that raises has failed.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

BYTES_PAYLOAD: Final = "bytes"
"""The function gets the whole input as bytes."""

BUFFER_PAYLOAD: Final = "buffer"
"""The function gets a binary file that reads the input."""

FILE_PAYLOAD: Final = "file"
"""The function gets the path of a file that holds the input."""

F = TypeVar("F", bound=Callable[..., Any])


def plugin_export(payload_type: str) -> Callable[[F], F]:
    """Mark a function as one that clients may call, with the kind of payload that it takes."""

    def mark(function: F) -> F:
        # The attributes are receptor's, so that either project's plugins work with the other.
        function.receptor_export = True  # type: ignore[attr-defined]
        function.payload_type = payload_type  # type: ignore[attr-defined]
        return function

    return mark
