"""What a client gives a job beside its stdin: arguments, environment, directory, files, limits.

The node that executes checks them against the type of work. Another node that submits for the
client only passes them on, and keeps them until the unit has started there.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from meshnode.arguments import MAX_ARGUMENTS
from meshnode.errors import CommandError, WorkError
from meshnode.protocol.control import (
    ARGUMENTS_KEY,
    ARRAY_INDEX_KEY,
    CWD_KEY,
    DEPS_SHA256_KEY,
    DEPS_SIZE_KEY,
    ENV_KEY,
    LIMITS_KEY,
    OUTPUT_KEY,
    PRIORITY_KEY,
    SCRIPT_KEY,
    TIMEOUT_KEY,
)
from meshnode.protocol.times import parse_duration
from meshnode.work.files.jobfiles import NO_FILES, JobFiles
from meshnode.work.units.jsonreader import NOTHING, JsonObject, Reader, check_json
from meshnode.work.units.remoteextra import is_secret

MAX_VARIABLES: Final = 256
"""Variables of one submission; a job that needs more reads a file."""

MAX_LIMITS: Final = 16
"""Limits of one submission; there are eight."""

PRIORITIES: Final = range(-1000, 1001)
"""What the priority of a unit can be; 0 is that of one that was given none."""

INDICES: Final = range(1_000_000_000)
"""What the index of a member of an array can be."""

INDEX_VARIABLE: Final = "MESHNODE_ARRAY_INDEX"
"""The variable by which a command knows which member of an array it is."""

MAX_SHOWN: Final = 40
"""Characters of a duration; a longer one is none, and is shown up to here."""

LEAST_TIMEOUT: Final = 0.001
MOST_DAYS: Final = 3650
MOST_TIMEOUT: Final = MOST_DAYS * 86400.0
"""Seconds: ten years, beyond which a job may as well run for ever."""


@dataclass(frozen=True, slots=True)
class JobSettings:
    """The texts as a client has sent them; without any it is false."""

    arguments: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    env: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    cwd: str = ""
    timeout: float | None = None
    """Seconds that it may run, no longer than its type allows; None is what that allows."""
    priority: int = 0
    """Which of those that wait in the queue goes first: the one with the highest."""
    limits: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """What its processes may have, less than its type allows."""
    files: JobFiles = NO_FILES

    index: int | None = None
    """Which member of an array it is; None if it is none."""

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Read the keys of a submission. Raises CommandError."""
        if data.keys().isdisjoint(KEYS):
            return cls()
        return cls(
            _parse_texts(data, ARGUMENTS_KEY, MAX_ARGUMENTS),
            _parse_texts(data, ENV_KEY, MAX_VARIABLES),
            data.get(CWD_KEY, ""),
            _parse_timeout(data.get(TIMEOUT_KEY, "")),
            _parse_priority(data.get(PRIORITY_KEY, "")),
            _parse_texts(data, LIMITS_KEY, MAX_LIMITS),
            JobFiles.parse(data),
            _parse_index(data.get(ARRAY_INDEX_KEY, "")),
        )

    def __bool__(self) -> bool:
        numbers = self.timeout is not None or self.priority != 0 or self.index is not None
        return self.is_for_command or numbers

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables that it gives: the client's, and those that the node sets."""
        if self.index is None:
            return self.env
        return {**self.env, INDEX_VARIABLE: str(self.index)}

    @property
    def is_for_command(self) -> bool:
        """Whether there is anything of which not every type of work can make use."""
        return bool(self.arguments or self.env or self.cwd or self.limits or self.files)

    def timeout_within(self, most: float | None) -> float | None:
        """Return the seconds that it may run, of at most ``most``; None is for ever."""
        if self.timeout is None or most is None:
            return most if self.timeout is None else self.timeout
        return min(self.timeout, most)

    def fields(self) -> dict[str, str]:
        """Return the keys of a submission from which :meth:`parse` makes these settings."""
        if not self:
            return {}
        fields = {
            ARGUMENTS_KEY: json.dumps(dict(self.arguments), sort_keys=True),
            ENV_KEY: json.dumps(dict(self.env), sort_keys=True),
            CWD_KEY: self.cwd,
            TIMEOUT_KEY: "" if self.timeout is None else f"{self.timeout:.6f}s",
            PRIORITY_KEY: str(self.priority) if self.priority else "",
            LIMITS_KEY: json.dumps(dict(self.limits), sort_keys=True),
            **self.files.fields(),
            ARRAY_INDEX_KEY: "" if self.index is None else str(self.index),
        }
        return {key: text for key, text in fields.items() if text not in {"", "{}"}}

    def as_params(self) -> dict[str, str]:
        """Return them by the names that access rules have for them: ``jobarguments.position``."""
        if not self:
            return {}
        named = {f"{ARGUMENTS_KEY}.{name}": text for name, text in self.arguments.items()}
        named |= {f"{ENV_KEY}.{name}": text for name, text in self.env.items()}
        named |= {f"{LIMITS_KEY}.{name}": text for name, text in self.limits.items()}
        others = (CWD_KEY, TIMEOUT_KEY, PRIORITY_KEY, DEPS_SIZE_KEY, SCRIPT_KEY, OUTPUT_KEY)
        return named | {key: text for key, text in self.fields().items() if key in others}

    def shown(self) -> Iterator[str]:
        """Yield a word for people for each, without secrets."""
        given = (("", self.arguments), ("env.", self.env), ("limit.", self.limits))
        for before, texts in given:
            for name, text in texts.items():
                if not is_secret(name):
                    yield f"{before}{name}={text}"
        if self.cwd:
            yield f"cwd={self.cwd}"
        if self.timeout is not None:
            yield f"timeout={self.timeout:g}s"
        if self.index is not None:
            yield f"index={self.index}"
        if self.priority:
            yield f"priority={self.priority}"
        yield from self.files.shown()

    def with_digest(self, sha256: str) -> Self:
        """Return the same settings when the files have come; the digest is empty if unknown."""
        return replace(self, files=self.files.received(sha256)) if sha256 else self

    @property
    def has_secret_arguments(self) -> bool:
        """Whether the words of the command hold a secret."""
        return any(map(is_secret, self.arguments))

    @property
    def has_secrets(self) -> bool:
        """Whether any of them is a secret."""
        return self.has_secret_arguments or any(map(is_secret, self.env))

    def to_disk(self, *, secrets: bool) -> JsonObject:
        """Return the object that stands in the record of a unit, empty if there is nothing."""
        data = {
            "Arguments": dict(self.arguments) if secrets else _open(self.arguments),
            "Env": dict(self.env) if secrets else _open(self.env),
            "Cwd": self.cwd,
            "Timeout": self.timeout,
            "Priority": self.priority,
            "Limits": dict(self.limits),
            "Files": self.files.to_disk(),
        }
        found = {key: value for key, value in data.items() if value}
        return found if self.index is None else found | {"Index": self.index}

    @classmethod
    def from_disk(cls, data: object) -> Self:
        """Read such an object. Raises WorkError: without all of it, the work is another."""
        if data is None:
            return cls()
        reader = Reader(data)
        texts: list[Mapping[str, str]] = []
        for key in ("Arguments", "Env", "Limits"):
            found: dict[str, Any] = reader.take(key, dict, {}) or {}
            if not all(isinstance(value, str) for value in found.values()):
                raise WorkError(f"{key} holds a value that is not a string")
            check_json(key, found)
            texts.append(found or NOTHING)
        return cls(
            texts[0],
            texts[1],
            reader.take("Cwd", str, ""),
            _recorded_timeout(reader),
            reader.whole("Priority", PRIORITIES) or 0,
            texts[2],
            JobFiles.from_disk(reader.take("Files", dict, None)),
            reader.whole("Index", INDICES),
        )


NO_SETTINGS: Final = JobSettings()

WORDS_OF_KEYS: Final = {
    ARGUMENTS_KEY: "arguments",
    ENV_KEY: "environment variables",
    DEPS_SIZE_KEY: "dependencies",
    DEPS_SHA256_KEY: "dependencies",
    SCRIPT_KEY: "script",
    OUTPUT_KEY: "files to bring back",
    CWD_KEY: "working directory",
    LIMITS_KEY: "limits",
    TIMEOUT_KEY: "timeout",
    PRIORITY_KEY: "priority",
    ARRAY_INDEX_KEY: "array index",
}
"""The keys of a submission that have them, and what people call these."""

KEYS: Final = frozenset(WORDS_OF_KEYS)
"""The keys alone."""


def _parse_timeout(text: str) -> float | None:
    if not text:
        return None
    if len(text) > MAX_SHOWN:
        raise CommandError(f"a job's timeout of {text[:MAX_SHOWN]}… is no time such as 30s or 1h")
    seconds = parse_duration(text)
    if not LEAST_TIMEOUT <= seconds <= MOST_TIMEOUT:
        raise CommandError(f"a job's timeout of {text} is not between 1 ms and {MOST_DAYS} days")
    return seconds


def _parse_priority(text: str) -> int:
    digits = text.removeprefix("-")
    if not text:
        return 0
    if digits.isascii() and digits.isdigit() and len(digits) < 5 and int(text) in PRIORITIES:
        return int(text)
    raise CommandError(
        f"priority {text[:16]} is no whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}"
    )


def _parse_index(text: str) -> int | None:
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    raise CommandError(f"field {ARRAY_INDEX_KEY} value {text[:16]} is no index of an array")


def _recorded_timeout(reader: Reader) -> float | None:
    value: float | None = reader.take("Timeout", float, None)
    if value is not None and not LEAST_TIMEOUT <= value <= MOST_TIMEOUT:
        raise WorkError("Timeout has a value that is out of range")
    return value


def _open(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if not is_secret(name)}


def _parse_texts(data: Mapping[str, Any], key: str, most: int) -> Mapping[str, str]:
    text = data.get(key, "")
    if not text:
        return NOTHING
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise CommandError(f"field {key} must be an object of strings in JSON")
    try:
        # Half a character, written as \ud800, is a text that no program can be given.
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise CommandError(f"field {key} has half of a surrogate pair") from None
    if len(found) > most:
        raise CommandError(f"field {key} has {len(found)} names; there are at most {most}")
    return found or NOTHING
