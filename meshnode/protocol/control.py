"""The control protocol as values: bytes to command lines, lines to requests, replies to lines.

A client sends a line a command, as text or as one JSON object; raw bytes may follow a line
(protocol section 8). What this module makes of any bytes at all is a request or an error text.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshnode.errors import CommandError

MAX_LINE = 1024 * 1024
"""Bytes of one command line without its newline. Parameters may carry whole files (receptorctl's
``-a key=@file``), but become arguments of a command, of which Linux passes some 2 MiB."""

MAX_DIGITS = 300
"""Digits of a whole number in JSON: what a float can hold, so no later conversion overflows."""

MAX_ERROR = 2000
"""Characters of an error that a client is sent. Our own texts are shorter; the rest is the client's
own text, quoted."""

UNKNOWN_COMMAND = "Unknown command"
"""Receptor's text, which clients match."""

CLAIM_KEY = "onbehalfof"
"""Key of a request in which another node says for whom it asks: an identity as a text of JSON.
Meshnode's own; receptor takes it for a parameter of the work."""

LABELS_KEY = "submissionlabels"
"""Key of a submission with the labels of its unit: an object as a text of JSON. Meshnode's own, as
the last one."""

CONTROL_SERVICE = "control"
"""The service that a submitter dials, as in receptor."""

ARGUMENTS_KEY = "jobarguments"
ENV_KEY = "jobenv"
TIMEOUT_KEY = "jobtimeout"
PRIORITY_KEY = "jobpriority"
CWD_KEY = "jobcwd"
LIMITS_KEY = "joblimits"
ARRAY_INDEX_KEY = "arrayindex"
"""Keys of a submission with what its client gives the job: arguments, variables and lower limits,
each an object of strings as a text of JSON, the directory that it starts in, and which member of
an array it is. Meshnode's own, as the last."""

DEPS_SIZE_KEY = "depssize"
DEPS_SHA256_KEY = "depssha256"
"""Keys of a submission whose payload begins with a tar of files for the job: the bytes of that tar
as a decimal, and its digest where that is known. What follows is stdin. Meshnode's own, too."""

SCRIPT_KEY = "jobscript"
"""Key of a submission with the name of the one of these files that is to be run."""

OUTPUT_KEY = "joboutput"
"""Key of a submission with patterns of the files that the job brings back, as a JSON list."""

RESUME_KEY = "submissionresume"
"""Key of a submission whose payload may be sent in parts: what came of it before a cut is kept for
a while, and the same submission again sends the rest. Meshnode's own, too."""

RESUMES = "resume"
"""Word among the taken keys of a node that knows RESUME_KEY."""

DESCRIBES = "describe"
"""Said beside such keys by a node that describes its types of work to those who ask."""

TAKES_TAG = "takes"
"""Tag of a control service that names the keys which it knows in a request and older meshnodes do
not, with commas between them."""

STREAM_KEY = "stream"
"""Key of a request for results with the file that is wanted of a unit's output; see STREAM_NAMES.
Meshnode's own; receptor ignores it and sends stdout."""

STREAM_NAMES = STDOUT, STDERR, INDEX, FILES = ("stdout", "stderr", "index", "files")

STREAMS = "streams"
"""Word among the taken keys of a node that knows STREAM_KEY."""

TAKEN_KEYS = frozenset(
    {CLAIM_KEY, LABELS_KEY, STREAMS, DESCRIBES, RESUMES}
    | {ARGUMENTS_KEY, ENV_KEY, CWD_KEY, TIMEOUT_KEY, PRIORITY_KEY, LIMITS_KEY}
    | {DEPS_SIZE_KEY, DEPS_SHA256_KEY, SCRIPT_KEY, OUTPUT_KEY}
    | {ARRAY_INDEX_KEY}
)

MAX_CLAIM = 2048
"""Characters of such a text; the longest that a meshnode sends has some 1,600, escapes included."""

TLS_RECORD = b"\x16"
"""First byte of a TLS client: the type of a handshake record (RFC 8446, section 5.1)."""

_HTTP_REQUEST = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ \S+ HTTP/\d(\.\d)?")
_HTTP_HEADER = re.compile(rb"[A-Za-z][A-Za-z0-9\-]*:( |$)")
_BLANK = re.compile(rb"[\r\n]+")


class MalformedRequest(CommandError):
    """A line is no request. Receptor answers the fault and then, in a second line, that the
    command is unknown; clients that read one line a request rely on neither."""


class NotText(MalformedRequest):
    """A line is not UTF-8: the client speaks another protocol."""


class LineTooLong(CommandError):
    """More than MAX_LINE bytes without a newline: where the next command begins is not known."""

    def __init__(self) -> None:
        super().__init__(f"a command line has at most {MAX_LINE} bytes")


@dataclass(frozen=True, slots=True)
class Request:
    """One command as a client sent it.

    ``body`` is what stands after the command and one space in the text form, the whole object in
    the JSON form.
    """

    name: str
    body: str | dict[str, Any]


class LineReader:
    """Splits what a client sends into command lines; raw bytes after a line are kept as they came.

    Carriage returns in lines are dropped and empty lines skipped, as receptor does; a last line
    without a newline counts at the end of the input.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._at_end = False

    @property
    def at_end(self) -> bool:
        """Whether the client has ended its input and all of it was taken."""
        return self._at_end and not self._buffer

    @property
    def pending(self) -> int:
        """Bytes that were fed and not taken yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes as they arrived; ``b""`` says that no more come."""
        if data:
            self._buffer += data
        else:
            self._at_end = True

    def has_line(self) -> bool:
        """Whether there is a command line to be taken.

        Raises:
            LineTooLong: see MAX_LINE; the reader is of no further use.
        """
        if not self._searched and (blank := _BLANK.match(self._buffer)):
            del self._buffer[: blank.end()]
        newline = self._buffer.find(b"\n", self._searched)
        self._searched = len(self._buffer) if newline < 0 else newline
        if self._searched > MAX_LINE:
            raise LineTooLong
        return newline >= 0 or (self._at_end and bool(self._buffer))

    def next_line(self) -> bytes | None:
        """Return the next command line, None when more bytes are needed (or none will come).

        Raises:
            LineTooLong: as :meth:`has_line`.
        """
        if not self.has_line():
            return None
        # The search has ended at the newline, or at the end of the input.
        with memoryview(self._buffer) as buffer:
            line = bytes(buffer[: self._searched])
        # Deleted at once: a long line must not be in memory twice.
        del self._buffer[: self._searched + 1]
        self._searched = 0
        return line.replace(b"\r", b"")

    def drop(self) -> None:
        """Drop what was fed and not taken."""
        self._buffer.clear()
        self._searched = 0

    def take(self, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` raw bytes that were fed and belong to no line taken so far."""
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        self._searched = 0
        return data


def parse_line(line: bytes) -> Request:
    """Read a command line, neither empty nor with its newline: JSON if it begins with ``{``.

    Raises:
        MalformedRequest: it is not UTF-8, or begins like JSON and is no object with a command.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        # receptor's JSON replaces such bytes: a command would run with other arguments than were
        # meant.
        raise NotText(f"byte {error.start + 1} of the line is not UTF-8") from None
    if text.startswith("{"):
        return _parse_object(text)
    name, _, rest = text.partition(" ")
    return Request(name.lower(), rest)


def _parse_object(text: str) -> Request:
    try:
        body: dict[str, Any] = json.loads(
            text, parse_int=_whole_number, parse_float=_number, parse_constant=_no_constant
        )
        if "\\u" in text:
            # A lone surrogate, written as \ud800, is a str that no later code could encode.
            json.dumps(body, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise MalformedRequest(_describe(error)) from None
    except UnicodeEncodeError:
        raise MalformedRequest("invalid JSON: half of a surrogate pair") from None
    except RecursionError:
        raise MalformedRequest("invalid JSON: nested too deep") from None
    if "command" not in body:
        raise MalformedRequest("JSON did not contain a command")
    name = body["command"]
    if not isinstance(name, str):
        raise MalformedRequest("command must be a string")
    return Request(name, body)


def _describe(error: json.JSONDecodeError) -> str:
    truncated = not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated string")
    if truncated:
        return "unexpected end of JSON input"
    return f"invalid JSON at column {error.pos + 1}: {error.msg}"


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise MalformedRequest("invalid JSON: a number is out of range")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise MalformedRequest("invalid JSON: a number is out of range")
    return value


def _no_constant(name: str) -> float:
    raise MalformedRequest(f"invalid JSON: {name} is no value")


def is_http(line: bytes) -> bool:
    """Whether a line is the first one of an HTTP request.

    A web page can have a browser send such requests to any address, and the lines of their body
    would be commands.
    """
    # The quick search first, for all other lines.
    return b" HTTP/" in line[-9:] and _HTTP_REQUEST.fullmatch(line) is not None


def is_header(line: bytes) -> bool:
    """Whether a line looks like a header of HTTP or mail. No command has a colon in its name."""
    return _HTTP_HEADER.match(line) is not None


def greeting(node_id: str) -> bytes:
    """Return the line that a session begins with."""
    return f"Receptor Control, node {node_id}\n".encode()


# Made once: json.dumps with these arguments would make one for each reply.
_to_json = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def encode_reply(reply: Mapping[str, Any]) -> bytes:
    """Return the reply line of a command: compact JSON with sorted keys, as Go writes maps.

    Text from peers may hold halves of surrogate pairs, which go out as ``?``.

    Raises:
        TypeError, ValueError: the reply has no JSON form; a fault of the program.
    """
    return _to_json(reply).encode(errors="replace") + b"\n"


NOT_NOW = "not now: "
"""How the text of an error begins that says what the node lacks at this moment. Nothing was
started, and the same may be tried later."""


def encode_error(text: str) -> bytes:
    """Return an error line. Clients supply parts of the text: it cannot forge a second line."""
    if len(text) > MAX_ERROR:
        text = text[:MAX_ERROR] + "…"
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return b"ERROR: " + shown.encode(errors="replace") + b"\n"
