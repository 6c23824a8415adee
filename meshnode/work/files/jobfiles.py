"""What a submission says of the files that go along with a job, and of those it brings back."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from meshnode.errors import CommandError, WorkError
from meshnode.protocol.control import DEPS_SHA256_KEY, DEPS_SIZE_KEY, OUTPUT_KEY, SCRIPT_KEY
from meshnode.work.files.globs import MAX_GLOB, checked_glob, parse_globs
from meshnode.work.units.jsonreader import JsonObject, Reader

MAX_DIGITS: Final = 18
"""Digits of a number of bytes: more than any disk has, and a whole number wherever it goes."""

MAX_NAME: Final = 255
"""Bytes of the name of a script, as of any file."""

_PLACES = frozenset({"", ".", ".."})

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The files of one job; without any it is false.

    Attributes:
        size: bytes of the tar of dependencies, with which the payload begins; stdin follows.
        sha256: its digest in lower-case hexadecimal; empty where nobody knows it.
        script: name of the one of them that is to be run; empty for none.
        output: patterns of what is brought back of the directory that the command starts in.
    """

    size: int = 0
    sha256: str = ""
    script: str = ""
    output: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether the job has a directory of its own."""
        return self.size > 0 or bool(self.output)

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
        output = _parse_output(data.get(OUTPUT_KEY, ""))
        if size and int(size):
            return cls(int(size), sha256, script, output)
        return cls(output=output)

    def fields(self) -> dict[str, str]:
        """Return the keys of a submission from which :meth:`parse` makes these files."""
        if not self:
            return {}
        fields = {
            DEPS_SIZE_KEY: str(self.size) if self.size else "",
            DEPS_SHA256_KEY: self.sha256,
            SCRIPT_KEY: self.script,
            OUTPUT_KEY: json.dumps(self.output) if self.output else "",
        }
        return {key: text for key, text in fields.items() if text}

    def shown(self) -> Iterator[str]:
        """Yield a word for people for each thing that there is."""
        if self.size:
            yield f"dependencies={self.size}"
        if self.script:
            yield f"script={self.script}"
        for glob in self.output:
            yield f"output={glob}"

    def received(self, sha256: str) -> Self:
        """Return the same files when they have come and their digest is known."""
        return replace(self, sha256=sha256)

    def to_disk(self) -> JsonObject:
        """Return the object that stands in the record of a unit, empty if there is nothing."""
        data = {
            "Size": self.size,
            "Sha256": self.sha256,
            "Script": self.script,
            "Output": list(self.output),
        }
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
        return cls(reader.whole("Size") or 0, sha256, script, _recorded_output(reader))


def _is_name(text: str) -> bool:
    is_one = "/" not in text and text not in _PLACES
    return is_one and text.isprintable() and len(text.encode()) <= MAX_NAME


def _parse_output(text: str) -> tuple[str, ...]:
    try:
        return parse_globs(text) if text else ()
    except ValueError as error:
        raise CommandError(f"field {OUTPUT_KEY} {error}") from None


def _recorded_output(reader: Reader) -> tuple[str, ...]:
    found = reader.take("Output", list, None) or []
    try:
        if all(isinstance(one, str) and len(one) <= MAX_GLOB for one in found):
            return tuple(map(checked_glob, found))
    except ValueError as error:
        raise WorkError(f"Output: {error}") from None
    raise WorkError("Output is no list of patterns")


NO_FILES: Final = JobFiles()
