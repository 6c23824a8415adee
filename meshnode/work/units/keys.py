"""Submission keys, by which the work of a remote unit runs once.

The submitting node makes a key for each unit, which nobody can guess, and sends it with the
submission. The running node remembers the key, the submitting node and a digest of the work. It can
tell later what became of the submission, also when the unit is gone.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from meshnode.work.units.intake import Input
from meshnode.work.units.jsonreader import NOTHING

MAX_KEY = 512
"""Characters of a key: a unit's ID and a secret, or a name that a client chose."""

ALREADY_SUBMITTED = "already submitted as unit"
"""How a node refuses a second submission of one key; the ID of the first one's unit follows."""

SECRET_BYTES = 18
"""Random bytes in a key: nobody finds it by trying."""


class KeyState(StrEnum):
    """What a node knows of a submission key."""

    UNIT = "unit"
    """There is a unit of that key."""
    RELEASED = "released"
    """There was one. It was started, and is released."""
    DAMAGED = "damaged"
    """The unit of that key is there and cannot be read."""
    FORGOTTEN = "forgotten"
    """Too long ago, or too many submissions since: nothing is known."""
    NOTHING = "nothing"
    """No work of that key was ever started here."""


def new_secret() -> str:
    """Return the random part of a key."""
    return secrets.token_urlsafe(SECRET_BYTES)


def work_digest(
    work_type: str, params: Mapping[str, str], stdin: Input, job: Mapping[str, str] = NOTHING
) -> str:
    """Return what tells one piece of work from another: type, parameters, and payload if known.

    ``job`` has the fields of what the client gives it besides.
    """
    parts: list[object] = [work_type, sorted(params.items()), stdin.size, stdin.sha256]
    if job:
        # Only then: a digest of an older version stays the same.
        parts.append(sorted(job.items()))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where and when a node took a submission; the node gives it with the ID of the new unit."""

    store: str
    """The identity of the node's store: of another, nothing is known of the submission."""

    moment: int
    """Microseconds by the clock of that store, which never goes back."""

    def __str__(self) -> str:
        """Return the receipt as it is told and recorded."""
        return f"{self.store}@{self.moment}"

    @classmethod
    def find(cls, text: str) -> Self | None:
        """Return the receipt that is in a text, None if there is none."""
        match = _RECEIPT.search(text)
        return cls(match[1], int(match[2])) if match else None


_RECEIPT = re.compile(r"(?<![0-9a-z])([0-9a-f]{32})@(0|[1-9][0-9]{0,17})(?![0-9a-z])")
