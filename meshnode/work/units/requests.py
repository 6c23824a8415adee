"""The requests of the command ``work``, in text and JSON, as values (protocol section 8).

Clients match the texts of refusals, so these are receptor's. Only where its text names a type of
Go, ours has another.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from meshnode.control.registry import ControlSession
from meshnode.errors import CommandError
from meshnode.protocol.control import STREAM_KEY, STREAM_NAMES
from meshnode.security.identity import Claimed
from meshnode.work.local.launcher.records import STDOUT
from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.keys import Receipt
from meshnode.work.units.requestfields import (
    MAX_POSITION,
    read_claim,
    read_flag,
    read_key,
    read_node,
    read_optional,
    read_string,
)
from meshnode.work.units.submission import Submission, parse_submission
from meshnode.work.units.wanted import Wanted

MAX_UNIT_ID = 64
"""Characters of a unit's ID on another node; those of receptor and meshnode have 8."""


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """``work submit``."""

    submission: Submission


@dataclass(frozen=True, slots=True)
class ListRequest:
    """``work list``: one unit, or all. A signature is of use only to access rules."""

    unit_id: str | None
    signature: str = ""
    wanted: Wanted | None = None
    """What units, and which page of them; meshnode's own. None asks for all at once."""


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """``work status``. A signature is of use only to access rules."""

    unit_id: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """``work watch``, of meshnode only: the status now and at each change, until it is final."""

    unit_id: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class SubmittedRequest:
    """``work submitted``, of meshnode only: what became of a submission, for its submitter."""

    key: str
    unit_id: str
    receipt: Receipt | None


@dataclass(frozen=True, slots=True)
class AdoptRequest:
    """``work adopt``: to follow a unit that another node has, whoever submitted it there."""

    node: str
    unit_id: str
    """The unit's ID on that node."""
    tls_client: str = ""
    sign_work: bool = False
    signature: str = ""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """``work cancel``; ``unless_started`` is meshnode's: only while the unit waits for input."""

    unit_id: str
    signature: str = ""
    unless_started: bool = False
    claim: Claimed | None = None


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """``work release`` and ``work force-release``."""

    unit_id: str
    signature: str = ""
    force: bool = False
    claim: Claimed | None = None
    remote: bool = False
    """Whether an adopted unit is to be released on its node as well."""


@dataclass(frozen=True, slots=True)
class ResultsRequest:
    """``work results`` from byte ``start``; ``stream`` is meshnode's."""

    unit_id: str
    start: int
    signature: str = ""
    stream: str = STDOUT
    """The file of the unit's output."""


@dataclass(frozen=True, slots=True)
class DescribeRequest:
    """``work describe``, of meshnode only: what a type of work takes and is held to."""

    work_type: str
    node: str = ""
    """Whose type it is; empty for this node's."""
    tls_client: str = ""


@dataclass(frozen=True, slots=True)
class TypesRequest:
    """``work types``, of meshnode only: the types of work of a node."""

    node: str = ""
    tls_client: str = ""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """``work batch``, of meshnode only: many submissions under one ID."""

    action: str
    data: JsonObject
    """The whole request: what it must have is the action's own."""


WorkRequest = (
    SubmitRequest
    | DescribeRequest
    | TypesRequest
    | BatchRequest
    | ListRequest
    | StatusRequest
    | WatchRequest
    | SubmittedRequest
    | AdoptRequest
    | CancelRequest
    | ReleaseRequest
    | ResultsRequest
)

Handlers = Mapping[type[WorkRequest], Callable[[Any, ControlSession], Awaitable[JsonObject | None]]]
"""What answers each kind of request."""

_ON_UNIT: dict[str, Callable[[str, str], WorkRequest]] = {
    "status": lambda unit_id, signature: StatusRequest(unit_id, signature),
    "watch": lambda unit_id, signature: WatchRequest(unit_id, signature),
    "cancel": lambda unit_id, signature: CancelRequest(unit_id, signature),
    "release": lambda unit_id, signature: ReleaseRequest(unit_id, signature),
    "force-release": lambda unit_id, signature: ReleaseRequest(unit_id, signature, force=True),
}


def parse_text(words: str) -> WorkRequest:
    """Read what stands after ``work ``. Raises CommandError."""
    subcommand, *rest = words.split(" ")
    subcommand = subcommand.lower()
    if subcommand == "submit":
        if len(rest) < 2 or not rest[0]:
            raise CommandError("work submit requires a target node and work type")
        params = {"params": " ".join(rest[2:])} if rest[2:] else {}
        node = read_node(rest[0])
        return SubmitRequest(Submission(node=node, work_type=rest[1], params=params))
    if subcommand == "list":
        return ListRequest(rest[0] if rest else None)
    if subcommand == "results":
        return _parse_text_results(rest)
    if subcommand == "adopt":
        if len(rest) != 2:
            raise CommandError("work adopt requires a node and the ID of a unit there")
        return _adopt_request(rest[0], rest[1])
    if subcommand == "types" and len(rest) <= 1:
        return TypesRequest(read_node(rest[0]) if rest else "")
    if subcommand == "describe":
        if not 1 <= len(rest) <= 2:
            raise CommandError("work describe requires a work type, and takes a node")
        return DescribeRequest(rest[0], read_node(rest[1]) if rest[1:] else "")
    if subcommand in _ON_UNIT:
        if not rest:
            raise CommandError(f"work {subcommand} requires a unit ID")
        if len(rest) > 1:
            raise CommandError(f"work {subcommand} does not take parameters after the unit ID")
        return _ON_UNIT[subcommand](rest[0], "")
    raise CommandError("bad command")


def _parse_text_results(rest: list[str]) -> ResultsRequest:
    if not rest:
        raise CommandError("work results requires a unit ID")
    if len(rest) > 2:
        raise CommandError("work results only takes a unit ID and optional start position")
    start = rest[1] if len(rest) > 1 else "0"
    digits = start[1:] if start[:1] in {"+", "-"} else start
    # int() takes more than receptor does: blanks, underscores, digits of other scripts.
    if not (digits.isascii() and digits.isdigit()):
        raise CommandError(f'error converting start position to integer: "{start}" is not a number')
    if len(digits) > len(str(MAX_POSITION)):
        raise CommandError(f"start position {start} is out of range")
    return ResultsRequest(rest[0], _position(int(start), start))


def parse_json(data: JsonObject) -> WorkRequest:
    """Read a whole JSON object. Raises CommandError."""
    subcommand = read_string(data, "subcommand").lower()
    if subcommand == "submit":
        return SubmitRequest(parse_submission(data))
    if subcommand == "list":
        unit_id, signature = data.get("unitid"), read_optional(data, "signature")
        if isinstance(unit_id, str):
            # What else it has says nothing, as at a receptor node.
            return ListRequest(unit_id, signature)
        return ListRequest(None, signature, Wanted.from_json(data))
    if subcommand == "results":
        unit_id = read_string(data, "unitid")
        start, signature = _start_position(data), read_optional(data, "signature")
        return ResultsRequest(unit_id, start, signature, _stream(data))
    if subcommand == "batch":
        return BatchRequest(read_string(data, "action"), data)
    if subcommand == "submitted":
        unit_id, receipt = read_optional(data, "unitid"), read_optional(data, "submissionmark")
        return SubmittedRequest(read_key(data), unit_id, Receipt.find(receipt))
    if subcommand in {"describe", "types"}:
        node, tls_client = read_node(read_optional(data, "node")), read_optional(data, "tlsclient")
        if subcommand == "types":
            return TypesRequest(node, tls_client)
        return DescribeRequest(read_string(data, "worktype"), node, tls_client)
    if subcommand == "adopt":
        return _adopt_request(
            read_string(data, "node"),
            read_string(data, "unitid"),
            tls_client=read_optional(data, "tlsclient"),
            sign_work=read_flag(data, "signwork"),
            signature=read_optional(data, "signature"),
        )
    if subcommand in _ON_UNIT:
        request = _ON_UNIT[subcommand](
            read_string(data, "unitid"), read_optional(data, "signature")
        )
        match request:
            case CancelRequest():
                return replace(
                    request, unless_started=_unless_started(data), claim=read_claim(data)
                )
            case ReleaseRequest():
                return replace(request, remote=read_flag(data, "remote"), claim=read_claim(data))
        return request
    raise CommandError("bad command")


def _adopt_request(node: str, unit_id: str, **how: Any) -> AdoptRequest:
    if not node:
        raise CommandError("work adopt requires a node and the ID of a unit there")
    is_word = unit_id.isprintable() and " " not in unit_id
    if not (0 < len(unit_id) <= MAX_UNIT_ID and is_word):
        raise CommandError(f"field unitid must be one word of at most {MAX_UNIT_ID} characters")
    return AdoptRequest(read_node(node), unit_id, **how)


def _unless_started(data: JsonObject) -> bool:
    """Refuse an unknown condition: it must not be taken for none."""
    condition = data.get("unless")
    if condition is not None and condition != "started":
        raise CommandError("field unless must be started")
    return condition == "started"


def _stream(data: JsonObject) -> str:
    """Refuse an unknown stream: another one must not be taken for it."""
    stream = data.get(STREAM_KEY, STDOUT)
    if stream not in STREAM_NAMES:
        raise CommandError(f"field {STREAM_KEY} must be {' or '.join(STREAM_NAMES)}")
    return str(stream)


def _start_position(data: JsonObject) -> int:
    if "startpos" not in data:
        raise CommandError("field startpos missing")
    value = data["startpos"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        shown = value if isinstance(value, str) else "of another type"
        raise CommandError(f"field startpos value {shown} is not convertible to an int")
    return _position(int(value), value)


def _position(value: int, shown: object) -> int:
    if abs(value) > MAX_POSITION:
        raise CommandError(f"start position {shown} is out of range")
    return value
