"""The page where a token is all that a person has: the browser shows it as Basic has it.

By an address of loopback the browser says of each request what it is for; by a name, over plain
HTTP, it says nothing of that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import driving
import pytest
from driving import Browser, browsing, strangers
from harness import Cluster, Node, free_port

TOKEN, FRESH = "c1" * 16, "f2" * 16

NAME = "node.test"
"""A name that leads the browser to this machine."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A node that tells nobody anything who shows no token."""

    node: Node
    port: int
    tokens: Path

    def take(self, token: str) -> None:
        """Have this token from now on, and no other."""
        fresh = self.tokens.with_suffix(".new")
        fresh.write_text(f"- {{name: ann, token: '{token}'}}\n")
        fresh.chmod(0o600)
        fresh.rename(self.tokens)


@pytest.fixture
def guarded(browser: Browser) -> Iterator[Guarded]:
    cluster = Cluster()
    try:
        port = free_port()
        face = {"port": port, "tokens": str(cluster.directory / "tokens"), "allowanonymous": False}
        (cluster.directory / "tokens").touch(0o600)
        Guarded(None, port, cluster.directory / "tokens").take(TOKEN)  # type: ignore[arg-type]
        node = cluster.node("foo", work={"cat": "cat"}, more=[{"http-service": face}])
        yield Guarded(node, port, cluster.directory / "tokens")
        browser.open("about:blank")
    finally:
        cluster.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Yield a browser that knows no token yet."""
    if reason := driving.reason_against():
        pytest.skip(reason)
    with browsing(tmp_path, words=[f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]) as browser:
        browser.open("about:blank")
        browser.requests()  # those of its own first page
        yield browser


@pytest.mark.parametrize("host", ["127.0.0.1", NAME])
def test_a_token_given_to_the_browser_shows_the_page_and_all_that_it_asks_for(
    browser: Browser, guarded: Guarded, host: str
) -> None:
    unit = guarded.node.submit("cat", "--payload", "-", stdin=b"hello\n")
    guarded.node.wait_unit(unit, "Succeeded")
    browser.open(f"http://:{TOKEN}@{host}:{guarded.port}/#/work/{unit}")
    browser.wait_text("#state", "live")
    browser.wait(lambda: browser.texts(".line .text") == ["hello"], "its output")
    # The first answer is refused, and asks for the token. Over plain HTTP a header has no effect.
    harmless = ("status of 401", "The Cross-Origin-Opener-Policy header has been ignored")
    complaints = browser.complaints()
    assert [one for one in complaints if not any(said in one for said in harmless)] == []
    assert strangers(browser.requests(), f"http://{host}:{guarded.port}") == []


@pytest.mark.parametrize("host", ["127.0.0.1", NAME])
def test_a_page_whose_token_was_taken_away_goes_on_with_another_one(
    browser: Browser, guarded: Guarded, host: str
) -> None:
    browser.open(f"http://ann:{TOKEN}@{host}:{guarded.port}/")
    browser.wait_text("#state", "live")
    guarded.take(FRESH)
    browser.click("Token")
    browser.field("Token").send_keys(FRESH)
    browser.click("Use it")
    browser.wait_text("#state", "live")
    # What the browser sends by itself is refused, and its own question did not come up for that.
    script = """
        const asked = { headers: { Accept: "application/json" } };
        return (await fetch(`${location.origin}/api/v1`, asked)).status"""
    assert browser.module(script) == 401
