"""Logging: one line an event on stderr, with the subject it is about.

A subject is what an operator would look for: ``link tcp:10.0.0.7:41532``, ``unit t1BlAB18``,
``session unix#4``. Loggers are made by :func:`subject_logger` and kept by their object.
"""

import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any, TextIO

ROOT = "meshnode"

LEVELS = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
"""The level names of the ``log-level`` directive."""


class SubjectLogger(logging.LoggerAdapter[logging.Logger]):
    """Puts the subject before each message."""

    def __init__(self, subject: str) -> None:
        super().__init__(logging.getLogger(ROOT), {})
        self.subject = subject

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[str, MutableMapping[str, Any]]:
        """Prefix the message with the subject."""
        return f"{self.subject}: {msg}", kwargs


def subject_logger(kind: str, name: str = "") -> SubjectLogger:
    """Return a logger for one subject, e.g. ``subject_logger("unit", unit_id)``.

    A percent sign in the name (peers choose their names) cannot act as a format.
    """
    subject = f"{kind} {name}" if name else kind
    return SubjectLogger(subject.replace("%", "%%"))


class OneLineFormatter(logging.Formatter):
    """``2026-11-22T03:00:00.123Z INFO unit t1BlAB18: text``; control characters are escaped.

    Peers and clients supply parts of the text, so a newline in it must not forge a second event.
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
        line = super().format(record)
        record.exc_info = traceback_text
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send meshnode's log to ``stream`` (stderr by default) at ``level`` (a key of LEVELS)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(OneLineFormatter())
    logger = logging.getLogger(ROOT)
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(LEVELS[level])
    # The QUIC engine logs each connection's troubles without saying whose; ours do, once.
    engine = logging.getLogger("quic")
    engine.handlers = [logging.NullHandler()]
    engine.propagate = False
