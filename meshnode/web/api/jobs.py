"""The JSON of a job, as a request has it, becomes the fields of ``work submit``.

What a job is to be is judged by that command; here is only read what the names mean.
"""

import json
from base64 import b64decode
from binascii import Error as NoBase64
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from meshnode.control.registry import JsonObject
from meshnode.protocol.control import (
    ARGUMENTS_KEY,
    CWD_KEY,
    ENV_KEY,
    LABELS_KEY,
    LIMITS_KEY,
    OUTPUT_KEY,
    PRIORITY_KEY,
    TIMEOUT_KEY,
)
from meshnode.web.api.bodies import read_object
from meshnode.web.problems import MALFORMED, REFUSED, Problem
from meshnode.work.units.after import AFTER_KEY
from meshnode.work.units.submission import NOT_PARAMS

LOCAL_NODE: Final = "localhost"
"""What a submission names for the node itself."""


def read_job(data: bytes) -> tuple[JsonObject, bytes | None]:
    """Return the fields of ``work submit``, and the payload if the job has one.

    Raises:
        Problem: it is no job.
    """
    fields, payload = read_fields(read_object(data, "the job"))
    if "worktype" not in fields:
        raise Problem(MALFORMED, "a job needs a type")
    return {"command": "work", "subcommand": "submit", "node": LOCAL_NODE, **fields}, payload


def read_fields(job: Mapping[str, Any]) -> tuple[JsonObject, bytes | None]:
    """Return the fields of a submission that a job has, whole or not, and its payload.

    Raises:
        Problem: it has what no job has.
    """
    fields: JsonObject = {}
    payload: list[bytes] = []
    for name, value in job.items():
        if name in ("payload", "payload_base64"):
            payload += [] if value is None else [_payload(name, value)]
            continue
        read = FIELDS.get(name)
        if read is None:
            close = get_close_matches(name, [*FIELDS, "payload", "payload_base64"], 1)
            hint = f"; did you mean {close[0]}?" if close else f"; it has {', '.join(FIELDS)}"
            raise Problem(MALFORMED, f"a job has no {name[:40]!r}{hint}")
        if value is not None:
            fields |= read(name, value)
    if len(payload) > 1:
        raise Problem(MALFORMED, "a job has payload or payload_base64, not both")
    return fields, payload[0] if payload else None


def _payload(name: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise _wrong(name, "a text")
    try:
        if name == "payload":
            return value.encode()
        return b64decode(value, validate=True)
    except (NoBase64, ValueError):
        raise _wrong(name, "base64" if name != "payload" else "whole characters") from None


def _wrong(name: str, wanted: str) -> Problem:
    return Problem(MALFORMED, f"{name} must be {wanted}")


# --- What each member of a job becomes ---------------------------------------------------------

Read = Callable[[str, Any], Mapping[str, str]]


def _text(key: str) -> Read:
    def read(name: str, value: object) -> Mapping[str, str]:
        if not isinstance(value, str):
            raise _wrong(name, "a text")
        return {key: value}

    return read


def _type(name: str, value: object) -> Mapping[str, str]:
    if not (isinstance(value, str) and value):
        raise _wrong(name, "a text")
    return {"worktype": value}


def _texts(key: str) -> Read:
    """An object of texts; numbers and booleans are texts as people write them."""

    def read(name: str, value: object) -> Mapping[str, str]:
        if not isinstance(value, dict):
            raise _wrong(name, "an object of texts")
        return {key: json.dumps({one: _scalar(f"{name}.{one}", of) for one, of in value.items()})}

    return read


def _list(key: str, write: Callable[[list[str]], str] = json.dumps) -> Read:
    def read(name: str, value: object) -> Mapping[str, str]:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise _wrong(name, "a list of texts")
        return {key: write(value)} if value else {}

    return read


def _parameters(name: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise _wrong(name, "an object of texts")
    for one in value:
        if one in NOT_PARAMS:
            raise Problem(REFUSED, f"{name}.{one}: a job says that by a member of its own")
    return {one: _scalar(f"{name}.{one}", of) for one, of in value.items()}


def _scalar(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    raise _wrong(name, "a text or a number")


def _seconds(key: str) -> Read:
    def read(name: str, value: object) -> Mapping[str, str]:
        if isinstance(value, int | float) and not isinstance(value, bool):
            # An integer may be larger than any float.
            return {key: f"{value:.6f}s" if isinstance(value, float) else f"{value}s"}
        if isinstance(value, str):
            return {key: value}
        raise _wrong(name, 'a number of seconds, or a text as "30s"')

    return read


def _priority(name: str, value: object) -> Mapping[str, str]:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, "a whole number")
    return {PRIORITY_KEY: str(value)}


def _flag(key: str) -> Read:
    def read(name: str, value: object) -> Mapping[str, str]:
        if not isinstance(value, bool):
            raise _wrong(name, "true or false")
        return {key: "true"} if value else {}

    return read


def _placement(name: str, value: object) -> Mapping[str, str]:
    if isinstance(value, str):
        value = {"mode": value}
    if not isinstance(value, dict) or not value.keys() <= {"mode", "labels"}:
        raise _wrong(name, 'an object: {"mode": "least", "labels": ["gpu=1"]}')
    mode, labels = value.get("mode"), value.get("labels", [])
    if not isinstance(mode, str):
        raise _wrong(f"{name}.mode", "any, random or least")
    if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels):
        raise _wrong(f"{name}.labels", "a list of texts")
    return {"placement": mode, "placementlabels": ",".join(labels)}


FIELDS: Final[Mapping[str, Read]] = {
    "type": _type,
    "node": _text("node"),
    "params": _text("params"),
    "parameters": _parameters,
    "arguments": _texts(ARGUMENTS_KEY),
    "env": _texts(ENV_KEY),
    "cwd": _text(CWD_KEY),
    "labels": _texts(LABELS_KEY),
    "timeout": _seconds(TIMEOUT_KEY),
    "priority": _priority,
    "limits": _texts(LIMITS_KEY),
    "placement": _placement,
    "output": _list(OUTPUT_KEY),
    "after": _list(AFTER_KEY, ",".join),
    "ttl": _seconds("ttl"),
    "signwork": _flag("signwork"),
    "tlsclient": _text("tlsclient"),
}
"""The members of a job."""
