"""A storm over three nodes: clients that submit, and faults that hit whatever is there."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from harness import Cluster, Node, free_port
from launching import launcher_of
from plan import LINKS, NODES, Fault, Job, Plan
from relay import Relay

from meshnode.work.launcher import tree

CLIENTS = 12
"""Submissions at a time."""

REPLY_PATIENCE = 120.0
"""Seconds for one conversation with a node: only what is stuck takes so long."""

SETTLE_PATIENCE = 240.0
"""Seconds after the storm in which every unit must come to its end: time-outs of streams (30 s),
pauses between tries (20 s), grace of leftovers (10 s), some of them in a row."""

Status = dict[str, Any]


@dataclass(slots=True)
class Fate:
    """What a job's client knows of it."""

    job: Job
    unit: str = ""
    """The ID that the node gave."""
    sent: bool = False
    """Whether the node may have seen the end of the payload."""
    answer: str = ""
    """The node's reply to all of it."""
    hit: list[str] = field(default_factory=list)
    """What was done to this very unit: its process killed, itself cancelled."""


class Conversation:
    """A bare control session."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def line(self) -> str:
        """Return the next line. Raises trio.BrokenResourceError where there is none."""
        while b"\n" not in self._buffer:
            data = await self.stream.receive_some(65536)
            if not data:
                raise trio.BrokenResourceError("the node closed the session")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    async def ask(self, line: str) -> str:
        """Send a command line and return the first line of the answer."""
        await self.stream.send_all(line.encode() + b"\n")
        return await self.line()

    async def rest(self) -> bytes:
        """Return everything up to the end of the session."""
        data = self._buffer
        while more := await self.stream.receive_some(1 << 18):
            data += more
        return data


class StormNode:
    """A node, and whether it is meant to be there at the moment."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.busy = trio.Lock()
        self._up = trio.Event()

    async def start(self) -> None:
        await trio.to_thread.run_sync(self.node.start)
        self._up.set()

    async def end(self, how: Callable[[], object]) -> None:
        self._up = trio.Event()
        await trio.to_thread.run_sync(how)

    @contextlib.asynccontextmanager
    async def talk(self) -> AsyncIterator[Conversation]:
        """Open a session as soon as there is a node. Raises trio.BrokenResourceError, OSError."""
        await self._up.wait()
        stream = await trio.open_unix_socket(str(self.node.socket))
        with trio.fail_after(REPLY_PATIENCE):
            async with stream:
                conversation = Conversation(stream)
                await conversation.line()
                yield conversation

    async def again(self, ask: Callable[[Conversation], Any]) -> Any:
        """Have a conversation, as often as it takes for one that is not broken off."""
        while True:
            try:
                async with self.talk() as conversation:
                    return await ask(conversation)
            except (trio.BrokenResourceError, OSError):
                await trio.lowlevel.checkpoint()


class Storm:
    """Runs a plan; afterwards ``fates`` say what every client knows."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self.plan = plan
        self.directory = cluster.directory
        self.ledger = cluster.directory / "ledger"
        self.fates = {job.token: Fate(job) for job in plan.jobs}
        self._cluster = cluster
        self.nodes: dict[str, StormNode] = {}
        self._relays: dict[str, Relay] = {}
        self._link_busy = {link: trio.Lock() for link in LINKS}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the nodes, blow, and heal everything; then stay, for the links' sake."""
        self.ledger.touch()
        script = self.directory / "job.sh"
        shutil.copy(Path(__file__).with_name("job.sh"), script)
        script.chmod(0o700)
        async with trio.open_nursery() as nursery:
            await self._start(nursery, script)
            async with trio.open_nursery() as storm:
                storm.start_soon(self._blow)
                await self._submit_all()
            task_status.started()
            await trio.sleep_forever()

    async def _start(self, nursery: trio.Nursery, script: Path) -> None:
        ports = {name: free_port() for name in NODES}
        for link in LINKS:
            relay = self._relays[link] = Relay(ports[link[0]])
            await nursery.start(relay.run)
        peers = {"a": [], "b": ["a-b"], "c": ["b-c"]}
        work = {"job": {"command": str(script), "allowruntimeparams": True}}
        for name in NODES:
            node = self._cluster.node(
                name,
                listen=ports[name],
                peers=[self._relays[link].port for link in peers[name]],
                work=work,
                start=False,
            )
            self.nodes[name] = StormNode(node)
            await self.nodes[name].start()

    # --- the clients ----------------------------------------------------------------------------

    async def _submit_all(self) -> None:
        places = trio.CapacityLimiter(CLIENTS)
        async with trio.open_nursery() as clients:
            for fate in self.fates.values():
                await places.acquire_on_behalf_of(fate.job)
                clients.start_soon(self._submit, fate, places)

    async def _submit(self, fate: Fate, places: trio.CapacityLimiter) -> None:
        job = fate.job
        try:
            while not fate.unit:
                try:
                    async with self.nodes[job.node].talk() as talk:
                        await self._send(fate, talk)
                except (trio.BrokenResourceError, OSError):
                    # Without an ID nothing can have been started: once more. Else: see what comes.
                    await trio.lowlevel.checkpoint()
            if job.cancels:
                await self._cancel(fate)
        finally:
            places.release_on_behalf_of(job)

    async def _send(self, fate: Fate, talk: Conversation) -> None:
        job = fate.job
        target = "localhost" if job.target == job.node else job.target
        command = {"command": "work", "subcommand": "submit", "node": target, "worktype": "job"}
        created = await talk.ask(json.dumps(command | {"params": job.params}))
        assert created.startswith("Work unit created with ID "), created
        fate.unit = created.split("ID ")[1].split(".")[0]
        if job.breaks:
            await talk.stream.send_all(job.payload[: len(job.payload) // 2])
            return
        await talk.stream.send_all(job.payload)
        fate.sent = True
        await talk.stream.send_eof()
        fate.answer = await talk.line()

    async def _cancel(self, fate: Fate) -> None:
        fate.hit.append("canceled")
        await trio.sleep(fate.job.delay)
        await self.nodes[fate.job.node].again(lambda talk: talk.ask(f"work cancel {fate.unit}"))

    # --- the faults -----------------------------------------------------------------------------

    async def _blow(self) -> None:
        async with trio.open_nursery() as nursery:
            for fault in self.plan.faults:
                await trio.sleep(fault.pause)
                nursery.start_soon(self._inflict, fault)

    async def _inflict(self, fault: Fault) -> None:
        if fault.target in LINKS:
            await self._hit_link(fault)
        elif fault.kind in {"kill supervisor", "kill command"}:
            self._hit_unit(fault)
        else:
            async with self.nodes[fault.target].busy:
                await self._hit_node(self.nodes[fault.target], fault)

    async def _hit_link(self, fault: Fault) -> None:
        relay = self._relays[fault.target]
        async with self._link_busy[fault.target]:
            relay.cut() if fault.kind == "cut link" else relay.freeze()
            await trio.sleep(fault.duration)
            relay.heal()

    async def _hit_node(self, target: StormNode, fault: Fault) -> None:
        node = target.node
        if fault.kind == "kill launcher":
            with contextlib.suppress(ValueError, FileNotFoundError):
                os.kill(launcher_of(node.pid).pid, signal.SIGKILL)
            return
        if fault.kind == "freeze node":
            os.kill(node.pid, signal.SIGSTOP)
            await trio.sleep(fault.duration)
            os.kill(node.pid, signal.SIGCONT)
            return
        await target.end(node.kill if fault.kind == "kill node" else node.stop)
        await trio.sleep(fault.duration)
        await target.start()

    def _hit_unit(self, fault: Fault) -> None:
        running = sorted(self._running(self.nodes[fault.target].node), key=lambda s: s["Created"])
        if not running:
            return
        status = running[int(fault.choice * len(running))]
        self.fates[status["Params"][2]].hit.append(fault.kind)
        if fault.kind == "kill supervisor":
            victim = status["Supervisor"]
            tree.send_signal(victim["Pid"], victim["Started"], signal.SIGKILL)
            return
        process = tree.read_process(status["Pid"])
        if process is not None and process.parent == status["Supervisor"]["Pid"]:
            tree.send_signal(process.pid, process.started, signal.SIGKILL)

    def _running(self, node: Node) -> list[Status]:
        found = []
        for path in node.units.glob("*/status"):
            # Not its lock: a storm may look when it likes, and the file is always whole.
            status: Status = json.loads(path.read_bytes())
            if status["State"] == 1 and status.get("Supervisor"):
                found.append(status)
        return found
