"""Batches in the page: how far each is, and of thousands of members those that failed."""

import json
from pathlib import Path

import pytest
import reading
import worlds
from driving import Browser
from reading import HOSTILE
from standin import World


def members(browser: Browser) -> list[list[str]]:
    return browser.rows("Members")


def questions(world: World, batch: str) -> int:
    return sum(path.startswith(f"/api/v1/batches/{batch}/members") for _, path in world.asked)


def test_batches_are_listed_with_a_bar_that_a_screen_reader_reads(
    browser: Browser, address: str, world: World
) -> None:
    worlds.batch(world, 40, 12)
    browser.open(f"{address}#/work")
    (row,) = browser.wait(lambda: browser.rows("Batches"), "the batch")
    assert row[:3] == ["b-Wd4eS9tQ", "▶ Running", "cat"]
    assert row[3] == "12 of 40 ended"
    assert row[4] == "1 failed, 11 succeeded, 20 in flight, 8 waiting"
    said = browser.run("""
        const bar = document.querySelector("[role=progressbar]");
        return ["aria-label", "aria-valuenow", "aria-valuemax", "aria-valuetext"]
            .map((name) => bar.getAttribute(name))""")
    assert said[:3] == ["Progress of batch b-Wd4eS9tQ", "12", "40"]
    assert said[3] == f"12 of 40 ended: {row[4]}"
    browser.click("b-Wd4eS9tQ")
    browser.wait_text("h1", "b-Wd4eS9tQ")


def test_of_five_thousand_members_those_that_failed_come_first_and_the_rest_is_paged(
    browser: Browser, address: str, world: World
) -> None:
    batch = worlds.batch(world, 5000, 4990)
    browser.open(f"{address}#/work/batch/{batch}")
    rows = browser.wait(lambda: len(found := members(browser)) == 100 and found, "100 members")
    failed = [row for row in rows if "Failed" in row[1]]
    assert [int(row[0]) for row in failed] == [*range(5, 4990, 97)]
    assert rows[: len(failed)] == failed
    assert [row[1] for row in rows[len(failed) :][:10]] == ["▶ Running"] * 10
    assert browser.run("return document.querySelector('a[href=\"#/work/M0000005\"]').innerText")
    browser.wait_text(".bar .summary", "5000 members")
    browser.click("Show 400 more")
    browser.wait(lambda: len(members(browser)) == 500, "more of them")
    browser.click(f"{browser.texts('.count strong')[3]}✕ failed")
    browser.wait(lambda: len(members(browser)) == len(failed), "those that failed alone")
    assert questions(world, batch) < 100


def test_members_that_end_by_the_hundred_are_shown_by_few_questions(
    browser: Browser, address: str, world: World
) -> None:
    batch = worlds.batch(world, 300, 0)
    world.batches[batch] |= {"InFlight": 300, "Waiting": 0}
    browser.open(f"{address}#/work/batch/{batch}")
    browser.wait(lambda: len(members(browser)) == 20, "those that run")
    before = questions(world, batch)
    for index in range(1, 301):
        state = "Failed" if index == 200 else "Succeeded"
        world.end_member(batch, index, f"M{index:07}", StateName=state, Detail="exit status")
    world.batches[batch] |= {"StateName": "Failed"}
    browser.wait_text(".heading .badge", "Failed")
    browser.wait(lambda: len(members(browser)) == 100, "members")
    assert members(browser)[0][:3] == ["200", "✕ Failed", "M0000200"]
    browser.wait_text(".bar .summary", "300 members")
    browser.wait_text("#said", f"Batch {batch}: Failed, 1 failed, 299 succeeded")
    # One when the first had ended, one for what came meanwhile, and one that brought nothing new.
    assert questions(world, batch) - before < 100
    end = sum(len(json.dumps(line)) + 1 for line in world.journals[batch])
    path = f"/api/v1/batches/{batch}/members?from={end}"
    browser.wait(lambda: ("GET", path) in world.asked, "that it reads on from where it was")


def test_what_could_not_be_submitted_or_runs_again_is_told_of_members(
    browser: Browser, address: str, world: World
) -> None:
    batch = worlds.batch(world, 10, 6)
    world.journals[batch].append({"Index": 7, "StateName": "Refused", "Detail": "no room <b>"})
    world.batches[batch] |= {"Refused": 1, "InFlight": 3}
    browser.open(f"{address}#/work/batch/{batch}")
    browser.wait(lambda: len(members(browser)) == 11, "members")
    assert members(browser)[1][:3] == ["7", "⊖ Refused", "–"]
    assert members(browser)[1][-1] == "no room <b>"
    world.journals[batch].append({"Event": "retry"})
    world.batches[batch] |= {"Refused": 0, "Failed": 0, "Waiting": 2}
    world.change("M0000011", "changed", Labels={"batch": batch}, StateName="Running")
    browser.wait(lambda: not [row for row in members(browser) if row[1] == "✕ Failed"], "no failed")


def test_a_batch_is_canceled_and_released_only_when_that_was_confirmed(
    browser: Browser, address: str, world: World
) -> None:
    batch = worlds.batch(world, 40, 12)
    browser.open(f"{address}#/work/batch/{batch}")
    browser.click("Cancel")
    browser.click("Leave it", within="dialog")
    browser.wait(lambda: not browser.texts("dialog"), "no dialog")
    assert world.batches[batch]["StateName"] == "Running"
    browser.click("Cancel")
    browser.click("Cancel", within="dialog")
    browser.wait_text(".heading .badge", "Canceled")
    browser.click("Release")
    browser.click("Release", within="dialog")
    browser.wait_text(".heading .badge", "released")
    assert browser.texts(".actions button") == []
    browser.go("#/work")
    browser.wait(lambda: browser.text("h1") == "Work" and not browser.rows("Batches"), "none")


def test_what_failed_of_a_batch_that_has_ended_is_run_again(
    browser: Browser, address: str, world: World
) -> None:
    batch = worlds.batch(world, 120, 120)
    browser.open(f"{address}#/work/batch/{batch}")
    browser.wait_text(".heading .badge", "Failed")
    browser.wait(lambda: [row[0] for row in members(browser)[:3]] == ["5", "102", "1"], "members")
    assert browser.texts(".actions button") == ["Retry", "Release"]
    browser.click("Retry")
    browser.click("Retry", within="dialog")
    browser.wait_text("#said", "Retry: 2 members")
    browser.wait_text(".heading .badge", "Running")
    browser.wait_text(".bar .summary", "118 members")
    assert browser.texts(".actions button") == ["Cancel", "Release"]


@pytest.mark.parametrize("view", ["#/work", "#/work/batch/b-Wd4eS9tQ"])
def test_what_is_shown_of_batches_can_be_read_whatever_their_names_hold(
    browser: Browser, address: str, world: World, view: str
) -> None:
    batch = worlds.batch(world, 40, 12)
    world.batches[batch] |= dict.fromkeys(("Work", "Detail", "SubmittedBy", "Node"), HOSTILE)
    world.journals[batch][4] |= {"Detail": HOSTILE, "UnitID": HOSTILE}
    browser.open(address + view)
    browser.wait(lambda: browser.text("#state") == "live", view)
    browser.wait(lambda: "onerror" in browser.text("main"), "names")
    reading.check(browser)
    assert not browser.texts("main img")
    assert browser.run("return document.title") != "gone"


@pytest.mark.parametrize("may", [[], ["cancel"], ["release"], ["cancel", "release"]])
def test_only_what_one_may_do_with_a_batch_has_a_button(
    browser: Browser, address: str, world: World, may: list[str]
) -> None:
    batch = worlds.batch(world, 40, 12)
    world.may_batch = {name: name in may for name in ("status", "cancel", "release", "retry")}
    browser.open(f"{address}#/work/batch/{batch}")
    wanted = [name.capitalize() for name in may]
    browser.wait(
        lambda: members(browser) and browser.texts(".actions button") == wanted, f"{wanted}"
    )


def test_the_page_of_a_unit_leads_to_its_batch(
    browser: Browser, address: str, world: World
) -> None:
    batch = worlds.batch(world, 40, 12)
    browser.open(f"{address}#/work/M0000013")
    browser.click(batch, within=".facts")
    browser.wait_text("h1", batch)
    browser.wait_text(".facts", "ada")


@pytest.mark.parametrize("status", [403, 404])
def test_who_may_see_no_batches_sees_units_and_is_told_of_one_it_asks_for(
    browser: Browser, address: str, world: World, status: int
) -> None:
    batch = worlds.batch(world, 40, 12)
    world.refused["batches"] = status
    browser.open(f"{address}#/work")
    browser.wait(lambda: browser.rows("Units of work"), "units")
    assert not browser.rows("Batches")
    browser.go(f"#/work/batch/{batch}")
    words = {403: "not available to you", 404: f"There is no batch {batch} here"}
    browser.wait_text(".note", words[status])
    browser.go("#/work/batch/b-none")
    browser.wait_text(".note", "batch")


def test_events_that_were_missed_are_made_up_for_without_reading_a_batch_again(
    browser: Browser, address: str, world: World
) -> None:
    batch = worlds.batch(world, 4000, 3900)
    browser.open(f"{address}#/work/batch/{batch}")
    browser.wait_text(".bar .summary", "3920 members")
    before = questions(world, batch)
    world.journals[batch].append({"Index": 3901, "StateName": "Refused", "Detail": "unheard"})
    world.batches[batch] |= {"Refused": 1}
    world.tell("lost")
    browser.wait(lambda: "unheard" in str(members(browser)[:60]), "what was missed")
    later = [path for _, path in world.asked if f"/{batch}/members" in path][before:]
    assert later
    assert not [path for path in later if path.endswith("from=0")]


def test_after_a_connection_was_lost_a_batch_is_read_from_its_beginning(
    browser: Browser, address: str, world: World
) -> None:
    batch = worlds.batch(world, 40, 12)
    browser.open(f"{address}#/work/batch/{batch}")
    browser.wait(lambda: len(members(browser)) == 32, "members")
    # The node was killed, and the end of its journal with it.
    world.journals[batch] = json.loads(json.dumps(world.journals[batch][:3]))
    world.batches[batch] |= {"Succeeded": 3, "Failed": 0, "Waiting": 17}
    world.hang_up()
    browser.wait(lambda: len(members(browser)) == 23, "what there is now")


CHOOSE = """
    const choice = [...document.querySelectorAll("label")]
        .find((one) => one.textContent === "Run it").control;
    choice.value = arguments[0];
    choice.dispatchEvent(new Event("change"));"""


def test_the_form_submits_a_batch_of_numbers_in_which_index_stands_for_each(
    browser: Browser, address: str, world: World
) -> None:
    browser.open(f"{address}#/work/new/hub/fibonacci")
    browser.wait_text("fieldset", "position (required)")
    browser.run(CHOOSE, "array")
    browser.field("position").send_keys("{index}")
    browser.click("Submit")
    browser.wait_text(".error", "fill out")
    browser.field("Numbers").send_keys("1-9:2")
    browser.field("At a time").send_keys("3")
    browser.click("Submit")
    browser.wait_text("h1", "b-newbatch")
    job = {"type": "fibonacci", "arguments": {"position": "{index}"}}
    assert json.loads(world.bodies[-1]) == {"job": job, "array": "1-9:2", "max_in_flight": 3}


def test_the_form_submits_a_batch_of_lines_and_no_files_with_it(
    browser: Browser, address: str, world: World, tmp_path: Path
) -> None:
    (tmp_path / "table.csv").write_text("1;2")
    browser.open(f"{address}#/work/new/hub/cat")
    browser.wait_text("form", "Returns its input.")
    browser.run(CHOOSE, "lines")
    browser.field("Lines").send_keys("one <b>\n\ntwo\n")
    file = browser.field("or a file")
    file.send_keys(str(tmp_path / "table.csv"))
    browser.click("Submit")
    browser.wait_text(".note", "Files go along with a batch by meshctl only")
    assert not world.bodies
    browser.run("arguments[0].value = ''", file)
    browser.click("Submit")
    browser.wait_text("h1", "b-newbatch")
    assert json.loads(world.bodies[-1]) == {"job": {"type": "cat"}, "lines": ["one <b>", "two"]}


@pytest.mark.parametrize("status", [422, 502, 503])
@pytest.mark.parametrize(("what", "shown"), [("units", "newunit1"), ("batches", "b-newbatch")])
def test_what_is_submitted_again_after_a_fault_has_the_same_key_and_after_a_refusal_another(
    browser: Browser, address: str, world: World, status: int, what: str, shown: str
) -> None:
    browser.open(f"{address}#/work/new/hub/cat")
    browser.wait_text("form", "Returns its input.")
    if what == "batches":
        browser.run(CHOOSE, "array")
        browser.field("Numbers").send_keys("1-9")
    world.refused[what] = status
    browser.click("Submit")
    browser.wait_text(".note", "refused for the test")
    del world.refused[what]
    browser.click("Submit")
    browser.wait_text("h1", shown)
    first, second = world.keys
    assert (first == second) == (status >= 500)


def test_the_view_of_a_batch_asks_nothing_more_when_it_was_left(
    browser: Browser, address: str, world: World
) -> None:
    batch = worlds.batch(world, 40, 12)
    browser.open(f"{address}#/work/batch/{batch}")
    browser.wait(lambda: members(browser), "members")
    browser.go("#/history")
    browser.wait(lambda: browser.texts(".card h2"), "the other view")
    before = questions(world, batch)
    for index in range(13, 30):
        world.end_member(batch, index, f"M{index:07}", StateName="Succeeded")
    asked = sum(path == "/api/v1/mesh" for _, path in world.asked)
    world.tell("mesh", change="told after them")
    told = lambda: sum(path == "/api/v1/mesh" for _, path in world.asked) > asked  # noqa: E731
    browser.wait(told, "the last event")
    assert questions(world, batch) == before
