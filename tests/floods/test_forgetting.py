"""What it costs to forget what an enemy has told: in proportion to what is forgotten."""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import trio
from fuzz.meshworld import EvilLink, MeshWorld
from hostile import forge
from hostile.peer import unique

from meshnode.mesh.peers.routes import FORGET_INTERVAL
from meshnode.protocol.reachability import FORGET_AFTER

NONE, FEW, MANY = 0, 400, 1600
"""What is told. Four times as much may cost four times as much, and not sixteen times."""

ALLOWED = 8
"""Times that forgetting MANY may cost more steps than forgetting FEW."""

PAUSE = 0.02
"""Simulated seconds between messages: they are not to be refused for their pace."""


@contextmanager
def counted_steps() -> Iterator[list[int]]:
    """Count the lines of our own code that are executed meanwhile, on any machine the same."""
    steps = [0]

    def trace(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        if "/meshnode/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            steps[0] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield steps
    finally:
        sys.settrace(before)


def withdrawals(name: str) -> Iterator[bytes]:
    for service in forge.names("w"):
        yield forge.advert(name, service, Tags=None, WorkCommands=None, Cancel=True)


def services(name: str) -> Iterator[bytes]:
    for service in forge.names("s"):
        yield forge.advert(name, service, Tags=None, WorkCommands=None)


def strangers_services(name: str) -> Iterator[bytes]:
    for node in forge.names("s", 12):
        yield forge.advert(node, "control", Tags=None, WorkCommands=None)


def nodes(name: str) -> Iterator[bytes]:
    for node in forge.names("n", 12):
        yield forge.update(node, UpdateID=unique(), Connections={name: 1}, ForwardingNode=name)


def nodes_with_routes(name: str) -> Iterator[bytes]:
    known = {forge.VICTIM: 1}
    for number, node in enumerate(forge.names("r", 12), 2):
        yield forge.update(node, UpdateID=unique(), Connections={name: 1}, ForwardingNode=name)
        known[node] = 1
        if number % 50 == 0:
            yield forge.update(name, UpdateID=unique(), UpdateSequence=number, Connections=known)


TOLD = (withdrawals, services, strangers_services, nodes, nodes_with_routes)


async def tell(link: EvilLink, messages: Iterator[bytes]) -> None:
    for message in messages:
        await link.link.send([message])
        await trio.sleep(PAUSE)


@pytest.mark.parametrize("told", TOLD, ids=lambda told: told.__name__)
async def test_forgetting_costs_in_proportion_to_what_is_forgotten(told, autojump_clock):
    costs = {}
    for count in (NONE, FEW, MANY):
        async with MeshWorld.open() as world:
            link = await world.link("victim")
            await tell(link, itertools.islice(told(link.name), count))
            await link.link.aclose()
            with counted_steps() as steps:
                await trio.sleep(FORGET_AFTER + 3 * FORGET_INTERVAL)
            costs[count] = steps[0]
            await world.check()
            known = world.victim.status()
            assert known.known_costs.keys() <= {"left", "victim", "right"}
            assert {ad.node_id for ad in known.advertisements} == {"left", "victim", "right"}
    # What honest nodes say to each other meanwhile costs the same whatever there is to forget.
    few, many = costs[FEW] - costs[NONE], costs[MANY] - costs[NONE]
    assert many < ALLOWED * few, costs
