"""What a unit or a batch waits for before its start: the end of units and of batches, as values.

Only what is there can be named, so no two wait for each other.
"""

import re
from dataclasses import dataclass
from typing import Final

from meshnode.errors import CommandError, WorkError
from meshnode.protocol.lifecycle import UnitState

AFTER_KEY: Final = "submissionafter"
"""Key of a submission, and of a batch, that says what must have ended: ``ID,ID:end``. It stays on
the node that is asked."""

MAX_AFTER: Final = 64
"""Units and batches that one waits for; a chain names one or two."""

MAX_WORD: Final = 64
"""Characters of an ID at most, and of what is shown of one that is none."""

ANY_END: Final = "end"
SUCCESS: Final = "success"
"""What may stand after the ID and a colon."""

_ID: Final = re.compile(r"b-[a-zA-Z0-9]{8}")
_MEMBER: Final = re.compile(r"b-[a-zA-Z0-9]{8}:[0-9]+(:[0-9]+)?")


def is_batch_id(text: str) -> bool:
    """Whether that can be the ID of a batch; it can never be that of a unit."""
    return _ID.fullmatch(text) is not None


def is_member_key(key: str) -> bool:
    """Whether that is the submission key of a batch's member; no client may have one."""
    return _MEMBER.fullmatch(key) is not None


@dataclass(frozen=True, slots=True)
class After:
    """A unit or a batch that must have ended; ``success`` is whether it must have succeeded."""

    target: str
    success: bool = True

    def __str__(self) -> str:
        return self.target if self.success else f"{self.target}:{ANY_END}"

    @property
    def name(self) -> str:
        """What it is, for a person."""
        return f"{'batch' if is_batch_id(self.target) else 'unit'} {self.target}"

    @property
    def words(self) -> str:
        """What is waited for, for a person."""
        return f"{self.name} to {'succeed' if self.success else 'end'}"

    def refusal(self, end: str) -> str:
        """Return why nothing may come after an end, by its label; empty if something may.

        An empty label is that of what is not there any more.
        """
        if not self.success or end == UnitState.SUCCEEDED.label:
            return ""
        return f"{self.name} {_ENDS.get(end, 'is gone')}"


_ENDS: Final = {UnitState.FAILED.label: "failed", UnitState.CANCELED.label: "was canceled"}


def parse_after(text: str) -> tuple[After, ...]:
    """Read ``ID,ID:end``; an empty text has none. Raises CommandError."""
    words = text.split(",", MAX_AFTER) if text else []
    if len(words) > MAX_AFTER:
        raise CommandError(f"one waits for at most {MAX_AFTER} units and batches")
    found: list[After] = []
    for word in words:
        target, _, condition = word.partition(":")
        is_id = target.isascii() and target.replace("-", "").isalnum() and len(target) <= MAX_WORD
        if not (is_id and condition in {"", SUCCESS, ANY_END}):
            shown = word if len(word) <= MAX_WORD else f"{word[:MAX_WORD]}…"
            raise CommandError(f"after {shown!r}: write an ID, ID:{SUCCESS} or ID:{ANY_END}")
        one = After(target, condition != ANY_END)
        if one not in found:
            found.append(one)
    return tuple(found)


def recorded_after(text: str) -> tuple[After, ...]:
    """Read the same from a record. Raises WorkError."""
    try:
        return parse_after(text)
    except CommandError as error:
        raise WorkError(f"After is damaged: {error}") from error
