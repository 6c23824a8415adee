"""What rules forbid a client, it does not get over HTTP either: each client, rule and verb."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import trio
from test_auth_can import CLIENTS, RULES, Nowhere, can, nothing_changed, rules, submit

from meshnode.config import HttpService
from meshnode.control.budgets import SessionBudgets
from meshnode.control.mesh_commands import register_mesh_commands
from meshnode.security.bearer import TokenStore, read_tokens
from meshnode.security.identity import TokenClient
from meshnode.web.app import make_app
from meshnode.web.commands import Commands
from meshnode.web.routing import WebNode
from meshnode.web.spool import Spool
from tests.unit.web.asgi import Client, Reply

TOKENS = {"dora": "d0" * 16, "eve": "e0" * 16}
WEB_CLIENTS = {
    **{name: CLIENTS[name] for name in ("ann", "bob", "carol", "nobody")},
    "dora": ("tcp", TokenClient("dora", "10.0.0.3:5")),
}
"""Clients that HTTP has: none of them came over the mesh."""

WEB_RULES = {
    **RULES,
    "a token's": ("action=allow | who=token=dora | do=any | units=own",),
    "another token's": ("action=allow | who=token=/e.*/ | do=any | units=all",),
}


@dataclass(frozen=True)
class Asked:
    """A request, and the question whether it may be made."""

    path: str
    asking: dict[str, Any]
    method: str = "GET"
    body: bytes = b""


def requests(unit_id: str) -> list[Asked]:
    """Return a request of each verb that HTTP has; those that end the unit come last."""

    def of_unit(verb: str, after: str = "", method: str = "GET", unit: str = unit_id) -> Asked:
        return Asked(f"/units/{unit}{after}", {"verb": verb, "unitid": unit}, method)

    def new(job: str, **asking: object) -> Asked:
        return Asked("/units", {"verb": "submit", **asking}, "POST", job.encode())

    return [
        new('{"type": "cat"}', worktype="cat"),
        *(
            new(
                f'{{"type": "wait", "params": "{text}"}}',
                worktype="wait",
                params={"params": text},
            )
            for text in ("good", "bad")
        ),
        Asked("/units", {"verb": "list"}),
        of_unit("status"),
        of_unit("status", "/wait?timeout=0"),
        of_unit("results", "/results?follow=false"),
        of_unit("results", "/log?follow=false"),
        of_unit("status", unit="XXXXXXXX"),
        of_unit("cancel", "/cancel", "POST", unit="XXXXXXXX"),
        Asked("/ping/bar", {"verb": "ping", "node": "bar"}),
        Asked("/status", {"verb": "mesh-status"}),
        of_unit("cancel", "/cancel", "POST"),
        of_unit("release", "", "DELETE"),
    ]


def is_refused(reply: Reply) -> bool:
    # A unit that one may not know of is answered as one that is not there.
    return reply.status == 403 or (
        reply.status == 404 and "unknown work unit" in reply.json["detail"]
    )


@pytest.fixture
def foo(foo):
    foo.clients = {name: identity for name, (_, identity) in {**CLIENTS, **WEB_CLIENTS}.items()}
    for name, client in WEB_CLIENTS.items():
        CLIENTS.setdefault(name, client)
    yield foo
    del CLIENTS["dora"]


@pytest.fixture
def ask(foo, tmp_path):
    """Return what asks foo over HTTP as one of these clients."""
    file = tmp_path / "tokens"
    file.write_text("".join(f"- {{name: {n}, token: '{t}'}}\n" for n, t in TOKENS.items()))
    file.chmod(0o600)
    directive = HttpService(port=1, tokens=file, allowanonymous=True)
    tokens = TokenStore(foo.rules)
    tokens.apply({file: read_tokens(directive)})

    async def nothing_short() -> str:
        return ""

    @cache
    def made():
        # Only a node that runs has commands.
        commands = Commands("foo", foo.registry, SessionBudgets())
        return make_app(
            directive, WebNode("foo", "1", commands, nothing_short, Spool(tmp_path)), tokens
        )

    async def send(name: str, asked: Asked) -> Reply:
        shown = {"authorization": f"Bearer {TOKENS[name]}"} if name in TOKENS else {}
        identity = CLIENTS["nobody"][1] if name in TOKENS else WEB_CLIENTS[name][1]
        if asked.body:
            shown |= {"content_type": "application/json", "content_length": str(len(asked.body))}
        path = f"/api/v1{asked.path}"
        return await Client(made(), identity).ask(path, asked.method, asked.body, **shown)

    return send


OWNERS = [
    *((name, "ann") for name in WEB_RULES),
    *((name, owner) for name in ("own", "a card's", "a token's") for owner in WEB_CLIENTS),
]


@pytest.mark.parametrize(("name_of_rules", "owner"), OWNERS)
async def test_what_may_be_asked_is_what_is_done_over_http(
    foo, ask, autojump_clock, name_of_rules, owner
):
    written = rules(*WEB_RULES[name_of_rules])
    async with foo.running():
        register_mesh_commands(foo.registry, Nowhere(), nothing_changed)
        for name in WEB_CLIENTS:
            foo.rules.rules = ()
            unit_id = await submit(foo, owner)
            foo.rules.rules = written
            for asked in requests(unit_id):
                answer = await can(foo, name, asked.asking)
                with trio.fail_after(100):
                    reply = await ask(name, asked)
                assert answer["Here"] == (not is_refused(reply)), (name, asked, reply)
                if not answer["Here"]:
                    assert reply.is_problem
                    assert reply.json["detail"] == answer["Reason"]


async def test_a_list_over_http_shows_what_one_may_list(foo, ask, autojump_clock):
    async with foo.running():
        units = {name: await submit(foo, name) for name in WEB_CLIENTS}
        foo.rules.rules = rules(*WEB_RULES["own"])
        for name in WEB_CLIENTS:
            reply = await ask(name, Asked("/units", {}))
            own = [] if name == "nobody" else [units[name]]
            assert [unit["ID"] for unit in reply.json["items"]] == own
            assert reply.json["total"] == len(own)
