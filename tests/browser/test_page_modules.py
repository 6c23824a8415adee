"""The modules of the page that have no document: layout, groups, paths, events, values and plots.

They run in the browser, which is there for the other tests anyhow.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import worlds
from driving import Browser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standin import serving

IN_BATCHES = settings(max_examples=20, suppress_health_check=list(HealthCheck))
"""Each example is a question to the browser, and has many cases in it."""


@pytest.fixture(scope="module")
def page(one_browser: Browser) -> Iterator[Browser]:
    """Yield the browser with the page's files at hand, and without the page."""
    with serving(worlds.world(worlds.five())) as address:
        one_browser.open(f"{address}icon.svg")
        one_browser.run(
            "Object.defineProperty(document, 'baseURI', {value: arguments[0]})", address
        )
        yield one_browser
        one_browser.open("about:blank")


def call(page: Browser, module: str, function: str, *arguments: Any) -> Any:
    """Return what a function of a module returns."""
    script = "return (await load(given[0]))[given[1]](...JSON.parse(given[2]))"
    return page.module(script, module, function, json.dumps(arguments))


# --- Where nodes are -----------------------------------------------------------------------------

PLACES = """
    const { layout } = await load("layout.js");
    const { picture, groups, bestGrouping } = await load("topology.js");
    const place = (mesh, before, by = "", open = new Set()) => {
        const { nodes, edges } = picture(mesh, groups(mesh, by), open);
        const sizes = new Map(nodes.map(({ key }) => [key, 12]));
        return layout(sizes, edges, `node ${mesh.node}`, before);
    };
    const [mesh, other] = given.map((one) => JSON.parse(one));
"""


def places(page: Browser, script: str, *meshes: Any) -> Any:
    return page.module(PLACES + script, *map(json.dumps, meshes))


@pytest.mark.parametrize("size", [5, 60, 300])
def test_the_same_mesh_gives_the_same_picture_in_whatever_order_it_is_told(
    page: Browser, size: int
) -> None:
    mesh = worlds.large(size) if size > 5 else worlds.five()
    turned = mesh | {"nodes": mesh["nodes"][::-1], "links": mesh["links"][::-1]}
    script = "return [place(mesh), place(other)].map((one) => Object.fromEntries([...one].sort()))"
    first, second = places(page, script, mesh, turned)
    assert first == second


def test_nodes_that_are_there_stay_where_they_are_when_one_comes_and_one_goes(
    page: Browser,
) -> None:
    before = worlds.large(40)
    after = before | {
        "nodes": [*before["nodes"][:-1], worlds.node("newcomer", "hub-lima", 2)],
        "links": [*before["links"][:-1], worlds.link("hub-lima", "newcomer", 1)],
    }
    script = (
        "const first = place(mesh); return [first, place(other, first)].map(Object.fromEntries)"
    )
    first, second = places(page, script, before, after)
    assert set(second) - set(first) == {"node newcomer"}
    assert all(first[key] == second[key] for key in set(first) & set(second))


@pytest.mark.parametrize("size", [5, 60, 300])
def test_no_two_nodes_lie_upon_each_other(page: Browser, size: int) -> None:
    mesh = worlds.large(size) if size > 5 else worlds.five()
    found = places(page, "return [...place(mesh).values()]", mesh)
    assert len(found) == size + len(mesh["peers_down"])
    for number, one in enumerate(found):
        for other in found[:number]:
            assert (one["x"] - other["x"]) ** 2 + (one["y"] - other["y"]) ** 2 > 24**2


NODE = st.text("abcdefgh-0123456789<&\u202e", min_size=1, max_size=12)


@given(st.lists(NODE, min_size=1, max_size=30, unique=True), st.data())
@IN_BATCHES
def test_any_mesh_has_a_place_for_each_node(
    page: Browser, names: list[str], data: st.DataObject
) -> None:
    ends = st.sampled_from(names)
    pairs = data.draw(st.lists(st.tuples(ends, ends), max_size=60))
    mesh = {
        "node": names[0],
        "nodes": [worlds.node(name, name, 1) for name in names],
        "links": [worlds.link(a, b, at) for at, (a, b) in enumerate(pairs)],
    }
    found = places(page, "return Object.fromEntries(place(mesh))", mesh)
    assert found.keys() == {f"node {name}" for name in names}
    assert all(isinstance(one[axis], int | float) for one in found.values() for axis in "xy")


# --- Groups and paths ----------------------------------------------------------------------------


def test_three_hundred_nodes_are_shown_as_few_groups(page: Browser) -> None:
    script = """
        const { nodes } = picture(mesh, groups(mesh, bestGrouping(mesh)), new Set());
        return nodes.map(({ kind, members }) => [kind, members?.length ?? 1])"""
    found = places(page, script, worlds.large(300))
    assert len(found) < 60
    assert sum(size for _, size in found) == 300


def test_names_that_say_nothing_are_grouped_by_label_or_first_hop(page: Browser) -> None:
    letters = "abcdefghijklmnop"
    names = [f"{a}{b}x" for a in letters for b in letters][:200]
    nodes = [worlds.node(name, names[at % 4], 2) for at, name in enumerate(names)]
    script = "return bestGrouping(mesh)"
    by_hop = [one | {"labels": {}} for one in nodes]
    assert places(page, script, {"node": names[0], "nodes": by_hop, "links": []}) == "via"
    by_zone = [one | {"labels": {"zone": f"z{at % 5}"}} for at, one in enumerate(nodes)]
    assert places(page, script, {"node": names[0], "nodes": by_zone, "links": []}) == "label zone"


def test_the_path_to_a_node_is_the_cheapest_by_the_first_hop_that_the_node_takes(
    page: Browser,
) -> None:
    nodes = [worlds.node("a", "", 0, state="here"), worlds.node("b", "b", 1)]
    nodes += [worlds.node("c", "c", 1), worlds.node("d", "c", 2), worlds.node("e", "c", 3)]
    ends = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", "e")]
    links = [worlds.link(a, b, 1) for a, b in ends]
    mesh = {"node": "a", "nodes": nodes, "links": links}
    assert call(page, "topology.js", "pathTo", mesh, "e") == ["a", "c", "d", "e"]
    links[1] |= {"cost_ab": None}
    assert call(page, "topology.js", "pathTo", mesh, "e") == []
    assert call(page, "topology.js", "pathTo", mesh, "a") == ["a"]
    assert call(page, "topology.js", "pathTo", mesh, "nobody") == []


# --- Event streams -------------------------------------------------------------------------------

LINE = st.text("abc: \u00e9\u4e2d<", max_size=8)

EVENT = st.fixed_dictionaries(
    {"event": st.sampled_from(["line", "end", "unit"]), "data": LINE, "id": st.integers(1, 99)}
)


@given(st.lists(EVENT, min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]), st.data())
@IN_BATCHES
def test_events_are_whole_wherever_a_stream_is_cut(
    page: Browser, events: list[dict[str, Any]], end: str, data: st.DataObject
) -> None:
    text = f": a comment{end}{end}"
    for one in events:
        fields = [f"event: {one['event']}", f"id: {one['id']}", f"data: {one['data']}", "", ""]
        text += end.join(fields)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    script = """
        const { EventParser } = await load("sse.js");
        const parser = new EventParser();
        return JSON.parse(given[0]).flatMap((piece) => parser.feed(piece))"""
    found = page.module(script, json.dumps(pieces))
    assert found == [one | {"id": str(one["id"])} for one in events]


# --- Answers -------------------------------------------------------------------------------------

WITH_FETCH = """
    const { Api } = await load("api.js");
    const [fetched, wait] = [window.fetch, window.setTimeout];
    const answered = async (answer, ask) => {
        window.fetch = answer;
        try {
            return await ask(new Api());
        } catch (error) {
            return [error.status, error.message];
        } finally {
            [window.fetch, window.setTimeout] = [fetched, wait];
        }
    };
"""
"""Has a question answered as a test says, and returns what came of it."""


@given(st.lists(st.text(max_size=12).map(lambda text: "".join(text.splitlines()))), st.data())
@IN_BATCHES
def test_lines_are_whole_with_the_byte_behind_each_wherever_an_answer_is_cut(
    page: Browser, texts: list[str], data: st.DataObject
) -> None:
    whole = "".join(f"{text}\n" for text in texts).encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=6)))
    pieces = [[*whole[a:b]] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    script = """
        const pieces = JSON.parse(given[0]);
        const body = new ReadableStream({
            start(to) {
                for (const piece of pieces) to.enqueue(new Uint8Array(piece));
                to.close();
            },
        });
        const read = async (api) => {
            const found = [];
            for await (const { line, end } of api.lines(["x"], { from: 7 })) {
                found.push([line, end]);
            }
            return found;
        };
        return answered(async () => new Response(body), read)"""
    found = page.module(WITH_FETCH + script, json.dumps(pieces))
    ends = [
        7 + len("".join(f"{one}\n" for one in texts[: at + 1]).encode()) for at in range(len(texts))
    ]
    assert found == [[text, end] for text, end in zip(texts, ends, strict=True)]


@pytest.mark.parametrize("ends", ["never", "by breaking off"])
def test_an_answer_that_does_not_come_whole_is_a_problem(page: Browser, ends: str) -> None:
    script = """
        const json = (signal) => new Promise((resolve, reject) => {
            if (given[0] !== "never") reject(new TypeError("network error"));
            signal.addEventListener("abort", () => reject(signal.reason));
        });
        const headers = new Headers();
        const answer = async (url, { signal }) => ({ ok: true, headers, json: () => json(signal) });
        const PATIENT = 60000;
        window.setTimeout = (act, time) => wait(act, time > PATIENT ? 0 : time);
        return answered(answer, (api) => api.get(["mesh"]))"""
    assert page.module(WITH_FETCH + script, ends) == [0, "The answer of the node broke off."]


# --- Batches -------------------------------------------------------------------------------------


def test_of_a_very_large_batch_as_many_members_are_kept_as_can_be_shown(page: Browser) -> None:
    script = """
        const { Members, MOST_MEMBERS } = await load("batches.js");
        const members = new Members();
        let end = 0;
        for (let index = 1; index <= 3 * MOST_MEMBERS; index += 1) {
            const state = index % 3 ? "Succeeded" : "Failed";
            members.take(JSON.stringify({ Index: index, StateName: state }), (end += 1));
        }
        members.take(JSON.stringify({ Batch: "b-x", StateName: "Failed" }), (end += 1));
        const ended = members.ended();
        const of = (state) => ended
            .filter(({ StateName }) => StateName === state).map(({ Index }) => Index);
        return [MOST_MEMBERS, members.position, of("Failed").length, of("Succeeded").length,
            Math.max(...of("Succeeded")), members.batch.Batch]"""
    most, position, failed, succeeded, last, batch = page.module(script)
    assert (failed, succeeded) == (most, most)
    assert (position, last, batch) == (3 * most, 3 * most - 1, "b-x")


# --- Values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "value", "shown"),
    [
        ("bytes", 0, "0 B"),
        ("bytes", 1536, "1.5 KiB"),
        ("bytes", None, "–"),
        ("brief", 0.00047, "470 µs"),
        ("brief", 0.0123, "12.3 ms"),
        ("brief", 0, "0 s"),
        ("duration", 250, "4 min 10 s"),
        ("duration", 90000, "1 d 1 h"),
        ("clock", "0001-01-01T00:00:00Z", "–"),
        ("printable", "\x1b[31mred\x1b[0m \x1b]0;title\x07end\x00\r", "red end␀"),
        ("printable", "a\u202eb", "a\ufffdb"),
    ],
)
def test_values_look_so(page: Browser, function: str, value: Any, shown: str) -> None:
    assert call(page, "format.js", function, value) == shown


@given(st.lists(st.text(max_size=40), min_size=20, max_size=20))
@IN_BATCHES
def test_no_output_can_turn_or_ring_or_colour_the_page(page: Browser, lines: list[str]) -> None:
    script = "return JSON.parse(given[0]).map((await load('format.js')).printable)"
    whole = ["\x1b[0m".join(lines), *lines]
    for shown in page.module(script, json.dumps(whole)):
        assert not any(ord(one) < 32 and one not in "\t\n" for one in shown)
        assert not any(
            one in shown for one in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        )


@pytest.mark.parametrize("most", [0, 0.0004, 3, 7, 60, 1234, 9e9])
@pytest.mark.parametrize("base", [2, 10])
def test_a_scale_reaches_its_largest_value_in_few_steps(
    page: Browser, most: float, base: int
) -> None:
    steps = call(page, "scale.js", "levels", most, 4, base)
    assert steps[0] == 0
    assert steps[-1] >= most * 0.999
    assert 2 <= len(steps) <= 7


def test_units_in_one_lane_never_overlap(page: Browser) -> None:
    told = worlds.world(worlds.five(), 80)
    script = """
        const [{ laned }, { createdAt }, { moment }] =
            await Promise.all(["timeline.js", "units.js", "format.js"].map(load));
        const now = Date.now();
        const { lanes, hidden } = laned(JSON.parse(given[0]), now - 86400000, now, 0, 14);
        const ends = (one) => [createdAt(one), moment(one.Finished) || now];
        return [lanes.map((lane) => lane.map(ends)), hidden]"""
    lanes, hidden = page.module(script, json.dumps(list(told.units.values())))
    assert sum(map(len, lanes)) + hidden == 80
    for lane in lanes:
        assert all(end < start for (_, end), (start, _) in pairwise(lane))


def test_an_event_of_a_unit_leaves_what_it_does_not_tell(page: Browser) -> None:
    known = {"ID": "u", "State": 0, "StateName": "Pending", "Created": "2026-01-01T00:00:00Z"}
    event = {
        "id": "u",
        "time": "2026-01-01T00:00:09Z",
        "unit": {"State": 1, "StateName": "Running"},
    }
    merged = call(page, "units.js", "merged", known, event)
    assert merged["Created"] == known["Created"]
    assert (merged["StateName"], merged["Started"]) == ("Running", event["time"])


# --- What is asked when --------------------------------------------------------------------------


def test_what_is_wished_for_during_a_question_is_asked_once_more_and_never_at_the_same_time(
    page: Browser,
) -> None:
    script = """
        const { Asker } = await load("asker.js");
        let [asked, now, most] = [0, 0, 0];
        const answers = [];
        const asker = new Asker(async () => {
            [asked, now] = [asked + 1, now + 1];
            most = Math.max(most, now);
            await new Promise((resolve) => answers.push(resolve));
            now -= 1;
        }, 0);
        const answered = async (number) => {
            while (answers.length < number) await new Promise((resolve) => setTimeout(resolve, 1));
            return answers[number - 1];
        };
        asker.wish();
        const first = await answered(1);
        for (const wish of ["wish", "now", "wish"]) asker[wish]();
        first();
        (await answered(2))();
        await new Promise((resolve) => setTimeout(resolve, 20));
        return [asked, most]"""
    assert page.module(script) == [2, 1]


def test_questions_are_asked_although_the_clock_is_set_back(page: Browser) -> None:
    script = """
        const { Asker } = await load("asker.js");
        const now = Date.now;
        let answer;
        const asked = () => new Promise((resolve) => (answer = resolve));
        const asker = new Asker(async () => answer(), 0.001);
        let next = asked();
        asker.wish();
        await next;
        Date.now = () => now() - 3600000;
        next = asked();
        asker.wish();
        const late = new Promise((resolve) => setTimeout(resolve, given[0], "late"));
        const first = await Promise.race([next, late]);
        Date.now = now;
        return first === "late" ? first : "asked";"""
    assert page.module(script, 10000) == "asked"


def test_a_page_that_nobody_sees_ends_its_streams_and_goes_on_when_it_is_seen(
    page: Browser,
) -> None:
    script = """
        const { untilUnseen, whenSeen } = await load("seen.js");
        const hide = (hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        };
        const [wait, later] = [window.setTimeout, []];
        window.setTimeout = (act) => later.push(act);
        const told = [];
        const { signal } = new AbortController();
        const unseen = untilUnseen(signal);
        hide(true);
        told.push(unseen.signal.aborted);
        later.forEach((act) => act());
        told.push(unseen.signal.aborted);
        const seen = whenSeen(signal).then(() => told.push("seen"));
        await null;
        told.push("hidden");
        hide(false);
        await seen;
        window.setTimeout = wait;
        const left = untilUnseen(signal);
        window.dispatchEvent(new Event("pagehide"));
        return [...told, left.signal.aborted]"""
    assert page.module(script) == [False, True, "hidden", "seen", True]


def test_a_page_keeps_the_newest_units_of_a_node_that_has_too_many(page: Browser) -> None:
    script = """
        const { Live } = await load("live.js");
        const at = (second) => new Date(second * 1000).toISOString();
        const unit = (one) => ({ ID: `u${one}`, StateName: "Running", Created: at(one) });
        const items = [...Array(5600).keys()].map((one) => unit(9000 - one));
        const api = {
            get: async (what) => (what === "units" ? { items } : { nodes: [], links: [] }),
        };
        api.follow = async function* (what, { onstate }) {
            onstate("live", false);
        };
        const live = new Live(api);
        const listed = new Promise((resolve) => live.addEventListener("units", resolve));
        await live.start();
        await listed;
        const newest = items.slice(0, 4000);
        return [live.units.size, newest.every(({ ID }) => live.units.has(ID))]"""
    size, has_newest = page.module(script)
    assert size <= 5500
    assert has_newest


# --- The last hours ------------------------------------------------------------------------------


def test_what_is_counted_for_each_step_is_shown_for_a_second_or_a_minute(page: Browser) -> None:
    series = {
        "units.running": [1, 2, None],
        "units.ended": [3, None, 1],
        "link.a.b.sent": [100, None, 50],
        "link.a.b.rtt": [0.5, None, 0.25],
    }
    plots = {one["title"]: one["lines"] for one in call(page, "history.js", "grouped", series, 10)}
    assert plots == {
        "Units by state": [{"name": "running", "values": [1, 2, None]}],
        "Units in a minute": [{"name": "ended", "values": [3, None, 4]}],
        "Round trip of links": [{"name": "a.b", "values": [0.5, None, 0.25]}],
        "Traffic of links": [{"name": "a.b sent", "values": [10, None, 5]}],
    }


def test_many_links_have_one_line_each(page: Browser) -> None:
    series = {
        f"link.{peer}.{what}": [10 * number, None]
        for peer in "abcde"
        for number, what in enumerate(("sent", "received"), 1)
    }
    (plot,) = call(page, "history.js", "grouped", series, 10)
    assert plot["lines"] == [{"name": peer, "values": [3, None]} for peer in "abcde"]
