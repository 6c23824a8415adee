"""The patterns by which a job names the files that it brings back, and what they match.

They are a shell's: ``*``, ``?`` and ``[…]`` match within a name, ``**`` any directories. What
begins with a dot is matched by a pattern that says so. A directory stands for all that is in it.
"""

import fnmatch
import json
import re
from collections.abc import Iterable
from typing import Final

MAX_GLOBS: Final = 64
"""Patterns of one job."""

MAX_GLOB: Final = 1024
"""Bytes of one pattern, as of a name that is collected."""

MAX_PARTS: Final = 64
"""Names of one pattern, as directories below each other."""

INPUTS: Final = "DEPS"
"""The directory of files that a job was sent: they are brought back only where a pattern names it,
since whoever asks for ``*`` has them."""

_MAGIC = re.compile(r"[*?[]")

States = frozenset[tuple[int, int]]
"""Which patterns may still match below a directory: the number of each, and of its next name."""


def parse_globs(text: str) -> tuple[str, ...]:
    """Read the JSON list of a submission. Raises ValueError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("is no list of strings in JSON")
    if len(found) > MAX_GLOBS:
        raise ValueError(f"has {len(found)} patterns; there are at most {MAX_GLOBS}")
    return tuple(dict.fromkeys(map(checked_glob, found)))


def checked_glob(text: str) -> str:
    """Return a pattern without what means nothing in it. Raises ValueError."""
    shown = text[:80]
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"pattern {shown!r} has half of a surrogate pair") from None
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if text.startswith("/") or ".." in parts:
        raise ValueError(f"pattern {shown!r} leads out of the directory that the command starts in")
    if not parts or "\0" in text:
        raise ValueError(f"pattern {shown!r} names nothing")
    if size > MAX_GLOB or len(parts) > MAX_PARTS:
        raise ValueError(f"pattern {shown!r}… is too long or too deep")
    return "/".join(parts)


class Globs:
    """Some patterns, of which names are asked one by one, from the outermost directory inwards."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(texts)
        self._parts = tuple(_parts(text) for text in self.texts)

    @property
    def start(self) -> States:
        """Where all patterns begin."""
        return self._with_skipped((number, 0) for number in range(len(self._parts)))

    def step(self, states: States, name: str, *, top: bool) -> tuple[frozenset[int], States]:
        """Return which patterns match a name here, and which may match below it.

        ``top`` says that it lies in the directory that the command starts in.
        """
        is_inputs = top and name == INPUTS
        is_hidden = name.startswith(".")
        after: set[tuple[int, int]] = set()
        for number, at in states:
            part = self._parts[number][at]
            if part is None:
                # The directories that ``**`` stands for are not hidden.
                if not (is_inputs or is_hidden):
                    after.add((number, at))
            elif part == name or (not (is_inputs or isinstance(part, str)) and part.match(name)):
                after.add((number, at + 1))
        matched = frozenset(number for number, at in after if at == len(self._parts[number]))
        return matched, self._with_skipped(
            (number, at) for number, at in after if at < len(self._parts[number])
        )

    def _with_skipped(self, states: Iterable[tuple[int, int]]) -> States:
        """Return states, and those behind ``**``, which may stand for no directory at all."""
        found = set()
        for number, at in states:
            found.add((number, at))
            while self._parts[number][at] is None:
                at += 1
                found.add((number, at))
        return frozenset(found)


def _parts(text: str) -> tuple[str | re.Pattern[str] | None, ...]:
    """Return what each name must be, or match; None stands for any directories."""
    parts: list[str | re.Pattern[str] | None] = []
    for part in text.split("/"):
        if part == "**":
            if not parts or parts[-1] is not None:
                parts.append(None)
        elif _MAGIC.search(part):
            hidden = "" if part.startswith(".") else r"(?!\.)"
            parts.append(re.compile(hidden + fnmatch.translate(part)))
        else:
            parts.append(part)
    if parts[-1] is None:
        # What lies in any directories, and not the outermost of them.
        parts.append(re.compile(r"(?!\.)"))
    return tuple(parts)
