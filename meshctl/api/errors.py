"""Every error that the client raises on purpose, by what the caller can do about it.

::

    ControlError                     the text is one line and names the remedy where there is one
    ├── BadSettings                  the address, TLS settings or an argument cannot be used
    ├── CannotReach                  no session could be opened: nothing was asked
    │   └── NotTrusted               TLS: who answers could not be shown, or does not trust us
    ├── ProtocolMismatch             what answers does not speak the control protocol
    ├── SessionLost                  the session ended before the answer was complete
    │   └── SubmissionUnconfirmed    the unit exists; whether it was started is not known
    ├── CommandRefused               the node answered ``ERROR: …``
    ├── PayloadLost                  a payload could not be read to its end; nothing was started
    ├── NotFetched                   a unit's files cannot be put where they were to go
    └── WaitTimedOut                 the unit has not ended in the time given; it goes on
"""

from collections.abc import Mapping
from typing import Any


class ControlError(Exception):
    """Base of all errors of the client; ``str()`` is one line for a person."""


class BadSettings(ControlError):
    """The address, the TLS settings or an argument cannot be used; nothing was opened."""


class CannotReach(ControlError):
    """No session with a control service could be opened; nothing was asked of it.

    ``address`` is the address as the caller gave it.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot reach {address}: {reason}")
        self.address = address


class NotTrusted(CannotReach):
    """TLS was refused: a certificate, or its lack, is not what one side asks for."""


class ProtocolMismatch(ControlError):
    """What answers does not speak the control protocol (protocol section 8)."""


class SessionLost(ControlError):
    """The session ended before the answer was complete."""


class SubmissionUnconfirmed(SessionLost):
    """The payload was sent in full and the session ended before the node said what it did.

    ``unit_id`` names the unit: ask for its status before submitting again. ``reason`` says why the
    session ended.
    """

    def __init__(self, unit_id: str, reason: str) -> None:
        super().__init__(f"{reason}; ask what became of unit {unit_id} before submitting again")
        self.unit_id = unit_id
        self.reason = reason


class CommandRefused(ControlError):
    """The node answered ``ERROR: <text>``; ``str()`` is that text.

    ``unit_id`` is set when a submission was refused after its unit had been created.
    """

    def __init__(self, text: str, unit_id: str | None = None) -> None:
        super().__init__(text)
        self.unit_id = unit_id


class PayloadLost(ControlError):
    """A payload could not be read to its end. The session was reset, so the unit does not start.

    ``unit_id`` names the unit, which a node may keep as Failed until it is released.
    """

    def __init__(self, unit_id: str, reason: str) -> None:
        super().__init__(f"{reason}: unit {unit_id} was not started")
        self.unit_id = unit_id


class NotFetched(ControlError):
    """The files of a unit are not where they were to go.

    There are none, or something is in their way, or what came is no tar that may be unpacked.
    """


class WaitTimedOut(ControlError):
    """A unit has not ended in the time that its end was waited for. It goes on.

    ``unit_id`` names the unit, ``status`` is the last that the node told.
    """

    def __init__(self, unit_id: str, seconds: float, status: Mapping[str, Any]) -> None:
        state = status.get("StateName", "not finished")
        super().__init__(f"unit {unit_id} has not ended within {seconds:g} s: it is {state}")
        self.unit_id = unit_id
        self.status = dict(status)


class Refused(OSError):
    """The other side of a TLS connection refuses us; ``strerror`` says why.

    A failure of a socket, which its session turns into one of the errors above.
    """


AWAY = (SessionLost, CannotReach, ProtocolMismatch)
"""What a node looks like that is cut off, or restarts: until the first session that is answered."""
