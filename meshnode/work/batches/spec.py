"""What a batch is to run: a submission for each index of an array, or for each line of a list.

A specification is a value. It is read from a request, kept as JSON beside the batch's journal, and
says what the submission of each member is.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from meshnode.errors import CommandError, WorkError
from meshnode.permissions import Way
from meshnode.protocol.control import (
    ARRAY_INDEX_KEY,
    CLAIM_KEY,
    DEPS_SHA256_KEY,
    DEPS_SIZE_KEY,
    RESUME_KEY,
)
from meshnode.security.identity import UnknownClient, identity_from_json
from meshnode.work.batches.filling import filled
from meshnode.work.files.jobfiles import JobFiles
from meshnode.work.units.access import Caller
from meshnode.work.units.after import AFTER_KEY, After, is_member_key, parse_after
from meshnode.work.units.intake import Input
from meshnode.work.units.jsonreader import JsonObject
from meshnode.work.units.labels import BATCH_LABEL, parse_labels
from meshnode.work.units.requestfields import read_key
from meshnode.work.units.submission import Submission, parse_submission

MAX_MEMBERS: Final = 1_000_000
"""Members of a batch. Each takes one byte of memory, eight more in a list of lines, and
four once one has succeeded after a retry."""

MAX_INDEX: Final = 999_999_999
"""The highest index of an array."""

MAX_RANGES: Final = 1000
"""Ranges of an array, as in ``1-5,8,10-20:2``."""

MAX_LIST_BYTES: Final = 256 << 20
"""Bytes of a list of lines, which lies on the disk only."""

MAX_LINE_BYTES: Final = 1 << 20
"""Bytes of one line of a list: as much as a request of the control service may have."""

MAX_PLACES: Final = 1000
"""Different pairs of a work type and a node in one list: who cancels it is judged for each."""

MAX_IN_FLIGHT: Final = 10_000
"""Unfinished members at once; each is a unit in memory, and may be a process."""

DEFAULT_IN_FLIGHT: Final = 100
"""The same where the client does not say: enough to fill a few machines, and no flood."""

LIST_SHA256_KEY: Final = "listsha256"
"""Key of a batch with the digest of its list, in hexadecimal, where the client knows it before."""

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

_RANGE = re.compile(r"([0-9]{1,40})(?:-([0-9]{1,40})(?::([0-9]{1,40}))?)?")

NOT_OF_A_MEMBER: Final = frozenset(
    {
        "command",
        "subcommand",
        "action",
        "array",
        "maxinflight",
        "stdin",
        "lines",
        LIST_SHA256_KEY,
        AFTER_KEY,
        ARRAY_INDEX_KEY,
    }
    | {"submissionkey", "submissionfollow", RESUME_KEY, "stdinsize", "stdinsha256", CLAIM_KEY}
)
"""Keys of a request that are the batch's own, or that no member may have."""

_FILES_OF_ALL: Final = frozenset({DEPS_SIZE_KEY, DEPS_SHA256_KEY})
"""Keys of the files that all members share, so that no line has them."""

LINE_KEYS: Final = ("line", "stdin")
"""Keys of a line that are no keys of its submission."""


@dataclass(frozen=True, slots=True)
class Array:
    """Indices in ascending order."""

    ranges: tuple[range, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1-1000``, ``1-5,8,10-20:2``. Raises CommandError."""
        ranges: list[range] = []
        words = text.split(",", MAX_RANGES)
        if len(words) > MAX_RANGES:
            raise CommandError(f"an array has at most {MAX_RANGES} ranges")
        for word in words:
            match = _RANGE.fullmatch(word)
            if match is None:
                raise CommandError(f"array {text[:64]!r}: write for instance 1-1000 or 1-9:2,20")
            first, step = int(match[1]), int(match[3] or 1)
            last = int(match[2] or first)
            if max(last, first, step) > MAX_INDEX:
                raise CommandError(f"array {text[:64]!r}: an index is at most {MAX_INDEX}")
            if step < 1 or last < first or (ranges and first <= ranges[-1][-1]):
                raise CommandError(f"array {text[:64]!r} does not ascend at {word}")
            ranges.append(range(first, last + 1, step))
        array = cls(tuple(ranges))
        if len(array) > MAX_MEMBERS:
            raise CommandError(f"a batch has at most {MAX_MEMBERS} members, not {len(array)}")
        return array

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def __str__(self) -> str:
        return ",".join(
            str(one[0]) if len(one) == 1 else f"{one[0]}-{one[-1]}" + f":{one.step}"
            for one in self.ranges
        )

    def index(self, position: int) -> int:
        """Return the index of the member at that position, from 0."""
        for one in self.ranges:
            if position < len(one):
                return one[position]
            position -= len(one)
        raise IndexError(position)

    def position(self, index: int) -> int | None:
        """Return where an index stands, None if it is none of these."""
        before = 0
        for one in self.ranges:
            if index in one:
                return before + one.index(index)
            before += len(one)
        return None


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """A batch as its client has asked for it.

    ``fields`` are the keys of a submission that all members have. With ``has_lines`` there is a
    line for each index of the array, with more of them.
    """

    array: Array
    fields: Mapping[str, str]
    max_in_flight: int = DEFAULT_IN_FLIGHT
    stdin: str = ""
    has_lines: bool = False
    caller: Caller = field(default_factory=Caller)
    created: str = ""
    after: tuple[After, ...] = ()
    """What must have ended before the first member is submitted."""
    places: tuple[tuple[str, str], ...] = ()
    """The work types and nodes that lines name, each pair once; empty is the batch's own."""
    list_size: int = 0
    """Bytes of its list."""
    list_sha256: str = ""
    """What its digest must be; empty if the client has not said."""
    key: str = ""
    """The name of its submission, if the client gives it one: then there is one batch of it."""
    asked: str = ""
    """The digest of the request, which tells it from another one under the same key."""

    @classmethod
    def parse(cls, data: JsonObject, caller: Caller, created: str) -> Self:
        """Read a request; what is to come as lines is not counted yet. Raises CommandError."""
        for key, value in data.items():
            if not isinstance(value, str):
                raise CommandError(f"submit parameters must all be strings and {key} is not")
            check_text(key, value)
        if data.get("signature"):
            raise CommandError(
                "a batch takes no signature, which would be too old for its last member: "
                "submit it through the unix socket"
            )
        has_lines = data.get("lines", "") == "true"
        text, _, most = data.get("array", "").partition("%")
        if bool(text) == has_lines:
            raise CommandError("a batch needs a field array, as 1-1000, or lines: one of the two")
        JobFiles.parse(data)
        key = read_key(data)
        if is_member_key(key):
            raise CommandError("field submissionkey has the form of a member's: choose another")
        return cls(
            array=Array((range(1, 1),)) if has_lines else Array.parse(text),
            fields={key: value for key, value in data.items() if key not in NOT_OF_A_MEMBER},
            max_in_flight=_in_flight(data.get("maxinflight", "") or most),
            stdin=data.get("stdin", ""),
            has_lines=has_lines,
            caller=caller,
            created=created,
            after=parse_after(data.get(AFTER_KEY, "")),
            list_sha256=_digest(data.get(LIST_SHA256_KEY, "")),
            key=key,
            asked=hashlib.sha256(json.dumps(sorted(data.items())).encode()).hexdigest(),
        )

    def with_lines(self, count: int, places: Iterable[tuple[str, str]] = (), size: int = 0) -> Self:
        """Return it for so many lines of so many bytes, which name these work types and nodes."""
        array = Array((range(1, count + 1),))
        return replace(self, array=array, places=tuple(sorted(places)), list_size=size)

    @property
    def payload_size(self) -> int:
        """The bytes that have come with it: its files and its list."""
        return self.files.size + self.list_size

    @property
    def files(self) -> JobFiles:
        """The files that all of its members share."""
        return JobFiles.parse(self.fields)

    def with_digest(self, sha256: str) -> Self:
        """Return it for a tar of files with this digest."""
        return replace(self, fields={**self.fields, DEPS_SHA256_KEY: sha256})

    @property
    def aims(self) -> Iterator[tuple[str, str]]:
        """Yield each work type with the node that members of it are for, the batch's own first."""
        if self.work_type or not self.places:
            yield self.work_type, self.node
        for work_type, node in self.places:
            yield work_type or self.work_type, node or self.node

    @property
    def work_type(self) -> str:
        """The type of its work; empty if each line has its own."""
        return self.fields.get("worktype", "")

    @property
    def node(self) -> str:
        """The node that its members are for; empty if each line has its own."""
        return self.fields.get("node", "")

    def member(self, batch_id: str, index: int, line: bytes, key: str) -> tuple[Submission, bytes]:
        """Return the submission of a member, and its payload. Raises CommandError."""
        more = parse_line(line) if self.has_lines else {}
        text = more.get("line", "")
        fields = {**self.fields, **{k: v for k, v in more.items() if k not in LINE_KEYS}}
        fields = filled(fields, {"index": str(index), "line": text}) | {ARRAY_INDEX_KEY: str(index)}
        submission = parse_submission(fields)
        stdin = more.get("stdin", self.stdin).encode()
        labels = {**submission.labels, BATCH_LABEL: batch_id}
        # Judged again: there may be one too many now.
        labels = dict(parse_labels(json.dumps(labels)))
        input_size = Input(len(stdin))
        return replace(submission, labels=labels, key=key, announced=input_size), stdin

    def to_json(self) -> JsonObject:
        """Return the object that :meth:`from_json` reads."""
        return {
            "Array": str(self.array),
            "Fields": dict(self.fields),
            "MaxInFlight": self.max_in_flight,
            "Stdin": self.stdin,
            "Lines": self.has_lines,
            "Created": self.created,
            "After": ",".join(map(str, self.after)),
            "Places": [list(place) for place in self.places],
            "ListSize": self.list_size,
            "ListSHA256": self.list_sha256,
            "Key": self.key,
            "Asked": self.asked,
            **caller_json(self.caller),
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read such an object. Raises WorkError: it is damaged."""
        try:
            fields = data["Fields"]
            if not all(isinstance(value, str) for value in fields.values()):
                raise WorkError("Fields holds a value that is not a string")
            return cls(
                Array.parse(data["Array"]),
                fields,
                _in_flight(str(data["MaxInFlight"])),
                str(data["Stdin"]),
                data["Lines"] is True,
                caller_from_json(data),
                str(data["Created"]),
                parse_after(str(data.get("After", ""))),
                tuple((str(kind), str(node)) for kind, node in data.get("Places", ())),
                int(data.get("ListSize", 0)),
                str(data.get("ListSHA256", "")),
                str(data.get("Key", "")),
                str(data.get("Asked", "")),
            )
        except (KeyError, ValueError, TypeError, AttributeError, CommandError) as error:
            raise WorkError(f"the specification is damaged: {error!r}") from error


def caller_json(caller: Caller) -> JsonObject:
    """Return the keys from which :func:`caller_from_json` makes a client."""
    return {
        "Client": caller.client.to_json(),
        "Trusted": caller.trusted,
        "Node": caller.node,
        "Way": str(caller.way.value),
    }


def caller_from_json(data: Any) -> Caller:
    """Read them. Raises ValueError, KeyError or TypeError: they are damaged."""
    client = identity_from_json(data["Client"]) or UnknownClient()
    return Caller(data["Trusted"] is True, str(data["Node"]), client, Way(data["Way"]))


def parse_line(line: bytes) -> Mapping[str, str]:
    """Return the object of a line of a list. Raises CommandError."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CommandError("it is no object in JSON")
    for key, value in found.items():
        if not isinstance(value, str):
            raise CommandError(f"{key} is not a string")
        if key in _FILES_OF_ALL:
            raise CommandError(f"{key} is no key of a member: all members share the same files")
        if key in NOT_OF_A_MEMBER and key not in LINE_KEYS:
            raise CommandError(f"{key} is no key of a member")
        if key == "signature":
            raise CommandError("a batch takes no signature")
        check_text(key, value)
    return found


def check_text(key: str, value: str) -> None:
    """Return if a text can be written as bytes. Raises CommandError."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CommandError(f"{key} has half of a surrogate pair") from None


def _digest(text: str) -> str:
    if text and not _SHA256.fullmatch(text):
        raise CommandError(f"field {LIST_SHA256_KEY} must be 64 hexadecimal digits")
    return text.lower()


def _in_flight(text: str) -> int:
    if not text:
        return DEFAULT_IN_FLIGHT
    if text.isascii() and text.isdigit() and len(text) < 8 and 1 <= int(text) <= MAX_IN_FLIGHT:
        return int(text)
    raise CommandError(f"{text[:16]} members at once: there may be 1 to {MAX_IN_FLIGHT}")
