"""The hosts with only SSH that a storm has, and what it does to the ways there.

They are real sshds. Nothing that hits a connection explains the end of a unit: each must come to
its own, once, and leave nothing there. What a full disk and another host key explain is in the
table of excuses.
"""

import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import trio
from chronicle import Chronicle
from disks import AS_ROOT, Disk
from harness import Node
from machines import Hit
from plan import LARGEST_SLACK, Fault
from sshd import Sshd, children, make_key, name_of, servers, work_ssh

from meshnode.work.local.launcher import tree

FAR = "far"
"""The name of the type of work that runs on them."""

GIVEN_UP = ["ServerAliveInterval=1", "ServerAliveCountMax=2"]
"""Options with which a host that answers nothing is given up after some two seconds."""

FREEZES = 4
"""How much longer than others a session is frozen: half of them longer than it takes to give up."""


DISK = "disk"
"""The directory of units in the home of the user there."""

OTHER_KEY = "other_key"
"""The host key that nobody knows."""


class FarHosts:
    """Servers below ``root``, from :meth:`start` to :meth:`close`.

    Where they are ``mounted``, their units are on disks of their own.
    """

    def __init__(
        self, root: Path, names: Sequence[str], chronicle: Chronicle, *, mounted: bool
    ) -> None:
        self.hits: dict[str, list[Hit]] = {name: [] for name in names}
        """What each host itself has gone through."""
        self._names = names
        self._mounted = mounted
        self._busy = {name: trio.Lock() for name in names}
        self._disks: dict[str, Disk] = {}
        self._chronicle = chronicle
        self._place = contextlib.ExitStack()
        self._root = root
        self._servers: dict[str, Sshd] = {}
        self._blows = {
            "kill ssh": self._kill_ssh,
            "kill session": self._kill_session,
            "freeze session": self._freeze_session,
            "fill host": self._fill,
            "swap host key": self._swap_key,
        }

    def start(self) -> None:
        """Start the servers. Blocks."""
        place = self._place.enter_context(servers(self._root))
        for name in self._names:
            server = self._servers[name] = place.make(name)
            disk = Disk(server.directory / DISK, mounted=self._mounted, apart=AS_ROOT)
            self._disks[name] = disk
            server.units, server.seen, server.entering = disk.place, disk.seen, disk.entering
            make_key(server.directory / OTHER_KEY)
            server.start("MaxStartups 100")

    def close(self) -> None:
        """End them, and whatever is left there."""
        self._place.close()
        for disk in self._disks.values():
            disk.close()

    def directive(self, script: Path, unit: Path) -> dict[str, object]:
        """Return the directive of the type; its command takes ``unit`` for its unit's directory."""
        kind: dict[str, object] = work_ssh(
            *self._servers.values(),
            name=FAR,
            command=str(script),
            directory=DISK,
            env={"MESHNODE_UNIT_DIR": str(unit), "BRINGS_FILES": "yes"},
            hosts=[self._as_host(server) for server in self._servers.values()],
        )
        return kind

    def _as_host(self, server: Sshd) -> dict[str, object]:
        host = server.as_host()
        return host | {"options": [*host["options"], *GIVEN_UP]}

    def wait_clean(self) -> None:
        """Wait until nothing of any unit is left on any host: no file, no process. Blocks."""
        for server in self._servers.values():
            server.wait_clean()

    async def inflict(self, fault: Fault, node: Node) -> None:
        """Hit one of the connections between a node and the fault's host."""
        await self._blows[fault.kind](fault, node)

    async def _kill_ssh(self, fault: Fault, node: Node) -> None:
        port = f" -p {self._servers[fault.target].port} "
        process = node.process
        pids = children(process.pid) if process is not None else []
        ours = [pid for pid in pids if name_of(pid).startswith("ssh ") and port in name_of(pid)]
        self._signal(fault, ours, signal.SIGKILL)
        await trio.lowlevel.checkpoint()

    async def _kill_session(self, fault: Fault, node: Node) -> None:
        self._signal(fault, self._servers[fault.target].sessions(), signal.SIGKILL)
        await trio.lowlevel.checkpoint()

    async def _freeze_session(self, fault: Fault, node: Node) -> None:
        thaw = self._signal(fault, self._servers[fault.target].sessions(), signal.SIGSTOP)
        await trio.sleep(fault.duration * FREEZES)
        thaw()

    async def _fill(self, fault: Fault, node: Node) -> None:
        disk = self._disks[fault.target]
        async with self._hit(fault):
            await trio.to_thread.run_sync(disk.fill, int(fault.slack * LARGEST_SLACK))
            await trio.sleep(fault.duration)
            await trio.to_thread.run_sync(disk.free)

    async def _swap_key(self, fault: Fault, node: Node) -> None:
        server = self._servers[fault.target]
        async with self._hit(fault):
            await trio.to_thread.run_sync(server.show_key, server.directory / OTHER_KEY)
            await trio.sleep(fault.duration)
            await trio.to_thread.run_sync(server.show_key, server.host_key)

    @contextlib.asynccontextmanager
    async def _hit(self, fault: Fault) -> AsyncIterator[None]:
        """Have a host to itself, and take note of what it goes through."""
        async with self._busy[fault.target]:
            hit = Hit(fault.kind)
            self.hits[fault.target].append(hit)
            self._chronicle.note(fault.target, fault.kind)
            yield
            hit.over = time.time()
            self._chronicle.note(fault.target, f"{fault.kind}: over")

    def _signal(self, fault: Fault, pids: Sequence[int], number: int) -> Callable[[], None]:
        """Send one of these processes a signal; return what has it go on."""
        found = tree.read_process(pids[int(fault.choice * len(pids))]) if pids else None
        if found is None or not tree.send_signal(found.pid, found.started, number):
            return lambda: None
        self._chronicle.note(fault.target, fault.kind)

        def go_on() -> None:
            if tree.send_signal(found.pid, found.started, signal.SIGCONT):
                self._chronicle.note(fault.target, f"{fault.kind}: over")

        return go_on
