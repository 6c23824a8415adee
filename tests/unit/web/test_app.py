"""Routes, their problems, and what each response says of itself."""

import subprocess
import sys

import pytest

from meshnode.config import HttpService
from tests.unit.web.asgi import FAR, NEAR
from tests.unit.web.conftest import MakeClient


async def test_the_root_of_the_api_says_who_asks(make_client: MakeClient) -> None:
    reply = await make_client().ask("/api/v1")
    assert reply.status == 200
    assert reply.json["node"] == "foo"
    assert reply.json["client"] == {"kind": "tcp", "name": NEAR.address}


async def test_the_status_is_the_reply_of_the_command(make_client: MakeClient) -> None:
    reply = await make_client().ask("/api/v1/status")
    assert reply.status == 200
    assert reply.json["RoutingTable"] == {"bar": "bar", "baz": "baz"}


async def test_an_unknown_address_is_a_problem(make_client: MakeClient) -> None:
    reply = await make_client().ask("/api/v2")
    assert (reply.status, reply.is_problem) == (404, True)
    assert reply.json["type"] == "/problems/not-found"


async def test_a_fault_of_ours_is_a_problem_and_stands_in_the_log(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*args: object) -> None:
        raise RuntimeError("of ours")

    monkeypatch.setattr("meshnode.web.commands.Commands.ask", fail)
    reply = await make_client().ask("/api/v1/status")
    assert (reply.status, reply.is_problem) == (500, True)
    assert reply.json["type"] == "/problems/internal"
    assert "of ours" not in reply.json["detail"]
    assert "of ours" in caplog.text


async def test_a_method_that_is_not_taken_names_those_that_are(make_client: MakeClient) -> None:
    reply = await make_client().ask("/api/v1/status", "DELETE")
    assert (reply.status, reply.is_problem) == (405, True)
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("path", ["/", "/health", "/api/v1", "/api/v1/events", "/no"])
async def test_a_request_for_the_head_alone_has_the_head_of_the_response_and_its_end(
    make_client: MakeClient, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However long the response would go on: the client counts on the next one behind it."""
    client = make_client()
    head = await client.ask(path, "HEAD")
    assert head.body == b""
    assert caplog.text == ""
    if path != "/api/v1/events":
        assert head.status == (await client.ask(path)).status


async def test_that_a_node_cannot_be_reached_is_an_answer(make_client: MakeClient) -> None:
    reply = await make_client().ask("/api/v1/ping/qux")
    assert (reply.status, reply.json["Success"]) == (200, False)
    assert "qux" in reply.json["Error"]


@pytest.mark.parametrize("path", ["/", "/api/v1", "/nothing", "/health"])
async def test_each_response_forbids_a_browser_what_it_need_not_do(
    make_client: MakeClient, path: str
) -> None:
    headers = (await make_client().ask(path)).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"


async def test_the_page_is_sent_once_and_then_only_when_it_has_changed(
    make_client: MakeClient,
) -> None:
    client = make_client()
    first = await client.ask("/")
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await client.ask("/", if_none_match=known)
        assert (again.status, again.body) == (304, b"")
    for other in ('"other"', tag.strip('"'), ""):
        assert (await client.ask("/", if_none_match=other)).status == 200


async def test_a_service_without_the_page_has_none(make_client: MakeClient) -> None:
    client = make_client(HttpService(port=8043, page=False))
    assert (await client.ask("/")).status == 404
    assert (await client.ask("/api/v1")).status == 200


@pytest.mark.parametrize(
    "path",
    ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/page.py", "/index.html%00"],
)
async def test_no_path_leads_to_a_file_that_is_not_the_pages(
    make_client: MakeClient, path: str
) -> None:
    assert (await make_client().ask(path)).status == 404


async def test_whether_a_node_is_ready_is_told_to_whoever_asks(make_client: MakeClient) -> None:
    assert (await make_client().ask("/ready")).json == {"status": "ready"}
    short = await make_client(shortage="no configured peer is linked").ask("/ready")
    assert (short.status, short.json["reason"]) == (503, "no configured peer is linked")
    assert (await make_client(shortage="the disk").ask("/health")).json == {"status": "live"}


async def test_a_client_elsewhere_that_shows_nothing_is_told_what_to_show(
    make_client: MakeClient,
) -> None:
    reply = await make_client(client=FAR).ask("/api/v1/status")
    assert (reply.status, reply.is_problem) == (401, True)
    assert "give its http-service tokens" in reply.json["detail"]
    assert reply.headers["www-authenticate"] == 'Bearer realm="meshnode"'
    allowed = make_client(HttpService(port=8043, allowanonymous=True), client=FAR)
    assert (await allowed.ask("/api/v1/status")).status == 200


async def test_a_name_that_somebody_else_leads_to_this_machine_is_refused(
    make_client: MakeClient,
) -> None:
    client = make_client()
    for host in ("evil.example", "localhost.evil.example:8043", "", "10.0.0.7"):
        assert (await client.ask("/api/v1/status", host=host)).status == 421
    for host in ("localhost", "LOCALHOST:8043", "127.0.0.1:8043", "[::1]:8043", "[::1]"):
        assert (await client.ask("/api/v1/status", host=host)).status == 200


async def test_what_a_proxy_passes_on_is_not_of_this_machine(make_client: MakeClient) -> None:
    reply = await make_client().ask("/api/v1/status", x_forwarded_for="10.0.0.7")
    assert reply.status == 401


def test_without_the_directive_nothing_of_it_is_imported() -> None:
    names = "('meshnode.web', 'hypercorn', 'starlette', 'anyio', 'prometheus_client')"
    code = (
        "import sys, meshnode.node, meshnode.config;"
        f"print([name for name in sys.modules if name.startswith({names})])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert found.stdout == b"[]\n"
