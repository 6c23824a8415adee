"""What a submission says of the files that go along with a job."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from meshnode.errors import CommandError, WorkError
from meshnode.protocol.control import DEPS_SHA256_KEY, DEPS_SIZE_KEY, SCRIPT_KEY
from meshnode.work.units.jsonreader import JsonObject, Reader

MAX_DIGITS: Final = 18
"""Digits of a number of bytes: more than any disk has, and a whole number wherever it goes."""

MAX_NAME: Final = 255
"""Bytes of the name of a script, as of any file."""

_PLACES = frozenset({"", ".", ".."})

_SHA256 = re.compile(r"[0-9a-f]{64}")

FILE_KEYS: Final = frozenset({DEPS_SIZE_KEY, DEPS_SHA256_KEY, SCRIPT_KEY})
"""The keys of a submission that speak of files."""


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The files of one job; without any it is false.

    Attributes:
        size: bytes of the tar of dependencies, with which the payload begins; stdin follows.
        sha256: its digest in lower-case hexadecimal; empty where nobody knows it.
        script: name of the one of them that is to be run; empty for none.
    """

    size: int = 0
    sha256: str = ""
    script: str = ""

    def __bool__(self) -> bool:
        return self.size > 0

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Read the keys of a submission. Raises CommandError."""
        size, sha256 = data.get(DEPS_SIZE_KEY, ""), data.get(DEPS_SHA256_KEY, "").lower()
        if size and not (size.isascii() and size.isdigit() and len(size) <= MAX_DIGITS):
            raise CommandError(f"field {DEPS_SIZE_KEY} value {size[:40]} is not a number of bytes")
        if sha256 and not _SHA256.fullmatch(sha256):
            raise CommandError(f"field {DEPS_SHA256_KEY} must be 64 hexadecimal digits")
        script = data.get(SCRIPT_KEY, "")
        if script and not (_is_name(script) and size.strip("0")):
            raise CommandError(f"field {SCRIPT_KEY} must be the name of a file in {DEPS_SIZE_KEY}")
        return cls(int(size), sha256, script) if size and int(size) else cls()

    def fields(self) -> dict[str, str]:
        """Return the keys of a submission from which :meth:`parse` makes these files."""
        if not self:
            return {}
        fields = {
            DEPS_SIZE_KEY: str(self.size),
            DEPS_SHA256_KEY: self.sha256,
            SCRIPT_KEY: self.script,
        }
        return {key: text for key, text in fields.items() if text}

    def shown(self) -> Iterator[str]:
        """Yield a word for people for each thing that there is."""
        if self:
            yield f"dependencies={self.size}"
        if self.script:
            yield f"script={self.script}"

    def received(self, sha256: str) -> Self:
        """Return the same files when they have come and their digest is known."""
        return replace(self, sha256=sha256)

    def to_disk(self) -> JsonObject:
        """Return the object that stands in the record of a unit, empty if there is nothing."""
        data = {"Size": self.size, "Sha256": self.sha256, "Script": self.script}
        return {key: value for key, value in data.items() if value} if self else {}

    @classmethod
    def from_disk(cls, data: object) -> Self:
        """Read such an object. Raises WorkError: without all of it, the work is another."""
        if data is None:
            return cls()
        reader = Reader(data)
        sha256 = reader.take("Sha256", str, "")
        if sha256 and not _SHA256.fullmatch(sha256):
            raise WorkError("Sha256 is no digest")
        script = reader.take("Script", str, "")
        if script and not _is_name(script):
            raise WorkError("Script is no name of a file")
        return cls(reader.whole("Size") or 0, sha256, script)


def _is_name(text: str) -> bool:
    is_one = "/" not in text and text not in _PLACES
    return is_one and text.isprintable() and len(text.encode()) <= MAX_NAME


NO_FILES: Final = JobFiles()
