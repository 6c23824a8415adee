"""What the record of a unit keeps for its runner: all that it needs to go on (``runner_data``)."""

from dataclasses import dataclass, replace
from typing import Any

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.ssh.hosts import Host
from meshnode.work.units.jsonreader import JsonObject, Reader
from meshnode.work.units.status import UnitStatus

SSH = "ssh"
"""The kind of units that run on hosts with an SSH server."""

LEAST = "least"
RANDOM = "random"
"""How a host is chosen for a unit that names none."""


@dataclass(frozen=True, slots=True)
class FarEnd:
    """How the command ended, as its supervisor recorded it.

    Attributes:
        code: what the shell says of it, None if nobody recorded that.
        why: what had the supervisor end it (``cancel``, ``timeout``), empty if nothing had.
        size: bytes of its output.
    """

    code: int | None
    why: str
    size: int


@dataclass(frozen=True, slots=True)
class Brought:
    """What became of the files that a unit was to bring back.

    Attributes:
        words: that, for a person.
        size: bytes of the tar.
        instead: how the unit ends that would have succeeded.
    """

    words: str
    size: int
    instead: UnitState | None = None


@dataclass(frozen=True, slots=True)
class SshRecord:
    """One unit's.

    Attributes:
        key: secret part of the name of the unit's directory, and what marks its processes.
        choice: the host that was asked for, or how to choose one.
        host: where the command may have been started; None while it was certainly not.
        boot: the host's start at that time, as its kernel names it.
        timeout: seconds that the command may run there; 0 is for ever.
        is_canceled: whether it is to be ended there.
        end: how it ended, once all of its output is here and synced.
        brought: what became of its files, once they are here or are not waited for.
        is_left: whether its directory may still be on the host, which was not reached any more.
    """

    key: str
    choice: str = LEAST
    host: Host | None = None
    boot: str = ""
    timeout: float = 0.0
    is_canceled: bool = False
    end: FarEnd | None = None
    brought: Brought | None = None
    is_left: bool = False

    def to_json(self) -> JsonObject:
        """Return the object that :meth:`from_json` reads."""
        data: JsonObject = {"key": self.key, "choice": self.choice}
        if self.host is not None:
            data |= {"host": self.host.to_json(), "boot": self.boot}
        if self.timeout:
            data["timeout"] = self.timeout
        if self.is_canceled:
            data["canceled"] = True
        if self.end is not None:
            data["end"] = {"code": self.end.code, "why": self.end.why, "size": self.end.size}
        if self.brought is not None:
            data["brought"] = {"words": self.brought.words, "size": self.brought.size}
            if self.brought.instead is not None:
                data["brought"]["instead"] = int(self.brought.instead)
        if self.is_left:
            data["left"] = True
        return data

    @classmethod
    def of(cls, status: UnitStatus) -> "SshRecord":
        """Return what a status keeps. Raises WorkError."""
        try:
            return cls._read(Reader(dict(status.runner_data)))
        except WorkError as error:
            raise WorkError(f"the record of its host cannot be read: {error}") from error

    @classmethod
    def _read(cls, reader: Reader) -> "SshRecord":
        host, end = reader.take("host", dict, None), reader.take("end", dict, None)
        brought = reader.take("brought", dict, None)
        return cls(
            key=reader.require("key", str),
            choice=reader.take("choice", str, LEAST),
            host=None if host is None else Host.from_json(host),
            boot=reader.take("boot", str, ""),
            timeout=reader.take("timeout", float, 0.0),
            is_canceled=reader.take("canceled", bool, False),
            end=None if end is None else _read_end(Reader(end)),
            brought=None if brought is None else _read_brought(Reader(brought)),
            is_left=reader.take("left", bool, False),
        )


def _read_end(reader: Reader) -> FarEnd:
    code = reader.whole("code", range(256))
    return FarEnd(code, reader.take("why", str, ""), reader.whole("size") or 0)


def _read_brought(reader: Reader) -> Brought:
    instead = reader.whole("instead", range(len(UnitState)))
    return Brought(
        reader.take("words", str, ""),
        reader.whole("size") or 0,
        None if instead is None else UnitState(instead),
    )


def recorded(status: UnitStatus, **changes: Any) -> UnitStatus:
    """Return a status in whose record for the runner these fields are changed."""
    return replace(status, runner_data=replace(SshRecord.of(status), **changes).to_json())
