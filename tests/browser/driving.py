"""A real browser, Debian's chromium, that tests drive: what it shows, logs and asks of whom.

Selenium and not Playwright: it drives the browser that a distribution has, by the driver of the
same package, while Playwright brings a browser of its own, which a package index has not.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 60.0
"""Seconds until a wait fails. Only what is broken takes so long; a passing test never waits it."""

WIDTH, HEIGHT = 1400, 900
"""Pixels of the window, if a test does not say otherwise."""

ASK_AGAIN = 0.05
"""Seconds after which a page is looked at again; it does not tell a driver of its changes."""

PROGRAMS = ("chromium", "chromedriver")

Json = dict[str, Any]


def reason_against() -> str | None:
    """Return why there can be no browser here; None if there can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: pip install 'meshnode[test]'"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {' and no '.join(missing)} in PATH: apt install chromium chromium-driver"
    return None


class Browser:
    """One browser and its only page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    # --- What it does --------------------------------------------------------------------------

    def open(self, address: str) -> None:
        """Go to an address, from another page: the same one with another end is loaded, too."""
        self.driver.get("about:blank")
        self.driver.get(address)

    def go(self, view: str) -> None:
        """Go to another view, as a link of the page does."""
        self.driver.execute_script("location.hash = arguments[0]", view)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns."""
        return self.driver.execute_script(script, *arguments)

    def module(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns that may import modules of the page and wait."""
        wrapped = f"""
            const done = arguments[arguments.length - 1];
            const load = (name) => import(new URL(name, document.baseURI));
            (async (...given) => {{ {script} }})(...[...arguments].slice(0, -1))
                .then((value) => done({{ value }}), (error) => done({{ error: String(error) }}));
        """
        answer = self.driver.execute_async_script(wrapped, *arguments)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def find(self, selector: str) -> Any:
        """Return the first element of a selector, once it is there and can be seen."""

        def look() -> Any:
            found = self.driver.find_elements("css selector", selector)
            return next((one for one in found if one.is_displayed()), None)

        return self.wait(look, f"an element {selector}")

    def field(self, label: str) -> Any:
        """Return what is filled in under a label that begins so."""
        script = """
            const labels = [...document.querySelectorAll("label")];
            const found = labels.find((one) => one.textContent.trim().startsWith(arguments[0]));
            return found?.control?.checkVisibility() ? found.control : null"""
        return self.wait(lambda: self.run(script, label), f"a field {label!r}")

    def button(self, text: str, within: str = "body") -> Any:
        """Return the button or link with exactly this text, or this name for screen readers."""
        script = """
            return [...document.querySelectorAll(`${arguments[1]} :is(button, a)`)].find((one) =>
                [one.textContent.trim(), one.getAttribute("aria-label")].includes(arguments[0])
                && one.checkVisibility()) ?? null"""
        return self.wait(lambda: self.run(script, text, within), f"a button {text!r}")

    def click(self, text: str, within: str = "body") -> None:
        """Click a button or link, once it is there; the page may make it anew meanwhile."""

        def click() -> bool:
            self.button(text, within).click()
            return True

        self.wait(click, f"{text!r} to be clicked")

    def keys(self, *keys: str) -> None:
        """Press keys where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def look(self, theme: str = "light", width: int = WIDTH, height: int = HEIGHT) -> None:
        """Have a theme and a size of the window."""
        media = [{"name": "prefers-color-scheme", "value": theme}]
        media.append({"name": "prefers-reduced-motion", "value": "reduce"})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    # --- What it shows -------------------------------------------------------------------------

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Return what a condition returns once it is true.

        What a condition touches may be made anew meanwhile, or still be covered or out of place.
        """
        from selenium.common.exceptions import (
            ElementClickInterceptedException,
            ElementNotInteractableException,
            StaleElementReferenceException,
            TimeoutException,
        )
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = [
            ElementClickInterceptedException,
            ElementNotInteractableException,
            StaleElementReferenceException,
        ]
        waiting = WebDriverWait(self.driver, PATIENCE, ASK_AGAIN, ignored_exceptions=ignored)
        try:
            return waiting.until(lambda _: condition())
        except TimeoutException:
            shown = self.text("body")[:2000]
            told = f"waited {PATIENCE:.0f} s in vain for {what}; the page shows:\n{shown}"
            raise AssertionError(told) from None

    def text(self, selector: str) -> str:
        """Return the text of an element as it can be seen; empty if it is not there."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        shown: str = self.run(script, selector)
        return shown

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements of a selector."""
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
        shown: list[str] = self.run(script, selector)
        return shown

    def wait_text(self, selector: str, text: str) -> None:
        """Wait until an element shows a text."""
        self.wait(lambda: text in self.text(selector), f"{text!r} in {selector}")

    def rows(self, caption: str) -> list[list[str]]:
        """Return the cells of the rows of a table that is called so."""
        script = r"""
            const table = [...document.querySelectorAll("table")]
                .find((one) => one.caption?.textContent === arguments[0]);
            const text = (cell) => cell.innerText.replace(/\s+/g, " ").trim();
            const rows = [...table?.tBodies[0].rows ?? []];
            return rows.filter((row) => !row.classList.contains("empty"))
                .map((row) => [...row.cells].map(text))"""
        found: list[list[str]] = self.run(script, caption)
        return found

    # --- What it has logged and asked ----------------------------------------------------------

    def complaints(self) -> list[str]:
        """Return what the console has been told since this was asked the last time."""
        return [f"{one['level']}: {one['message']}" for one in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since this was asked the last time."""
        messages = [
            json.loads(one["message"])["message"] for one in self.driver.get_log("performance")
        ]
        asked = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in asked if one["request"]["url"] != "about:blank"]


def strangers(addresses: list[str], origin: str) -> list[str]:
    """Return the addresses that are not of an origin; what never leaves the browser is none."""
    home = urlsplit(origin)
    inside = {"data", "blob", "about"}
    return [
        one
        for one in addresses
        if (there := urlsplit(one)).scheme not in inside
        and (there.scheme, there.hostname, there.port) != (home.scheme, home.hostname, home.port)
    ]


@contextmanager
def browsing(
    directory: Path, preferences: Json | None = None, words: Sequence[str] = ()
) -> Iterator[Browser]:
    """Yield a browser whose home is a directory; at the end nothing of it runs or is left.

    ``words`` are more of its command line.
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in [*arguments(directory), *words]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if preferences:
        options.add_experimental_option("prefs", preferences)
    # What it leaves behind in the directory for temporary files goes with it; there are sockets,
    # whose paths must be short.
    with TemporaryDirectory(prefix="mn-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        home = {"HOME": str(directory), "XDG_CONFIG_HOME": str(directory / "config")}
        environment = os.environ | home | {"TMPDIR": scratch}
        service = webdriver.ChromeService(shutil.which("chromedriver"), env=environment)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.set_script_timeout(PATIENCE)
            browser = Browser(driver)
            browser.look()
            yield browser
        finally:
            driver.quit()


def arguments(directory: Path) -> list[str]:
    """Return how the browser is started."""
    found = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    # It asks its maker for all kinds of things on its own, beside what a page asks for.
    found += ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
    found += [f"--user-data-dir={directory / 'profile'}", f"--window-size={WIDTH},{HEIGHT}"]
    # It refuses to start for root with its sandbox.
    return [*found, "--no-sandbox"] if os.geteuid() == 0 else found
