"""Real SSH servers for tests: Debian's sshd, as processes on ports of 127.0.0.1, with own keys."""

import os
import shutil
import signal
import socket
import subprocess
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness import Node, free_port, wait_until

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"

PRIVILEGES = Path("/run/sshd")
"""A directory that root's sshd wants, and that only its service makes."""


def reason_against() -> str | None:
    """Return why no server can be started here; None if one should start."""
    if not Path(SSHD).exists():
        return "there is no sshd here (openssh-server)"
    if shutil.which("ssh") is None:
        return "there is no ssh here (openssh-client)"
    return None


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [one for child in map(int, found) for one in (child, *children(child))]


def name_of(pid: int) -> str:
    """Return the command line of a process, empty if it is gone; other tests have odd ones."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Sshd:
    """One server: its keys, its port, its process, and the directory of its units."""

    def __init__(self, place: "Servers", name: str) -> None:
        self.place = place
        self.name = name
        self.directory = place.root / name
        self.units = self.directory / "units"
        self.seen = self.units
        """Where everybody but the server sees its units."""
        self.entering: Sequence[str] = ()
        """The words before a command that is to run where the server does."""
        self.port = free_port()
        self.host_key = self.directory / "host_key"
        self._config = self.directory / "sshd_config"
        self._more: Sequence[str] = ()
        self.log = self.directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.units.mkdir(parents=True)
        make_key(self.host_key)
        self.trust()

    def trust(self) -> None:
        """Have the node's user know the host key."""
        public = self.host_key.with_suffix(".pub").read_text().split()
        with self.place.known_hosts.open("a") as file:
            file.write(f"[127.0.0.1]:{self.port} {public[0]} {public[1]}\n")

    def start(self, *more: str) -> "Sshd":
        """Start the server and wait until it listens."""
        self._more = more
        self._configure(self.host_key)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.entering, SSHD, "-D", "-e", "-f", self._config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._listens, watch=[self.log], what=f"sshd {self.name} to listen")
        return self

    def show_key(self, key: Path) -> None:
        """Have this host key from now on; connections that are up go on."""
        self._configure(key)
        wanted = key.with_suffix(".pub").read_text().split()[1]
        command = ["ssh-keyscan", "-p", str(self.port), "-t", "ed25519", "127.0.0.1"]

        def is_shown() -> bool:
            assert self.process is not None
            if (
                wanted
                in subprocess.run(command, capture_output=True, text=True, check=False).stdout
            ):
                return True
            # It ignores one that comes while it starts anew.
            self.process.send_signal(signal.SIGHUP)
            return False

        wait_until(is_shown, what=f"sshd {self.name} to show another key")

    def _configure(self, key: Path) -> None:
        self._config.write_text(
            "\n".join(
                [
                    f"Port {self.port}",
                    "ListenAddress 127.0.0.1",
                    f"HostKey {key}",
                    f"AuthorizedKeysFile {self.place.key}.pub",
                    "PidFile none",
                    "UsePAM no",
                    "StrictModes no",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "PermitRootLogin yes",
                    "PrintMotd no",
                    # Each server is another machine to its users: their home is below it.
                    f"ForceCommand HOME={self.directory}; export HOME; cd; "
                    + 'eval "$SSH_ORIGINAL_COMMAND"',
                    *self._more,
                    "",
                ]
            )
        )

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def sessions(self) -> list[int]:
        """Return the processes of the server that serve a connection each."""
        assert self.process is not None
        return [pid for pid in children(self.process.pid) if name_of(pid).startswith("sshd:")]

    def stop(self) -> None:
        """End the server and all that it serves: its host is not reached any more."""
        if self.process is None:
            return
        ours = [self.process.pid, *children(self.process.pid)]
        for pid in ours:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def left(self) -> list[str]:
        """Return what there is of units on the host: files, and processes."""
        found = [str(path.relative_to(self.seen)) for path in self.seen.rglob("*")]
        return found + [f"{pid}: {name_of(pid)}" for pid in self.processes()]

    def processes(self) -> list[int]:
        """Return the processes that run in the directory of this host's units, or name it."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with suppress(OSError):
                inside = os.readlink(entry / "cwd").startswith(str(self.units))
                # The node's own ssh names it as well.
                named = str(self.units) in name_of(int(entry.name))
                if inside or (named and not _is_ssh(int(entry.name))):
                    found.append(int(entry.name))
        return found

    def wait_clean(self) -> None:
        """Wait until nothing is left of any unit."""
        wait_until(
            lambda: not self.left(), what=f"nothing to be left on {self.name}: {self.left()}"
        )

    def as_host(self, **more: Any) -> dict[str, Any]:
        """Return the host as the directive names it."""
        return {
            "name": self.name,
            "address": "127.0.0.1",
            "port": self.port,
            "key": str(self.place.key),
            "options": [f"UserKnownHostsFile={self.place.known_hosts}"],
        } | more


def _is_ssh(pid: int) -> bool:
    return Path(os.readlink(f"/proc/{pid}/exe")).name in {"ssh", "sshd"}


class Servers:
    """The servers of one test, the key of the node's user, and the hosts that are known to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = root / "key"
        self.known_hosts = root / "known_hosts"
        self.all: dict[str, Sshd] = {}
        root.mkdir()
        make_key(self.key)
        self.known_hosts.touch()

    def make(self, name: str) -> Sshd:
        """Make one more server, which is yet to be started."""
        server = self.all[name] = Sshd(self, name)
        return server

    def add(self, name: str, *more: str) -> Sshd:
        """Start one more server, with these lines in its configuration."""
        return self.make(name).start(*more)

    def close(self) -> None:
        """End all servers, and whatever is left of units."""
        for server in self.all.values():
            server.stop()
        for server in self.all.values():
            for pid in server.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def make_key(path: Path) -> None:
    """Make a key without a passphrase."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True
    )


@contextmanager
def servers(root: Path) -> Iterator[Servers]:
    """Yield a place for servers; they end with the context."""
    if os.geteuid() == 0:
        PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
    place = Servers(root)
    try:
        yield place
    finally:
        place.close()


def work_ssh(*servers: Sshd, name: str = "far", **more: Any) -> dict[str, Any]:
    """Return a directive that runs on these servers what it is given as parameters, in a shell."""
    parameters: dict[str, Any] = {
        "worktype": name,
        "command": "sh",
        "allowruntimeparams": True,
        "hosts": [server.as_host() for server in servers],
        "directory": "units",
        "grace": "2s",
    } | more
    # Each server is another machine, where all have this path in common.
    return {"work-ssh": {key: value for key, value in parameters.items() if value is not None}}


def run_on(node: Node, script: str, *arguments: str, stdin: bytes = b"") -> str:
    """Submit a script for the shell of the type that :func:`work_ssh` makes; return the unit."""
    payload = ("--payload", "-") if stdin else ("--no-payload",)
    return node.submit("far", *payload, *arguments, "--", "-c", script, stdin=stdin)


class Gate:
    """What commands wait for until the test lets them go on, one for each time it is opened."""

    def __init__(self, place: Path) -> None:
        self.path = place / "gate"
        os.mkfifo(self.path)
        # Open all the time: at the end of the last writer all who wait would go on.
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self.wait = f"read -r _ <{self.path}"

    def open(self, times: int = 1) -> None:
        """Let so many commands go on, which wait or come to it: each takes one line."""
        os.write(self._descriptor, b"go\n" * times)
