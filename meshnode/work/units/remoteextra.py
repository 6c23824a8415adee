"""What the record of a remote unit holds of the other node: ``ExtraData`` (protocol section 8)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from sys import intern
from typing import Any

from meshnode.errors import CommandError, WorkError
from meshnode.protocol.control import ARGUMENTS_KEY, ENV_KEY
from meshnode.work.units.jsonreader import NOTHING, JsonObject, Reader, check_json, format_datetime
from meshnode.work.units.placement import Placement, parse_placement

SECRET_PREFIX = "secret_"  # noqa: S105
"""Parameters whose key begins so, in any case, are never shown (protocol section 8)."""

_BEFORE_NAMES = (f"{ARGUMENTS_KEY}.", f"{ENV_KEY}.")
"""What access rules put before the names of arguments and variables."""

ZERO_TIME = "0001-01-01T00:00:00Z"
"""How receptor writes "no time" in ``Expiration``."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


def expired_words(moment: datetime) -> str:
    """Return the detail of a unit that has not started by a moment, in UTC.

    Clients match it (protocol section 8).
    """
    at = moment.astimezone(UTC)
    day = f"{_DAYS[at.weekday()]} {_MONTHS[at.month - 1]} {at.day}"
    return f"Work unit expired on {day} {at:%H:%M:%S}"


def is_secret(name: str) -> bool:
    """Whether the value of a parameter, argument or variable is never shown."""
    for before in _BEFORE_NAMES:
        name = name.removeprefix(before)
    return name.lower().startswith(SECRET_PREFIX)


@dataclass(frozen=True, slots=True)
class RemoteExtra:
    """``ExtraData`` of a remote unit."""

    node: str
    work_type: str
    params: Mapping[str, str] = field(default_factory=dict)
    unit_id: str = ""
    """ID on the remote node; empty until that node has named it."""
    started: bool = False
    """Whether the remote node has confirmed the start."""
    cancelled: bool = False
    """Whether this node was asked to cancel the unit."""
    released: bool = False
    """Whether this node was asked to release the unit, and the remote node has not done so yet."""
    adopted: bool = False
    """Whether somebody else submitted the unit there, and this node only follows it."""
    sign_work: bool = False
    tls_client: str = ""
    key: str = ""
    """The secret in the key of the submission; older records have none."""
    receipt: str = ""
    """The ``keys.Receipt`` of the submission; empty if the remote node gives none."""
    expiration: datetime | None = None
    """The unit fails if it has not started by then."""
    placement: Placement | None = None
    """How its node was or will be chosen; None if the client has named it."""
    chosen: str = ""
    """Why it was that node, for a person."""
    other: Mapping[str, Any] = field(default_factory=lambda: NOTHING)

    @property
    def aim(self) -> str:
        """Which node the unit is for, or how it is chosen, for a person."""
        return f"node {self.node}" if self.node else f"a node ({self.placement})"

    @property
    def is_unseen(self) -> bool:
        """Whether an adopted unit is yet to be looked at: from then on its type is known."""
        return self.adopted and not self.work_type

    @property
    def open_params(self) -> dict[str, str]:
        """The parameters without the secret ones."""
        return {key: value for key, value in self.params.items() if not is_secret(key)}

    def to_disk(self, *, secrets: bool) -> JsonObject:
        """Return receptor's object and what only this node needs; ``secrets`` as below."""
        own = {"RemoteKey": self.key, "RemoteMark": self.receipt}
        return {
            **self.to_json(secrets=secrets),
            **{key: value for key, value in own.items() if value},
        }

    def to_json(self, *, secrets: bool) -> JsonObject:
        """Return receptor's object; ``secrets`` says whether secret parameters are in it."""
        params = dict(self.params if secrets else self.open_params)
        expiration = format_datetime(self.expiration) if self.expiration else ZERO_TIME
        return {
            "RemoteNode": self.node,
            "RemoteWorkType": self.work_type,
            "RemoteParams": params,
            "RemoteUnitID": self.unit_id,
            "RemoteStarted": self.started,
            "LocalCancelled": self.cancelled,
            "LocalReleased": self.released,
            "SignWork": self.sign_work,
            "TLSClient": self.tls_client,
            "Expiration": expiration,
            **({"Adopted": True} if self.adopted else {}),
            **(self.placement.to_json() if self.placement else {}),
            **({"Chosen": self.chosen} if self.chosen else {}),
            **self.other,
        }

    @classmethod
    def from_json(cls, data: object) -> "RemoteExtra":
        """Read receptor's object. Raises WorkError if it is no such thing."""
        reader = Reader(data)
        params = reader.take("RemoteParams", dict, {}) or {}
        if not all(isinstance(value, str) for value in params.values()):
            raise WorkError("RemoteParams holds a value that is not a string")
        check_json("RemoteParams", params)
        return cls(
            node=intern(reader.require("RemoteNode", str)),
            work_type=intern(reader.require("RemoteWorkType", str)),
            params=params or NOTHING,
            unit_id=reader.take("RemoteUnitID", str, ""),
            started=reader.take("RemoteStarted", bool, False),
            cancelled=reader.take("LocalCancelled", bool, False),
            released=reader.take("LocalReleased", bool, False),
            adopted=reader.take("Adopted", bool, False),
            sign_work=reader.take("SignWork", bool, False),
            tls_client=reader.take("TLSClient", str, ""),
            key=reader.take("RemoteKey", str, ""),
            receipt=reader.take("RemoteMark", str, ""),
            placement=_read_placement(reader),
            chosen=reader.take("Chosen", str, ""),
            expiration=_parse_expiration(reader.take("Expiration", str, ZERO_TIME)),
            other=reader.others(),
        )


def _read_placement(reader: Reader) -> Placement | None:
    rule = reader.take("Placement", str, "")
    selectors = reader.take("PlacementLabels", str, "")
    if not rule:
        return None
    try:
        return parse_placement(rule, selectors)
    except CommandError as error:
        raise WorkError(str(error)) from None


def _parse_expiration(text: str) -> datetime | None:
    if text == ZERO_TIME:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        # Some moments of the first and the last year are none in UTC.
        raise WorkError("Expiration is no RFC 3339 time") from None
