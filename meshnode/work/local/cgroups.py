"""The control groups of this node's units: made ready at its start, used, ended and swept.

Supervisors make and remove the group of each unit (:mod:`.launcher.groups`). The node removes those
of supervisors that were killed: with the end of their unit, or at its next start.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from meshnode import files
from meshnode.errors import WorkError
from meshnode.logs import subject_logger
from meshnode.resources import in_thread
from meshnode.work.local.hierarchies import (
    OF_V2,
    OWN_GROUP,
    UNIFIED,
    Hierarchies,
    look,
    may_raise_limits,
)
from meshnode.work.local.launcher.groups import (
    Group,
    Layout,
    make_directory,
    read,
    tree_of,
    write,
)
from meshnode.work.local.launcher.limitedrun import open_group, usage_record
from meshnode.work.local.launcher.statusfile import MAX_STATUS_BYTES, PENDING, RUNNING
from meshnode.work.local.processes import ProcessId, current_start_time, end_processes
from meshnode.work.units.unit import Unit

FILE = ".groups"
"""In the node's directory: where its groups are. The next run may be elsewhere, and sweeps there
as well."""

MAX_FILE_BYTES = 64 * 1024
"""Bytes of that file at most; it has some 100 for each hierarchy."""

NAME_DIGITS = 12
"""Digits of the digest of a node's directory in the name of its groups' directory: no two nodes of
a machine share them."""


class JobGroups:
    """The groups of one node's units. Methods block unless they are async.

    Args:
        root: the node's directory, without links in its path.
        hierarchies: what was found at the start, None to look when the first is needed.
    """

    def __init__(self, root: Path, hierarchies: Hierarchies | None = None) -> None:
        self._root = root
        self._found = hierarchies
        self._layout: Layout | None = None
        self._is_ready = False
        self._name = _name_of(root)
        self._log = subject_logger("limits")

    @property
    def in_words(self) -> str | None:
        """What keeps limits, for a person; None while nobody has needed that."""
        return None if self._found is None else self._found.in_words

    async def open(self, *, are_wanted: bool) -> None:
        """Be ready if limits are wanted; remove what earlier runs have left in any case.

        Raises:
            WorkError: there can be no groups.
        """
        if are_wanted:
            await in_thread(self.make_ready)
        await self.sweep()

    def close(self) -> None:
        """Remove the directories that groups are made in, unless units go on in them."""
        self._is_ready = False
        for base in self._bases():
            with suppress(OSError):
                os.rmdir(base)

    def make_ready(self) -> None:
        """Choose what keeps limits, and make the directories that groups are made in.

        They are made again if they are gone: who tidies up empty groups, as systemd does in its own
        hierarchies, takes those that no unit is in.

        Raises:
            WorkError: that cannot be.
        """
        was_ready = self._is_ready
        if was_ready and all(map(os.path.isdir, self._bases())):
            return
        try:
            self._found = self._found or look()
            self._layout = self._made(self._found)
            if self._layout is not None:
                self._note(self._bases())
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            reason = f"{where}{error.strerror or error}"
            raise WorkError(f"cannot make control groups for limits: {reason}") from error
        self._is_ready = True
        if was_ready:
            self._log.warning("directories of control groups were removed, and are made again")
        else:
            self._log.info("limits of units are kept by %s", self._found.in_words)

    def _bases(self) -> Iterable[str]:
        return () if self._layout is None else self._layout.bases.values()

    def _made(self, found: Hierarchies) -> Layout | None:
        usable = {
            name: path
            for name, path in found.directories.items()
            if os.access(path, os.W_OK | os.X_OK)
        }
        if found.version == 2:
            if not (usable and found.is_ours):
                return None
            return self._made_on_v2(usable[UNIFIED], found)
        bases = {name: f"{path}/{self._name}" for name, path in usable.items()}
        if not bases:
            return None
        for path in bases.values():
            make_directory(path)
        return Layout(1, UNIFIED in bases, found.swap, bases, usable)

    def _made_on_v2(self, directory: str, found: Hierarchies) -> Layout:
        """Divide this process's directory: a child for what is in it, and one for groups."""
        home, base = f"{directory}/{OWN_GROUP}", f"{directory}/{self._name}"
        wanted = " ".join(f"+{name}" for name in OF_V2 if name in found.controllers)
        if os.path.exists(f"{directory}/cgroup.events"):
            make_directory(home)
        else:
            # The root of the whole machine; it alone may have processes beside children.
            home = directory
        # A directory with controllers for its children must have no process of its own.
        for pid in () if home == directory else read(f"{directory}/cgroup.procs").split():
            try:
                write(f"{home}/cgroup.procs", pid)
            except ProcessLookupError:
                continue
        write(f"{directory}/cgroup.subtree_control", wanted)
        make_directory(base)
        write(f"{base}/cgroup.subtree_control", wanted)
        return Layout(2, found.kills, found.swap, {UNIFIED: base}, {UNIFIED: home})

    # --- units --------------------------------------------------------------------------------

    def order(self, limits: Mapping[str, float]) -> str:
        """Return what a supervisor is told of a unit's limits; ``LimitedRun`` reads it."""
        told = {
            "layout": self._layout and self._layout.to_wire(),
            "values": dict(limits),
            "may_raise": may_raise_limits(),
        }
        return json.dumps(told)

    def _of(self, unit_id: str, limits: Mapping[str, float]) -> Group | None:
        if self._layout is None:
            return None
        return open_group(self._layout, unit_id, dict(limits))

    def usage(self, unit_id: str, limits: Mapping[str, float]) -> Mapping[str, object]:
        """Return what a running unit has used up to now, as the key of its status."""
        group = self._of(unit_id, limits)
        if group is None:
            return {}
        try:
            seconds, peak = group.cpu_seconds(), group.peak_memory()
            if seconds is None and peak is None:
                # Its group is not made yet, or gone.
                return {}
            return usage_record(seconds, peak, group.moved_bytes())
        except (OSError, ValueError):
            return {}

    async def start(self, unit: Unit) -> str | None:
        """Return what the supervisor of a unit is to be told of its limits; None if it has none.

        Raises:
            WorkError: there can be no groups. A reload may have brought the first type with limits.
        """
        if not unit.status.limits:
            return None
        await in_thread(self.make_ready)
        self.watch(unit)
        return self.order(unit.status.limits)

    def watch(self, unit: Unit) -> None:
        """Have replies about a unit with limits say what it uses."""
        if limits := unit.status.limits:
            unit.measure = partial(self.usage, unit.unit_id, limits)

    async def end(self, unit: Unit, grace: float, *, is_left: bool = False) -> None:
        """End what is in the group of a unit whose supervisor is gone, and remove it.

        With ``is_left`` it was ended already but for what is to go on, which goes on outside.
        """
        group = self._of(unit.unit_id, unit.status.limits) if unit.status.limits else None
        if group is None:
            return
        if is_left:
            await in_thread(group.move_out)
        await end_group(group, grace)

    # --- what is left over --------------------------------------------------------------------

    async def sweep(self) -> None:
        """Remove the groups of units that have ended or are gone, of runs before, too."""
        if not (self._root / FILE).exists():
            return
        for unit_id, groups in (await in_thread(self._left_over)).items():
            self._log.warning("unit %s has ended, and its group is removed now", unit_id)
            for group in groups:
                await end_group(group, 0)

    def _left_over(self) -> dict[str, list[Group]]:
        found: dict[str, list[Group]] = {}
        for base in self._noted():
            for name in _directories(base):
                found.setdefault(name, []).append(DirectoryGroup(f"{base}/{name}"))
        return {name: groups for name, groups in found.items() if not self._may_go_on(name)}

    def _may_go_on(self, unit_id: str) -> bool:
        """Whether a unit has not ended: it is not swept then, whatever is wrong with it."""
        try:
            status = json.loads(files.read_file(self._root / unit_id / "status", MAX_STATUS_BYTES))
            return status["State"] in (PENDING, RUNNING)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return True

    def _noted(self) -> list[str]:
        """Return the directories that groups were ever made in, as far as that is known."""
        try:
            told = json.loads(files.read_file(self._root / FILE, MAX_FILE_BYTES))
            # What somebody else has written there is not followed.
            return [path for path in told if os.path.basename(path) == self._name]
        except (OSError, ValueError, TypeError, RecursionError):
            return []

    def _note(self, bases: Iterable[str]) -> None:
        noted = self._noted()
        fresh = [path for path in noted if os.path.isdir(path)]
        fresh += [path for path in bases if path not in fresh]
        if fresh == noted:
            return
        text = json.dumps(fresh).encode()
        scratch = f"{self._root / FILE}.tmp"
        descriptor, _ = files.open_scratch(scratch)
        try:
            os.write(descriptor, text)
            os.ftruncate(descriptor, len(text))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        files.put_in_place(scratch, self._root / FILE)


def _name_of(root: Path) -> str:
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:NAME_DIGITS]
    return f"meshnode-{digest}"


def groups_of(root: Path) -> "list[DirectoryGroup]":
    """Return what holds the groups of a node that runs no more; its directory may be gone."""
    places = (f"{path}/{_name_of(root)}" for path in look().directories.values())
    return [DirectoryGroup(path) for path in places if os.path.isdir(path)]


class DirectoryGroup(Group):
    """One directory of a group of which nothing else is known: it is ended and removed."""

    def __init__(self, path: str) -> None:
        self.path = path
        kills = path if os.path.exists(f"{path}/cgroup.kill") else ""
        super().__init__([(path, "", "")], path, kills)

    def freeze(self, is_frozen: bool) -> None:
        """Do nothing: what is born while others are killed is killed by the next look."""


async def end_group(group: Group, grace: float) -> None:
    """End what is in a group, after ``grace`` seconds by force, and remove it."""
    refused: set[ProcessId] = set()
    while found := set(await in_thread(_processes, group)) - refused:
        if grace <= 0:
            await in_thread(group.kill)
        refused |= await end_processes(found, grace)
        grace = 0
    await in_thread(group.remove)


def _processes(group: Group) -> list[ProcessId]:
    found = ((pid, current_start_time(pid)) for pid in group.processes())
    return [ProcessId(pid, started) for pid, started in found if started is not None]


def _directories(base: str) -> list[str]:
    return [os.path.basename(path) for path in tree_of(base)[1:] if os.path.dirname(path) == base]
