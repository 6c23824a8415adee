"""What is told of the mesh as it changes, and that it adds up to what the mesh is."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.control.events import EventHub, Listener
from meshnode.control.events_command import MESH_TOPICS
from meshnode.control.mesh_events import MeshEvents
from meshnode.control.meshview import seen_links, seen_services
from meshnode.mesh.links.base import Link
from meshnode.mesh.links.memory import memory_link_pair
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers.conditions import ConfiguredPeer, DialHistory, LinksReport, PeerState
from meshnode.policies import LinkPolicy

SETTLED = 30.0
"""Seconds until a mesh has found out whatever has changed."""


class Scene:
    """Some nodes, what foo tells of the mesh, and what a listener makes of it."""

    def __init__(self, nodes: dict[str, Mesh]) -> None:
        self.nodes = nodes
        self.foo = nodes["foo"]
        self.hub = EventHub()
        self.peers: list[ConfiguredPeer] = []
        self.told: list[dict[str, object]] = []
        self.links: dict[str, object] = {}
        self.routes: dict[str, str] = {}
        self.services: dict[str, object] = {}

    @property
    def events(self) -> MeshEvents:
        return MeshEvents(self.hub, self.foo, lambda: LinksReport(tuple(self.peers)))

    def join(self, one: str, other: str, cost: float = 1.0) -> Callable[[], None]:
        """Link two nodes; return what cuts the link."""
        scopes = []
        for node, link in zip((one, other), memory_link_pair(f"{one}-{other}"), strict=True):
            scopes.append(trio.CancelScope())
            self.nodes[node].start_soon(partial(self._run, node, link, cost, scopes[-1]))
        return lambda: [scope.cancel() for scope in scopes] and None

    async def _run(self, node: str, link: Link, cost: float, scope: trio.CancelScope) -> None:
        with scope:
            await self.nodes[node].run_link(link, LinkPolicy(cost))

    def read(self, listener: Listener) -> list[tuple[str, str, str]]:
        """Take what is new into account; return topics, IDs and changes."""
        found = []
        while (batch := listener.take()) is not None:
            assert not batch.is_lost
            for entry in batch.entries:
                event = json.loads(self.hub.line(entry, batch.after))
                self.told.append(event)
                found.append((event["topic"], event["id"], event["change"]))
                self._apply(event)
        return found

    def _apply(self, event: dict[str, object]) -> None:
        what = {"link": self.links, "route": self.routes, "service": self.services}
        known: dict[str, object] = what[event["topic"]]  # type: ignore[index,assignment]
        key = str(event["id"])
        if event["change"] in ("down", "removed"):
            known.pop(key, None)
        elif event["topic"] == "route":
            known[key] = event["route"]["via"]  # type: ignore[index]
        elif event["topic"] == "link":
            link = event["link"]
            known[key] = (link["cost_ab"], link["cost_ba"])  # type: ignore[index]
        else:
            known[key] = event["service"]

    def check(self) -> None:
        """What events have told is what the mesh is."""
        status = self.foo.status()
        assert self.links == {"/".join(e): link.costs for e, link in seen_links(status).items()}
        assert self.routes == status.routes
        services = {"/".join(k): one.to_json() for k, one in seen_services(status).items()}
        assert self.services == services


@asynccontextmanager
async def scene(*names: str) -> AsyncIterator[tuple[Scene, Listener]]:
    async with trio.open_nursery() as nursery:
        nodes: dict[str, Mesh] = {}

        async def run(name: str, *, task_status: trio.TaskStatus[None]) -> None:
            async with open_mesh(name) as mesh:
                nodes[name] = mesh
                task_status.started()
                await trio.sleep_forever()

        for name in names:
            await nursery.start(run, name)
        made = Scene(nodes)
        nursery.start_soon(made.events.run)
        with made.hub.listen(MESH_TOPICS) as listener:
            await trio.testing.wait_all_tasks_blocked()
            yield made, listener
        nursery.cancel_scope.cancel()


async def test_a_link_that_goes_down_and_returns_is_told_of_with_the_routes(autojump_clock):
    async with scene("foo", "bar", "baz") as (mesh, listener):
        mesh.join("foo", "bar")
        cut = mesh.join("bar", "baz")
        await trio.sleep(SETTLED)
        told = mesh.read(listener)
        assert ("link", "foo/bar", "up") in told
        assert ("link", "bar/baz", "up") in told
        assert ("route", "baz", "added") in told
        mesh.check()
        cut()
        await trio.sleep(SETTLED)
        assert set(mesh.read(listener)) == {
            ("link", "bar/baz", "down"),
            ("route", "baz", "removed"),
        }
        mesh.join("bar", "baz", cost=3)
        await trio.sleep(SETTLED)
        told = mesh.read(listener)
        assert set(told) == {("link", "bar/baz", "up"), ("route", "baz", "added")}
        assert mesh.links["bar/baz"] == (3, 3)
        mesh.check()


async def test_a_mesh_in_which_nothing_changes_makes_no_events(autojump_clock):
    async with scene("foo", "bar", "baz") as (mesh, listener):
        mesh.join("foo", "bar")
        mesh.join("bar", "baz")
        await mesh.nodes["baz"].listen("service")
        await trio.sleep(SETTLED)
        mesh.read(listener)
        # Updates each 10 s, and advertisements each 60 s, go through the mesh meanwhile.
        await trio.sleep(1000)
        assert mesh.read(listener) == []


async def test_a_link_in_the_place_of_another_one_is_told_to_be_up_again(autojump_clock):
    async with scene("foo", "bar") as (mesh, listener):
        cut = mesh.join("foo", "bar")
        await trio.sleep(SETTLED)
        mesh.read(listener)
        cut()
        mesh.join("foo", "bar")
        await trio.sleep(SETTLED)
        assert ("link", "foo/bar", "up") in mesh.read(listener)
        mesh.check()


async def test_services_are_told_of_as_they_come_change_and_go(autojump_clock):
    async with scene("foo", "bar") as (mesh, listener):
        mesh.join("foo", "bar")
        await trio.sleep(SETTLED)
        mesh.read(listener)
        bar = mesh.nodes["bar"]
        service = await bar.listen("echo", tags={"a": "1"})
        await trio.sleep(1)
        assert mesh.read(listener) == [("service", "bar/echo", "added")]
        bar.set_tags("echo", {"a": "2"})
        await trio.sleep(1)
        assert mesh.read(listener) == [("service", "bar/echo", "changed")]
        mesh.check()
        await service.aclose()
        await trio.sleep(1)
        assert mesh.read(listener) == [("service", "bar/echo", "removed")]
        own = await mesh.foo.listen("mine")
        await trio.sleep(1)
        assert mesh.read(listener) == [("service", "foo/mine", "added")]
        await own.aclose()


async def test_a_configured_peer_is_told_of_when_it_fares_otherwise_and_not_at_each_try(
    autojump_clock,
):
    async with scene("foo") as (mesh, listener):
        history = DialHistory()

        def fare(reason: str | None) -> None:
            history.dial()
            if reason is not None:
                history.fail(reason)
                history.wait(5)
            condition = history.condition()
            mesh.peers[:] = [ConfiguredPeer("tcp-peer", "10.0.0.7:2222", condition)]
            mesh.foo.note_condition()

        told = []
        for reason in ("refused", "refused", "refused", "no route to host"):
            fare(reason)
            await trio.sleep(5)
            while (batch := listener.take()) is not None:
                told += [json.loads(mesh.hub.line(e, batch.after)) for e in batch.entries]
        assert [event["change"] for event in told] == ["peer", "peer"]
        assert [event["peer"]["reason"] for event in told] == ["refused", "no route to host"]
        assert told[0]["peer"]["state"] == PeerState.WAITING.value
        assert told[0]["peer"]["kind"] == "tcp"
        mesh.peers.clear()
        mesh.foo.note_condition()
        await trio.sleep(5)
        batch = listener.take()
        assert batch is not None
        (gone,) = batch.entries
        assert gone.last == "removed"


async def test_nothing_of_the_mesh_is_looked_at_while_nobody_listens(autojump_clock, monkeypatch):
    looked = []
    status = Mesh.status
    monkeypatch.setattr(Mesh, "status", lambda self: (looked.append(self), status(self))[1])
    async with open_mesh("foo") as foo, trio.open_nursery() as nursery:
        nursery.start_soon(MeshEvents(EventHub(), foo).run)
        for _ in range(10):
            foo.note_condition()
            await (await foo.listen("service")).aclose()
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert not looked


LINKS = st.sampled_from([("foo", "bar"), ("bar", "baz"), ("foo", "baz"), ("baz", "qux")])


STEPS = st.lists(st.tuples(LINKS, st.sampled_from([0.0, 0.1, 3.0])), max_size=12)


@settings(max_examples=20, deadline=None)
@given(STEPS)
def test_whatever_links_do_events_add_up_to_the_mesh(steps: list[tuple[tuple[str, str], float]]):
    async def play() -> None:
        async with scene("foo", "bar", "baz", "qux") as (mesh, listener):
            cuts: dict[tuple[str, str], Callable[[], None]] = {}
            for ends, pause in steps:
                if ends in cuts:
                    cuts.pop(ends)()
                else:
                    cuts[ends] = mesh.join(*ends)
                await trio.sleep(pause)
                mesh.read(listener)
            await trio.sleep(4 * SETTLED)
            mesh.read(listener)
            mesh.check()

    trio.run(play, clock=trio.testing.MockClock(autojump_threshold=0))
