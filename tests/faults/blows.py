"""What a storm does to nodes, links and units: each fault of the plan, and its healing."""

import contextlib
import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Iterator

import trio
from launching import launcher_of
from ledger import Entry
from machines import FORGOTTEN, Hit, StormNode
from plan import LARGEST_SLACK, MOST_DESCRIPTORS, ON_HOSTS, ON_UNITS, THERE, Fault, Moment
from scene import Recorded, Scene
from strange_files import put_strange

from meshnode.work.local.launcher import tree

MOMENT_PATIENCE = 3.0
"""Seconds for which a fault waits for its moment; then any moment will do."""

THERE_PATIENCE = 15.0
"""Seconds for which a submitter is kept away until its unit is ended where it runs: longer than a
command has between SIGINT and SIGKILL. That node may be away itself until this one is back."""


class Blows:
    """Inflicts faults on a scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._link_busy = {link: trio.Lock() for link in scene.flavour.links}
        self._on_node = {
            "kill node": self._kill_node,
            "stop node": self._kill_node,
            "freeze node": self._freeze_node,
            "kill launcher": self._kill_launcher,
            "freeze launcher": self._freeze_launcher,
            "fill disk": self._fill_disk,
            "take descriptors": self._take_descriptors,
            "swap datadir": self._swap_datadir,
        }
        self._on_unit = {
            "kill supervisor": self._kill_supervisor,
            "kill command": self._kill_command,
            "cancel there": self._end_there,
            "release there": self._end_there,
            "spoil files": self._spoil_files,
        }

    async def inflict(self, fault: Fault) -> None:
        """Wait for the fault's moment, strike, and heal what can be healed."""
        entry = None if fault.moment == "now" else await self._wait_for(fault.moment, fault)
        if fault.target in self._link_busy:
            await self._hit_link(fault)
        elif fault.kind in ON_HOSTS:
            (node,) = self._scene.nodes.values()
            await self._scene.far.inflict(fault, node.node)
        elif fault.kind not in ON_UNITS:
            await self._on_node[fault.kind](self._scene.nodes[fault.target], fault)
        elif victim := self._victim(fault, entry) or await self._next_victim(fault):
            await self._on_unit[fault.kind](fault, victim)

    async def _wait_for(self, moment: Moment, fault: Fault) -> Entry | None:
        def wanted(entry: Entry) -> bool:
            places = self._scene.nodes if fault.kind in ON_HOSTS else fault.target.split("-")
            is_there = entry.what == moment and entry.node in places
            return is_there and (fault.kind not in THERE or self._is_from_elsewhere(entry.token))

        with trio.move_on_after(MOMENT_PATIENCE):
            return await self._scene.ledger.next(wanted)
        return None

    def _note(self, who: str, text: str) -> None:
        self._scene.chronicle.note(who, text)

    # --- links ----------------------------------------------------------------------------------

    async def _hit_link(self, fault: Fault) -> None:
        relay = self._scene.relays[fault.target]
        async with self._link_busy[fault.target]:
            self._note(fault.target, fault.kind)
            relay.cut() if fault.kind == "cut link" else relay.freeze()
            await trio.sleep(fault.duration)
            relay.heal()
            self._note(fault.target, "healed")

    # --- nodes ----------------------------------------------------------------------------------

    async def _kill_node(self, node: StormNode, fault: Fault) -> None:
        async with node.busy:
            with self._blow(node, fault.kind):
                await node.end(node.node.kill if fault.kind == "kill node" else node.node.stop)
                await trio.sleep(fault.duration)
                await node.start()

    async def _freeze_node(self, node: StormNode, fault: Fault) -> None:
        async with node.busy:
            with self._blow(node, fault.kind):
                node.freeze()
                await trio.sleep(fault.duration)
                node.thaw()

    async def _kill_launcher(self, node: StormNode, fault: Fault) -> None:
        async with node.busy:
            launcher = _launcher(node)
            if launcher is not None and tree.send_signal(*launcher, signal.SIGKILL):
                self._note(node.node.name, fault.kind)

    async def _freeze_launcher(self, node: StormNode, fault: Fault) -> None:
        # Whatever becomes of the node meanwhile: this is about that one process.
        async with node.busy:
            launcher = _launcher(node)
        if launcher is None:
            return
        with self._blow(node, fault.kind):
            tree.send_signal(*launcher, signal.SIGSTOP)
            await trio.sleep(fault.duration)
            tree.send_signal(*launcher, signal.SIGCONT)

    async def _fill_disk(self, node: StormNode, fault: Fault) -> None:
        disk = node.node.disk
        async with node.disk_busy:
            with self._blow(node, fault.kind):
                slack = int(fault.slack * LARGEST_SLACK)
                await trio.to_thread.run_sync(disk.fill, slack)
                await trio.sleep(fault.duration)
                await trio.to_thread.run_sync(disk.free)

    async def _take_descriptors(self, node: StormNode, fault: Fault) -> None:
        async with node.busy:
            pid, process = node.pid, node.node.process
            assert process is not None
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            left = len(os.listdir(f"/proc/{pid}/fd")) + int(fault.slack * MOST_DESCRIPTORS)
        with self._blow(node, fault.kind):
            # The node may be killed meanwhile, and another process have its number: never before
            # somebody has waited for it, which is what poll() tells.
            if process.poll() is None:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(left, soft), hard))
            await trio.sleep(fault.duration)
            if process.poll() is None:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))

    async def _swap_datadir(self, node: StormNode, fault: Fault) -> None:
        disk = node.node.disk
        async with node.busy:
            with self._blow(node, fault.kind):
                await node.end(node.node.kill if fault.choice < 0.5 else node.node.stop)
                away = disk.swap()
                node.stores += 1
                node.store = node.stores
                await node.start()
                await trio.sleep(fault.duration)
                await node.end(node.node.stop)
                disk.swap_back(away)
                node.store = 0
                await node.start()

    @contextlib.contextmanager
    def _blow(self, node: StormNode, kind: str) -> Iterator[None]:
        self._note(node.node.name, kind)
        with node.hit(kind):
            yield
        self._note(node.node.name, f"{kind}: over")

    # --- units ----------------------------------------------------------------------------------

    async def _next_victim(self, fault: Fault) -> Recorded | None:
        """Return the next unit that starts: nothing is running, and a blow should hit."""
        entry = await self._wait_for("start", fault)
        return None if entry is None else self._victim(fault, entry)

    def _victim(self, fault: Fault, entry: Entry | None) -> Recorded | None:
        """Return the unit whose moment it is, whatever its state; else one that runs."""
        if entry is not None:
            return self._scene.find(entry.node, entry.unit)
        running = self._scene.running(fault.target)
        if fault.kind != "spoil files":
            # Of the others, this node has but a copy.
            running = [unit for unit in running if unit.supervisor is not None]
        if fault.kind in THERE:
            running = [unit for unit in running if self._is_from_elsewhere(unit.token)]
        return running[int(fault.choice * len(running))] if running else None

    def _is_from_elsewhere(self, token: str) -> bool:
        job = self._scene.fates[token].job
        return job.node != job.target

    def _hit(self, victim: Recorded, kind: str, text: str) -> Hit:
        hit = Hit(kind)
        self._scene.fates[victim.token].hits.append(hit)
        self._note(victim.token, text)
        return hit

    async def _kill_supervisor(self, fault: Fault, victim: Recorded) -> None:
        if victim.supervisor is None:
            return
        # By now it may have another unit: whose it was is asked when all is over.
        hit = self._hit(victim, fault.kind, f"{fault.kind} {victim.supervisor.pid}")
        self._scene.killed_supervisors[victim.supervisor] = hit
        tree.send_signal(victim.supervisor.pid, victim.supervisor.started, signal.SIGKILL)
        await trio.lowlevel.checkpoint()

    async def _kill_command(self, fault: Fault, victim: Recorded) -> None:
        await trio.lowlevel.checkpoint()
        process = tree.read_process(victim.pid) if victim.pid else None
        if process is None or victim.supervisor is None or process.parent != victim.supervisor.pid:
            return
        if tree.send_signal(process.pid, process.started, signal.SIGKILL):
            self._hit(victim, fault.kind, f"{fault.kind} {process.pid}")

    async def _end_there(self, fault: Fault, victim: Recorded) -> None:
        """Have somebody else end a unit where it runs, perhaps while its submitter is away."""
        verb = "cancel" if fault.kind == "cancel there" else fault.verb
        job = self._scene.fates[victim.token].job
        async with self._away(job.node, fault):
            self._hit(victim, fault.kind, f"work {verb} {victim.unit} on {fault.target}")
            with trio.move_on_after(THERE_PATIENCE):
                reply = await self._scene.nodes[fault.target].again(
                    lambda talk: talk.ask(f"work {verb} {victim.unit}")
                )
                self._note(victim.token, f"answered {reply}")

    @contextlib.asynccontextmanager
    async def _away(self, name: str, fault: Fault) -> AsyncIterator[None]:
        """Keep the submitter out of it: killed and not back yet, or without links."""
        node = self._scene.nodes[name]
        links = [link for link in self._link_busy if name in link.split("-")]
        if fault.cover == "kill" and not node.busy.locked():
            async with node.busy:
                with self._blow(node, "kill node"):
                    await node.end(node.node.kill)
                    yield
                    await trio.sleep(fault.duration)
                    await node.start()
        elif fault.cover == "cut" and not any(self._link_busy[link].locked() for link in links):
            async with contextlib.AsyncExitStack() as held:
                for link in links:
                    await held.enter_async_context(self._link_busy[link])
                    self._note(link, "cut link")
                    self._scene.relays[link].cut()
                yield
                await trio.sleep(fault.duration)
                for link in links:
                    self._scene.relays[link].heal()
                    self._note(link, "healed")
        else:
            yield

    async def _spoil_files(self, fault: Fault, victim: Recorded) -> None:
        await trio.lowlevel.checkpoint()
        name, what = fault.spoil
        directory = self._scene.nodes[fault.target].node.units / victim.unit
        text = f"{fault.target}: {name or 'the directory'} of unit {victim.unit}: {what}"
        hit = self._hit(victim, f"spoil {name or 'directory'}", text)
        job = self._scene.fates[victim.token].job
        if not name and fault.target == job.target != job.node:
            self._scene.fates[victim.token].hits.append(Hit(FORGOTTEN, hit.begun))
        try:
            if name:
                put_strange(directory / name, what)
            else:
                shutil.rmtree(directory)
        except OSError as error:
            # The node has put something there in the same moment, or the unit was released.
            self._note(victim.token, f"not quite: {error}")


def _launcher(node: StormNode) -> tuple[int, int] | None:
    try:
        launcher = launcher_of(node.pid)
    except (ValueError, FileNotFoundError, ProcessLookupError):
        return None
    return launcher.pid, launcher.started
