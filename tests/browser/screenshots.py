"""Pictures of the page for its documentation: ``make screenshots`` writes them to docs/images.

They show what a stand-in tells, so that they show everything that there can be, and always at the
same moment: a picture changes only when the page does.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import driving
import worlds
from driving import Browser, browsing
from standin import World, serving

WIDTH, HEIGHT = 1200, 780
"""Pixels of a picture: they are looked at in a page of text."""

NOW = datetime(2026, 11, 26, 11, 50, 17, tzinfo=UTC)
"""What each clock in the pictures says."""

FOLLOWED = "Un0001xy"
"""The unit whose page is shown."""


BATCH = "b-Wd4eS9tQ"
"""The batch whose page is shown."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: what is to be seen, in which light, and what is done before."""

    name: str
    view: str
    theme: str
    shows: str
    """What is in the page once it is whole."""
    act: Callable[[Browser], None] = lambda browser: None
    height: int = HEIGHT


def point(browser: Browser) -> None:
    """Have the path to a node shown."""
    browser.run("document.querySelector('a[href=\"#/mesh/gpu-1\"]').focus()")


def open_group(browser: Browser) -> None:
    """Open one group, and show the graph."""
    browser.run("""
        document.querySelector(".vertex[aria-label^=lagos]").dispatchEvent(new Event("click"));
        document.activeElement.blur();
        document.querySelector(".legend").scrollIntoView({ block: "end" });""")


def fill_in(browser: Browser) -> None:
    """Fill in the form as far as it is right, and no further."""
    browser.wait(lambda: browser.texts("fieldset legend"), "the form")
    browser.run("document.querySelector('fieldset input').value = '4711'")
    browser.run("document.querySelector('form').requestSubmit()")


def read(browser: Browser) -> None:
    """Show the times of a log, and what a search finds."""
    browser.wait(lambda: browser.texts(".line"), "its output")
    browser.run("""
        const find = (name) => [...document.querySelectorAll("label")]
            .find((one) => one.textContent === name);
        find("Times").click();
        const search = document.querySelector(".log input[type=search]");
        search.value = "warning";
        search.dispatchEvent(new Event("input"));""")


FIVE = (
    Picture("mesh", "#/mesh", "light", "lab.example.org", point, 1090),
    Picture("node", "#/mesh/edge-tokyo", "dark", "Round trip"),
    Picture("work", "#/work", "dark", "b-Uq3fT7sV", height=960),
    Picture("batch", f"#/work/batch/{BATCH}", "light", "M0000005", height=820),
    Picture("submit", "#/work/new/hub/fibonacci", "light", "Fibonacci", fill_in),
    Picture("unit", f"#/work/{FOLLOWED}", "light", "records", read),
    Picture("history", "#/history", "dark", "Traffic"),
)

MANY = (Picture("mesh-of-300", "#/mesh", "dark", "300 nodes", open_group),)


def world_of_five() -> World:
    """Return what the pictures show: a mesh, work, and a log to read."""
    world = worlds.world(worlds.five(), 60, NOW)
    start = NOW - timedelta(seconds=70)
    lines = []
    for at in range(40):
        is_odd = at % 9 == 7
        text = f"part {at} of 64: {4096 - at * 7 % 50} records"
        if is_odd:
            text = f"warning: record {at * 4096 + 77} has no date"
        stream = "stderr" if is_odd else "stdout"
        time = worlds.text(start + timedelta(seconds=at * 1.613))
        lines.append({"time": time, "stream": stream, "text": text})
    world.logs[FOLLOWED] = lines
    worlds.batch(world, 40, 40, "b-Uq3fT7sV", now=NOW - timedelta(minutes=50))
    worlds.batch(world, 2000, 1204, BATCH, most=4, now=NOW)
    return world


WHEN_DRAWN = """
    if (document.activeElement) document.activeElement.style.caretColor = "transparent";
    for (let left = 3; left; left -= 1) await new Promise(requestAnimationFrame);"""
"""Waits until all is where it belongs; a cursor that blinks would be there or not."""


def take(browser: Browser, address: str, picture: Picture, directory: Path) -> None:
    """Take one picture."""
    browser.look(picture.theme, WIDTH, picture.height)
    browser.open(address + picture.view)
    browser.wait_text("#state", "live")
    browser.wait_text("main", picture.shows)
    picture.act(browser)
    browser.module(WHEN_DRAWN)
    browser.driver.save_screenshot(str(directory / f"page-{picture.name}.png"))


def stop_clock(browser: Browser) -> None:
    """Have all pages that are opened from now on believe that it is one moment for ever."""
    source = f"Date.now = () => {int(NOW.timestamp() * 1000)}"
    command = browser.driver.execute_cdp_cmd
    command("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    command("Emulation.setTimezoneOverride", {"timezoneId": "UTC"})


def main(directory: Path) -> int:
    """Take all pictures. Return the exit code."""
    if reason := driving.reason_against():
        print(reason, file=sys.stderr)
        return 1
    directory.mkdir(parents=True, exist_ok=True)
    worlds_shown = ((world_of_five(), FIVE), (worlds.world(worlds.large(300), now=NOW), MANY))
    with tempfile.TemporaryDirectory() as home, browsing(Path(home)) as browser:
        stop_clock(browser)
        for world, pictures in worlds_shown:
            world.now = NOW
            with serving(world) as address:
                for picture in pictures:
                    take(browser, address, picture, directory)
                browser.open("about:blank")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
