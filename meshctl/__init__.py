"""meshctl: the command line and the Python API for a meshnode (or receptor) control service.

The public API is what ``__all__`` names::

    from meshctl import ControlClient

    with ControlClient("/tmp/foo.sock") as client:
        unit = client.submit("echopayload", b"hi\n", node="bar").unit_id
        output = b"".join(client.results(unit))

See docs/meshctl.md. The package imports nothing of meshnode and no event loop.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient
    from meshctl.api.connection import ControlStream, ResultStream
    from meshctl.api.errors import (
        BadSettings,
        CannotReach,
        CommandRefused,
        ControlError,
        NotFetched,
        NotTrusted,
        PayloadLost,
        ProtocolMismatch,
        SessionLost,
        SubmissionUnconfirmed,
        WaitTimedOut,
    )
    from meshctl.api.settings import TlsSettings
    from meshctl.api.submission import JobSettings, Submission

__version__ = "0.1.0"
"""The same as ``meshnode.__version__``; a test holds them together. A constant, because asking
importlib.metadata takes longer than the rest of the program's start."""

__all__ = [
    "BadSettings",
    "CannotReach",
    "CommandRefused",
    "ControlClient",
    "ControlError",
    "ControlStream",
    "JobSettings",
    "NotFetched",
    "NotTrusted",
    "PayloadLost",
    "ProtocolMismatch",
    "ResultStream",
    "SessionLost",
    "Submission",
    "SubmissionUnconfirmed",
    "TlsSettings",
    "WaitTimedOut",
    "__version__",
]

_HOMES = {
    "ControlClient": "meshctl.api.client",
    "JobSettings": "meshctl.api.submission",
    "Submission": "meshctl.api.submission",
    "ControlStream": "meshctl.api.connection",
    "ResultStream": "meshctl.api.connection",
    "TlsSettings": "meshctl.api.settings",
}
"""Where a public name lives; all others are in meshctl.api.errors."""


def __getattr__(name: str) -> Any:
    # The command line imports this package first: `meshctl --help` must not pay for sockets.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "meshctl.api.errors")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
