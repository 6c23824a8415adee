"""A host with only SSH, in memory: what sessions with it see and do, without ssh and processes."""

from contextlib import asynccontextmanager

import trio
from tars import entry, tar_of

from meshnode.work.ssh.answers import FarState
from meshnode.work.ssh.failures import HostFailure, Phase, Refused
from meshnode.work.ssh.hosts import Host
from meshnode.work.ssh.record import FarEnd
from meshnode.work.ssh.runner import SshRunner
from meshnode.work.ssh.worktype import SshType

PIECE = 100_000
"""Bytes of files that come at once."""


class FarJob:
    """The directory of one unit on a host, and its command."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        """What the command has written in its directory."""
        self.is_claimed = False
        self.output = bytearray()
        self.end: FarEnd | None = None
        self.changed = trio.Event()

    def write(self, data: bytes) -> None:
        self.output += data
        self._tell()

    def finish(self, code: int | None = 0, why: str = "") -> None:
        if self.end is None:
            self.end = FarEnd(code, why, len(self.output))
            self._tell()

    def lose(self) -> None:
        """Kill its supervisor."""
        self.finish(None)

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class FakeHosts:
    """All hosts. ``before`` is called with the count so far before each step of any session."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str], FarJob] = {}
        self.starts: list[str] = []
        """The host of every start: the ledger of what has run."""
        self.with_tar: list[bool] = []
        """Whether each host that was sent something had to have tar."""
        self.down: set[str] = set()
        self.refuses: dict[str, str] = {}
        """Hosts that refuse to take files, with the reason."""
        self.is_cut_off = False
        """Whether nobody hears what the node does: it was killed."""
        self.is_frozen = False
        """Whether what is sent of files comes to a halt."""
        self.lasting: set[str] = set()
        """Hosts that will never let us in."""
        self.boot = "first"
        self.sessions: list[FakeSession] = []
        self.open_now: dict[str, int] = {}
        self.most_open: dict[str, int] = {}
        self.steps = 0
        self.lists = 0
        """How often files were looked for."""
        self.says = {"list": listed, "bring": packed}
        """What hosts answer where files are brought back, of a job and names."""
        self.before = lambda step: None

    @asynccontextmanager
    async def open_session(self, host: Host, name: str, mark: str):
        assert mark in name
        session = FakeSession(self, host, name)
        self.sessions.append(session)
        number = self.open_now[host.name] = self.open_now.get(host.name, 0) + 1
        self.most_open[host.name] = max(number, self.most_open.get(host.name, 0))
        try:
            yield session
        finally:
            self.open_now[host.name] -= 1
            self.sessions.remove(session)
            session.clean_up()

    def cut(self) -> None:
        """Break every session."""
        for session in self.sessions:
            session.break_off()

    def on(self, host: str) -> list[FarJob]:
        return [job for (where, _), job in self.jobs.items() if where == host]


def listed(job: FarJob | None, directories: tuple[str, ...]) -> tuple[bytes, int]:
    """Return what a host says there is in directories of a job."""
    if job is None:
        return b"\0" * len(directories), 1
    said = ""
    for directory in directories:
        found = {}
        for name in job.files:
            if not directory or name.startswith(f"{directory}/"):
                base, slash, _ = name.removeprefix(f"{directory}/" if directory else "").partition(
                    "/"
                )
                found[base] = "d" if slash else "f"
        said += "".join(f"{kind}{base}\0" for base, kind in found.items()) + "\0"
    return said.encode(), 0


def packed(job: FarJob | None, names: tuple[str, ...]) -> tuple[bytes, int]:
    """Return the tar that a host sends of files of a job."""
    assert job is not None
    return tar_of(*(entry(f"./{name}", job.files[name]) for name in names)), 0


class FakeSession:
    """One session, with the methods of FarSession."""

    def __init__(self, hosts: FakeHosts, host: Host, name: str) -> None:
        self.hosts = hosts
        self.host = host
        self.phase = Phase.CONNECT
        self.key = (host.name, name)
        self.is_broken = False
        self.broken = trio.Event()
        self.position = 0
        self.part = b""
        self.part_status = 0

    def clean_up(self) -> None:
        """Remove what was sent and never started, as the host does when a session ends."""
        job = self.job
        if job is not None and not job.is_claimed:
            del self.hosts.jobs[self.key]

    def break_off(self) -> None:
        self.is_broken = True
        self.broken.set()

    @property
    def job(self) -> FarJob | None:
        return self.hosts.jobs.get(self.key)

    async def _step(self, phase: Phase | None = None) -> None:
        """What is asked for may happen, and its answer be lost: cut before or after it."""
        self.phase = phase or self.phase
        await trio.lowlevel.checkpoint()
        self.hosts.steps += 1
        self.hosts.before(self.hosts.steps)
        self._check()

    def _check(self) -> None:
        if self.host.name in self.hosts.lasting:
            raise HostFailure(self.host, self.phase, "may not log in", is_lasting=True)
        if self.is_broken or self.hosts.is_cut_off or self.host.name in self.hosts.down:
            raise HostFailure(self.host, self.phase, "Connection refused")

    async def look(self) -> FarState:
        await self._step()
        job = self.job
        is_claimed = job is not None and job.is_claimed
        return FarState(is_claimed, job is not None, self.hosts.boot, "7" if is_claimed else "")

    async def make(self, *, with_tar: bool = False) -> None:
        await self._step(Phase.COPY)
        self.hosts.with_tar.append(with_tar)
        self.hosts.jobs.setdefault(self.key, FarJob())
        await self._step()

    async def put(self, name: str, data: bytes) -> None:
        await self._step()
        if reason := self.hosts.refuses.get(self.host.name):
            del self.hosts.jobs[self.key]
            raise Refused(self.host, self.phase, reason)
        self.job.parts[name] = data
        await self._step()

    async def put_file(self, name: str, path) -> None:
        await self.put(name, path.read_bytes())

    async def start(self, timeout: float, grace: float) -> str | None:
        await self._step(Phase.START)
        job = self.job
        assert {"supervisor.sh", "stdin"} <= job.parts.keys()
        was_claimed, job.is_claimed = job.is_claimed, True
        if not was_claimed:
            self.hosts.starts.append(self.host.name)
        await self._step()
        return None if was_claimed else "7"

    async def stop(self, grace: float) -> bool:
        await self._step()
        job = self.job
        if job is None or not job.is_claimed:
            self.hosts.jobs.pop(self.key, None)
            return False
        job.finish(143, "cancel")
        await self._step()
        return True

    async def remove(self) -> None:
        await self._step(Phase.CLEAN)
        job = self.job
        assert job is None or job.end is not None or not job.is_claimed, "it runs on"
        self.hosts.jobs.pop(self.key, None)
        await self._step()

    async def follow(self, position: int) -> None:
        await self._step(Phase.RUN)
        self.position = position

    async def list_directories(self, names) -> None:
        self.hosts.lists += 1
        await self._ask_for("list", names)

    async def bring(self, names) -> None:
        await self._ask_for("bring", names)

    async def _ask_for(self, request: str, names) -> None:
        assert self.is_free
        await self._step(Phase.COLLECT)
        self.part, self.part_status = self.hosts.says[request](self.job, tuple(names))

    async def receive_part(self) -> bytes:
        await self._step()
        if self.hosts.is_frozen and self.part:
            await trio.sleep_forever()
        data, self.part = self.part[:PIECE], self.part[PIECE:]
        return data

    @property
    def is_free(self) -> bool:
        return not self.part

    async def receive(self) -> bytes:
        while True:
            await trio.lowlevel.checkpoint()
            if self.is_broken:
                return b""
            job = self.job
            if len(job.output) > self.position:
                data = bytes(job.output[self.position :])
                self.position += len(data)
                return data
            await self._wait(job)

    async def wait_end(self) -> FarEnd:
        while True:
            await self._step()
            job = self.job
            if job.end is not None:
                return job.end
            await self._wait(job)

    async def _wait(self, job: FarJob) -> None:
        """Wait until there is news of a job, or the session breaks."""
        async with trio.open_nursery() as nursery:

            async def until(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until, job.changed)
            nursery.start_soon(until, self.broken)


def ssh_type(*hosts: str, **more) -> SshType:
    """Return a type that runs a command on these hosts."""
    sessions = more.pop("sessions", 8)
    found = tuple(Host(name, f"{name}.example", sessions=sessions) for name in hosts)
    return SshType("far", found, command="nice", allow_runtime_params=True, **more)


def add_ssh(node, hosts: FakeHosts, kind: SshType) -> None:
    """Let a FakeNode run units of a type on fake hosts, from its next start on."""
    node.work_types = {**node.work_types, kind.name: kind}

    class Fresh:
        """Each start of the node has a runner of its own."""

        def keys(self):
            return ["ssh"]

        def __getitem__(self, name):
            return SshRunner(
                node.mortal,
                node.work_types,
                lambda: node.units.all(),
                open_session=hosts.open_session,
            )

    node.more_runners = Fresh()


def break_at(hosts: FakeHosts, step: int, *, is_lost: bool) -> None:
    """Have all sessions cut at a step; hosts that are lost stay away from then on."""

    def before(now: int) -> None:
        # A host that is away comes back after a while, and may have another start by then.
        if now == step:
            hosts.cut()
            if is_lost:
                hosts.down |= {"anna", "bert"}

    hosts.before = before


def kill_at(node, hosts: FakeHosts, step: int) -> trio.Event:
    """Have a node killed at a step; return what is set then."""
    killed = trio.Event()

    def before(now: int) -> None:
        if now == step:
            node.kill()
            hosts.is_cut_off = True
            hosts.cut()
            killed.set()

    hosts.before = before
    return killed


def heal(node, hosts: FakeHosts) -> None:
    """Have nothing in the way of a node's next life."""
    hosts.before, hosts.is_cut_off = lambda now: None, False
    node.mesh.heal()


def reaches(hosts: FakeHosts, step: int) -> trio.Event:
    """Return what is set at a step."""
    reached = trio.Event()

    def before(now: int) -> None:
        if now >= step:
            reached.set()

    hosts.before = before
    return reached
