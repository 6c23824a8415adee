"""A browser for the tests of the page; where there is none they are skipped with the reason."""

from collections.abc import Iterator

import driving
import pytest
import worlds
from driving import Browser, browsing, strangers
from standin import World, serving


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield a browser that the tests of a module share: it takes a second to start."""
    if reason := driving.reason_against():
        pytest.skip(reason)
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(one_browser: Browser) -> Iterator[Browser]:
    """Yield the browser, forgetful of the test before."""
    one_browser.open("about:blank")
    one_browser.look()
    one_browser.complaints()
    one_browser.requests()
    yield one_browser
    one_browser.open("about:blank")


@pytest.fixture
def world() -> World:
    """Return the world that the page is shown: five nodes and twelve units, unless changed."""
    return worlds.world(worlds.five(), 12)


@pytest.fixture
def address(browser: Browser, world: World) -> Iterator[str]:
    """Yield where a stand-in serves the world; the page must ask nobody else and complain not."""
    with serving(world) as address:
        yield address
        complaints = browser.complaints()
        asked = browser.requests()
        browser.open("about:blank")
    assert strangers(asked, address) == []
    # A refusal or a lost connection is what some tests are about; the browser tells of each itself.
    assert [one for one in complaints if "Failed to load resource" not in one] == []
