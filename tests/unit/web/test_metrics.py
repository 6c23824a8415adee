"""What /metrics gives: every metric as it is described, within bounds, to whom the rules let."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_plain

from meshnode.config import HttpService
from meshnode.control.budgets import SessionBudgets
from meshnode.control.registry import CommandRegistry
from meshnode.errors import TlsProblem
from meshnode.histogram import Histogram
from meshnode.mesh.dataplane import DropCounts, FirewallCounts
from meshnode.mesh.links.base import LinkFigures
from meshnode.mesh.mesh import LinkStatus, MeshFigures
from meshnode.mesh.peers.conditions import LinksReport
from meshnode.permissions import AccessRule, Verb
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.access import AccessRules
from meshnode.shares import Holder
from meshnode.web import meshmetrics, metricfamilies
from meshnode.web.app import make_app
from meshnode.web.commands import Commands
from meshnode.web.meshmetrics import MAX_PEERS, SHOWN_LOST, LostLinks, MeshReader
from meshnode.web.metricfamilies import FAMILIES, Family, Kind
from meshnode.web.metrics import form_for, takes_gzip
from meshnode.web.nodemetrics import LoopDelay
from meshnode.web.readings import MAX_LABEL, OPENMETRICS, PLAIN, Readings
from meshnode.web.routing import WebNode
from meshnode.web.spool import Spool
from tests.unit.web.asgi import Client
from tests.unit.web.metrics_scene import Scene, find_promtool, scene
from tests.unit.work.work_fakes import inline_run_sync

READERS = {PLAIN: read_plain, OPENMETRICS: read_openmetrics}


@pytest.fixture(autouse=True)
def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", inline_run_sync)


# --- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_metric_is_named_as_prometheus_asks(family: Family) -> None:
    assert re.fullmatch(r"meshnode_[a-z]+(_[a-z]+)*", family.name)
    assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
    assert not re.search(r"_(count|sum|bucket|ms|milliseconds|kilobytes|mb)(_|$)", family.name)
    assert family.help.endswith(".")
    assert not {"le", "quantile", "instance", "job"} & set(family.labels)


def test_no_two_metrics_have_one_name() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


# --- the text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", READERS)
async def test_the_text_has_every_metric_with_its_labels_kind_and_help(
    form: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        text = foo.metrics.read(await foo.metrics.room()).to_text(form)
    found = {metric.name: metric for metric in READERS[form](text)}
    for family in FAMILIES:
        metric = found.pop(family.name.removesuffix("_total"))
        assert (metric.type, metric.documentation) == (family.kind.value, family.help)
        for sample in metric.samples:
            extra = {"le"} if sample.name.endswith("_bucket") else set()
            assert set(sample.labels) == {*family.labels, *extra}
            assert sample.name.startswith(family.name.removesuffix("_total"))
    assert found
    assert all(name.startswith("process_") for name in found)


@pytest.mark.skipif(
    find_promtool() is None,
    reason="promtool is not installed (Debian's package prometheus); the parsers alone were asked",
)
async def test_promtool_finds_nothing_to_say_of_the_text(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    promtool = find_promtool()
    assert promtool is not None
    async with scene(tmp_path) as foo:
        text = foo.metrics.read(await foo.metrics.room()).to_text(PLAIN)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


ANY = st.characters()  # halves of characters, too
NAMES = st.text(ANY, max_size=9) | st.text(ANY, max_size=4).map(lambda text: text * MAX_LABEL)


@pytest.mark.parametrize("form", READERS)
@given(names=st.lists(NAMES, max_size=5))
def test_whatever_names_others_choose_the_text_can_be_read(form: str, names: list[str]) -> None:
    readings = Readings()
    histogram = Histogram((1.0, 2.0))
    histogram.note(1.5)
    for name in names:
        readings.add(metricfamilies.UNITS_SUBMITTED, 1, "remote", name)
        readings.distribute(metricfamilies.RUN_TIME, histogram.distribution(), "remote", name)
    found = {metric.name: metric.samples for metric in READERS[form](readings.to_text(form))}
    for metric, part in (("units_submitted", "_total"), ("unit_run_seconds", "_count")):
        samples = [s for s in found.get(f"meshnode_{metric}", []) if s.name.endswith(part)]
        assert sum(sample.value for sample in samples) == len(names)
        assert len({sample.labels["type"] for sample in samples}) == len(samples)
        assert all(len(sample.labels["type"]) <= MAX_LABEL for sample in samples)


@given(
    st.lists(st.lists(st.floats(0, 100), max_size=5), min_size=1, max_size=4),
    st.sampled_from([(1.0,), (0.01, 1.0, 50.0)]),
)
def test_distributions_of_one_series_add_up(parts: list[list[float]], bounds: tuple[float]) -> None:
    whole, readings = Histogram(bounds), Readings()
    for part in parts:
        histogram = Histogram(bounds)
        for value in part:
            histogram.note(value)
            whole.note(value)
        readings.distribute(metricfamilies.LOOP_DELAY, histogram.distribution())
    (metric,) = readings.collect()
    counts = [s.value for s in metric.samples if s.name.endswith("_bucket")]
    assert counts == list(whole.distribution().cumulative)


# --- what is read --------------------------------------------------------------------------------


async def test_figures_follow_what_happens(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        units = {"runner": "command", "type": "wait"}
        assert await foo.value("units", **units, state="running") == 1
        assert await foo.value("supervisors") == 1
        assert await foo.value("queue_running", type="wait") == 1
        assert await foo.value("units_ended_total", **units, state="failed") == 0
        (unit_id,) = foo.node.launcher.supervisors.keys() - {
            unit.unit_id for unit in foo.node.units.all() if unit.is_final
        }
        foo.node.launcher.supervisors[unit_id].finish(UnitState.FAILED, "exit status 3", 3)
        await foo.node.wait_final(unit_id)
        assert await foo.value("units", **units, state="running") == 0
        assert await foo.value("units_ended_total", **units, state="failed") == 1
        assert await foo.value("unit_run_seconds_count", **units) == 1
        assert await foo.value("supervisors") == 0
        assert await foo.value("queue_length", type="wait") == 0
        link = {"peer": "mid", "kind": "memory"}
        assert await foo.value("link_up", **link) == 1
        before = await foo.value("link_sent_messages_total", **link)
        await foo.mesh.ping("bar")
        after = await foo.value("link_sent_messages_total", **link)
        assert before is not None
        assert after == before + 1
        assert await foo.value("configured_peer_up", directive="tcp-peer", address="up:1") == 1
        assert await foo.value("configured_peer_up", directive="tcp-peer", address="waiting:1") == 0


async def test_a_type_that_nobody_has_used_yet_is_there_with_zeros(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        brief = {"runner": "command", "type": "brief"}
        assert await foo.value("units_ended_total", **brief, state="failed") == 0
        assert await foo.value("unit_run_seconds_count", **brief) == 0


async def test_sessions_that_found_no_place_are_told(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        for _ in range(3):
            foo.places.take(Holder("ann"))
        way = {"service": "control", "way": "socket"}
        assert await foo.value("sessions", **way) == 2
        assert await foo.value("sessions_opened_total", **way) == 2
        assert await foo.value("sessions_refused_total", **way) == 1


async def test_refusals_of_tls_are_told_by_their_reason_and_before_the_first(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        wrong = {"service": "control", "reason": "wrong CA"}
        assert await foo.value("tls_refusals_total", **wrong) == 0
        foo.tls_refusals[TlsProblem.WRONG_CA] += 2
        assert await foo.value("tls_refusals_total", **wrong) == 2
        assert await foo.value("tls_refusals_total", service="control", reason="not TLS") == 0


async def test_a_disk_that_does_not_answer_leaves_its_numbers_out_and_no_others(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(path: object) -> None:
        raise OSError(5, "Input/output error")

    async with scene(tmp_path) as foo:
        monkeypatch.setattr(os, "statvfs", gone)
        assert await foo.value("disk_free_bytes") is None
        assert await foo.value("routes") == 2


async def test_a_unit_that_is_released_is_counted_no_longer(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        cat = {"runner": "command", "type": "cat"}
        (unit,) = [one for one in foo.node.units.all() if one.status.work_type == "cat"]
        await foo.node.talk(f"work release {unit.unit_id}")
        assert await foo.value("units", **cat, state="succeeded") == 0
        assert await foo.value("units_ended_total", **cat, state="succeeded") == 1


# --- bounds --------------------------------------------------------------------------------------


def link(number: int) -> LinkStatus:
    figures = LinkFigures("tcp", "10.0.0.7:1", number, 1, 1, 10, 1, 10, 2, 0, 0.1)
    return LinkStatus(f"peer{number}", 1.0, figures)


class HubMesh:
    """A mesh of which only the figures are asked."""

    def __init__(self, links: int) -> None:
        self.links = tuple(map(link, range(links)))

    def figures(self) -> MeshFigures:
        zeros = dict.fromkeys(MeshFigures.__dataclass_fields__, 0)
        return MeshFigures(
            **{**zeros, "links": self.links, "firewall": FirewallCounts(), "drops": DropCounts()}
        )


def read(reader: MeshReader) -> dict[str, dict[str, float]]:
    """Return the series of each metric by their peers."""
    readings = Readings()
    reader.read(readings, LinksReport())
    return {
        metric.name: {s.labels["peer"]: s.value for s in metric.samples if "peer" in s.labels}
        for metric in readings.collect()
    }


async def test_links_beyond_the_bound_are_one_series(
    autojump_clock: trio.testing.MockClock,
) -> None:
    found = read(MeshReader(HubMesh(MAX_PEERS + 7)))  # type: ignore[arg-type]
    up = found["meshnode_link_up"]
    assert len(up) == MAX_PEERS + 1
    assert up[meshmetrics.OTHER] == 7
    assert found["meshnode_link_sent_bytes"][meshmetrics.OTHER] == 70
    # What was there first keeps its series, and what has no sum is of no other.
    assert "peer0" in up
    assert meshmetrics.OTHER not in found["meshnode_link_round_trip_seconds"]


async def test_a_lost_link_is_shown_for_an_hour_and_then_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    mesh = HubMesh(2)
    reader = MeshReader(mesh)  # type: ignore[arg-type]
    assert read(reader)["meshnode_link_up"] == {"peer0": 1, "peer1": 1}
    mesh.links = mesh.links[:1]
    await trio.sleep(SHOWN_LOST - 1)
    assert read(reader)["meshnode_link_up"] == {"peer0": 1, "peer1": 0}
    assert "peer1" not in read(reader)["meshnode_link_sent_bytes"]
    await trio.sleep(2)
    assert read(reader)["meshnode_link_up"] == {"peer0": 1}


RUNS = st.tuples(st.integers(0, 3 * MAX_PEERS), st.integers(0, MAX_PEERS))


@settings(max_examples=30)
@given(st.lists(RUNS, max_size=6))
def test_lost_links_are_bounded_whoever_comes_and_goes(rounds: list[tuple[int, int]]) -> None:
    lost = LostLinks()
    for now, (first, count) in enumerate(rounds):
        up = {(f"peer{number}", "tcp") for number in range(first, first + count)}
        shown = set(lost.note(up, float(now)))
        assert not shown & up
        assert len(shown) + len(up) <= MAX_PEERS


# --- the event loop ------------------------------------------------------------------------------


async def test_each_turn_of_the_loop_is_measured_from_its_begin_to_its_end() -> None:
    clock = SimpleNamespace(now=0.0)
    loop = LoopDelay(lambda: clock.now)
    loop.before_io_wait(0)  # it was installed within a turn
    assert loop.delays.distribution().count == 0
    for seconds in (0.5, 0.002):
        loop.after_io_wait(0)
        clock.now += seconds
        loop.before_io_wait(0)
        clock.now += 100  # to wait is no delay
    found = loop.delays.distribution()
    assert (found.count, round(found.total, 3)) == (2, 0.502)


async def test_the_loop_is_measured_while_metrics_run_and_not_after(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        delays = foo.metrics.node.loop.delays
        async with trio.open_nursery() as nursery:
            await nursery.start(foo.metrics.run)
            await trio.sleep(1)
            await trio.sleep(1)
            counted = delays.distribution().count
            assert counted >= 2
            nursery.cancel_scope.cancel()
        counted = delays.distribution().count
        await trio.sleep(1)
        assert delays.distribution().count == counted


# --- who may have it, and in which form ----------------------------------------------------------


def client_of(foo: Scene, *rules: AccessRule) -> Client:
    registry = CommandRegistry(AccessRules(rules))
    registry.register(foo.metrics.command())

    async def nothing_short() -> str:
        return ""

    commands = Commands("foo", registry, SessionBudgets())
    responses = foo.metrics.node.responses
    spool = Spool(Path("/nonexistent"))
    web = WebNode("foo", "1.2", commands, nothing_short, spool, responses=responses)
    return Client(make_app(HttpService(port=8043), web))


def rule(*verbs: Verb) -> AccessRule:
    return AccessRule(label="r", allows=True, who=((),), verbs=frozenset(verbs))


async def test_who_may_see_the_mesh_may_have_metrics_and_nobody_else(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        reply = await client_of(foo, rule(Verb.MESH)).ask("/metrics")
        assert reply.status == 200
        reply = await client_of(foo, rule(*set(Verb) - {Verb.MESH})).ask("/metrics")
        assert (reply.status, reply.is_problem) == (403, True)


async def test_each_response_is_counted_by_its_status(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        client = client_of(foo, rule(Verb.MESH))
        for path in ("/metrics", "/nothing", "/metrics"):
            await client.ask(path)
        assert await foo.value("http_responses_total", status="200") == 2
        assert await foo.value("http_responses_total", status="404") == 1
        assert await foo.value("http_responses_total", status="401") == 0


@pytest.mark.parametrize(
    ("accept", "form", "media_type"),
    [
        ("", PLAIN, "text/plain; version=0.0.4"),
        ("*/*", PLAIN, "text/plain; version=0.0.4"),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", PLAIN, "text/plain; version=0.0.4"),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            OPENMETRICS,
            "application/openmetrics-text; version=1.0.0",
        ),
        ("Application/OpenMetrics-Text; version=x", OPENMETRICS, "application/openmetrics-text"),
        ("application/json", PLAIN, "text/plain"),
    ],
)
async def test_a_client_gets_the_form_that_it_takes(
    accept: str,
    form: str,
    media_type: str,
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scene(tmp_path) as foo:
        reply = await client_of(foo).ask("/metrics", accept=accept)
    assert reply.headers["content-type"].startswith(media_type)
    assert list(READERS[form](reply.body.decode()))


async def test_a_client_that_takes_gzip_gets_the_same_text_in_fewer_bytes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        client = client_of(foo)
        small = await client.ask("/metrics", accept_encoding="deflate, gzip;q=0.9")
        plain = await client.ask("/metrics", accept_encoding="identity;q=1, gzip;q=0")
    assert small.headers["content-encoding"] == "gzip"
    assert small.headers["vary"] == plain.headers["vary"] == "accept, accept-encoding"
    assert "content-encoding" not in plain.headers
    assert len(small.body) < len(plain.body) / 4
    names = [
        {metric.name for metric in read_plain(text.decode())}
        for text in (gzip.decompress(small.body), plain.body)
    ]
    assert names[0] == names[1]


@given(st.text())
def test_any_accept_encoding_header_is_understood(accepted: str) -> None:
    assert takes_gzip(accepted) in {True, False}


@pytest.mark.parametrize(
    ("accepted", "found"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP ; q=0.5", True),
        ("br, *", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=x", False),
        ("xgzip", False),
    ],
)
def test_gzip_is_for_who_names_it(accepted: str, found: bool) -> None:
    assert takes_gzip(accepted) is found


@given(st.text())
def test_any_accept_header_gets_one_of_the_forms(accept: str) -> None:
    assert form_for(accept) in READERS


async def test_the_command_takes_no_other_form(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with scene(tmp_path) as foo:
        foo.node.registry.register(foo.metrics.command())
        (line,) = await foo.node.talk("metrics xml")
        assert line == "ERROR: metrics: format must be text or openmetrics"
        for asked in (5, None, ["text"], "TEXT"):
            (line,) = await foo.node.talk({"command": "metrics", "format": asked})
            assert line.startswith("ERROR: metrics: format")
        (line,) = await foo.node.talk("metrics")
        assert "meshnode_build_info" in line


def test_a_node_without_an_http_service_loads_nothing_of_prometheus() -> None:
    program = "import sys, meshnode.node; print(*(m for m in sys.modules if 'prometheus' in m))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
