"""A token as the password of Basic: only so can a browser show one when it loads a page."""

import base64
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsproto.events import AcceptConnection, RejectConnection

from meshnode.config import HttpService
from meshnode.web.websocket import SUBPROTOCOL
from tests.unit.web.asgi import FAR, Client, Reply
from tests.unit.web.conftest import MakeClient
from tests.unit.web.test_websocket import Socket
from tests.unit.web.test_wire import connected

TOKEN = "0123456789abcdef0123"
NAMED = "fedcba98765432100000"

TYPED = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
"""What a browser sends that loads a page over plain HTTP: there it says nothing of how."""

OPENED = TYPED | {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
OPENED |= {"sec_fetch_site": "none"}


def basic(token: str, name: str = "") -> dict[str, str]:
    shown = base64.b64encode(f"{name}:{token}".encode()).decode()
    return {"authorization": f"Basic {shown}"}


def challenges(reply: Reply) -> list[str]:
    """Return the schemes that a refusal asks for."""
    return [one.partition(" ")[0] for one in reply.all("www-authenticate")]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"- {{name: ci, token: '{TOKEN}'}}\n- {{name: 'a:ü', token: '{NAMED}'}}\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def client(make_client: MakeClient, tokens: Path) -> Client:
    """Return a client elsewhere, of whom the connection shows nothing."""
    return make_client(HttpService(port=1, tokens=tokens), client=FAR)


@pytest.mark.parametrize(
    ("token", "name", "known"),
    [(TOKEN, "", "ci"), (TOKEN, "ci", "ci"), (NAMED, "", "a:ü"), (NAMED, "a:ü", "a:ü")],
)
async def test_a_token_is_a_password_whose_user_is_nobody_or_its_name(
    client: Client, token: str, name: str, known: str
) -> None:
    reply = await client.ask("/api/v1", **basic(token, name))
    assert reply.json["client"]["kind"] == "token"
    assert reply.json["client"]["name"].startswith(f"token {known} (")


@pytest.mark.parametrize("scheme", ["basic", "BASIC", "bAsIc"])
async def test_the_scheme_is_a_word_without_case(client: Client, scheme: str) -> None:
    shown = basic(TOKEN)["authorization"].replace("Basic", scheme)
    assert (await client.ask("/api/v1", authorization=shown)).status == 200


@pytest.mark.parametrize(
    "shown",
    [
        basic(TOKEN, "other"),
        basic(TOKEN, "CI"),
        basic(TOKEN + "x"),
        basic("", TOKEN),
        basic(""),
        {"authorization": "Basic"},
        {"authorization": "Basic !!!"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Basic " + base64.b64encode(b":\xff\xfe").decode()},
        {"authorization": "Basic " + base64.b64encode(TOKEN.encode()).decode()},
    ],
)
async def test_what_is_no_token_and_who_is_another_is_refused(
    client: Client, shown: dict[str, str]
) -> None:
    reply = await client.ask("/api/v1", **shown)
    assert (reply.status, reply.is_problem) == (401, True)
    assert TOKEN not in reply.body.decode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    shown=st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"))
    | st.binary().map(lambda data: base64.b64encode(data).decode())
)
async def test_whatever_is_shown_is_judged(client: Client, shown: str) -> None:
    assert (await client.ask("/api/v1", authorization=f"Basic {shown}")).status == 401


@pytest.mark.parametrize("path", ["/", "/api/v1/units/x/log", "/nothing"])
@pytest.mark.parametrize(
    "sent",
    [
        TYPED,
        OPENED,
        {},
        {"accept": "*/*"},
        OPENED | basic("wrong"),
        OPENED | {"sec_fetch_site": "cross-site"},  # by a link
        # What belongs to a page, where the address of the page has the token in it.
        {"sec_fetch_mode": "no-cors", "sec_fetch_dest": "style", "sec_fetch_site": "same-origin"},
        {"sec_fetch_mode": "cors", "sec_fetch_dest": "script", "sec_fetch_site": "same-origin"},
    ],
)
async def test_a_browser_that_loads_a_page_is_told_to_ask_its_user(
    client: Client, path: str, sent: dict[str, str]
) -> None:
    reply = await client.ask(path, **sent)
    assert reply.status == 401
    assert reply.all("www-authenticate")[0] == 'Basic realm="meshnode", charset="UTF-8"'
    assert challenges(reply) == ["Basic", "Bearer"]


@pytest.mark.parametrize(
    "sent",
    [
        {"accept": "application/json"},  # the page's own, over plain HTTP
        {"accept": "text/event-stream"},
        {"accept": "*/*", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"},
        {"accept": "*/*", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        {"accept": "*/*", "sec_fetch_mode": "websocket", "sec_fetch_dest": "empty"},
        {"sec_fetch_dest": "empty", "sec_fetch_site": "same-origin"},
        {"sec_fetch_dest": "script", "sec_fetch_site": "same-site"},
        {"upgrade": "websocket"},
        OPENED | {"sec_fetch_dest": "iframe", "sec_fetch_site": "cross-site"},
        TYPED | {"authorization": "Bearer wrong"},
    ],
)
async def test_no_dialog_opens_for_what_is_no_page(client: Client, sent: dict[str, str]) -> None:
    reply = await client.ask("/api/v1", **sent)
    assert reply.status == 401
    assert challenges(reply) == ["Bearer"]


async def test_nobody_is_asked_for_a_token_where_none_would_help(
    make_client: MakeClient, tokens: Path
) -> None:
    certified = HttpService(port=1, tls="srv", requireclientcert=True, tokens=tokens)
    for directive in (HttpService(port=1), certified):
        reply = await make_client(directive, client=FAR).ask("/", **OPENED)
        assert (reply.status, challenges(reply)) == (401, ["Bearer"])


FOREIGN = "https://evil.example"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD"])
@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/api/v1/units", "/api/v1/session", "/api/v1/events", "/health"]
)
@pytest.mark.parametrize(
    "said",
    [
        {"origin": FOREIGN},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"},
    ],
)
async def test_a_page_elsewhere_has_no_use_of_a_token_that_the_browser_sends_by_itself(
    client: Client, path: str, method: str, said: dict[str, str]
) -> None:
    reply = await client.ask(path, method, **said, **basic(TOKEN))
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    ("origin", "token", "status"),
    [
        ("", TOKEN, 101),
        ("http://localhost", TOKEN, 101),
        ("", "wrong", 401),
        (FOREIGN, TOKEN, 403),
        ("null", TOKEN, 403),
    ],
)
async def test_a_websocket_takes_a_password_and_no_page_elsewhere_opens_one(
    make_client: MakeClient, tokens: Path, origin: str, token: str, status: int
) -> None:
    directive = HttpService(port=1, tokens=tokens, allowanonymous=False)
    said = basic(token) | ({"origin": origin} if origin else {})
    async with connected(make_client(directive).app) as (stream, _):
        answer = await Socket(stream).open(SUBPROTOCOL, **said)
        if status == 101:
            assert isinstance(answer, AcceptConnection)
        else:
            assert isinstance(answer, RejectConnection)
            assert answer.status_code == status


async def test_a_page_that_is_named_may_use_it(make_client: MakeClient, tokens: Path) -> None:
    named = "https://ops.example"
    directive = HttpService(port=1, tokens=tokens, cors=(named,))
    asking = make_client(directive, client=FAR)
    reply = await asking.ask("/api/v1/status", origin=named, **basic(TOKEN))
    assert reply.status == 200
    assert reply.headers["access-control-allow-credentials"] == "true"
    assert (await asking.ask("/api/v1/status", origin=FOREIGN, **basic(TOKEN))).status == 403
