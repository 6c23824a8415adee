"""Stand-ins for what units meet: a launcher without processes, a mesh without a network.

Everything above them is real: stores on disk, the control service's sessions, both ends of remote
work. With ``inline_threads`` and the autojump clock all of it is deterministic.
"""

import json
import os
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import trio
import trio.testing

from meshnode.control.events import EventHub, Topic
from meshnode.control.events_command import events_command, mesh_audiences
from meshnode.control.registry import Command, CommandRegistry
from meshnode.control.session import Session
from meshnode.errors import CommandError, HandshakeRefused, NoRoute, UnknownUnit, WorkError
from meshnode.logs import subject_logger
from meshnode.mesh.streams.layer import MANY_STREAMS
from meshnode.protocol.control import RESUME_KEY, TAKEN_KEYS, TAKES_TAG
from meshnode.protocol.lifecycle import UnitState
from meshnode.protocol.routing import ServiceAdvertisement, WorkType
from meshnode.security.access import AccessRules
from meshnode.security.audit import AuditLog
from meshnode.security.identity import Identity
from meshnode.work.auth import auth_command
from meshnode.work.batches.batches import Batches
from meshnode.work.batches.commands import batch_handlers
from meshnode.work.batches.files import BatchFiles
from meshnode.work.describing import type_handlers
from meshnode.work.local.cgroups import JobGroups
from meshnode.work.local.launcher.leaving import Leaving
from meshnode.work.local.launcherprocess import Started
from meshnode.work.local.processes import ProcessId
from meshnode.work.local.runner import CommandRunner
from meshnode.work.local.worktypes import CommandType
from meshnode.work.placement.nodes import NodeDirectory
from meshnode.work.placement.placer import Placer
from meshnode.work.remote.asking import AskThere
from meshnode.work.remote.runner import RemoteRunner
from meshnode.work.units import directory, tombstones
from meshnode.work.units.commands import work_command
from meshnode.work.units.endedby import ended_by_from_json
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.queue import QueueBounds
from meshnode.work.units.runner import Runner
from meshnode.work.units.signatures import Signatures
from meshnode.work.units.status import COMMAND, REMOTE
from meshnode.work.units.store import UnitStore
from meshnode.work.units.submissions import KEEP_SECONDS
from meshnode.work.units.unitevents import unit_audience

LONG = 20_000
"""Seconds of mock time after which a test gives a unit up."""

START = datetime(2026, 11, 2, 3, 0, 0, tzinfo=UTC)


async def inline_run_sync(function, *args, **options):
    """``trio.to_thread.run_sync`` without a thread: the autojump clock knows nothing of threads."""
    await trio.lowlevel.checkpoint()
    return function(*args)


class FakeSupervisor:
    """What a supervisor does to a unit's files, without processes."""

    def __init__(self, store: UnitStore, unit_id: str, pid: int) -> None:
        self.store = store
        self.unit_id = unit_id
        self.process = ProcessId(pid, pid * 1000)
        self.ended = trio.Event()
        self.signals: list[int] = []
        self.holds = False

    def set(self, **changes) -> None:
        status = self.store.read_status(self.unit_id)
        status = replace(status, **changes)
        durable = status.state.is_final or bool(status.submission_key)
        self.store.write_status(self.unit_id, status, durable=durable)
        if durable and status.submission_key:
            root = os.open(self.store.root, os.O_RDONLY)
            os.fsync(root)
            os.close(root)

    def write(self, data: bytes, stream: str = "stdout") -> None:
        with open(self.store.output_path(self.unit_id, stream), "ab") as file:
            file.write(data)

    def finish_canceled(self) -> None:
        try:
            told = json.loads((self.store.directory(self.unit_id) / "cancel").read_text())
        except (OSError, ValueError):  # the disk did not take it
            self.finish(UnitState.CANCELED, "Canceled", None)
        else:
            end = ended_by_from_json(told["EndedBy"])
            self.finish(UnitState.CANCELED, told["Detail"], None, ended_by=end)

    def finish(
        self, state=UnitState.SUCCEEDED, detail="exit status 0", code: int | None = 0, **more
    ):
        recorded = self.store.read_status(self.unit_id).sizes
        sizes = self.store.output_sizes(self.unit_id, recorded)
        sizes.pop("FilesSize", None)
        if self.holds:
            end = {"State": int(state), "Detail": detail, "ExitCode": code, **sizes}
            if "ended_by" in more:
                end["EndedBy"] = more["ended_by"].to_json()
            end["Finished"] = "2026-11-02T03:00:09.000000Z"
            self.set(detail="Collecting files", held=end)
        else:
            self.set(
                **more,
                state=state,
                detail=detail,
                exit_code=code,
                finished="2026-11-02T03:00:09.000000Z",
                stdout_size=sizes["StdoutSize"],
                stderr_size=sizes.get("StderrSize"),
                index_size=sizes.get("IndexSize"),
            )
        self.ended.set()


class FakeHandle:
    """A ProcessHandle of a FakeSupervisor."""

    def __init__(self, supervisor: FakeSupervisor) -> None:
        self.supervisor = supervisor

    async def wait_end(self) -> None:
        await self.supervisor.ended.wait()

    def cancel(self, unit_id: str) -> None:
        assert unit_id == self.supervisor.unit_id
        self.send_signal(signal.SIGTERM)
        trio.lowlevel.spawn_system_task(self._be_canceled)

    def send_signal(self, signum: int) -> None:
        if self.supervisor.ended.is_set():
            raise ProcessLookupError
        self.supervisor.signals.append(signum)
        if signum == signal.SIGKILL:
            self.supervisor.ended.set()

    async def _be_canceled(self) -> None:
        if not self.supervisor.ended.is_set():
            self.supervisor.finish_canceled()

    def close(self) -> None:
        pass


class FakeLauncher:
    """Starts FakeSupervisors; ``cat`` ends at once, anything else when it is told to.

    Attributes:
        started: the argv of every start: the ledger of what has run.
    """

    def __init__(self, store: UnitStore) -> None:
        self.store = store
        self.supervisors: dict[str, FakeSupervisor] = {}
        self.started: list[tuple[str, ...]] = []
        self.timeouts: list[float | None] = []
        self.gone_leftovers: list[Path] = []
        self.refuses: Exception | None = None

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def start(self, request):
        await trio.lowlevel.checkpoint()
        if self.refuses is not None:
            raise self.refuses
        return self.start_now(request)

    def start_now(self, request) -> Started:
        """Start a supervisor in one step; refuse what the launcher refuses."""
        if not request.argv:
            raise WorkError("no command")
        stdout = self.store.stdout_path(request.unit_id)
        if stdout.is_symlink() or (stdout.exists() and not stdout.is_file()):
            raise WorkError(f"{stdout} is not a file of ours")
        self.started.append(request.argv)
        self.timeouts.append(request.timeout)
        pid = 100 + len(self.started)
        supervisor = FakeSupervisor(self.store, request.unit_id, pid)
        self.supervisors[request.unit_id] = supervisor
        supervisor.holds = request.holds
        supervisor.set(
            stdin_size=request.known.get("StdinSize"),
            stdin_sha256=request.known.get("StdinSha256", ""),
            state=UnitState.RUNNING,
            detail=f"Running: PID {pid + 500}",
            pid=pid + 500,
            supervisor=supervisor.process,
            started="2026-11-02T03:00:01.000000Z",
        )
        if request.argv[0] == "cat":
            supervisor.write(self.store.stdin_path(request.unit_id).read_bytes())
            supervisor.finish()
        return Started(supervisor.process)

    def open_process(self, process: ProcessId) -> FakeHandle:
        for supervisor in self.supervisors.values():
            if supervisor.process == process and not supervisor.ended.is_set():
                return FakeHandle(supervisor)
        raise ProcessLookupError

    async def end_leftovers(
        self, unit_dir: Path, grace: float, leaving: Leaving | None = None
    ) -> list[ProcessId]:
        self.gone_leftovers.append(unit_dir)
        await trio.lowlevel.checkpoint()
        return []


TYPES = {
    "cat": CommandType("cat"),
    "echo": CommandType("echo", ("hi",)),
    "wait": CommandType("wait", ("for", "the end"), allow_runtime_params=True),
    "signed": CommandType("cat", verify_signature=True),
    "separate": CommandType("wait", separate=True),
    "brief": CommandType("wait", timeout=60.0),
    "timed": CommandType("wait", timestamps=True),
}


class MortalStore(UnitStore):
    """A store that a killed node writes nothing to any more."""

    dead = False

    def write_status(self, unit_id, status, **how) -> None:
        if not self.dead:
            super().write_status(unit_id, status, **how)

    def _open_part(self, path, wanted, size):
        return super()._open_part(path, lambda: wanted() and not self.dead, size)

    def unlink(self, unit_id):
        if self.dead:
            raise UnknownUnit(unit_id)
        return super().unlink(unit_id)

    def empty(self, trash) -> None:
        if not self.dead:
            super().empty(trash)

    def purge(self, trash) -> None:
        if not self.dead:
            super().purge(trash)


class MortalBatchFiles(BatchFiles):
    """The same of batches."""

    dead = False

    def append(self, batch_id, lines, **how) -> None:
        if not self.dead:
            super().append(batch_id, lines, **how)

    def remove(self, batch_id) -> None:
        if not self.dead:
            super().remove(batch_id)


class FakeNode:
    """A node's units and its control service, on a store that survives it."""

    def __init__(self, mesh: "FakeMesh", node_id: str, root: Path) -> None:
        self.mesh = mesh
        self.node_id = node_id
        self.store = UnitStore(root / node_id)
        self.launcher = FakeLauncher(self.store)
        self.work_types = TYPES
        self.more_runners: dict[str, Runner] = {}
        self.signatures = Signatures()
        self.rules = AccessRules()
        self.forwarding = False
        self.queue_bounds = QueueBounds()
        self.max_remote_output = 2**63 - 1
        self.remember = KEEP_SECONDS
        self.audit: AuditLog | None = None
        self.as_before: Callable[[Command], Command] = lambda command: command
        self.hub = EventHub()
        self.units: UnitManager | None = None
        self.registry = CommandRegistry()
        self.clients: dict[str, Identity] = {}
        """Who a client of some name is, where that matters."""
        self.tls_clients: dict[str, object] = {}
        """Settings of this node by name, as its dials have them."""
        self.asks_for: object = None
        """The settings that a dial of its control service must have."""
        self.is_receptor = False
        self.boot = "first boot"
        self.more_tags: dict[str, str] = {}
        self.stamp = 1
        """Another number for each advertisement."""

    @asynccontextmanager
    async def running(self):
        """Run the node; leaving the context stops it, its commands go on."""
        self.mortal = MortalStore(self.store.root)
        commands = CommandRunner(
            self.launcher,
            self.mortal,
            self.work_types,
            JobGroups(self.store.root),
            open_process=self.launcher.open_process,
            end_leftovers=self.launcher.end_leftovers,
        )
        self.commands = commands
        dialer = FakeDialer(self.mesh, self.node_id)
        placer = Placer(NodeDirectory(dialer))
        remotes = RemoteRunner(
            dialer,
            self.mortal,
            self.signatures,
            self.mesh.now,
            self.max_remote_output,
            self.tls_clients.get,
            placer=placer,
        )
        self.units = UnitManager(
            store=self.mortal,
            runners={COMMAND: commands, REMOTE: remotes, **self.more_runners},
            work_types=self.work_types,
            elsewhere=remotes.plan,
            node_id=self.node_id,
            signatures=self.signatures,
            rules=self.rules,
            forwarding=self.forwarding,
            remember=self.remember,
            now=self.mesh.now,
            boot=self.boot,
            audit=self.audit,
            hub=self.hub,
        )
        placer.permits = self.units.access.may_place
        self.units.queue.bounds = self.queue_bounds
        self.registry = CommandRegistry(self.rules)
        others = AskThere(FakeDialer(self.mesh, self.node_id), self.signatures)
        described = type_handlers(self.node_id, self.units.access, self.work_types, others)
        self.batch_files = MortalBatchFiles(self.store.root)
        self.batches = Batches(self.units, self.batch_files, self.mesh.now)
        more = {**described, **batch_handlers(self.batches)}
        command = self.as_before(work_command(self.units, more))
        self.registry.register(as_receptor(command) if self.is_receptor else command)
        if not self.is_receptor:
            self.registry.register(auth_command(self.units, others.ask))
            audience = {Topic.UNIT: unit_audience(self.units.access)}
            self.registry.register(
                events_command(self.hub, mesh_audiences(self.registry) | audience)
            )
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            await nursery.start(self.units.run)
            await nursery.start(self.batches.run)
            self.mesh.join(self)
            try:
                yield self
            finally:
                self.mesh.leave(self)
                nursery.cancel_scope.cancel()

    def kill(self) -> None:
        """End the node as kill -9 does: nothing it does from here on is seen by anybody."""
        self.mortal.dead = self.batch_files.dead = True
        self.mesh.cut()

    async def serve(self, stream, kind, peer) -> None:
        log = subject_logger("session", peer)
        session = Session(
            stream,
            kind=kind,
            peer=peer,
            node_id=self.node_id,
            registry=self.registry,
            log=log,
            client=self.clients.get(peer),
        )
        await session.run()

    def connect(self, kind="unix", peer="client") -> trio.abc.HalfCloseableStream:
        """Return a client's end of a new control session."""
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.serve, theirs, kind, peer)
        return ours

    async def talk(
        self, request: str | dict, payload: bytes | None = None, kind="unix", peer="client"
    ) -> list:
        """Send one command, and payload; return all lines that come until the session ends."""
        client = self.connect(kind, peer)
        text = request if isinstance(request, str) else json.dumps(request)
        await client.send_all(text.encode() + b"\n" + (payload or b""))
        await client.send_eof()
        reply = b"".join([chunk async for chunk in client])
        lines = reply.decode().splitlines()
        assert lines.pop(0) == f"Receptor Control, node {self.node_id}"
        return lines

    async def submit(self, node: str, work_type: str, payload: bytes = b"", **fields: str) -> str:
        """Submit, check that it went well, and return the unit's ID."""
        lines = await self.talk(
            {
                **{"command": "work", "subcommand": "submit"},
                **{"node": node, "worktype": work_type, **fields},
            },
            payload,
        )
        assert len(lines) == 2, lines
        unit_id = json.loads(lines[1])["unitid"]
        told = f"Work unit created with ID {unit_id}. Send stdin data and EOF."
        assert lines[0].startswith(told)
        assert (lines[0] == told) == (not fields.get("submissionkey"))
        return unit_id

    def left(self) -> list[str]:
        """Return what is left in the node's directory beside what every store has."""
        names = {path.name for path in self.store.root.iterdir()}
        return sorted(names - {directory.FILE, tombstones.FILE})

    def status(self, unit_id: str):
        return self.units.find(unit_id).status

    def stdout(self, unit_id: str) -> bytes:
        return self.store.stdout_path(unit_id).read_bytes()

    async def wait_final(self, unit_id: str):
        """Return the unit's final status; a unit that never ends fails the test."""
        with trio.fail_after(LONG):
            await self.units.find(unit_id).wait_final()
        return self.status(unit_id)

    async def wait_for(self, unit_id: str, condition) -> None:
        """Return once the unit's status meets the condition."""
        unit = self.units.find(unit_id)
        with trio.fail_after(LONG):
            while not condition(unit.status):
                await unit.wait_changed(unit.version)


def as_receptor(command: Command) -> Command:
    """Make our work command as ignorant as receptor's."""

    def parse_json(data):
        if data.get("subcommand") == "watch":
            raise CommandError("bad command")
        own_keys = {"submissionkey", "stdinsize", "stdinsha256", "onbehalfof", RESUME_KEY}
        assert not own_keys & set(data), "taken for params"
        handler = command.parse_json({k: v for k, v in data.items() if k != "unless"})

        async def run(session):
            reply = await handler(session)
            known = ("State", "StateName", "Detail", "StdoutSize", "WorkType", "ExtraData")
            if reply is None or "State" not in reply:
                return reply
            return {key: value for key, value in reply.items() if key in known}

        return run

    return Command("work", command.parse_text, parse_json)


class FakeMesh:
    """Nodes that reach each other through memory, until the way is cut.

    Attributes:
        before_operation: called with the count so far before each send or receive on any stream.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, FakeNode] = {}
        self.streams: set[CuttableStream] = set()
        self.is_cut = False
        self.changed = trio.Event()
        self.operations = 0
        self.before_operation: Callable[[int], None] = lambda count: None
        self.dials = 0
        self.carried = 0
        """Bytes that dialers have sent and that have come through."""
        self.events: list[tuple[int, Callable[[], None]]] = []
        """What happens when so many bytes have come through, and have been read, the first ones
        first."""
        self.taken_keys = TAKEN_KEYS
        """Keys of requests that the nodes know beyond those of older meshnodes."""
        self.epoch: float | None = None
        self.shows_types = False
        """Whether the nodes advertise their work types."""

    def now(self) -> datetime:
        """Wall-clock time that follows trio's (mock) clock, from START at the first look."""
        try:
            time = trio.current_time()
        except RuntimeError:
            time = trio.from_thread.run_sync(trio.current_time)
        if self.epoch is None:
            self.epoch = time
        return START + timedelta(seconds=round(time - self.epoch, 3))

    def join(self, node: FakeNode) -> None:
        self.nodes[node.node_id] = node
        self._announce()

    def leave(self, node: FakeNode) -> None:
        del self.nodes[node.node_id]
        self.break_all()

    def cut(self) -> None:
        """Break every stream and let no new one through."""
        self.is_cut = True
        self.break_all()

    def lose_routes(self) -> None:
        """Let no new stream through; the others only fall silent."""
        self.is_cut = True
        self._announce()

    def heal(self) -> None:
        self.is_cut = False
        self._announce()

    def _announce(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def break_all(self) -> None:
        for stream in tuple(self.streams):
            stream.break_off()

    def break_dialers(self) -> None:
        """Break only the dialers' ends: the others have not noticed yet."""
        for stream in tuple(self.streams):
            if stream.is_dialer:
                stream.break_off()

    def has_route(self, node: str) -> bool:
        return node in self.nodes and not self.is_cut


class FakeDialer:
    """One node's face of a FakeMesh."""

    def __init__(self, mesh: FakeMesh, node_id: str) -> None:
        self.mesh = mesh
        self.node_id = node_id
        self.looks = 0

    async def dial(self, node: str, service: str, tls: object = None):
        await trio.lowlevel.checkpoint()
        assert service == "control"
        self.mesh.dials += 1
        if not self.mesh.has_route(node):
            raise NoRoute(node)
        if tls is not getattr(self.mesh.nodes[node], "asks_for", None):
            raise HandshakeRefused(f"service control of node {node}: it expired")
        ours, theirs = trio.testing.memory_stream_pair()
        pair = [CuttableStream(self.mesh, ours), CuttableStream(self.mesh, theirs)]
        pair[0].partner, pair[1].partner = pair[1], pair[0]
        pair[0].is_dialer = True
        target = self.mesh.nodes[node]
        target.nursery.start_soon(partial(target.serve, pair[1], "mesh", self.node_id))
        return pair[0]

    def find_service(self, node: str, service: str) -> ServiceAdvertisement | None:
        """Tell whether a node is a meshnode, as its advertisement does."""
        if node not in self.mesh.nodes:
            return None
        tags = dict(
            []
            if self.mesh.nodes[node].is_receptor
            else [MANY_STREAMS, (TAKES_TAG, ",".join(self.mesh.taken_keys))]
        )
        target = self.mesh.nodes[node]
        # Some tests have nodes here that only talk.
        tags |= getattr(target, "more_tags", {})
        names = target.work_types if self.mesh.shows_types else ()
        types = tuple(WorkType(name, False) for name in names)
        return ServiceAdvertisement(
            node, service, "2026-01-01T00:00:00Z", 1, {"type": "Control Service"} | tags, types
        )

    @property
    def link_costs(self) -> dict[str, float]:
        return {node: 1.0 for node in self.mesh.nodes if node != self.node_id}

    @property
    def changes(self) -> int:
        """Another number at each look: tests change what nodes say without telling anybody."""
        self.looks += 1
        return self.looks

    def service_stamps(self, service: str) -> dict[str, int]:
        return {
            name: node.stamp for name, node in self.mesh.nodes.items() if self.is_reachable(name)
        }

    async def wait_changed(self) -> None:
        await self.mesh.changed.wait()

    def is_reachable(self, node: str) -> bool:
        return self.mesh.has_route(node)

    async def wait_routes_changed(self) -> None:
        await self.mesh.changed.wait()

    async def wait_reachable(self, node: str) -> None:
        await trio.lowlevel.checkpoint()
        while not self.mesh.has_route(node):
            await self.mesh.changed.wait()


class CuttableStream(trio.abc.HalfCloseableStream):
    """A stream whose way can be cut: then both directions break, as a lost peer's do."""

    def __init__(self, mesh: FakeMesh, inner) -> None:
        self.mesh = mesh
        self.inner = inner
        self.broken = False
        self.is_dialer = False
        self.partner: CuttableStream | None = None
        self.eof_sent = False
        self.scopes: set[trio.CancelScope] = set()
        mesh.streams.add(self)

    def break_off(self) -> None:
        self.broken = True
        for scope in self.scopes:
            scope.cancel()
        self.mesh.streams.discard(self)

    async def _guarded(self, operation, *args):
        self.mesh.operations += 1
        self.mesh.before_operation(self.mesh.operations)
        if self.broken:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError("cut")
        with trio.CancelScope() as scope:
            self.scopes.add(scope)
            try:
                return await operation(*args)
            finally:
                self.scopes.discard(scope)
        raise trio.BrokenResourceError("cut")

    async def send_all(self, data) -> None:
        mesh, data = self.mesh, bytes(data)
        while self.is_dialer and mesh.events and mesh.carried + len(data) >= mesh.events[0][0]:
            position, act = mesh.events.pop(0)
            fits = max(position - mesh.carried, 0)
            await self._carry(data[:fits])
            data = data[fits:]
            await trio.testing.wait_all_tasks_blocked()
            act()
        await self._carry(data)

    async def _carry(self, data: bytes) -> None:
        await self._guarded(self.inner.send_all, data)
        if self.is_dialer:
            self.mesh.carried += len(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._guarded(self.inner.send_eof)
        self.eof_sent = True

    async def receive_some(self, max_bytes=None) -> bytes:
        return await self._guarded(self.inner.receive_some, max_bytes)

    async def aclose(self) -> None:
        """Close; without an end of our bytes before, the partner's end breaks, as with QUIC."""
        self.mesh.streams.discard(self)
        if self.broken:
            await trio.lowlevel.checkpoint()
        elif self.eof_sent:
            await self.inner.aclose()
        else:
            self.broken = True
            self.partner.break_off()
            await trio.lowlevel.checkpoint()
