"""Reads the fields of a unit's status from JSON, each checked: a file may be damaged, or forged."""

from collections.abc import Callable, Mapping
from sys import intern
from typing import Any

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import Identity, identity_from_json, shown_text
from meshnode.work.local.processes import ProcessId
from meshnode.work.units.endedby import EndedBy, ended_by_from_json
from meshnode.work.units.jsonreader import MAX_SIZE, NOTHING, JsonObject, Reader, check_json

PIDS = range(2**31)
"""Numbers that a process can have; 0 is receptor's for none."""

SUPERVISORS = PIDS[1:]
"""Numbers that a supervisor can have."""

TICKS = range(2**63)
"""Clock ticks since the start of the machine, by which the kernel dates processes."""

MOST_NUMBERS = 16
"""Limits, or figures of usage, of one unit at most; there are eight and four."""

MAX_NUMBER_NAME = 32
"""Characters of the name of one of them; the longest has twelve. Other nodes send them as well."""

EXIT_CODES = range(-(2**31), 2**31)
"""What an exit code can be."""


def read_state(reader: Reader) -> UnitState:
    """Return the state. Raises WorkError, as all of these do."""
    try:
        return UnitState(reader.require("State", int))
    except ValueError:
        raise WorkError("State is none that a unit can have") from None


def read_detail(reader: Reader) -> str:
    """Return the detail; many units share it."""
    return intern(reader.take("Detail", str, ""))


def read_size(reader: Reader) -> int:
    """Return the bytes of stdout."""
    return reader.whole("StdoutSize") or 0


def read_identity(reader: Reader, key: str) -> Identity | None:
    """Return who a client was, None where it is not known."""
    return reader.understood(key, identity_from_json)


def read_ended_by(reader: Reader) -> EndedBy | None:
    """Return who or what ended the unit, None where nobody did."""
    return reader.understood("EndedBy", ended_by_from_json)


def read_line(reader: Reader, key: str, most: int) -> str:
    """Return a text that can be shown as one line of at most ``most`` characters."""
    return shown_text(reader.take(key, str, ""), most)


def read_data(reader: Reader, key: str) -> Mapping[str, Any]:
    """Return an object that others read."""
    data: JsonObject = reader.take(key, dict, None)
    check_json(key, data)
    return data or NOTHING


def numbers_from_json(data: object) -> Mapping[str, float] | None:
    """Return a map of names to numbers, as limits and usage are; None if it is none. Total."""
    if not isinstance(data, dict) or len(data) > MOST_NUMBERS:
        return None
    is_known = all(
        shown_text(name, MAX_NUMBER_NAME) == name
        and type(value) in (int, float)
        and 0 <= value <= MAX_SIZE
        for name, value in data.items()
    )
    return data if is_known else None


def read_numbers(reader: Reader, key: str) -> Mapping[str, float]:
    """Return a map of names to numbers, empty where there is none."""
    return reader.understood(key, numbers_from_json) or NOTHING


def read_supervisor(reader: Reader) -> ProcessId | None:
    """Return the process that watches over the command."""
    data = reader.take("Supervisor", dict, None)
    if data is None:
        return None
    inner = Reader(data)
    pid = inner.whole("Pid", SUPERVISORS)
    started = inner.whole("Started", TICKS)
    if pid is None or started is None:
        raise WorkError("Supervisor names no process")
    return ProcessId(pid, started)


def supervisor_json(supervisor: ProcessId) -> JsonObject:
    """Return the object that :func:`read_supervisor` reads."""
    return {"Pid": supervisor.pid, "Started": supervisor.started}


RECORDED: Mapping[str, tuple[str, Callable[[Reader], Any]]] = {
    "State": ("state", read_state),
    "Detail": ("detail", read_detail),
    "StdoutSize": ("stdout_size", read_size),
    "StderrSize": ("stderr_size", lambda reader: reader.whole("StderrSize")),
    "IndexSize": ("index_size", lambda reader: reader.whole("IndexSize")),
    "Started": ("started", lambda reader: reader.time("Started")),
    "Finished": ("finished", lambda reader: reader.time("Finished")),
    "ExitCode": ("exit_code", lambda reader: reader.whole("ExitCode", EXIT_CODES)),
    "Signal": ("signal", lambda reader: reader.take("Signal", str, None)),
    "StdinSize": ("stdin_size", lambda reader: reader.whole("StdinSize")),
    "StdinSha256": ("stdin_sha256", lambda reader: reader.take("StdinSha256", str, "")),
    "Pid": ("pid", lambda reader: reader.whole("Pid", PIDS)),
    "Supervisor": ("supervisor", read_supervisor),
    "EndedBy": ("ended_by", read_ended_by),
    "Usage": ("usage", lambda reader: read_numbers(reader, "Usage")),
    "FilesSize": ("files_size", lambda reader: reader.whole("FilesSize")),
    "Held": ("held", lambda reader: read_data(reader, "Held")),
}
"""What supervisors change: the field, and how it is read."""


def read_words(data: list[Any] | None) -> tuple[str, ...]:
    """Return the arguments of the command; many units share them."""
    if not all(isinstance(word, str) for word in data or ()):
        raise WorkError("Params holds a word that is not a string")
    check_json("Params", data)
    return tuple(map(intern, data or ()))
