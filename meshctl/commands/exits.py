"""What the end of a command tells: how its unit ended, or what kept meshctl from learning that."""

import re
import signal
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from meshctl.api.errors import (
    BadSettings,
    CannotReach,
    CommandRefused,
    ControlError,
    PayloadLost,
    ProtocolMismatch,
    SessionLost,
    WaitTimedOut,
)
from meshctl.api.status import CANCELED, FAILED
from meshctl.render.clients import who
from meshctl.render.output import ExitCode, Failure, json_line, print_note
from meshctl.render.times import duration, exact

GRAVEST_FIRST = (
    ExitCode.FAILURE,
    ExitCode.REFUSED,
    ExitCode.WAIT_TIMED_OUT,
    ExitCode.UNIT_CANCELED,
)
"""Of several units' exit codes, the first of these that is among them is the command's."""

SIGNALLED = 128
"""What a shell adds to the number of the signal that has ended a command."""

_EXIT_STATUS = re.compile(r"exit status (\d{1,3})", re.ASCII)
_SIGNAL = re.compile(r"signal: (.+?)(?: \(core dumped\))?")
_NUMBER = re.compile(r"(?:SIG|signal )(\d{1,2})", re.ASCII)

EPILOG = "The exit codes are listed by: meshctl --help"
"""The end of the help of commands that end as a unit did."""

propagate_option = click.option(
    "--propagate",
    is_flag=True,
    help="Exit with the code of the unit's own command; 128 + N where signal N ended it.",
)


def code_of(error: ControlError) -> ExitCode:
    """Return the exit code that tells errors of the client apart."""
    match error:
        case BadSettings():
            return ExitCode.WRONG_USAGE
        case CannotReach() | SessionLost() | ProtocolMismatch():
            return ExitCode.UNREACHABLE
        case CommandRefused():
            return ExitCode.REFUSED
        case PayloadLost():
            return ExitCode.SUBMIT_FAILED
        case WaitTimedOut():
            return ExitCode.WAIT_TIMED_OUT
        case _:
            return ExitCode.FAILURE


def report_end(
    unit_id: str, status: Mapping[str, Any], *, as_json: bool, propagate: bool = False
) -> None:
    """End the command as the unit ended; with JSON wanted, its status goes to stderr.

    Raises:
        Failure: the unit Failed or was Canceled.
    """
    if as_json:
        print_note(json_line({"unitid": unit_id, **status}))
    text, code = ending(unit_id, status, propagate=propagate)
    if code:
        raise Failure(text, code)


def gravest(codes: Collection[int]) -> int:
    """Return the exit code of a command that several units have ended with ``codes``."""
    return next((code for code in GRAVEST_FIRST if code in codes), ExitCode.OK)


def end_in_words(unit_id: str, status: Mapping[str, Any]) -> str:
    """Return for a person how a unit ended, by which signal, and after how long."""
    text, _ = ending(unit_id, status)
    text = text or f"unit {unit_id} has succeeded: {status.get('Detail') or 'no more is told'}"
    signalled, span = status.get("Signal"), duration(status, datetime.now(UTC))
    text += f", with {signalled}" if signalled else ""
    return text if span is None else f"{text}, after {exact(span)}"


def ending(unit_id: str, status: Mapping[str, Any], *, propagate: bool = False) -> tuple[str, int]:
    """Return what to say of a final status, and the exit code: nothing and OK for success."""
    if status.get("State") == FAILED:
        detail = status.get("Detail") or "no reason given"
        text, code = f"unit {unit_id} failed: {detail}", ExitCode.FAILURE
    elif status.get("State") == CANCELED:
        text, code = f"unit {unit_id} was canceled{_by_whom(status)}", ExitCode.UNIT_CANCELED
    else:
        return "", ExitCode.OK
    # A command may end with 0 and its unit still be Failed: it printed too much, or took too long.
    return text, (own_code(status) or ExitCode.NO_CODE) if propagate else code


def _by_whom(status: Mapping[str, Any]) -> str:
    match status.get("EndedBy"):
        case {"By": Mapping() as client, **more}:
            where = f" on node {more['Node']}" if more.get("Node") else ""
            return f" by {who(client)}{where}"
    # Of a signal that nobody sent by way of the node.
    _, by, whom = str(status.get("Detail", "")).partition("Canceled by ")
    return f" by {whom}" if by else ""


def own_code(status: Mapping[str, Any]) -> int | None:
    """Return the code of a unit's command as a shell tells it, None where none is known.

    A meshnode tells it in fields of its own; a receptor node only in what it says to people.
    """
    told = status.get("ExitCode")
    if isinstance(told, int) and 0 <= told <= 255:
        return int(told)
    detail = str(status.get("Detail", ""))
    if match := _EXIT_STATUS.fullmatch(detail):
        return min(int(match[1]), 255)
    name = status.get("Signal")
    if not isinstance(name, str):
        match = _SIGNAL.fullmatch(detail)
        name = match[1] if match else ""
    number = _signal_number(name)
    return None if number is None else SIGNALLED + number


def _signal_number(name: str) -> int | None:
    """Return the number of a signal by its name (``SIGKILL``) or by Go's text for it (``killed``).

    Go's texts are those of the C library, in small letters.
    """
    if match := _NUMBER.fullmatch(name):
        return int(match[1])
    for known in signal.Signals:
        if name in (known.name, (signal.strsignal(known) or "").lower()):
            return known.value
    return None
