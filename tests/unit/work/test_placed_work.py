"""Work that may run on any of several nodes: chosen, moved before its start, never after it."""

import json
from collections import Counter
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
import trio
from work_fakes import FakeDialer, FakeNode

from meshnode.errors import CommandError, NoRoute
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import UnixClient
from meshnode.work.placement.load import Load
from meshnode.work.placement.nodes import NodeDirectory
from meshnode.work.placement.placer import LOOK_INTERVAL, MOST_REFUSALS, UNREACHED_SECONDS
from meshnode.work.units.access import UnitAccess
from meshnode.work.units.manager import UnitManager
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.unit import Unit

ANN, BOB = UnixClient(1, 100, 7), UnixClient(2, 100, 8)


@pytest.fixture(autouse=True)
def advertised(mesh):
    mesh.shows_types = True


@pytest.fixture
def baz(mesh, tmp_path):
    return FakeNode(mesh, "baz", tmp_path)


@pytest.fixture
def leaf(foo):
    """A node that submits and offers no work itself."""
    foo.work_types = {}
    return foo


async def place(node, work_type: str, rule: str = "least", payload: bytes = b"", **more) -> str:
    return await node.submit(node.node_id, work_type, payload, placement=rule, **more)


async def test_a_burst_spreads_evenly_over_nodes_that_have_told_nothing_yet(
    leaf, bar, baz, autojump_clock
):
    async with leaf.running(), bar.running(), baz.running():
        units = [await place(leaf, "wait") for _ in range(10)]
        where = Counter(leaf.status(unit).remote.node for unit in units)
        assert where == {"bar": 5, "baz": 5}


async def test_units_that_are_placed_while_others_are_being_recorded_spread_as_well(
    leaf, bar, baz, monkeypatch, autojump_clock
):
    units = []
    record = Unit.change

    async def record_slowly(self, *how, **more):
        await trio.sleep(1)
        return await record(self, *how, **more)

    monkeypatch.setattr(Unit, "change", record_slowly)

    async def one() -> None:
        units.append(await place(leaf, "wait"))

    async with leaf.running(), bar.running(), baz.running():
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(one)
        where = Counter(leaf.status(unit).remote.node for unit in units)
        assert where == {"bar": 20, "baz": 20}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "created: wait for a node (least), by "),
        ({"placementlabels": "gpu=1"}, "created: wait for a node (least, gpu=1), by "),
    ],
)
async def test_the_log_says_how_the_node_of_a_new_unit_is_chosen(
    leaf, bar, keys, told, caplog, autojump_clock
):
    caplog.set_level("INFO")
    async with leaf.running(), bar.running():
        await place(leaf, "wait", **keys)
    assert any(told in message for message in caplog.messages)


async def test_what_a_node_says_of_its_load_counts(leaf, bar, baz, autojump_clock):
    bar.more_tags = {"load": Load({"wait": 3}).to_tag()}
    async with leaf.running(), bar.running(), baz.running():
        units = [await place(leaf, "wait") for _ in range(4)]
        where = Counter(leaf.status(unit).remote.node for unit in units)
        assert where["baz"] >= 3


async def test_this_node_itself_may_be_chosen(foo, autojump_clock):
    async with foo.running():
        unit = await place(foo, "cat", payload=b"here")
        assert (await foo.wait_final(unit)).state is UnitState.SUCCEEDED
        assert foo.stdout(unit) == b"here"
        assert foo.status(unit).remote.node == "foo"


async def test_choice_and_reason_are_in_the_status_and_outlive_a_restart(leaf, bar, autojump_clock):
    async with leaf.running(), bar.running():
        unit = await place(leaf, "wait", "random")
        (line,) = await leaf.talk(f"work status {unit}")
        extra = json.loads(line)["ExtraData"]
        assert (extra["RemoteNode"], extra["Placement"]) == ("bar", "random")
        assert extra["Chosen"] == "random of 1 that fit"
        written = RemoteExtra.from_json(leaf.status(unit).remote.to_disk(secrets=True))
        assert written == leaf.status(unit).remote


async def test_labels_choose_and_what_fits_no_node_says_why_until_one_does(
    leaf, bar, baz, autojump_clock
):
    async with leaf.running(), bar.running():
        unit = await place(leaf, "cat", placementlabels="gpu=1", payload=b"x")
        (line,) = await leaf.talk(f"work status {unit}")
        waits = "waiting for a node: 0 of 2 nodes: 2 lack label gpu=1"
        assert json.loads(line)["Detail"] == waits
        assert leaf.status(unit).state is UnitState.PENDING
        baz.more_tags = {"labels": '{"gpu":"1"}'}
        async with baz.running():
            assert (await leaf.wait_final(unit)).state is UnitState.SUCCEEDED
            assert leaf.status(unit).remote.node == "baz"


JOBS = [
    ({"jobtimeout": "30s"}, "timeout"),
    ({"jobpriority": "3"}, "priority"),
    ({"arrayindex": "3"}, "array index"),
    ({"jobcwd": "/", "jobenv": '{"A":"1"}'}, "environment variables and no working directory"),
    ({"depssize": "4"}, "dependencies"),
]


@pytest.mark.parametrize(("job", "words"), JOBS)
@pytest.mark.parametrize("rule", ["any", "random", "least"])
async def test_a_node_that_would_not_know_what_the_job_is_given_is_passed_over(
    leaf, bar, baz, job, words, rule, autojump_clock
):
    bar.more_tags = {"takes": "onbehalfof", "load": Load().to_tag()}
    baz.more_tags = {"load": Load({"wait": 50}).to_tag()}
    async with leaf.running(), bar.running():
        unit = await place(leaf, "wait", rule, b"tar.", **job)
        (line,) = await leaf.talk(f"work status {unit}")
        told = f"waiting for a node: 0 of 2 nodes: 1 lacks work type wait, 1 takes no {words}"
        assert json.loads(line)["Detail"] == told
        # What says nothing of it may go to either.
        plain = await place(leaf, "wait", rule)
        await leaf.wait_for(plain, lambda status: status.remote.node == "bar")
        async with baz.running():
            await leaf.wait_for(unit, lambda status: status.remote.node == "baz")
        assert len(bar.launcher.started) == 1


async def test_a_node_that_cannot_be_reached_before_the_start_is_replaced_by_the_next(
    leaf, bar, baz, autojump_clock, monkeypatch
):
    dial = FakeDialer.dial

    async def dial_but_bar(self, node, service, tls=None):
        if node == "bar":
            raise NoRoute("bar")
        return await dial(self, node, service, tls)

    bar.more_tags = {"load": Load().to_tag()}
    baz.more_tags = {"load": Load({"cat": 50}).to_tag()}
    async with leaf.running(), bar.running(), baz.running():
        monkeypatch.setattr(FakeDialer, "dial", dial_but_bar)
        unit = await place(leaf, "cat", payload=b"x")
        assert (await leaf.wait_final(unit)).state is UnitState.SUCCEEDED
        remote = leaf.status(unit).remote
        assert remote.node == "baz"
        assert remote.chosen.endswith("; bar could not be reached")
        assert bar.launcher.started == []


@pytest.mark.parametrize("news_every", [0.5, 5.0, UNREACHED_SECONDS - 1, 10 * UNREACHED_SECONDS])
async def test_a_node_that_is_there_again_is_tried_again_however_much_news_there_is(
    leaf, bar, autojump_clock, monkeypatch, news_every
):
    dial = FakeDialer.dial
    away = {"bar"}

    async def dial_but_away(self, node, service, tls=None):
        if node in away:
            raise NoRoute(node)
        return await dial(self, node, service, tls)

    async def tell_news() -> None:
        while True:
            await trio.sleep(news_every)
            leaf.mesh.heal()

    async with leaf.running(), bar.running(), trio.open_nursery() as nursery:
        nursery.start_soon(tell_news)
        monkeypatch.setattr(FakeDialer, "dial", dial_but_away)
        unit = await place(leaf, "cat", payload=b"x")
        (line,) = await leaf.talk(f"work status {unit}")
        told = json.loads(line)
        assert "1 could not be reached" in told["Detail"]
        # It is on no node, and says so.
        assert told["ExtraData"]["RemoteNode"] == ""
        assert not told["ExtraData"].get("Chosen")
        away.clear()
        with trio.fail_after(UNREACHED_SECONDS + 3 * LOOK_INTERVAL):
            assert (await leaf.wait_final(unit)).state is UnitState.SUCCEEDED
        assert leaf.status(unit).remote.chosen == "least of 1 that fit: 0 units of cat there"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rule", ["any", "random", "least"])
async def test_units_that_no_node_fits_are_judged_together_and_not_each_at_all_news(
    leaf, bar, baz, rule, autojump_clock, monkeypatch
):
    looks = Counter()
    candidates = NodeDirectory.candidates

    def counted(self, work_type):
        looks[work_type] += 1
        return candidates(self, work_type)

    monkeypatch.setattr(FakeDialer, "changes", property(lambda self: self.mesh.news))
    monkeypatch.setattr(NodeDirectory, "candidates", counted)
    leaf.mesh.news = 0
    async with leaf.running(), bar.running():
        units = [
            await place(leaf, "cat", rule, b"x", placementlabels=f"gpu={kind}")
            for kind in ("1", "2")
            for _ in range(50)
        ]
        for news in range(1, 6):
            await trio.sleep(LOOK_INTERVAL + 1)
            looks.clear()
            leaf.mesh.news = news
            leaf.mesh.heal()
            await trio.sleep(LOOK_INTERVAL + 1)
            assert looks["cat"] == 2
        # Whoever fits is found as ever.
        baz.more_tags = {"labels": '{"gpu":"1"}'}
        async with baz.running():
            leaf.mesh.news = 6
            for unit in units[:50]:
                assert (await leaf.wait_final(unit)).state is UnitState.SUCCEEDED
            (line,) = await leaf.talk(f"work status {units[-1]}")
            assert json.loads(line)["Detail"] == (
                "waiting for a node: 0 of 3 nodes: 3 lack label gpu=2"
            )


async def test_what_one_submitter_may_not_have_placed_is_another_ones_answer_no_more(
    leaf, bar, autojump_clock, monkeypatch
):
    def may_place(self, status):
        is_ann = status.submitted_by == ANN
        return lambda node: is_ann and node == "bar"

    monkeypatch.setattr(FakeDialer, "changes", property(lambda self: 0))
    monkeypatch.setattr(UnitAccess, "may_place", may_place)
    async with leaf.running(), bar.running():
        leaf.clients["client"] = BOB
        waits = await place(leaf, "cat", payload=b"x")
        (line,) = await leaf.talk(f"work status {waits}")
        assert json.loads(line)["Detail"] == "waiting for a node: 0 of 0 nodes"
        leaf.clients["client"] = ANN
        placed = await place(leaf, "cat", payload=b"x")
        assert (await leaf.wait_final(placed)).remote.node == "bar"


class Refusing:
    """Has nodes refuse to make units for others, as one does whose rules or quotas say so."""

    def __init__(self, monkeypatch, *names: str) -> None:
        self.names = set(names)
        self.asked: list[str] = []
        create = UnitManager.create

        async def refuse(manager, submission, caller):
            if manager.node_id in self.names and caller.node:
                self.asked.append(manager.node_id)
                raise CommandError("you have 9 units on this node, of at most 9")
            return await create(manager, submission, caller)

        monkeypatch.setattr(UnitManager, "create", refuse)


@pytest.mark.parametrize("rule", ["any", "random", "least"])
async def test_a_node_that_refuses_all_work_does_not_draw_it_away_from_those_that_take_it(
    leaf, bar, baz, rule, autojump_clock, monkeypatch
):
    refusing = Refusing(monkeypatch, "bar")
    bar.more_tags = {"load": Load().to_tag()}
    baz.more_tags = {"load": Load({"cat": 50}).to_tag()}
    async with leaf.running(), bar.running(), baz.running():
        for _ in range(6):
            unit = await place(leaf, "cat", rule, b"x")
            assert (await leaf.wait_final(unit)).state is UnitState.SUCCEEDED
            remote = leaf.status(unit).remote
            assert remote.node == "baz"
            if rule == "least":
                assert remote.chosen == "least of 1 that fit: 50 units of cat there; bar refused it"
        assert rule != "least" or len(refusing.asked) == 6


@pytest.mark.parametrize("count", [1, 2])
async def test_what_all_refuse_fails_with_what_they_say_and_a_node_that_is_away_is_waited_for(
    leaf, bar, baz, count, autojump_clock, monkeypatch
):
    refusing = Refusing(monkeypatch, "bar", "baz")
    async with leaf.running(), bar.running():
        if count == 2:
            async with baz.running():
                unit = await place_refused(leaf)
        else:
            unit = await place_refused(leaf)
        reason = "refused: you have 9 units on this node, of at most 9"
        more = "; so did 1 other" if count == 2 else ""
        assert leaf.status(unit).detail.startswith("Error starting worker: node ba")
        assert leaf.status(unit).detail.endswith(f"{reason}{more}")
        assert len(refusing.asked) == count
        refusing.names.remove("baz")
        dial = FakeDialer.dial

        async def dial_bar(self, node, service, tls=None):
            if node == "baz":
                raise NoRoute(node)
            return await dial(self, node, service, tls)

        monkeypatch.setattr(FakeDialer, "dial", dial_bar)
        async with baz.running():
            waits = await place(leaf, "cat", payload=b"x")
            (line,) = await leaf.talk(f"work status {waits}")
            told = json.loads(line)["Detail"]
            assert "1 could not be reached" in told
            assert "1 refused it" in told
            monkeypatch.setattr(FakeDialer, "dial", dial)
            assert (await leaf.wait_final(waits)).remote.node == "baz"


async def place_refused(node) -> str:
    request = {"command": "work", "subcommand": "submit", "node": node.node_id, "worktype": "cat"}
    lines = await node.talk({**request, "placement": "any"}, b"x")
    assert "refused: you have 9 units" in lines[-1]
    (unit,) = [one for one in node.units.all() if one.status.state is UnitState.FAILED]
    return unit.unit_id


async def test_what_is_wrong_everywhere_is_not_brought_to_all_nodes_of_a_mesh(
    leaf, mesh, tmp_path, autojump_clock, monkeypatch
):
    nodes = [FakeNode(mesh, f"n{number}", tmp_path) for number in range(MOST_REFUSALS + 3)]
    refusing = Refusing(monkeypatch, *(node.node_id for node in nodes))
    async with AsyncExitStack() as stack:
        for node in (leaf, *nodes):
            await stack.enter_async_context(node.running())
        unit = await place_refused(leaf)
        assert leaf.status(unit).detail.endswith(f"; so did {MOST_REFUSALS - 1} others")
        assert len(refusing.asked) == MOST_REFUSALS


async def test_each_node_that_was_not_reached_is_passed_over_for_its_own_time(
    leaf, bar, baz, autojump_clock, monkeypatch
):
    dial = FakeDialer.dial
    tried: list[tuple[str, float]] = []

    async def dial_nobody(self, node, service, tls=None):
        tried.append((node, trio.current_time()))
        if len(tried) < 12:
            await trio.sleep(10)
            raise NoRoute(node)
        return await dial(self, node, service, tls)

    monkeypatch.setattr(FakeDialer, "dial", dial_nobody)
    async with leaf.running(), bar.running(), baz.running():
        unit = await place(leaf, "cat", "any", payload=b"x")
        assert (await leaf.wait_final(unit)).state is UnitState.SUCCEEDED
    for name in ("bar", "baz"):
        times = [time for node, time in tried if node == name]
        pauses = [later - one for one, later in pairwise(times)]
        assert all(40 <= pause < 40 + 15 for pause in pauses), tried


async def test_a_unit_that_may_have_started_stays_with_its_node(leaf, bar, baz, autojump_clock):
    async with leaf.running(), baz.running():
        async with bar.running():
            bar.more_tags = {"load": Load().to_tag()}
            baz.more_tags = {"load": Load({"wait": 9}).to_tag()}
            unit = await place(leaf, "wait")
            await leaf.wait_for(unit, lambda s: s.state is UnitState.RUNNING)
            assert leaf.status(unit).remote.node == "bar"
        await trio.sleep(600)
        assert leaf.status(unit).remote.node == "bar"
        assert baz.launcher.started == []
        async with bar.running():
            there = leaf.status(unit).remote.unit_id
            bar.launcher.supervisors[there].finish()
            assert (await leaf.wait_final(unit)).state is UnitState.SUCCEEDED


async def test_an_ended_unit_counts_no_more(leaf, bar, baz, autojump_clock):
    async with leaf.running(), bar.running(), baz.running():
        for _ in range(20):
            unit = await place(leaf, "cat")
            await leaf.wait_final(unit)
        unit = await place(leaf, "wait")
        assert leaf.status(unit).remote.chosen == "least of 2 that fit: 0 units of wait there"


async def test_a_unit_that_waits_for_a_node_can_be_canceled_released_and_restarted(
    leaf, bar, autojump_clock
):
    async with leaf.running():
        canceled, released, kept = [await place(leaf, "cat", payload=b"x") for _ in range(3)]
        await leaf.talk(f"work cancel {canceled}")
        assert leaf.status(canceled).state is UnitState.CANCELED
        await leaf.talk(f"work release {released}")
        assert not leaf.store.directory(released).exists()
    async with leaf.running(), bar.running():
        assert (await leaf.wait_final(kept)).state is UnitState.SUCCEEDED


async def test_a_time_to_start_counts_while_no_node_fits(leaf, autojump_clock):
    async with leaf.running():
        unit = await place(leaf, "cat", ttl="30s")
        end = await leaf.wait_final(unit)
        assert end.state is UnitState.FAILED
        assert end.detail.startswith("Work unit expired on ")
        assert "0 of 1 node: 1 lacks work type cat" in end.detail


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"placement": "best"}, "must be one of any, random, least"),
        ({"placement": "least", "placementlabels": "=1"}, "NAME!=VALUE"),
        ({"placementlabels": "gpu=1"}, "needs a field placement"),
    ],
)
async def test_what_is_no_placement_is_refused(foo, keys, text):
    async with foo.running():
        asked = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
        (line,) = await foo.talk(asked | keys)
        assert line.startswith("ERROR: ")
        assert text in line


async def test_a_receptor_node_is_picked_for_what_it_advertises_only(leaf, bar, autojump_clock):
    bar.is_receptor = True
    async with leaf.running(), bar.running():
        unit = await place(leaf, "cat", payload=b"x")
        assert (await leaf.wait_final(unit)).state is UnitState.SUCCEEDED
        other = await place(leaf, "cat", placementlabels="gpu")
        (line,) = await leaf.talk(f"work status {other}")
        assert "lack label gpu" in json.loads(line)["Detail"]
