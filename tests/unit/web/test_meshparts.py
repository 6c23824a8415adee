"""The mesh over HTTP, whole and in parts."""

import pytest

from meshnode.config import load_arguments


async def test_the_whole_mesh_is_what_the_command_tells(make_client):
    reply = await make_client().ask("/api/v1/mesh")
    assert reply.status == 200
    assert reply.json["node"] == "foo"
    assert reply.json.keys() == {"node", "nodes", "links", "routes", "services", "peers_down"}


@pytest.mark.parametrize("part", ["nodes", "links", "routes", "services"])
async def test_a_part_of_the_mesh_is_a_list_of_what_the_whole_has(make_client, part):
    client = make_client()
    whole = (await client.ask("/api/v1/mesh")).json
    reply = await client.ask(f"/api/v1/{part}")
    assert reply.json == {"items": whole[part], "next": None}
    assert reply.json["items"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("nodes?id=bar", ["bar"]),
        ("nodes?state=here", ["foo"]),
        ("nodes?id=nosuch", []),
        # It has a control service, and says nothing of what only meshnodes do.
        ("nodes?kind=receptor", ["bar"]),
        ("links?node=baz", ["foo"]),
        ("routes?via=bar", ["bar"]),
        ("services?node=bar&service=control", ["bar"]),
        ("services?node=bar&service=other", []),
    ],
)
async def test_parts_are_filtered(make_client, query, found):
    items = (await make_client().ask(f"/api/v1/{query}")).json["items"]
    assert [item.get("id") or item.get("node") or item["a"] for item in items] == found


async def test_other_nodes_are_asked_with_detail_and_say_why_not(make_client):
    nodes = (await make_client().ask("/api/v1/mesh?detail=true&node=bar")).json["nodes"]
    errors = {node["id"]: node["error"] for node in nodes}
    assert "no route" in errors["bar"]
    assert errors["baz"] is None


async def test_a_flag_that_is_none_is_malformed(make_client):
    reply = await make_client().ask("/api/v1/mesh?detail=perhaps")
    assert (reply.status, reply.is_problem) == (400, True)


async def test_who_may_not_have_the_mesh_has_no_part_of_it(make_client):
    words = ["--local-only", "--node", "foo", "--access-rule", "action=allow", "who=any", "do=ping"]
    client = make_client(rules=load_arguments(words).rules)
    for part in ("mesh", "nodes", "links", "routes", "services"):
        assert (await client.ask(f"/api/v1/{part}")).status == 403
