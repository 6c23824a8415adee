"""A host that has only an SSH server, and how OpenSSH's client is asked to reach it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshnode.errors import WorkError
from meshnode.work.units.jsonreader import JsonObject, Reader

ALIVE_INTERVAL = 15
"""Seconds without a byte from a host after which the client asks whether it is there."""

ALIVE_COUNT = 3
"""Questions without an answer after which a connection counts as lost."""

_SCRIPTS = {
    name: (Path(__file__).parent / f"{name}.sh").read_text("utf-8")
    for name in ("tree", "session", "supervisor")
}


def _bare(script: str) -> str:
    """Return a script without what only a reader of it needs: all of it is one argument."""
    lines = (line.strip() for line in script.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"


SESSION = _bare(_SCRIPTS["tree"] + _SCRIPTS["session"])
"""What a session runs on the host."""

SUPERVISOR = _bare(_SCRIPTS["tree"] + _SCRIPTS["supervisor"])
"""What watches over the command there; the command itself stands above it (:func:`job_text`)."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where units run and how it is reached. A unit's record has all of it: see ``record``.

    Attributes:
        name: what the directive calls it.
        address: what ssh is given; a name may stand in OpenSSH's configuration.
        directory: where the units' directories are, from the user's home.
        sshconfig: OpenSSH's configuration, if not the user's own.
        ssh: OpenSSH's client.
        sessions: most connections to it at once.
    """

    name: str
    address: str
    port: int | None = None
    user: str = ""
    key: str = ""
    options: tuple[str, ...] = ()
    directory: str = ".meshnode"
    sshconfig: str = ""
    ssh: str = "ssh"
    sessions: int = 8

    @property
    def endpoint(self) -> tuple[str, int | None, str]:
        """What a server counts connections by, whatever the host is called."""
        return self.address, self.port, self.user

    def command_line(self, script: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the words that run a script there, given these arguments."""
        # Of several values ssh takes the first one: what must be so, what the operator says, what
        # is usual.
        options = [
            *("BatchMode=yes", "RequestTTY=no", "LogLevel=INFO"),
            *self.options,
            *(["IdentitiesOnly=yes"] if self.key else []),
            f"ServerAliveInterval={ALIVE_INTERVAL}",
            f"ServerAliveCountMax={ALIVE_COUNT}",
            *("ClearAllForwardings=yes", "ForwardAgent=no", "PermitLocalCommand=no"),
        ]
        return (
            self.ssh,
            *(("-F", self.sshconfig) if self.sshconfig else ()),
            *(word for option in options for word in ("-o", option)),
            *(("-p", str(self.port)) if self.port is not None else ()),
            *(("-l", self.user) if self.user else ()),
            *(("-i", self.key) if self.key else ()),
            *("--", self.address),
            # The user's own shell takes the quotes off, and becomes a POSIX shell.
            f"exec sh -c {shlex.join((script, 'meshnode', *arguments))}",
        )

    def to_json(self) -> JsonObject:
        """Return the object that :meth:`from_json` reads."""
        data = {
            "name": self.name,
            "address": self.address,
            "port": self.port,
            "user": self.user,
            "key": self.key,
            "options": list(self.options),
            "directory": self.directory,
            "sshconfig": self.sshconfig,
            "ssh": self.ssh,
            "sessions": self.sessions,
        }
        return {key: value for key, value in data.items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Host":
        """Read a host from a record. Raises WorkError."""
        reader = Reader(data)
        options = reader.take("options", list, [])
        if not all(isinstance(option, str) for option in options):
            raise WorkError("options are not texts")
        return cls(
            name=reader.require("name", str),
            address=reader.require("address", str),
            port=reader.whole("port", range(1, 65536)),
            user=reader.take("user", str, ""),
            key=reader.take("key", str, ""),
            options=tuple(options),
            directory=reader.take("directory", str, ".meshnode"),
            sshconfig=reader.take("sshconfig", str, ""),
            ssh=reader.take("ssh", str, "ssh"),
            sessions=reader.whole("sessions", range(1, 2**31)) or 1,
        )


def job_text(words: tuple[str, ...], env: Mapping[str, str], cwd: str) -> bytes:
    """Return the script of a unit's supervisor: its command, quoted for any POSIX shell.

    Whatever was a byte that is no UTF-8 in the configuration is that byte again.
    """
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    change = f"cd -- {shlex.quote(cwd)} || exit 126\n" if cwd else ""
    job = f"job() {{\n{exports}{change}exec $detach {shlex.join(words)}\n}}\n"
    return (job + SUPERVISOR).encode(errors="surrogateescape")
