"""The requests of the command ``work``, in text and JSON, as values (protocol section 8).

Clients match the texts of refusals, so these are receptor's. Only where its text names a type of
Go, ours has another.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from meshnode.errors import CommandError
from meshnode.protocol.control import CLAIM_KEY, LABELS_KEY, MAX_CLAIM
from meshnode.security.identity import Claimed, claim_from_json, shown_text
from meshnode.work.units.intake import Input
from meshnode.work.units.jsonreader import NOTHING
from meshnode.work.units.keys import MAX_KEY, Receipt
from meshnode.work.units.labels import parse_labels
from meshnode.work.units.remoteextra import SECRET_PREFIX

JsonObject = dict[str, Any]

_SHA256 = re.compile(r"[0-9a-f]{64}")

MAX_UNIT_ID = 64
"""Characters of a unit's ID on another node; those of receptor and meshnode have 8."""

MAX_POSITION = 2**63 - 1
"""The highest position in a file: a 64-bit number, as in receptor."""


MAX_SHOWN = 200
"""Characters of the parameters that are shown of a unit for as long as it is there. A client may
send a megabyte, and ended units are kept for weeks."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client asks to have run, as it was sent."""

    node: str
    work_type: str
    params: Mapping[str, str] = field(default_factory=dict)
    tls_client: str = ""
    ttl: str = ""
    sign_work: bool = False
    signature: str = ""
    announced: Input = field(default_factory=Input)
    """What the client says of the payload; nothing else is started."""
    follow: bool = False
    """Whether the session goes on to tell of the unit until it is final."""
    key: str = ""
    """Names the submission: a second one of the same key is refused for as long as its unit
    exists. A submitting meshnode makes it of its unit's ID and a secret."""
    claim: Claimed | None = None
    """For whom a submitting node says that it submits."""
    labels: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """What the client calls the unit by."""

    @property
    def shown_params(self) -> str:
        """The parameters as a line for people, without secrets; see MAX_SHOWN."""
        return shown_params(self.params)


def shown_params(params: Mapping[str, str]) -> str:
    """Return parameters as a line for people, without secrets; see MAX_SHOWN."""
    if not params:
        return ""
    words = [
        value[: MAX_SHOWN + 1] if key == "params" else f"{key}={value[:MAX_SHOWN]}"
        for key, value in params.items()
        if not key.lower().startswith(SECRET_PREFIX)
    ]
    return shown_text(" ".join(words), MAX_SHOWN)


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """``work submit``."""

    submission: Submission


@dataclass(frozen=True, slots=True)
class ListRequest:
    """``work list``: one unit, or all. A signature is of use only to access rules."""

    unit_id: str | None
    signature: str = ""


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
    """``work results`` from byte ``start``."""

    unit_id: str
    start: int
    signature: str = ""


WorkRequest = (
    SubmitRequest
    | ListRequest
    | StatusRequest
    | WatchRequest
    | SubmittedRequest
    | AdoptRequest
    | CancelRequest
    | ReleaseRequest
    | ResultsRequest
)

_ON_UNIT: dict[str, Callable[[str, str], WorkRequest]] = {
    "status": lambda unit_id, signature: StatusRequest(unit_id, signature),
    "watch": lambda unit_id, signature: WatchRequest(unit_id, signature),
    "cancel": lambda unit_id, signature: CancelRequest(unit_id, signature),
    "release": lambda unit_id, signature: ReleaseRequest(unit_id, signature),
    "force-release": lambda unit_id, signature: ReleaseRequest(unit_id, signature, force=True),
}

_NOT_PARAMS = {
    *("command", "subcommand", "node", "worktype"),
    *("tlsclient", "ttl", "signwork", "signature"),
    *("stdinsize", "stdinsha256", "submissionkey", "submissionfollow", CLAIM_KEY, LABELS_KEY),
}
"""Keys of a submission that say how to submit; every other key is a parameter of the work."""


_IN_NO_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What is in the ID of no node, and would spoil logs and terminals where it is shown."""


def parse_text(words: str) -> WorkRequest:
    """Read what stands after ``work ``. Raises CommandError."""
    subcommand, *rest = words.split(" ")
    subcommand = subcommand.lower()
    if subcommand == "submit":
        if len(rest) < 2 or not rest[0]:
            raise CommandError("work submit requires a target node and work type")
        params = {"params": " ".join(rest[2:])} if rest[2:] else {}
        node = _node_name(rest[0])
        return SubmitRequest(Submission(node=node, work_type=rest[1], params=params))
    if subcommand == "list":
        return ListRequest(rest[0] if rest else None)
    if subcommand == "results":
        return _parse_text_results(rest)
    if subcommand == "adopt":
        if len(rest) != 2:
            raise CommandError("work adopt requires a node and the ID of a unit there")
        return _adopt_request(rest[0], rest[1])
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
    subcommand = _string(data, "subcommand").lower()
    if subcommand == "submit":
        return SubmitRequest(_parse_submission(data))
    if subcommand == "list":
        unit_id = data.get("unitid")
        signature = _optional(data, "signature")
        return ListRequest(unit_id if isinstance(unit_id, str) else None, signature)
    if subcommand == "results":
        unit_id = _string(data, "unitid")
        return ResultsRequest(unit_id, _start_position(data), _optional(data, "signature"))
    if subcommand == "submitted":
        unit_id, receipt = _optional(data, "unitid"), _optional(data, "submissionmark")
        return SubmittedRequest(_key(data), unit_id, Receipt.find(receipt))
    if subcommand == "adopt":
        return _adopt_request(
            _string(data, "node"),
            _string(data, "unitid"),
            tls_client=_optional(data, "tlsclient"),
            sign_work=_flag(data, "signwork"),
            signature=_optional(data, "signature"),
        )
    if subcommand in _ON_UNIT:
        request = _ON_UNIT[subcommand](_string(data, "unitid"), _optional(data, "signature"))
        match request:
            case CancelRequest():
                return replace(request, unless_started=_unless_started(data), claim=_claim(data))
            case ReleaseRequest():
                return replace(request, remote=_flag(data, "remote"), claim=_claim(data))
        return request
    raise CommandError("bad command")


def _parse_submission(data: JsonObject) -> Submission:
    for key, value in data.items():
        if not isinstance(value, str):
            raise CommandError(f"submit parameters must all be strings and {key} is not")
    node, work_type = _string(data, "node"), _string(data, "worktype")
    if not node:
        raise CommandError("work submit requires a target node and work type")
    return Submission(
        node=_node_name(node),
        work_type=work_type,
        params={key: value for key, value in data.items() if key not in _NOT_PARAMS},
        tls_client=data.get("tlsclient", ""),
        ttl=data.get("ttl", ""),
        sign_work=_flag(data, "signwork"),
        signature=data.get("signature", ""),
        announced=_announced(data),
        follow=data.get("submissionfollow", "") == "true",
        key=_key(data),
        claim=_claim(data),
        labels=parse_labels(data.get(LABELS_KEY, "")),
    )


def _claim(data: JsonObject) -> Claimed | None:
    """Return for whom another node says that it asks; what is no such thing says nothing."""
    text = data.get(CLAIM_KEY)
    if not isinstance(text, str) or not 0 < len(text) <= MAX_CLAIM:
        return None
    try:
        return claim_from_json(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _adopt_request(node: str, unit_id: str, **how: Any) -> AdoptRequest:
    if not node:
        raise CommandError("work adopt requires a node and the ID of a unit there")
    is_word = unit_id.isprintable() and " " not in unit_id
    if not (0 < len(unit_id) <= MAX_UNIT_ID and is_word):
        raise CommandError(f"field unitid must be one word of at most {MAX_UNIT_ID} characters")
    return AdoptRequest(_node_name(node), unit_id, **how)


def _node_name(text: str) -> str:
    if _IN_NO_NAME.search(text):
        raise CommandError("field node has a control character, which is in no node ID")
    return text


def _flag(data: JsonObject, key: str) -> bool:
    """Read a truth value, which receptor's clients send as a string."""
    value = data.get(key, False)
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        shown = value if isinstance(value, str) else "of another type"
        raise CommandError(f"field {key} value {shown} is not convertible to a bool")
    return bool(value == "true")


def _key(data: JsonObject) -> str:
    key = _optional(data, "submissionkey")
    if len(key) > MAX_KEY or not key.isprintable():
        raise CommandError(f"field submissionkey must be at most {MAX_KEY} printable characters")
    return key


def _announced(data: JsonObject) -> Input:
    """Return what the client announces of its payload; as strings, like all the rest."""
    size, sha256 = data.get("stdinsize", ""), data.get("stdinsha256", "").lower()
    if size and not (size.isascii() and size.isdigit() and len(size) <= len(str(MAX_POSITION))):
        raise CommandError(f"field stdinsize value {size} is not a number of bytes")
    if sha256 and not _SHA256.fullmatch(sha256):
        raise CommandError("field stdinsha256 must be 64 hexadecimal digits")
    return Input(int(size) if size else None, sha256)


def _string(data: JsonObject, key: str) -> str:
    if key not in data:
        raise CommandError(f"field {key} missing")
    value = data[key]
    if not isinstance(value, str):
        raise CommandError(f"field {key} must be a string")
    return value


def _optional(data: JsonObject, key: str) -> str:
    value = data.get(key, "")
    return value if isinstance(value, str) else ""


def _unless_started(data: JsonObject) -> bool:
    """Refuse an unknown condition: it must not be taken for none."""
    condition = data.get("unless")
    if condition is not None and condition != "started":
        raise CommandError("field unless must be started")
    return condition == "started"


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
