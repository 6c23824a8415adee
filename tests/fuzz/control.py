"""The target ``control``: command lines of every command, with any fields."""

import hashlib
import json
import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

import trio
from hostile.forge import Raw, to_json

from fuzz import mutate
from fuzz.engine import Target
from fuzz.meshworld import GONE, MeshWorld
from fuzz.workworld import PAYLOAD, FakeDialer, FakeMesh, FakeNode, ask, disk, retaining, works
from meshnode.control.mesh_asking import NodeAsker
from meshnode.control.mesh_command import MeshCommand
from meshnode.control.mesh_commands import register_mesh_commands
from meshnode.control.mesh_events import MeshEvents
from meshnode.mesh.peers.conditions import LinksReport
from meshnode.work.placement.load import describe_tags
from meshnode.work.remote.asking import AskThere
from meshnode.work.units.access import Signatures

LISTENS = 40.0
"""Simulated seconds for which a client listens; a wish for a node that is away may take 20."""

UNITS_KEPT = 20
"""Units of honest clients that strangers may ask about."""


@dataclass(frozen=True, slots=True)
class Lines:
    """What a client sends over a connection of that kind, and whether it then says that it is
    done, just closes, or waits."""

    kind: str
    data: bytes
    end: str


class ControlWorld(MeshWorld):
    """The victim has a control service with all commands, and can have work done on ``bar``."""

    async def prepare(self, stack: AsyncExitStack) -> None:
        """Start the units of both nodes."""
        root = stack.enter_context(disk())
        mesh = FakeMesh()
        self.node, other = FakeNode(mesh, "victim", root), FakeNode(mesh, "bar", root)
        for node in (self.node, other):
            await stack.enter_async_context(retaining(node))
        registry = self.node.registry
        register_mesh_commands(registry, self.victim, _reload, self.node.units.warnings)
        asker = NodeAsker(AskThere(FakeDialer(mesh, "victim"), Signatures()).command)
        seen = MeshCommand(self.victim, registry, LinksReport, describe_tags, asker)
        registry.register(seen.command())
        self.nursery.start_soon(MeshEvents(self.node.hub, self.victim).run)
        self.units = [await works(self.node, target) for target in ("victim", "bar")]

    async def feed(self, item: object) -> None:
        """Be a client, to its end."""
        assert isinstance(item, Lines)
        client = self.node.connect(item.kind)
        data = item.data.replace(b"@UNIT@", self.units[-1].encode())
        data = data.replace(b"@BAR@", self.units[1].encode())
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(_send, client, data, item.end)
            with trio.move_on_after(LISTENS):
                try:
                    while await client.receive_some(65536):
                        pass
                except GONE:
                    pass
            nursery.cancel_scope.cancel()
        await self.settle()

    async def check(self) -> None:
        """See that the mesh and the work of honest clients go on."""
        await super().check()
        for target in ("victim", "bar"):
            self.units.append(await works(self.node, target))
        for unit in self.units[2:-UNITS_KEPT]:
            await ask(self.node, f"work release {unit}")
            self.units.remove(unit)


async def _reload() -> None:
    await trio.lowlevel.checkpoint()


async def _send(client: trio.abc.HalfCloseableStream, data: bytes, end: str) -> None:
    try:
        await client.send_all(data)
        if end == "eof":
            await client.send_eof()
        elif end == "close":
            await client.aclose()
    except GONE:
        pass


CLAIM = '{"Kind": "unix", "Uid": 1000, "Gid": 100, "Pid": 7, "User": "ann"}'
"""For whom another node may say that it asks."""

COMMANDS: tuple[dict[str, Any], ...] = (
    {"command": "status", "requested_fields": ["NodeID", "Connections"]},
    {"command": "ping", "target": "left"},
    {"command": "traceroute", "target": "right"},
    {"command": "events", "topics": ["units", "mesh"], "since": 17},
    {"command": "mesh", "detail": True, "nodes": ["left", "right", "nobody"]},
    {"command": "connect", "node": "left", "service": "control", "tls": ""},
    {"command": "reload"},
    *(
        {"command": "work", "subcommand": "submit", "node": node, "worktype": kind, "params": "a b"}
        for node in ("victim", "localhost", "bar", "left", "nobody")
        for kind in ("cat", "wait", "signed", "remote", "nothing")
    ),
    {
        **{"command": "work", "subcommand": "submit", "node": "bar", "worktype": "cat"},
        **{"ttl": "10s", "signwork": "false", "signature": "", "tlsclient": ""},
        **{"stdinsize": str(len(PAYLOAD)), "stdinsha256": "", "submissionkey": "foo:12345678"},
        **{"submissionfollow": "true", "secret_word": "x"},
        **{"submissionlabels": '{"job": "nightly"}', "onbehalfof": CLAIM},
    },
    {
        **{"command": "work", "subcommand": "submit", "node": "victim", "worktype": "cat"},
        **{"stdinsize": str(len(PAYLOAD)), "stdinsha256": hashlib.sha256(PAYLOAD).hexdigest()},
        **{"submissionkey": "in parts", "submissionresume": "true"},
    },
    {"command": "work", "subcommand": "submitted", "submissionkey": "in parts"},
    *(
        {"command": "work", "subcommand": name, "unitid": unit, "signature": ""}
        for name in ("status", "watch", "cancel", "release", "force-release", "list")
        for unit in ("@UNIT@", "@BAR@", "nothing1")
    ),
    {
        **{"command": "work", "subcommand": "list", "state": ["running", "failed"], "type": "cat"},
        **{"node": ["victim", "bar"], "label": "job=nightly", "submitter": "root", "batch": "b"},
        **{"since": "2026-11-02T03:00:00Z", "limit": 3, "cursor": "WyIyMDI2IiwgIngiXQ"},
    },
    {"command": "work", "subcommand": "list", "limit": 1},
    {"command": "work", "subcommand": "cancel", "unitid": "@UNIT@", "unless": "started"},
    {"command": "work", "subcommand": "cancel", "unitid": "@UNIT@", "onbehalfof": CLAIM},
    {"command": "work", "subcommand": "release", "unitid": "@BAR@", "remote": "true"},
    *(
        {
            **{"command": "work", "subcommand": "adopt", "node": node, "unitid": "nothing1"},
            **{"tlsclient": "", "signwork": "false", "signature": ""},
        }
        for node in ("victim", "bar", "nobody")
    ),
    {"command": "work", "subcommand": "results", "unitid": "@UNIT@", "startpos": 0},
    {"command": "work", "subcommand": "results", "unitid": "@BAR@", "startpos": 3},
    *(
        {"command": "auth", "subcommand": "can", "verb": verb, "unitid": unit}
        for verb in ("list", "status", "results", "cancel", "release")
        for unit in ("@UNIT@", "@BAR@", "nothing1", "")
    ),
    *(
        {
            **{"command": "auth", "subcommand": "can", "verb": "submit", "worktype": "cat"},
            **{"node": node, "params": {"params": "a b", "secret_x": "y"}, "signwork": "false"},
        }
        for node in ("victim", "localhost", "bar", "nobody")
    ),
)
"""Good commands, in the JSON form."""

TEXTS: tuple[str, ...] = (
    *("status", "ping left", "traceroute right", "connect left control", "reload", "work list"),
    *("events", "events units,links 5", "mesh", "mesh detail"),
    *("work submit victim wait a 'b c'", "work submit bar cat", "work submit localhost cat x"),
    *("work status @UNIT@", "work watch @BAR@", "work cancel @UNIT@", "work release @UNIT@"),
    *("work force-release @BAR@", "work results @UNIT@ 0", "work results @UNIT@ -1", "work"),
    *("work adopt bar nothing1", "work adopt victim @UNIT@"),
    *("auth can submit cat bar a b", "auth can cancel @UNIT@", "auth can connect bar control"),
)
"""Good commands, in the text form."""

LONG_WORDS = ('a"b" ', "\\x", "'", '"', " ", "x", "é ", "\\\\\\")
"""Pieces of parameters whose splitting may take long."""


class Control(Target):
    """See the module."""

    name = "control"
    about = "control lines of each command with any fields, as text and JSON, payloads behind them"

    def make(self, chance: random.Random) -> Lines:
        """Return what one client sends."""
        data = b"".join(self._line(chance) for _ in range(chance.choice([1, 1, 1, 2, 4])))
        if chance.random() < 0.3:
            data += chance.choice([b"", PAYLOAD, chance.randbytes(50), b"\n" * 20, b"{" * 500])
        if chance.random() < 0.05:
            data = mutate.damaged(data, chance)
        end = chance.choices(["eof", "close", "wait"], [6, 2, 1])[0]
        return Lines(chance.choice(["unix", "tcp", "mesh"]), data, end)

    def _line(self, chance: random.Random) -> bytes:
        end = chance.choice([b"\n", b"\n", b"\n", b"\r\n", b""])
        if chance.random() < 0.3:
            return self._text(chance) + end
        good = chance.choice(COMMANDS)
        changed = mutate.fields(good, chance) if chance.random() < 0.95 else dict(good)
        if chance.random() < 0.8:
            changed |= {key: good[key] for key in ("command", "subcommand") if key in good}
        if "params" in good and chance.random() < 0.01:
            size = chance.choice([1000, 100_000, 900_000])
            changed |= {"worktype": "wait", "node": "victim"}
            changed["params"] = (chance.choice(LONG_WORDS) * size)[:size]
        if chance.random() < 0.1:
            changed["unitid"] = Raw(json.dumps(mutate.text(chance)))
        return to_json(changed).replace(b"\n", b" ") + end

    def _text(self, chance: random.Random) -> bytes:
        words = chance.choice(TEXTS).split(" ")
        for _ in range(chance.randrange(3)):
            place = chance.randrange(len(words) + 1)
            words[place : place + chance.randrange(2)] = [mutate.text(chance)]
        return " ".join(words).encode(errors="surrogatepass")

    def world(self) -> AbstractAsyncContextManager[MeshWorld]:
        """Open a mesh whose victim has a control service."""
        return ControlWorld.open()
