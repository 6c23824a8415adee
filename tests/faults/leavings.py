"""What must not be left when all units are released: processes, descriptors, files, locks."""

import fcntl
import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import trio
from harness import wait_until
from launching import launcher_of
from machines import StormNode
from marks import MARK
from scene import Fate, Scene
from verdict import Verdict, list_units, shown

BROKEN = ".broken"
RELEASED = ".released-"

END_PATIENCE = 60.0
"""Seconds that what was released has for its end: more than a command's grace."""

END_PAUSE = 0.2
"""Seconds between two looks at all processes."""

SPARE_PIDFDS = 1
"""A node holds on to its launcher; each further pidfd is that of a supervisor."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A process of a node, or of a unit."""

    pid: int
    command: str
    directory: str
    """That of its unit; empty for what is none's."""


class Leavings:
    """Releases everything, and looks what that leaves."""

    def __init__(self, scene: Scene, verdict: Verdict) -> None:
        self._scene = scene
        self._verdict = verdict

    async def check(self) -> None:
        """Restart, release, look, stop, and look again.

        Raises:
            AssertionError: something is left.
        """
        misled = self._scene.cluster.directory / f"{self._scene.flavour.receptor}.misled"
        assert not misled.exists(), f"a receptor node was sent {misled.read_text()}"
        await self._check_restart()
        await self._release_ours()
        await self._check_orphans()
        for node in self._scene.nodes.values():
            await trio.to_thread.run_sync(_wait_empty, self._scene, node)
            await _wait_none(
                partial(_descriptors, node), f"descriptors that {node.node.name} has open"
            )
        await self._check_processes()
        await trio.to_thread.run_sync(self._scene.far.wait_clean)
        mark = self._scene.cluster.mark
        for node in self._scene.nodes.values():
            await node.end(node.node.stop)
            # The launcher ends after its node.
            await _wait_none(node.node.disk.mounts, f"mounts of {node.node.name}")
            _check_unlocked(node.node.units)
            assert _groups(node.node.units) == [], f"groups that {node.node.name} has left"
        await _wait_none(partial(_marked, mark), "processes")

    async def _check_processes(self) -> None:
        """Nothing is left but the nodes and their launchers."""
        nodes = {pid for node in self._scene.nodes.values() for pid in node.node.pids}
        launchers = {launcher_of(node.pid).pid for node in self._scene.nodes.values()}
        mark = self._scene.cluster.mark

        def left() -> list[Marked]:
            return [process for process in _marked(mark) if process.pid not in nodes | launchers]

        with trio.move_on_after(END_PATIENCE):
            while left():
                await trio.sleep(END_PAUSE)
        faults: dict[str, list[str]] = {}
        for process in left():
            directory = PurePath(process.directory)
            token = self._scene.token(directory.parent.name, directory.name)
            if is_nobodys(self._scene.fates.get(token)):
                os.kill(process.pid, signal.SIGKILL)
                continue
            faults.setdefault(token, []).append(f"process {process.pid} is left: {process.command}")
        await self._verdict.fail_if(faults)

    async def _check_restart(self) -> None:
        """What a node says of an ended unit, it says for ever."""
        faults: dict[str, list[str]] = {}
        for name, node in self._scene.nodes.items():
            before = await list_units(node)
            await node.end(node.node.kill)
            await node.start()
            after = await list_units(node)
            for unit, status in before.items():
                now = after.get(unit)
                fate = self._scene.fates.get(token := self._scene.token(name, unit))
                spoiled = fate is not None and any("spoil" in hit.kind for hit in fate.hits)
                if now is None and spoiled:
                    continue
                if now is None or shown(now) != shown(status):
                    text = "unknown" if now is None else shown(now)
                    faults.setdefault(token, []).append(
                        f"unit {unit} of {name} was {shown(status)}, and after a restart {text}"
                    )
        await self._verdict.fail_if(faults)

    async def _release_ours(self) -> None:
        """Have each client release its unit; that of a remote unit goes with it."""
        for fate in self._scene.fates.values():
            node = self._scene.nodes[fate.job.node]
            reply = await node.again(lambda talk, unit=fate.unit: talk.ask(f"work release {unit}"))
            if not reply.startswith("{"):
                assert reply.startswith("ERROR: unknown work unit"), f"{fate}: {reply}"
            elif "release pending" in reply:
                # The node was restarted a moment ago and has no route yet.
                directory = node.node.units / fate.unit
                await trio.to_thread.run_sync(_wait_gone, directory)

    async def _check_orphans(self) -> None:
        """What is left on other nodes now must be the doing of somebody who is known."""
        faults: dict[str, list[str]] = {}
        for name, node in self._scene.nodes.items():
            for unit, status in (await list_units(node)).items():
                token = self._scene.token(name, unit)
                if not self.is_explained(token, name, unit):
                    faults.setdefault(token, []).append(
                        f"unit {unit} is left on {name}: {shown(status)}"
                    )
                reply = await node.again(lambda talk, unit=unit: talk.ask(f"work release {unit}"))
                assert reply.startswith("{"), f"{unit} of {name}: {reply}"
        await self._verdict.fail_if(faults)

    def is_explained(self, token: str, name: str, unit: str) -> bool:
        """Whether it is known why nobody has released a unit of a node."""
        fate = self._scene.fates.get(token)
        if fate is None:
            return False
        if name == fate.job.node and fate.unanswered:
            # The node was killed between the unit and its ID, so nobody could send it any input.
            return all((one.node, one.unit) != (name, unit) for one in self._scene.ledger.entries)
        if name == self._scene.flavour.receptor:
            # Without keys, a submitter that was killed before it knew the unit's ID never will.
            return True
        nodes = [self._scene.nodes[fate.job.node], self._scene.nodes[fate.job.target]]
        kinds = {hit.kind for node in nodes for hit in node.hits}
        kinds |= {hit.kind for hit in fate.hits}
        return bool(kinds & {"swap datadir", "spoil status", "spoil directory"})


async def _wait_none(look: Callable[[], Sequence[object]], what: str) -> None:
    """Wait until there is nothing left of a kind: what ends by itself may take a moment."""
    with trio.move_on_after(END_PATIENCE):
        while look():
            await trio.sleep(END_PAUSE)
    assert look() == [], what


def is_nobodys(fate: Fate | None) -> bool:
    """Whether no node may know of a unit's processes, and no supervisor does."""
    kinds = {hit.kind for hit in fate.hits} if fate is not None else set()
    return kinds >= {"kill supervisor", "spoil directory"}


def _wait_gone(directory: Path) -> None:
    wait_until(
        lambda: not directory.exists(), watch=[directory.parent], what=f"the release of {directory}"
    )


def _wait_empty(scene: Scene, node: StormNode) -> None:
    directory = node.node.units

    def left() -> list[str]:
        # What begins with a dot is the node's own; but for what it is about to delete.
        return sorted(
            name
            for name in os.listdir(directory)
            if name.startswith(RELEASED) or not name.startswith(".")
        )

    # A release that another node asked for deletes the files after its answer.
    wait_until(lambda: not left(), watch=[directory], what=f"the release of {left()}")
    broken = directory / BROKEN
    spoiled = {
        fate.job.token for fate in scene.fates.values() if any("spoil" in h.kind for h in fate.hits)
    }
    names = sorted(os.listdir(broken)) if broken.exists() else []
    assert len(names) <= len(spoiled), f"set aside: {names}, spoiled: {sorted(spoiled)}"


def _descriptors(node: StormNode) -> list[str]:
    """Return what a node that has nothing to do has open and should not."""
    found, pidfds = [], 0
    for entry in Path(f"/proc/{node.node.pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        pidfds += "pidfd" in target
        is_of_unit = target.startswith(f"{node.node.disk.datadir}/{node.node.name}/")
        if is_of_unit or target.endswith("(deleted)") or pidfds > SPARE_PIDFDS:
            found.append(target)
    return found


def _groups(units: Path) -> list[str]:
    """Return the control groups of a node that are there."""
    noted = units / ".groups"
    places = json.loads(noted.read_bytes()) if noted.exists() else []
    return [place for place in places if os.path.exists(place)]


def _check_unlocked(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AssertionError(f"{directory} is still locked") from None
    finally:
        os.close(descriptor)


def _marked(mark: str) -> list[Marked]:
    """Return whatever was started by the cluster's nodes."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            lines = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        environment = dict(line.split("=", 1) for line in lines if "=" in line)
        if environment.get(MARK) == mark:
            directory = environment.get("MESHNODE_UNIT_DIR", "")
            found.append(Marked(int(entry.name), words.decode(errors="replace"), directory))
    return found
