"""Logging: one line an event on stderr, with the subject it is about; as text or as JSON.

A subject is what an operator would look for: ``link tcp:10.0.0.7:41532``, ``unit t1BlAB18``,
``session unix#4``. Loggers are made by :func:`subject_logger` and kept by their object.

Peers and clients supply parts of the text and cause lines. So texts are shortened, what is not
printable is escaped, and the lines of one kind within a minute are limited.
"""

import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, TextIO

ROOT = "meshnode"

LEVELS = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
"""The level names of the ``log-level`` directive."""

LONGEST_TEXT = 500
"""Characters of one text in a line: room for a node ID (255) or an error."""

LONGEST_LINE = 4000
"""Characters of a whole line, and of each line of a traceback."""

LINES_A_MINUTE = 60
"""Lines of one kind that are written within a minute: what happens once a second can be followed,
what comes ten thousand times is counted."""

MINUTE = 60.0
"""Seconds in which lines of one kind are counted together."""

MOST_KINDS = 1000
"""Kinds of line that are counted at a time, more than there are; those beyond count as one."""

NEVER_LIMITED = frozenset({"unit"})
"""Subjects whose lines are all written unless their logger is made ``limited``: the log must tell
what ran here."""


class SubjectLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the subject before each message."""

    def __init__(self, kind: str, name: str = "", *, limited: bool = False) -> None:
        super().__init__(logging.getLogger(ROOT), {})
        self.kind = kind
        self.limited = limited or kind not in NEVER_LIMITED
        self.subject_name = _shortened(name)
        self.subject = f"{kind} {self.subject_name}" if name else kind

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log an event about the subject; texts among ``args`` are shortened."""
        if not self.isEnabledFor(level):
            return
        template = str(msg)
        subject = self.subject
        if args:  # otherwise nothing is formatted, and a percent sign stands for itself
            subject = subject.replace("%", "%%")
            args = tuple(map(_loggable, args))
        extra = {
            "subject_kind": self.kind,
            "subject_name": self.subject_name,
            "template": template,
            "limited": self.limited,
        }
        self.logger.log(level, f"{subject}: {template}", *args, extra=extra, **kwargs)


def subject_logger(kind: str, name: str = "", *, limited: bool = False) -> SubjectLogger:
    """Return a logger for one subject, e.g. ``subject_logger("unit", unit_id)``.

    ``kind`` is a fixed word; the name may be anything. With ``limited`` there may be any number of
    these subjects, and their lines are limited even if those of their kind are not.
    """
    return SubjectLogger(kind, name, limited=limited)


def _loggable(value: object) -> object:
    return value if isinstance(value, int | float | None) else _shortened(str(value))


def _shortened(text: str, most: int = LONGEST_TEXT) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


class OneLineFormatter(logging.Formatter):
    """``2026-11-22T03:00:00.123Z INFO unit t1BlAB18: text``; what is not printable is escaped.

    Nothing in a text can forge a second event or reach a terminal as a command: the lines of a
    traceback are indented, so an event's are the only ones that begin with a time.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Format one event to one line; a traceback, where there is one, follows below."""
        traceback_text, record.exc_text = record.exc_info, None
        record.exc_info = None
        lines = [_printable(super().format(record))]
        record.exc_info = traceback_text
        if record.exc_info:
            below = self.formatException(record.exc_info).split("\n")
            lines += [f"  {_printable(line)}" for line in below]
        return "\n".join(lines)


class JsonFormatter(OneLineFormatter):
    """``{"time": "2026-11-22T03:00:00.123Z", "level": "info", "subject": "unit t1BlAB18", …}``.

    ``kind`` and ``name`` are the parts of the subject, ``text`` is what a line of text has behind
    it, ``traceback`` is there if an exception was logged. The texts are escaped as those of lines,
    for whoever prints them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format one event to one JSON object in a line."""
        kind = getattr(record, "subject_kind", "")
        name = getattr(record, "subject_name", "")
        template = getattr(record, "template", record.msg)
        event = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "subject": f"{kind} {name}" if name else kind,
            "kind": kind,
            "name": name,
            "text": template % record.args if record.args else template,
        }
        if record.exc_info:
            lines = self.formatException(record.exc_info).split("\n")
            event["traceback"] = "\n".join(map(_printable, lines))
        shown = {k: v if k == "traceback" else _printable(v) for k, v in event.items() if v}
        return json.dumps(shown)


def _printable(line: str) -> str:
    line = _shortened(line, LONGEST_LINE)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


# --- how many ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Count:
    """Lines of one kind since ``began``."""

    began: float
    level: int
    written: int = 0
    left_out: int = 0


_Kind = tuple[str, str]
"""The kind of subject and the template: fixed texts, whatever peers send."""

_PLACES = re.compile(r"%[-+ #0]*[0-9]*(?:\.[0-9]+)?[a-zA-Z]")
"""Where a template takes its values."""


class LineLimit(logging.Filter):
    """Limits the lines of each kind within a minute, and reports how many it left out."""

    def __init__(
        self,
        report_to: Callable[[logging.LogRecord], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``report_to`` takes the records that say how many lines were left out."""
        super().__init__()
        self._report_to = report_to
        self._clock = clock
        self._lock = Lock()
        self._counts: dict[_Kind, _Count] = {}
        self._look_at = clock() + MINUTE

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        subject: str = getattr(record, "subject_kind", "")
        if not getattr(record, "limited", True) or isinstance(record, _Summary):
            return True
        if record.levelno <= logging.DEBUG:
            return True  # whoever asks for this level wants all of it
        self.report()
        with self._lock:
            kind = (subject, getattr(record, "template", ""))
            if kind not in self._counts and len(self._counts) >= MOST_KINDS:
                kind = ("", "")
            count = self._counts.get(kind)
            if count is None:
                count = self._counts[kind] = _Count(self._clock(), record.levelno)
            if count.written < LINES_A_MINUTE:
                count.written += 1
                return True
            count.left_out += 1
            return False

    def report(self) -> None:
        """Report what was left out in the minutes that are over.

        Each line calls it, and the node does once a minute, in case no further line comes.
        """
        now = self._clock()
        if now < self._look_at:
            return
        with self._lock:
            over = [(k, c) for k, c in self._counts.items() if c.began + MINUTE <= now]
            for kind, _ in over:
                del self._counts[kind]
            began = min((count.began for count in self._counts.values()), default=now)
            self._look_at = began + MINUTE
        for (subject, template), count in over:
            if count.left_out:
                self._report_to(_Summary(count.level, subject, template, count.left_out))


class _Summary(logging.LogRecord):
    """Says how many lines of a kind were left out."""

    def __init__(self, level: int, subject: str, template: str, left_out: int) -> None:
        like = _PLACES.sub("...", template) or "(of other kinds)"
        text, args = "%d more like this in the last minute: %s", (left_out, _shortened(like))
        kind = subject or "log"
        super().__init__(ROOT, level, __file__, 0, f"{kind}: {text}", args, None)
        self.subject_kind, self.template = kind, text


# --- set-up --------------------------------------------------------------------------------------


def configure(level: str, stream: TextIO | None = None, *, form: str = "text") -> LineLimit:
    """Send meshnode's log to ``stream`` (stderr by default) at ``level`` (a key of LEVELS).

    ``form`` is a key of FORMATS. Call ``report`` of what is returned once a minute.
    """
    # cryptography's words about certificates that anybody may show; what cannot be used is refused.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"meshnode\.security\.")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FORMATS[form]())
    limit = LineLimit(handler.handle)
    handler.addFilter(limit)
    logger = logging.getLogger(ROOT)
    logger.handlers = [handler]
    logger.propagate = False
    # The QUIC engine logs troubles without naming the connection; the node logs them with it.
    engine = logging.getLogger("quic")
    engine.handlers = [logging.NullHandler()]
    engine.propagate = False
    set_level(level)
    return limit


FORMATS: dict[str, Callable[[], logging.Formatter]] = {
    "text": OneLineFormatter,
    "json": JsonFormatter,
}
"""The formats of the ``log-level`` directive."""


def set_format(form: str) -> None:
    """Log in this format from now on (a key of FORMATS)."""
    for handler in logging.getLogger(ROOT).handlers:
        handler.setFormatter(FORMATS[form]())


def set_level(level: str) -> None:
    """Log from this level on (a key of LEVELS)."""
    logging.getLogger(ROOT).setLevel(LEVELS[level])
