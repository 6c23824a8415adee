"""What happens at the wrong moment: late answers, views that are left, somebody else who looks."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import worlds
from driving import Browser
from reading import HOSTILE
from standin import World


def asked(world: World, path: str) -> int:
    """Return how often a path below /api/v1 was asked for."""
    return sum(urlsplit(one).path == f"/api/v1/{path}" for _, one in list(world.asked))


ANSWERED = """
    const known = performance.getEntriesByType("resource");
    return known.some(({ name }) => name.includes(arguments[0]))"""
"""Whether an address has been answered: the browser keeps a record of what it has read whole."""


@contextmanager
def held(world: World, path: str) -> Iterator[None]:
    """Have no answer to a path be sent until the end of this."""
    world.held[path] = threading.Event()
    try:
        yield
    finally:
        world.held.pop(path).set()


def test_who_leaves_the_form_while_it_is_sent_is_left_where_he_went(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/new/hub/cat")
    browser.wait_text("form", "Returns its input.")
    with held(world, "units"):
        browser.click("Submit")
        browser.wait(lambda: world.bodies, "the submission")
        browser.go("#/history")
        browser.wait(lambda: browser.texts(".card h2"), "the other view")
    browser.wait_text("#said", "Submitted as unit newunit1")
    assert browser.text("h1") == "History"


def test_the_types_of_a_node_that_was_left_do_not_replace_those_of_the_chosen_one(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/new/hub/fibonacci")
    browser.wait_text("fieldset", "position (required)")
    choose = """
        const choice = document.querySelector("form select");
        choice.value = arguments[0];
        choice.dispatchEvent(new Event("change"));"""
    types = '[...document.querySelectorAll("form select")][1].options'
    names = f"return [...{types}].map((one) => one.value)"
    nodes = ("edge-berlin", "edge-tokyo")
    browser.wait(lambda: set(nodes) <= set(browser.texts("form option")), "nodes to choose from")
    before = asked(world, "types")
    with held(world, "types"):
        browser.run(choose, nodes[0])
        browser.wait(lambda: asked(world, "types") > before, "the question")
        world.types["late"] = {"Help": "Of the node that is chosen."}
        # Only the first question is held: its answer comes last.
        first = world.held.pop("types")
        browser.run(choose, nodes[1])
        browser.wait(lambda: "late" in browser.run(names), "the types of the second node")
        world.held["types"] = first
    browser.wait(lambda: browser.run(ANSWERED, "types?node=edge-berlin"), "the late answer")
    assert "late" in browser.run(names)


def test_a_question_goes_with_the_view_that_has_asked_it(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/Un0001xy")
    browser.click("Cancel")
    browser.wait(lambda: browser.texts("dialog h2"), "the question")
    browser.go("#/work/Un0002xy")
    browser.wait_text("h1", "Un0002xy")
    browser.wait(lambda: not browser.texts("dialog"), "no question about another unit")
    assert world.units["Un0001xy"]["StateName"] == "Running"


def test_the_answer_to_the_last_of_two_questions_about_a_node_is_shown(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/mesh/gpu-1")
    with held(world, "ping/gpu-1"):
        browser.click("Ping")
        browser.wait(lambda: asked(world, "ping/gpu-1"), "the first question")
        browser.click("Traceroute")
        browser.wait_text("pre", "traceroute: There is no such thing")
    browser.wait(lambda: browser.run(ANSWERED, "ping/gpu-1"), "the late answer")
    assert browser.text("pre") == "traceroute: There is no such thing"


def test_who_signs_in_as_somebody_else_sees_nothing_of_what_was_there(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work")
    browser.wait(lambda: len(browser.rows("Units of work")) == 12, "units")
    world.refused |= dict.fromkeys(("units", "events", "mesh", "history", "batches"), 403)
    browser.run("document.getElementById('token').hidden = false")
    browser.click("Token")
    browser.find("dialog input").send_keys("another")
    browser.click("Use it")
    browser.wait_text(".note", "not available to you")
    browser.wait(lambda: not browser.rows("Units of work"), "no unit")
    browser.go("#/mesh")
    browser.wait_text(".note", "not available to you")
    assert not browser.rows("Nodes of the mesh")


def test_who_signs_in_as_somebody_else_sees_no_unit_that_was_shown(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/Un0001xy")
    browser.wait(lambda: len(browser.texts(".line")) == 60, "its output")
    world.refused |= dict.fromkeys(("units", "events", "mesh", "batches"), 404)
    browser.run("document.getElementById('token').hidden = false")
    browser.click("Token")
    browser.find("dialog input").send_keys("another")
    browser.click("Use it")
    browser.wait_text(".note", "There is no unit Un0001xy here")
    assert not browser.texts(".line") + browser.texts(".facts dd") + browser.texts(".badge")


def test_who_is_known_again_has_events_again(browser: Browser, address: str, world: World) -> None:
    world.refused |= dict.fromkeys(("units", "events", "mesh", "batches"), 401)
    browser.open(f"{address}#/work")
    browser.wait_text("#state", "not signed in")
    world.refused.clear()
    browser.wait(lambda: browser.text("#state") == "live", "events")
    browser.wait(lambda: len(browser.rows("Units of work")) == 12, "units")
    world.change("Un0000xy", "ended", State=2, StateName="Succeeded")
    browser.wait_text("#said", "Unit Un0000xy: Succeeded")


def test_older_units_stay_when_a_node_without_events_is_asked_again(
    browser: Browser, address: str, world: World
) -> None:
    world.units = worlds.world(worlds.five(), 450).units
    world.refused["events"] = 404
    browser.open(f"{address}#/work")
    browser.wait_text(".bar .summary", "200 units, and older ones")
    browser.click("Older units")
    browser.wait_text(".bar .summary", "400 units, and older ones")
    newest = {"ID": "newest01", "Created": worlds.text(datetime.now(UTC))}
    world.units["newest01"] = world.units["Un0000xy"] | newest
    browser.wait(lambda: "newest01" in str(browser.rows("Units of work")), "the newest one")
    assert browser.text(".bar .summary") == "400 units, and older ones"


def test_a_unit_that_was_asked_for_in_vain_is_shown_when_the_node_answers_again(
    browser: Browser, address: str, world: World
) -> None:
    world.refused["units"] = 503
    browser.open(f"{address}#/work/Un0001xy")
    browser.wait_text(".note", "This unit is not known")
    world.refused.clear()
    world.hang_up()
    browser.wait_text(".heading .badge", "Running")
    browser.wait(lambda: len(browser.texts(".line")) == 60, "its output")
    assert not browser.texts(".note")


def test_a_node_shows_its_units_also_where_they_are_older_than_what_the_page_knows(
    browser: Browser, address: str, world: World
) -> None:
    world.units = worlds.world(worlds.five(), 450).units
    oldest = world.units[sorted(world.units)[-1]]
    oldest["ExtraData"] = {"RemoteNode": "gpu-1", "RemoteWorkType": "train"}
    browser.open(f"{address}#/mesh/gpu-1")
    browser.wait(lambda: browser.rows("Units on gpu-1"), "its unit")
    assert [row[0] for row in browser.rows("Units on gpu-1")] == [oldest["ID"]]


def test_times_are_told_by_the_clock_of_the_node_where_that_of_the_browser_is_wrong(
    browser: Browser, address: str, world: World
) -> None:
    world.now = datetime.now(UTC) + timedelta(hours=3)
    world.units = worlds.world(worlds.five(), 6, world.now).units
    batch = worlds.batch(world, 40, 12, now=world.now)
    browser.open(f"{address}#/work")
    (row,) = browser.wait(lambda: browser.rows("Batches"), "the batch")
    assert row[6].startswith("1 min 1")
    times = {row[0]: row[5] for row in browser.rows("Units of work")}
    assert times["Un0001xy"].startswith("1 min ")
    assert len(browser.texts(".bar-of-unit.bar-of-unit")) >= 6
    browser.go(f"#/work/batch/{batch}")
    browser.wait_text(".facts", "1 min 1")
    browser.go("#/work/Un0001xy")
    browser.wait_text(".facts", "1 min ")


def test_a_link_among_the_facts_of_a_unit_keeps_the_focus_while_its_time_grows(
    browser: Browser, address: str
) -> None:
    browser.open(f"{address}#/work/Un0001xy")
    browser.button("edge-berlin", within=".facts")
    browser.run("document.querySelector('.facts a').focus()")
    time = """return [...document.querySelectorAll(".facts div")]
        .find((one) => one.textContent.startsWith("Run time")).textContent"""
    before = browser.run(time)
    browser.wait(lambda: browser.run(time) != before, "a longer time")
    assert browser.run("return document.activeElement.textContent") == "edge-berlin"


def test_a_name_turns_no_text_but_is_sent_as_it_is(
    browser: Browser, address: str, world: World
) -> None:
    world.mesh["nodes"].append(worlds.node(HOSTILE, HOSTILE, 1))
    browser.open(address)
    browser.wait(lambda: len(browser.rows("Nodes of the mesh")) == 6, "nodes")
    turned = """
        const said = [...document.querySelectorAll("*")].flatMap((one) =>
            [one.getAttribute("aria-label"), one.getAttribute("title")]);
        return [document.body.innerText, ...said].join("").includes("\\u202e")"""
    assert not browser.run(turned)
    browser.run("[...document.querySelectorAll('th a')].find((a) => /img/.test(a.text)).click()")
    browser.click("Ping")
    browser.wait_text("pre", "Reply from")
    assert any("%E2%80%AE" in path for _, path in world.asked if "/ping/" in path)


def test_a_hundred_units_that_end_at_once_are_said_in_one_sentence(
    browser: Browser, address: str, world: World
) -> None:
    world.units = worlds.world(worlds.five(), 150).units
    browser.open(f"{address}#/work")
    browser.wait_text(".bar .summary", "150 units")
    browser.run("""
        window.said = [];
        new MutationObserver(() => window.said.push(document.getElementById("said").textContent))
            .observe(document.getElementById("said"), { childList: true });""")
    for number, unit_id in enumerate(sorted(world.units)[:100]):
        state = "Failed" if number % 10 == 0 else "Succeeded"
        world.change(unit_id, "ended", State=3, StateName=state)
    world.change("lastone1", "created", State=0, StateName="Pending", WorkType="cat")
    browser.wait_text(".bar .summary", "151 units")
    browser.wait(lambda: browser.run("return said.length"), "a sentence")
    count = """return said.map((one) => Number(/^(\\d+) units ended/.exec(one)?.[1] ?? 1))
        .reduce((sum, one) => sum + one, 0)"""
    browser.wait(lambda: browser.run(count) == 100, "all that have ended")
    assert len(browser.run("return said")) < 20


def test_a_file_that_cannot_be_had_with_a_token_is_told(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/Un0001xy")
    browser.wait(lambda: browser.texts(".line"), "its output")
    browser.run("document.getElementById('token').hidden = false")
    browser.click("Token")
    browser.find("dialog input").send_keys("mine")
    browser.click("Use it")
    browser.wait(lambda: not browser.texts("dialog"), "no dialog")
    browser.go("#/work/Un0002xy")
    browser.click("Download stdout")
    browser.wait_text(".log .note", "Download stdout: There is no such thing")


def test_an_address_with_steps_in_it_leads_to_nothing_else(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/..")
    browser.wait_text(".note", "There is no unit .. here")
    browser.go("#/work/batch/..")
    browser.wait_text(".note", "There is no batch .. here")
    paths = {urlsplit(path).path for _, path in world.asked}
    assert not paths & {"/api/v1/", "/api/v1/may", "/api/v1/members", "/api/v1/batches/"}
