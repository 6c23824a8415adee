"""Which web pages may ask: requests that a browser carries for somebody else's page."""

import pytest

from meshnode.config import HttpService
from tests.unit.web.asgi import Client
from tests.unit.web.conftest import MakeClient

OPS = "https://ops.example:8443"


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    return make_client(HttpService(port=8043, cors=(OPS,)))


async def test_what_no_browser_sends_needs_no_origin(client: Client) -> None:
    assert (await client.ask("/api/v1/status")).status == 200


@pytest.mark.parametrize(
    "said",
    [
        {"origin": "http://localhost:8043"},
        {"origin": OPS},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"origin": "http://localhost:8043", "sec_fetch_site": "same-origin"},
    ],
)
async def test_its_own_pages_and_those_that_are_named_may_ask(
    client: Client, said: dict[str, str]
) -> None:
    assert (await client.ask("/api/v1/status", **said)).status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD"])
@pytest.mark.parametrize(
    "said",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost:8044"},
        {"origin": "http://localhost"},
        {"origin": f"{OPS}.evil.example"},
        {"origin": "https://ops.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
    ],
)
async def test_a_page_elsewhere_may_not_ask_for_anything(
    client: Client, said: dict[str, str], method: str
) -> None:
    reply = await client.ask("/api/v1/units/x/cancel", method, **said)
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers


async def test_a_link_elsewhere_may_lead_its_reader_here(client: Client) -> None:
    led = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert (await client.ask("/", **led)).status == 200
    assert (await client.ask("/api/v1/units/x/cancel", "POST", **led)).status == 403


async def test_a_page_that_is_named_may_read_and_no_other(client: Client) -> None:
    reply = await client.ask("/api/v1/status", origin=OPS)
    assert reply.headers["access-control-allow-origin"] == OPS
    assert "Origin" in reply.headers["vary"]
    own = await client.ask("/api/v1/status", origin="http://localhost:8043")
    assert "access-control-allow-origin" not in own.headers


async def test_a_browser_is_told_before_what_a_named_page_may_send(client: Client) -> None:
    asked = {"access_control_request_method": "POST"}
    told = await client.ask("/api/v1/units", "OPTIONS", origin=OPS, **asked)
    assert told.status == 204
    assert told.headers["access-control-allow-origin"] == OPS
    assert "Authorization" in told.headers["access-control-allow-headers"]
    refused = await client.ask("/api/v1/units", "OPTIONS", origin="https://evil.example", **asked)
    assert refused.status == 403
    assert "access-control-allow-methods" not in refused.headers


async def test_without_named_pages_no_header_speaks_of_them(make_client: MakeClient) -> None:
    reply = await make_client().ask("/api/v1/status", origin="http://localhost:8043")
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "text/plain; application/json"]
)
async def test_a_body_that_a_page_could_send_unasked_is_refused(client: Client, kind: str) -> None:
    headers = {"content_type": kind, "content_length": "2"}
    reply = await client.ask("/api/v1/units", "POST", b"{}", **headers)
    assert (reply.status, reply.is_problem) == (415, True)
