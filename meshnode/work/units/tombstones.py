"""Tombstones: what a store remembers of released units, so that their work is not started again.

They are kept in memory and in one file. Lines are only appended to it; a start of the node rewrites
it without what is too old. A tombstone that is dropped early leaves a horizon: nothing is known of
submissions from before that, and the store says so.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from meshnode import files
from meshnode.logs import SubjectLogger

FILE = ".tombstones"
"""Name of the file in a node's directory that holds them, a JSON object on each line."""

MOST = 32_768
"""Tombstones that are kept: some 12 MiB of memory, 5 MiB of disk."""

DROPPED_AT_ONCE = MOST // 16
"""Tombstones dropped at once, of the submitter that has most: one look at all of them then does for
thousands of releases."""

MOST_BYTES = 64 * 1024 * 1024
"""Bytes that the file may have when it is read; it is rewritten long before."""

MOST_HORIZONS = 256
"""Submitters with a horizon of their own; more share one."""

REWRITE_AFTER = 2 * MOST
"""Lines after which the file is rewritten."""

_DIGEST_BYTES = 16
"""Bytes of a digest of submitter and key. A collision gains nobody anything: it has the submitter
in it."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One unit that is gone, or cannot be read."""

    digest: bytes
    unit_id: str
    submitter: str
    state: int
    """How it ended; ``DAMAGED`` is a unit that was set aside."""
    moment: int
    """When that was, in microseconds by the store's clock."""

    @classmethod
    def of(cls, submitter: str, key: str, unit_id: str, state: int, moment: int) -> Self:
        """Return the tombstone of a unit that was started under a key, and is released."""
        return cls(_digest(submitter, key), unit_id, submitter or OURS, state, moment)

    @classmethod
    def of_damaged(cls, unit_id: str, moment: int) -> Self:
        """Return the tombstone of a unit that was set aside: nobody knows its key."""
        return cls(_digest(_DAMAGED, unit_id), unit_id, "", DAMAGED, moment)

    def to_line(self) -> bytes:
        """Return the line of the file."""
        return _line(
            k=self.digest.hex(), u=self.unit_id, s=self.submitter, o=self.state, t=self.moment
        )


DAMAGED = -1

OURS = "\0"
"""Stands for the node's own clients as submitters; no node's name has a NUL."""

_DAMAGED = "\0damaged"


class Tombstones:
    """All tombstones of one store, in memory. ``keep`` is in seconds."""

    def __init__(self, keep: float) -> None:
        self._keep = int(keep * 1e6)
        self._all: dict[bytes, Tombstone] = {}
        """Nearly in the order of their moments."""
        self._count: Counter[str] = Counter()
        self._horizons: dict[str, int] = {}
        self._horizon = 0
        self._clock = 0

    def now(self, moment: float) -> int:
        """Return the store's own time when the wall clock has this one; it never goes back."""
        self._clock = max(self._clock, int(moment * 1e6))
        return self._clock

    def find(self, submitter: str, key: str) -> Tombstone | None:
        """Return the tombstone of a key."""
        return self._all.get(_digest(submitter, key))

    def is_damaged(self, unit_id: str) -> bool:
        """Whether a unit of that ID was set aside."""
        return _digest(_DAMAGED, unit_id) in self._all

    def horizon(self, submitter: str) -> int:
        """Return the moment up to which something of that submitter's is forgotten."""
        return max(self._horizon, self._horizons.get(submitter or OURS, 0))

    def add(self, stone: Tombstone) -> None:
        """Remember a unit."""
        self._clock = max(self._clock, stone.moment)
        self._forget(stone.digest)
        self._all[stone.digest] = stone
        self._count[stone.submitter] += 1
        if len(self._all) > MOST:
            self._make_room()

    def forget_until(self, moment: int, submitter: str = "") -> None:
        """Say that nothing is known of a submitter, or of anybody, up to a moment."""
        self._clock = max(self._clock, moment)
        if submitter:
            self._horizons[submitter] = max(moment, self._horizons.get(submitter, 0))
            if len(self._horizons) <= MOST_HORIZONS:
                return
            moment = max(self._horizons.values())
            self._horizons.clear()
        self._horizon = max(self._horizon, moment)

    def take_line(self, line: bytes) -> bool:
        """Take over what a line of the file says; return False if it says nothing."""
        try:
            data = json.loads(line)
            if "since" in data:
                self.forget_until(_moment(data["since"]), _text(data.get("s", "")))
                return True
            digest = bytes.fromhex(_text(data["k"]))
            state = data["o"]
            if len(digest) != _DIGEST_BYTES or state not in {DAMAGED, *range(5)}:
                return False
            unit_id, submitter = _text(data["u"]), _text(data["s"])
            self.add(Tombstone(digest, unit_id, submitter, int(state), _moment(data["t"])))
        except (ValueError, TypeError, KeyError, RecursionError):
            return False
        return True

    def prune(self) -> "Snapshot":
        """Drop what is too old, and return all that is left."""
        limit = self._clock - self._keep
        self._drop([stone for stone in self._all.values() if stone.moment < limit])
        horizons = dict(self._horizons)
        if self._horizon:
            horizons[""] = self._horizon
        return Snapshot(horizons, tuple(self._all.values()))

    def _make_room(self) -> None:
        """Drop the oldest of the submitter that has most: none can make others be forgotten."""
        (submitter, most), *_ = self._count.most_common(1)
        if most >= DROPPED_AT_ONCE:
            its = (stone for stone in self._all.values() if stone.submitter == submitter)
            self._drop(list(islice(its, DROPPED_AT_ONCE)))
        else:
            self._drop(list(islice(self._all.values(), DROPPED_AT_ONCE)))

    def _drop(self, stones: list[Tombstone]) -> None:
        for stone in stones:
            self._forget(stone.digest)
            self.forget_until(stone.moment, stone.submitter)

    def _forget(self, digest: bytes) -> None:
        stone = self._all.pop(digest, None)
        if stone is not None:
            self._count[stone.submitter] -= 1
            if not self._count[stone.submitter]:
                del self._count[stone.submitter]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the file is to hold."""

    horizons: Mapping[str, int]
    stones: tuple[Tombstone, ...]

    def lines(self) -> list[bytes]:
        """Return the lines of the file; of many, that takes a tenth of a second."""
        return [
            *(
                _line(s=submitter, since=moment) if submitter else _line(since=moment)
                for submitter, moment in self.horizons.items()
            ),
            *(stone.to_line() for stone in self.stones),
        ]


class TombstoneFile:
    """The file of a store's tombstones. All of it blocks."""

    def __init__(self, root: Path, log: SubjectLogger) -> None:
        self._path = root / FILE
        self._log = log
        self._owes_rewrite = False
        """Whether what stands in the file is not what it should say, for want of disk or so."""
        self._lines = 0
        self._size = 0
        """Bytes of whole lines; what stands behind them is of a write that failed."""

    def load(self, tombstones: Tombstones, moment: float, *, is_new: bool = False) -> None:
        """Read the file into memory, and rewrite it if much of it is obsolete.

        What cannot be read leaves a horizon. Only a store that ``is_new`` may have no file: from
        any other somebody took it.
        """
        is_damaged = is_missing = False
        text = b""
        try:
            text = files.read_file(self._path, MOST_BYTES)
        except FileNotFoundError:
            is_missing = True
            is_damaged = not is_new
        except OSError as error:
            self._log.warning("%s cannot be read: %s", self._path, files.reason(error))
            is_damaged = True
        # A power cut may leave half of the last line, of a unit whose directory is still there.
        lines = text.splitlines(keepends=True)
        torn = bool(lines) and not lines[-1].endswith(b"\n")
        for line in lines[: len(lines) - torn]:
            is_damaged |= not tombstones.take_line(line)
            self._size += len(line)
        self._lines = len(lines)
        now = tombstones.now(moment)
        if is_damaged:
            how = "missing" if is_missing else "damaged"
            self._log.warning("%s is %s: what it held is forgotten", self._path, how)
            tombstones.forget_until(now)
        left = tombstones.prune()
        is_long = self._lines > len(left.stones) + len(left.horizons)
        if is_damaged or is_missing or torn or is_long:
            self._owes_rewrite = is_damaged
            try:
                self.replace(left)
            except OSError as error:
                self._log.warning("%s cannot be replaced: %s", self._path, files.reason(error))

    @property
    def is_due(self) -> bool:
        """Whether the file is to be written anew: much of it is of no more use, or it is wrong."""
        return self._owes_rewrite or self._lines > REWRITE_AFTER

    def append(self, stones: Iterable[Tombstone]) -> None:
        """Bring tombstones to the disk. Raises OSError."""
        lines = [stone.to_line() for stone in stones]
        text = b"".join(lines)
        descriptor = files.open_file(self._path, os.O_WRONLY | os.O_CREAT)
        try:
            size = min(self._size, os.fstat(descriptor).st_size)
            os.ftruncate(descriptor, size)
            os.lseek(descriptor, size, os.SEEK_SET)
            _write(descriptor, text)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if not size:
            files.sync_directory(self._path.parent)
        self._size = size + len(text)
        self._lines += len(lines)

    def replace(self, snapshot: Snapshot) -> None:
        """Rewrite the file. Raises OSError; the old one stands."""
        lines = snapshot.lines()
        scratch = f"{self._path}.tmp"
        descriptor, _ = files.open_scratch(scratch)
        try:
            text = b"".join(lines)
            _write(descriptor, text)
            os.ftruncate(descriptor, len(text))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        files.put_in_place(scratch, self._path)
        files.sync_directory(self._path.parent)
        self._lines, self._size = len(lines), len(text)
        self._owes_rewrite = False


def _digest(submitter: str, key: str) -> bytes:
    return hashlib.sha256(f"{submitter}\0{key}".encode()).digest()[:_DIGEST_BYTES]


def _line(**fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    value.encode()
    return value


def _moment(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 10**18:
        raise TypeError("no moment")
    return value


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
