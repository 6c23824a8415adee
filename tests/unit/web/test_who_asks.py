"""Who sends a request: sockets, certificates, tokens, and nobody that is known."""

from pathlib import Path

import pytest

from meshnode.config import HttpService
from meshnode.permissions import AccessRule, Fact, TextPattern, Verb
from meshnode.security.identity import CertificateNames, Identity, TcpClient, UnixClient
from tests.unit.web.asgi import FAR, NEAR
from tests.unit.web.conftest import MakeClient

TOKEN = "0123456789abcdef0123"
OTHER = "fedcba98765432100000"
CERTIFIED = TcpClient("10.0.0.7:4000", CertificateNames("CN=alice"))
NAMELESS = TcpClient("10.0.0.7:4000", CertificateNames("", ("bar", "baz")))
USER = UnixClient(1000, 1000, 7, "alice")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(
        f"- {{name: ci, token: '{TOKEN}'}}\n- {{name: pinger, token: '{OTHER}', verbs: [ping]}}\n"
    )
    file.chmod(0o600)
    return file


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("client", "kind", "name"),
    [
        (USER, "unix", "alice (uid 1000, pid 7)"),
        (CERTIFIED, "tcp", "CN=alice (10.0.0.7:4000)"),
        (NAMELESS, "tcp", "certificate of bar, baz (10.0.0.7:4000)"),
        (NEAR, "tcp", "127.0.0.1:4000"),
    ],
)
async def test_a_client_is_who_its_connection_shows(
    make_client: MakeClient, client: Identity, kind: str, name: str
) -> None:
    reply = await make_client(client=client).ask("/api/v1")
    assert reply.json["client"] == {"kind": kind, "name": name}


@pytest.mark.parametrize("client", [NEAR, FAR, CERTIFIED, USER])
async def test_a_token_says_who_asks_whatever_the_connection_shows(
    make_client: MakeClient, tokens: Path, client: Identity
) -> None:
    asking = make_client(HttpService(port=1, tokens=tokens), client=client)
    reply = await asking.ask("/api/v1", **bearer(TOKEN))
    assert reply.json["client"]["kind"] == "token"
    assert reply.json["client"]["name"].startswith("token ci (")


@pytest.mark.parametrize(
    "shown",
    [
        "Bearer nothing",
        "Bearer",
        "bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        "Bearer ä",
    ],
)
@pytest.mark.parametrize("client", [NEAR, FAR, CERTIFIED, USER])
async def test_a_token_that_is_none_is_refused_whoever_shows_it(
    make_client: MakeClient, tokens: Path, client: Identity, shown: str
) -> None:
    asking = make_client(HttpService(port=1, tokens=tokens), client=client)
    reply = await asking.ask("/api/v1", authorization=shown)
    assert (reply.status, reply.is_problem) == (401, True)
    assert TOKEN not in reply.body.decode()


async def test_a_token_is_bounded_by_its_verbs_where_there_are_no_rules(
    make_client: MakeClient, tokens: Path
) -> None:
    client = make_client(HttpService(port=1, tokens=tokens), client=FAR)
    assert (await client.ask("/api/v1/ping/bar", **bearer(OTHER))).status == 200
    refused = await client.ask("/api/v1/status", **bearer(OTHER))
    assert (refused.status, refused.json["detail"]) == (403, "permission denied: mesh-status")
    assert (await client.ask("/api/v1/status", **bearer(TOKEN))).status == 200


async def test_the_bounds_of_a_token_are_none_of_others(
    make_client: MakeClient, tokens: Path
) -> None:
    for client in (NEAR, CERTIFIED, USER):
        asking = make_client(HttpService(port=1, tokens=tokens), client=client)
        assert (await asking.ask("/api/v1/status")).status == 200


async def test_rules_know_a_token_by_its_name(make_client: MakeClient, tokens: Path) -> None:
    who = (Fact("token", pattern=TextPattern("ci")),)
    rule = AccessRule(label="1", allows=True, who=(who,), verbs=frozenset({Verb.MESH}))
    client = make_client(HttpService(port=1, tokens=tokens), (rule,), client=FAR)
    assert (await client.ask("/api/v1/status", **bearer(TOKEN))).status == 200
    assert (await client.ask("/api/v1/ping/bar", **bearer(TOKEN))).status == 403
    # What the token lets its client do, no rule does.
    assert (await client.ask("/api/v1/ping/bar", **bearer(OTHER))).status == 403


async def test_rules_are_asked_of_each_kind_of_client(make_client: MakeClient) -> None:
    who = (Fact("subject", pattern=TextPattern("CN=alice")),)
    rule = AccessRule(label="1", allows=True, who=(who,), verbs=frozenset({Verb.MESH}))
    assert (await make_client(None, (rule,), client=CERTIFIED).ask("/api/v1/status")).status == 200
    for client in (NEAR, USER):
        refused = await make_client(None, (rule,), client=client).ask("/api/v1/status")
        assert (refused.status, refused.is_problem) == (403, True)


@pytest.mark.parametrize("client", [NEAR, FAR])
async def test_without_a_certificate_nothing_helps_where_one_is_required(
    make_client: MakeClient, tokens: Path, client: Identity
) -> None:
    directive = HttpService(
        port=1, tls="srv", requireclientcert=True, tokens=tokens, allowanonymous=True
    )
    asking = make_client(directive, client=client)
    assert (await asking.ask("/api/v1", **bearer(TOKEN))).status == 401
    certified = make_client(directive, client=CERTIFIED)
    assert (await certified.ask("/api/v1")).status == 200


async def test_nobody_is_let_in_unknown_where_that_is_said(make_client: MakeClient) -> None:
    directive = HttpService(port=1, allowanonymous=False)
    for path in ("/", "/api/v1", "/health", "/nothing"):
        assert (await make_client(directive, client=NEAR).ask(path)).status == 401
    assert (await make_client(directive, client=USER).ask("/api/v1")).status == 200


@pytest.mark.parametrize("path", ["/", "/api/v1", "/health", "/ready", "/nothing", "/api/v1/units"])
async def test_nothing_is_told_to_whom_nobody_knows(make_client: MakeClient, path: str) -> None:
    assert (await make_client(client=FAR).ask(path)).status == 401


@pytest.mark.parametrize("part", ["events", "mesh", "nodes", "links", "history"])
async def test_a_token_for_something_else_shows_nothing_of_the_mesh(
    make_client: MakeClient, tokens: Path, part: str
) -> None:
    """Also where there are no rules: what tokens may is asked before them."""
    asking = make_client(HttpService(port=1, tokens=tokens), client=NEAR)
    reply = await asking.ask(f"/api/v1/{part}", **bearer(OTHER))
    assert (reply.status, reply.is_problem) == (403, True)


@pytest.mark.parametrize("path", ["history", "events", "events?topics=mesh", "mesh", "status"])
async def test_each_refusal_of_what_is_to_be_seen_is_told_the_log_of_access(
    path: str, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    rules = (AccessRule(label="1", allows=True, who=((),), verbs=frozenset({Verb.PING})),)
    reply = await make_client(rules=rules).ask(f"/api/v1/{path}")
    assert reply.status == 403
    told = [one for one in caplog.records if one.getMessage().startswith("access: refused")]
    assert len(told) == 1, caplog.text
