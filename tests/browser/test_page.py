"""The page in a browser, shown meshes and units by a stand-in: what no three nodes can show."""

import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import reading
import worlds
from driving import Browser
from harness import free_port
from reading import HOSTILE
from standin import World, serving


def press(browser: Browser, *names: str) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.keys(*(getattr(Keys, name, name) for name in names))


def fill(browser: Browser, selector: str, text: str) -> None:
    field = browser.find(selector)
    field.clear()
    field.send_keys(text)


# --- The mesh ------------------------------------------------------------------------------------


def test_the_mesh_is_a_table_first_and_then_a_graph(browser: Browser, address: str) -> None:
    browser.open(address)
    rows = browser.wait(lambda: browser.rows("Nodes of the mesh"), "nodes")
    by_name = {row[0].split()[0]: row for row in rows}
    assert by_name.keys() == {"hub", "edge-berlin", "edge-tokyo", "gpu-1", "lab"}
    assert by_name["edge-tokyo"][1:6] == ["● reachable", "direct", "1 (cost 1)", "3", "312 ms"]
    assert by_name["gpu-1"][2] == "edge-tokyo"
    assert "no route since 09:40" in by_name["lab"][1]
    assert browser.rows("Configured peers that are down")[0][2].startswith(
        "refused: nothing listens"
    )
    assert len(browser.texts(".vertex .label")) == 6
    order = browser.run("""
        const [table, graph] = ["table", ".canvas"].map((one) => document.querySelector(one));
        return table.compareDocumentPosition(graph)""")
    assert order & 4  # the graph follows the table
    assert "5 nodes (3 reachable, 1 unreachable), 4 links" in browser.text(".summary")


def test_the_path_to_a_node_is_shown_from_the_table_and_from_the_graph(
    browser: Browser, address: str
) -> None:
    browser.open(address)
    browser.wait(lambda: browser.rows("Nodes of the mesh"), "nodes")
    browser.run("document.querySelector('a[href=\"#/mesh/gpu-1\"]').focus()")
    on_path = ".vertex.on-path .label"
    browser.wait(lambda: sorted(browser.texts(on_path)) == ["edge-tokyo", "gpu-1", "hub"], "a path")
    assert len(browser.texts(".edge.on-path")) == 2
    browser.run("document.querySelector('.vertex[aria-label^=edge-berlin]').focus()")
    browser.wait(lambda: sorted(browser.texts(on_path)) == ["edge-berlin", "hub"], "its path")


def test_the_graph_can_be_used_by_keys_alone(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.wait(lambda: browser.texts(".vertex"), "a graph")
    browser.run("document.querySelector('.vertex[tabindex=\"0\"]').focus()")
    focused = "return document.activeElement.getAttribute('aria-label') ?? ''"
    assert browser.run(focused).startswith("hub, here")
    seen = set()
    for key in ("ARROW_LEFT", "ARROW_RIGHT", "ARROW_UP", "ARROW_DOWN") * 3:
        press(browser, key)
        seen.add(browser.run(focused).split(",")[0])
    assert len(seen) >= 3
    assert len(browser.texts('.vertex[tabindex="0"]')) == 1
    before = browser.run("return document.querySelector('.canvas > g').getAttribute('transform')")
    press(browser, "+")
    assert before != browser.run(
        "return document.querySelector('.canvas > g').getAttribute('transform')"
    )
    browser.run("document.querySelector('.vertex[aria-label^=edge-berlin]').focus()")
    press(browser, "ENTER")
    browser.wait_text("h1", "edge-berlin")


def test_a_search_finds_nodes_in_the_table_and_dims_the_others_in_the_graph(
    browser: Browser, address: str
) -> None:
    browser.open(address)
    fill(browser, "input[aria-label='Search nodes']", "train")
    browser.wait(lambda: len(browser.rows("Nodes of the mesh")) == 1, "one node")
    assert len(browser.texts(".vertex:not(.off)")) == 1


def test_nodes_do_not_move_while_the_mesh_changes_around_them(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(address)
    places = """return Object.fromEntries([...document.querySelectorAll(".vertex")]
        .map((one) => [one.querySelector(".label").textContent, one.getAttribute("transform")]))"""
    before = browser.wait(lambda: browser.run(places), "a graph")
    world.mesh["nodes"].append(worlds.node("newcomer", "edge-berlin", 2))
    world.mesh["links"].append(worlds.link("edge-berlin", "newcomer", 3))
    world.mesh["peers_down"] = []
    world.tell("link", change="up")
    browser.wait(lambda: "newcomer" in browser.run(places), "the new node")
    after = browser.run(places)
    assert {name: after[name] for name in before if name in after} == {
        name: place for name, place in before.items() if name in after
    }
    assert "lab.example.org:2222" not in after


def test_three_hundred_nodes_are_groups_that_open_and_close(
    browser: Browser, address: str, world: World
) -> None:
    world.mesh = worlds.large(300)
    browser.open(address)
    browser.wait(lambda: "300 nodes" in browser.text(".summary"), "the mesh")
    groups = browser.wait(lambda: browser.texts(".vertex[data-kind=group] .label"), "groups")
    assert set(worlds.PLACES) <= set(groups)
    assert len(browser.texts(".vertex")) < 30
    browser.run("""document.querySelector(".vertex[aria-label^=oslo]").focus()""")
    press(browser, "ENTER")
    browser.wait(lambda: len(browser.texts(".vertex")) > 40, "its members")
    browser.click("Close group oslo")
    browser.wait(lambda: len(browser.texts(".vertex")) < 30, "the group")
    assert len(browser.rows("Nodes of the mesh")) == 100
    browser.click("Show 200 more")
    browser.wait(lambda: len(browser.rows("Nodes of the mesh")) == 300, "all nodes")


# --- Work ----------------------------------------------------------------------------------------


def test_units_are_counted_filtered_and_kept_up_to_date(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work")
    browser.wait(lambda: len(browser.rows("Units of work")) == 12, "units")
    assert browser.texts(".count strong") == ["2", "3", *browser.texts(".count strong")[2:]]
    assert len(browser.texts(".bar-of-unit")) == 12
    world.change("Un0000xy", "ended", State=2, StateName="Succeeded", Detail="exit status 0")
    browser.wait(lambda: browser.texts(".count strong")[1] == "2", "one running less")
    browser.click("2▶ Running")
    browser.wait(lambda: len(browser.rows("Units of work")) == 2, "those that run")
    browser.click("All")
    fill(browser, "input[aria-label='Search units']", "edge-berlin fibonacci")
    browser.wait(lambda: len(browser.rows("Units of work")) == 3, "what a search finds")
    world.change("Un0001xy", "released")
    browser.wait(lambda: len(browser.rows("Units of work")) == 2, "one less")
    browser.wait_text("#said", "Unit Un0000xy: Succeeded")


def test_a_row_keeps_the_focus_while_the_table_changes(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work")
    browser.find("th a[href='#/work/Un0007xy']")
    browser.run("document.querySelector('th a[href=\"#/work/Un0007xy\"]').focus()")
    world.change("newest01", "created", State=0, StateName="Pending", WorkType="cat")
    browser.wait(lambda: len(browser.rows("Units of work")) == 13, "the new unit")
    assert browser.run("return document.activeElement.textContent") == "Un0007xy"


def test_older_units_are_asked_for_page_by_page(
    browser: Browser, address: str, world: World
) -> None:
    world.units = worlds.world(worlds.five(), 450).units
    browser.open(f"{address}#/work")
    browser.wait_text(".bar .summary", "200 units, and older ones")
    browser.click("Older units")
    browser.wait_text(".bar .summary", "400 units, and older ones")
    browser.click("Older units")
    browser.wait(lambda: browser.text(".bar .summary") == "450 units", "all units")


def test_a_filter_finds_units_that_are_older_than_those_that_were_asked_for(
    browser: Browser, address: str, world: World
) -> None:
    world.units = worlds.world(worlds.five(), 450).units
    canceled = [one for one in world.units.values() if one["StateName"] == "Canceled"]
    browser.open(f"{address}#/work")
    browser.wait_text(".bar .summary", "200 units, and older ones")
    browser.click(f"{browser.texts('.count strong')[4]}⊘ Canceled")
    browser.wait(lambda: len(browser.rows("Units of work")) == len(canceled) > 2, "all of them")


def test_a_form_is_made_of_the_arguments_of_a_type_and_submits_them(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/new/hub/fibonacci")
    browser.wait_text("fieldset", "position (required)")
    browser.click("Submit")
    browser.wait_text(".error", "fill out")
    press(browser, "5", "5")
    browser.run("arguments[0].value = 'roman'", browser.field("form"))
    browser.click("Submit")
    browser.wait_text("h1", "newunit1")
    assert json.loads(world.bodies[-1]) == {
        "type": "fibonacci",
        "arguments": {"position": "55", "form": "roman"},
    }


def test_a_form_leaves_the_node_to_the_placement_and_says_what_goes_along_and_comes_back(
    browser: Browser, address: str, world: World, tmp_path: Path
) -> None:
    (tmp_path / "table.csv").write_text("1;2")
    browser.open(f"{address}#/work/new/placement%20least/cat")
    browser.wait_text("form", "Returns its input.")
    browser.run("document.querySelector('details').open = true")
    browser.field("Labels of the node").send_keys("gpu=1")
    browser.field("Standard input").send_keys("what it reads")
    browser.field("Files that go along").send_keys(str(tmp_path / "table.csv"))
    browser.field("Files to bring back").send_keys("*.png out/*")
    browser.click("Submit")
    browser.wait_text("h1", "newunit1")
    boundary, _, _ = world.bodies[-1].partition(b"\r\n")
    job, dep = (part.partition(b"\r\n\r\n") for part in world.bodies[-1].split(boundary)[1:-1])
    assert b'name="job"' in job[0]
    assert json.loads(job[2]) == {
        "type": "cat",
        "placement": {"mode": "least", "labels": ["gpu=1"]},
        "payload": "what it reads",
        "output": ["*.png", "out/*"],
    }
    assert b'name="dep"; filename="table.csv"' in dep[0]
    assert dep[2].strip() == b"1;2"


def test_a_units_log_is_followed_searched_and_harmless(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/Un0000xy")
    browser.wait(lambda: len(browser.texts(".line")) == 60, "its lines")
    assert browser.texts(".line .text")[0] == "step 0: done with <b>cat</b>"
    world.logs["Un0000xy"].append({"time": "2026-11-26T11:00:01.25Z", "text": HOSTILE})
    world.tell("log")
    browser.wait(lambda: len(browser.texts(".line")) == 61, "the new line")
    assert browser.texts(".line .text")[-1] == HOSTILE.replace("\u202e", "\ufffd")
    fill(browser, "input[aria-label='Search in the output']", "STEP 1")
    browser.wait_text(".log .bar", "11 lines")
    press(browser, "ENTER")
    browser.wait_text(".log .bar", "1 of 11 lines")
    assert browser.texts(".line.current mark") == ["step 1"]
    world.change("Un0000xy", "ended", State=2, StateName="Succeeded", Detail="exit status 0")
    browser.wait_text(".log .heading", "61 lines, ended")
    browser.wait_text(".steps", "Succeeded: exit status 0")


def test_a_unit_is_canceled_only_when_it_was_confirmed(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/Un0001xy")
    browser.click("Cancel")
    press(browser, "ESCAPE")
    browser.wait(lambda: not browser.texts("dialog"), "no dialog")
    assert world.units["Un0001xy"]["StateName"] == "Running"
    browser.click("Cancel")
    browser.click("Cancel", within="dialog")
    browser.wait_text(".heading .badge", "Canceled")
    assert world.units["Un0001xy"]["StateName"] == "Canceled"
    browser.click("Release")
    browser.click("Release", within="dialog")
    browser.wait_text(".heading .badge", "released")


def test_only_what_one_may_do_has_a_button(browser: Browser, address: str, world: World) -> None:
    world.may = {"cancel": False, "release": {"Allowed": False}, "results": True}
    browser.open(f"{address}#/work/Un0001xy")
    browser.button("Submit another")
    names = browser.wait(
        lambda: "Cancel" not in (found := browser.texts(".actions :is(a, button)")) and found,
        "no button to cancel",
    )
    assert "Release" not in names


# --- History -------------------------------------------------------------------------------------


def test_the_last_hours_are_plots_that_can_be_read_by_keys_and_as_a_table(
    browser: Browser, address: str
) -> None:
    browser.open(f"{address}#/history")
    titles = browser.wait(lambda: browser.texts(".card h2"), "plots")
    names = ["Units by state", "Units in a minute", "Round trip of links", "Traffic of links"]
    assert titles == names
    browser.run("document.querySelector('.plot').focus()")
    press(browser, "END")
    browser.wait_text(".read", "succeeded 59")
    browser.click("Units by state as a table")
    browser.wait(lambda: len(browser.rows("Units by state")) == 30, "a table")
    assert browser.rows("Units by state")[0][3] == "59"
    browser.click("Traffic of links as a table")
    # It is counted for each step of ten seconds.
    assert browser.rows("Traffic of links")[0][2].endswith("KiB/s")


# --- All views -----------------------------------------------------------------------------------

VIEWS = ("#/mesh", "#/mesh/hub", "#/work", "#/work/new", "#/work/Un0001xy", "#/history", "#/x/%zz")


@pytest.mark.parametrize(
    ("part", "status"),
    [
        ("mesh", 403),
        ("units", 404),
        ("units", 403),
        ("events", 404),
        ("history", 403),
        ("types", 404),
    ],
)
def test_a_part_that_is_not_for_this_client_is_said_to_be_and_the_rest_works(
    browser: Browser, address: str, world: World, part: str, status: int
) -> None:
    world.refused[part] = status
    shows = {"mesh": "#/mesh", "units": "#/work", "history": "#/history", "types": "#/work/new"}
    browser.open(address + shows.get(part, "#/mesh"))
    if part == "events":
        browser.wait_text("#state", "every 10 s")
        browser.wait(lambda: browser.rows("Nodes of the mesh"), "the mesh, asked for")
        return
    if part == "types":
        browser.wait(lambda: "cat" in browser.texts("option"), "types as they are advertised")
        return
    browser.wait_text(".note", "not available")
    if status == 403:
        browser.button("Token")
    other = "#/work" if part == "mesh" else "#/mesh"
    browser.go(other)
    caption = "Units of work" if part == "mesh" else "Nodes of the mesh"
    browser.wait(lambda: browser.rows(caption), "the other view")


def test_names_that_hold_html_are_texts_in_every_view(
    browser: Browser, address: str, world: World
) -> None:
    unit: dict[str, Any] = worlds.world(worlds.five(), 2).units["Un0001xy"]
    texts = dict.fromkeys(("WorkType", "Detail", "SubmittedParams", "SignedBy"), HOSTILE)
    world.units = {"Un0001xy": unit | texts | {"Labels": {HOSTILE: HOSTILE}, "ExtraData": None}}
    world.units["Un0001xy"]["SubmittedBy"] = {"User": HOSTILE}
    for node in world.mesh["nodes"][1:]:
        node |= {"types": [HOSTILE], "labels": {HOSTILE: HOSTILE}, "version": HOSTILE}
        node["error"] = HOSTILE
    hostile = worlds.node(HOSTILE, HOSTILE, 1)
    world.mesh["nodes"].append(hostile)
    world.mesh["links"].append(worlds.link("hub", HOSTILE, 1))
    world.mesh["peers_down"][0] |= {"address": HOSTILE, "reason": HOSTILE, "kind": HOSTILE}
    world.types = {HOSTILE: worlds.KINDS["fibonacci"] | {"Help": HOSTILE}}
    world.types[HOSTILE]["Arguments"][0]["Help"] = HOSTILE
    world.history["series"] = {f"link.{HOSTILE}.rtt": [1.0, 2.0]}
    world.refused["ping"] = 500
    for view in (*VIEWS[:-1], f"#/mesh/{quote(HOSTILE)}"):
        browser.open(address + view)
        browser.wait(lambda: "onerror" in browser.text("main"), f"names in {view}")
        assert not browser.texts("main img")
        assert browser.run("return document.title") != "gone"


def test_a_lost_connection_is_seen_and_what_was_missed_is_made_up_for(
    browser: Browser, world: World
) -> None:
    port = free_port()
    with serving(world, port) as address:
        browser.open(f"{address}#/work")
        browser.wait_text("#state", "live")
    browser.wait_text("#state", "connection lost")
    browser.wait_text("#banner", "The connection to the node is lost")
    world.units["missed01"] = worlds.world(worlds.five(), 1).units["Un0000xy"] | {"ID": "missed01"}
    world.version = "2"
    with serving(world, port):
        browser.wait_text("#state", "live")
        browser.wait_text("#upgraded", "The node has another version now")
        browser.wait(lambda: "missed01" in str(browser.rows("Units of work")), "the missed unit")
        assert not browser.find("#state").get_attribute("hidden")
        assert browser.run("return document.getElementById('banner').hidden")
        browser.open("about:blank")


def test_a_page_that_was_left_gives_its_connections_back_until_somebody_comes_back(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/Un0001xy")
    browser.wait(lambda: world.open_streams() == 2, "the streams of events and of output")
    browser.open(f"{address}icon.svg")
    browser.wait(lambda: world.open_streams() == 0, "the end of both")
    for _ in range(2):
        browser.driver.back()
    browser.wait(lambda: world.open_streams() == 2, "both again")
    world.change("Un0001xy", "ended", State=2, StateName="Succeeded", Detail="exit status 0")
    browser.wait_text(".heading .badge", "Succeeded")
    # What it had read before it was left, it has not read again.
    browser.wait_text(".log .heading [role=status]", "60 lines, ended")


@pytest.mark.parametrize("change", ["ended", "released"])
@pytest.mark.parametrize("asked", ["units", "units/Un0001xy"])
def test_an_answer_that_is_older_than_what_was_told_meanwhile_undoes_none_of_it(
    browser: Browser, address: str, world: World, asked: str, change: str
) -> None:
    world.held[asked] = threading.Event()
    try:
        browser.open(f"{address}#/work" + asked.removeprefix("units"))
        paths = lambda: [urlsplit(path).path for _, path in world.asked]  # noqa: E731
        browser.wait(lambda: f"/api/v1/{asked}" in paths(), "the question")
        browser.wait(lambda: browser.text("#state") == "live", "events")
        world.change("Un0001xy", change, State=2, StateName="Succeeded", Detail="exit status 0")
        world.change("Un0003xy", "changed", Detail="heard after it")
        asked_for_mesh = paths().count("/api/v1/mesh")
        world.tell("mesh", change="told after both")
        browser.wait(lambda: paths().count("/api/v1/mesh") > asked_for_mesh, "the last event")
    finally:
        world.held.pop(asked).set()
    if asked != "units":
        shown = {"ended": "Succeeded", "released": "released"}[change]
        browser.wait_text(".heading .badge", shown)
        browser.go("/work")
    browser.wait(lambda: len(browser.rows("Units of work")) == 11 + (change == "ended"), "all")
    states = {row[0]: " ".join(row) for row in browser.rows("Units of work")}
    assert "Running" not in states.get("Un0001xy", "")


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_can_be_read_in_light_and_dark_and_by_a_screen_reader(
    browser: Browser, address: str, view: str
) -> None:
    browser.open(address + view)
    browser.wait(lambda: browser.text("#state") == "live", view)
    browser.wait(lambda: browser.text("main") and "Asking" not in browser.text("main"), view)
    reading.check(browser)


def test_who_moves_to_another_view_by_keys_begins_at_its_heading(
    browser: Browser, address: str
) -> None:
    browser.open(address)
    browser.find("nav a[data-view=work]").send_keys("\n")
    browser.wait(
        lambda: browser.run("return document.activeElement.textContent") == "Work", "focus"
    )
    assert browser.run("return document.title") == "Work · hub"
    assert browser.find("nav a[aria-current=page]").text == "Work"


def test_a_theme_that_was_chosen_is_kept(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.click("Theme: system")
    browser.button("Theme: dark")
    browser.open(address)
    browser.click("Theme: dark")
    browser.click("Theme: light")
    browser.button("Theme: system")
