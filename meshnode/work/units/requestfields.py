"""Reads the fields of the requests of work, each checked: what a client sends may be anything.

Clients match the texts of refusals, so these are receptor's. Only where its text names a type of
Go, ours has another.
"""

import json
import re

from meshnode.errors import CommandError
from meshnode.protocol.control import CLAIM_KEY, MAX_CLAIM
from meshnode.security.identity import Claimed, claim_from_json
from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.keys import MAX_KEY

MAX_POSITION = 2**63 - 1
"""The highest position in a file, and size of one: a 64-bit number, as in receptor."""

_IN_NO_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What is in the ID of no node, and would spoil logs and terminals where it is shown."""


def read_string(data: JsonObject, key: str) -> str:
    """Return a text that must be there. Raises CommandError, as all but the last of these do."""
    if key not in data:
        raise CommandError(f"field {key} missing")
    value = data[key]
    if not isinstance(value, str):
        raise CommandError(f"field {key} must be a string")
    return value


def read_optional(data: JsonObject, key: str) -> str:
    """Return a text, empty where there is none."""
    value = data.get(key, "")
    return value if isinstance(value, str) else ""


def read_flag(data: JsonObject, key: str) -> bool:
    """Read a truth value, which receptor's clients send as a string."""
    value = data.get(key, False)
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        shown = value if isinstance(value, str) else "of another type"
        raise CommandError(f"field {key} value {shown} is not convertible to a bool")
    return bool(value == "true")


def read_node(text: str) -> str:
    """Return a text that may be the ID of a node."""
    if _IN_NO_NAME.search(text):
        raise CommandError("field node has a control character, which is in no node ID")
    return text


def read_key(data: JsonObject) -> str:
    """Return the key that names a submission, empty where none does."""
    key = read_optional(data, "submissionkey")
    if len(key) > MAX_KEY or not key.isprintable():
        raise CommandError(f"field submissionkey must be at most {MAX_KEY} printable characters")
    return key


def read_claim(data: JsonObject) -> Claimed | None:
    """Return for whom another node says that it asks; what is no such thing says nothing."""
    text = data.get(CLAIM_KEY)
    if not isinstance(text, str) or not 0 < len(text) <= MAX_CLAIM:
        return None
    try:
        return claim_from_json(json.loads(text))
    except (ValueError, RecursionError):
        return None
