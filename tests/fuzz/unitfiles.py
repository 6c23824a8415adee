"""The target ``unitfiles``: what a node finds in its directory of units when it starts."""

import json
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from hostile.forge import LETTERS, Raw, to_json

from fuzz import mutate
from fuzz.engine import Target, World
from fuzz.workworld import FakeMesh, FakeNode, ask, disk, retaining, works

LISTENS = 30.0
"""Simulated seconds for which a client waits for what a unit from the disk has to say."""

NOBODY = 65_534
"""A user that owns nothing of ours."""

SPARSE = 300 << 20
"""Bytes of a file that is too large to be read, and takes no room on the disk."""

TIMES = ("Created", "Started", "Finished")


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a unit's directory, and what is there: ``text`` in a file, or something else."""

    name: str
    kind: str
    text: bytes = b""


@dataclass(frozen=True, slots=True)
class Files:
    """One directory among the units."""

    name: str
    entries: tuple[Entry, ...]
    mode: int = 0o700


class UnitFilesWorld(World):
    """The directory of a node that does not run, but for a while at each check."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self._names: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["UnitFilesWorld"]:
        """Make the directory, and another node that has work done."""
        mesh = FakeMesh()
        with disk() as root:
            async with FakeNode(mesh, "bar", root).running():
                node = FakeNode(mesh, "foo", root)
                node.store.root.mkdir(mode=0o700)
                yield cls(node)

    async def feed(self, item: object) -> None:
        """Put a directory there."""
        assert isinstance(item, Files)
        await trio.lowlevel.checkpoint()
        place = self._node.store.root / item.name
        place.mkdir(exist_ok=True)
        self._names.add(item.name)
        for entry in item.entries:
            path = place / entry.name
            if not os.path.lexists(path):
                MAKERS[entry.kind](path, entry.text)
        place.chmod(item.mode)

    async def check(self) -> None:
        """Start the node, see that it works, and ask about what it has found."""
        async with retaining(self._node) as node:
            await works(node, "foo")
            await works(node, "bar")
            await ask(node, "work list")
            for name in sorted(self._names):
                for stream in ("stderr", "index"):
                    with trio.move_on_after(LISTENS):
                        await ask(node, _results(name, stream))
                for command in ("status", "results", "cancel", "release", "force-release"):
                    with trio.move_on_after(LISTENS):
                        await ask(node, f"work {command} {name}")
        async with retaining(self._node) as node:
            await works(node, "foo")
        self._clear()

    def _clear(self) -> None:
        with os.scandir(self._node.store.root) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)  # what the node keeps of its own
        self._names.clear()


def _results(unit: str, stream: str) -> str:
    request = {"command": "work", "subcommand": "results", "unitid": unit, "startpos": 0}
    return json.dumps({**request, "stream": stream})


def _write(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    path.chmod(0o600)


def _directory(path: Path, text: bytes) -> None:
    path.mkdir()
    (path / "inside").write_bytes(text)


def _sparse(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    os.truncate(path, SPARSE)


def _foreign(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)


def _open_to_all(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    path.chmod(0o666)


def _linked(path: Path, text: bytes) -> None:
    target = path.with_name(path.name + ".real")
    target.write_bytes(text)
    path.symlink_to(target.name)


MAKERS: dict[str, Callable[[Path, bytes], None]] = {
    "file": _write,
    "fifo": lambda path, text: os.mkfifo(path),
    "directory": _directory,
    "sparse": _sparse,
    "foreign": _foreign,
    "open to all": _open_to_all,
    "linked": _linked,
    "dangling": lambda path, text: path.symlink_to("nowhere"),
    "circular": lambda path, text: path.symlink_to(path.name),
    "null device": lambda path, text: path.symlink_to("/dev/null"),
}
"""What can be where a file should: how it is made."""


def local_status(chance: random.Random) -> dict[str, Any]:
    """Return the status of a unit of this machine."""
    state = chance.randrange(5)
    return {
        "State": state,
        "Detail": ["Waiting for Input Data", "Running: PID 9", "exit status 0", "x", "Canceled"][
            state
        ],
        "StdoutSize": 5,
        "WorkType": chance.choice(["cat", "wait", "signed", "gone"]),
        "ExtraData": None,
        "Created": "2026-11-02T03:00:00.000000Z",
        "Started": "2026-11-02T03:00:01.000000Z" if state else None,
        "Finished": "2026-11-02T03:00:02.000000Z" if state > 1 else None,
        "ExitCode": 0 if state > 1 else None,
        "Signal": None,
        "StdinSize": 5,
        "Params": ["cat", "x"],
        "Pid": 9 if state == 1 else None,
        "Supervisor": {"Pid": 999_999, "Started": 7} if state == 1 else None,
        **({"StderrSize": 6, "IndexSize": 32} if chance.random() < 0.3 else {}),
        "Boot": "first boot",
        "SubmissionKey": "bar:12345678",
        "SubmittedBy": {
            **{"Kind": "mesh", "Node": "bar", "Service": "x"},
            "Claim": {"Kind": "unix", "Uid": 1000, "Gid": 100, "Pid": 7, "User": "ann"},
        },
        "SignedBy": "release",
        "AdoptedBy": {"Kind": "tcp", "Address": "127.0.0.1:9"},
        "SubmittedParams": "a b",
        "EndedBy": {"Cause": "cancel", "By": {"Kind": "tcp", "Address": "127.0.0.1:9"}},
    }


def remote_status(chance: random.Random) -> dict[str, Any]:
    """Return the status of a unit that was given to another node."""
    status = local_status(chance)
    for key in ("Params", "Pid", "Supervisor", "SubmissionKey"):
        del status[key]
    extra = {
        "RemoteNode": chance.choice(["bar", "bar", "nobody"]),
        "RemoteWorkType": "cat",
        "RemoteParams": {"params": "x"},
        "RemoteUnitID": chance.choice(["", "12345678"]),
        "RemoteStarted": chance.random() < 0.5,
        "LocalCancelled": chance.random() < 0.2,
        "LocalReleased": chance.random() < 0.1,
        "SignWork": False,
        "TLSClient": "",
        "Expiration": chance.choice(["0001-01-01T00:00:00Z", "2026-11-03T03:00:00Z"]),
    }
    if chance.random() < 0.4:
        extra = mutate.fields(extra, chance)
    return status | {
        "WorkType": "remote",
        "ExtraData": Raw(to_json(extra).decode(errors="replace")),
    }


class UnitFiles(Target):
    """See the module."""

    name = "unitfiles"
    about = "files of units on disk, at the start of their node"
    episode = 300
    check_every = 50

    def make(self, chance: random.Random) -> Files:
        """Return the directory of one unit."""
        entries = [
            Entry("status", self._kind(chance), self._status(chance)),
            Entry("stdin", self._kind(chance), b"input"),
            Entry("stdout", self._kind(chance), b"output"[: chance.choice([0, 5, 6])]),
        ]
        if chance.random() < 0.3:
            for name, text in (("stderr", b"errors"), ("index", bytes(32))):
                size = chance.choice([0, 5, len(text)])
                entries.append(Entry(name, self._kind(chance), text[:size]))
        if chance.random() < 0.1:
            entries.pop(chance.randrange(len(entries)))
        if chance.random() < 0.1:
            name = chance.choice(["status.tmp", "status.lock", "core", "-rf", "\udcff", "x" * 200])
            entries.append(Entry(name, chance.choice(list(MAKERS)), b"x"))
        mode = chance.choice([0o700] * 8 + [0o777, 0o000, 0o500])
        return Files(self._name(chance), tuple(entries), mode)

    def _name(self, chance: random.Random) -> str:
        if chance.random() < 0.05:
            return chance.choice(
                [".broken", ".released-12345678", "short", "12345678.2", "a b c d e"]
            )
        return "".join(chance.choice(LETTERS) for _ in range(8))

    def _kind(self, chance: random.Random) -> str:
        return "file" if chance.random() < 0.93 else chance.choice(list(MAKERS))

    def _status(self, chance: random.Random) -> bytes:
        good = local_status(chance) if chance.random() < 0.6 else remote_status(chance)
        changed = mutate.fields(good, chance, most=2) if chance.random() < 0.9 else good
        if chance.random() < 0.2:
            changed[chance.choice(TIMES)] = Raw(json.dumps(chance.choice(mutate.TIMES)))
        text = to_json(changed)
        return mutate.damaged(text, chance) if chance.random() < 0.1 else text

    def world(self) -> AbstractAsyncContextManager[World]:
        """Make a directory of units."""
        return UnitFilesWorld.open()
