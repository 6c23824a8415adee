"""The OpenAPI document says what there is, and only that."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.routing import Route

from meshnode.control.budgets import SessionBudgets
from meshnode.control.registry import CommandRegistry
from meshnode.web.api.openapi import as_json
from meshnode.web.app import API
from meshnode.web.commands import Commands
from meshnode.web.routing import WebNode
from meshnode.web.spool import Spool
from tests.unit.web.asgi import Client, Reply
from tests.unit.web.conftest import MakeClient


async def ready() -> str:
    return ""


DOCUMENT = json.loads(as_json())


def served() -> set[tuple[str, str]]:
    """Each path and method of the API; a route of GET answers HEAD, too."""
    node = WebNode(
        "foo", "1", Commands("foo", CommandRegistry(), SessionBudgets()), ready, Spool(Path())
    )
    routes = [route for bring in API for route in bring(node) if isinstance(route, Route)]
    return {
        (route.path, method.lower())
        for route in routes
        for method in route.methods or ()
        if method != "HEAD"
    }


def described() -> set[tuple[str, str]]:
    return {(path, method) for path, found in DOCUMENT["paths"].items() for method in found}


def test_each_route_of_the_api_is_described_and_each_description_is_of_a_route() -> None:
    assert served() == described()


def test_each_operation_has_a_name_of_its_own_and_describes_the_names_in_its_path() -> None:
    names = [one["operationId"] for found in DOCUMENT["paths"].values() for one in found.values()]
    assert len(names) == len(set(names))
    for path, found in DOCUMENT["paths"].items():
        for one in found.values():
            of_path = {p["name"] for p in one.get("parameters", ()) if p["in"] == "path"}
            assert of_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_each_reference_leads_to_a_schema() -> None:
    text = json.dumps(DOCUMENT)
    for part in text.split('"$ref": "#/')[1:]:
        found = DOCUMENT
        for name in part.partition('"')[0].split("/"):
            found = found[name]
        assert found


def queries() -> Iterator[tuple[str, str, str, bool]]:
    """Each path, method and parameter of a query, and whether it may be there several times."""
    for path, found in DOCUMENT["paths"].items():
        for method, one in found.items():
            for parameter in one.get("parameters", ()):
                if parameter["in"] == "query":
                    many = parameter["schema"].get("type") == "array"
                    yield path, method, parameter["name"], many


async def asked(client: Client, path: str, method: str, query: str) -> Reply:
    path = path.replace("{", "").replace("}", "")
    return await client.ask(f"{path}?{query}", method.upper(), content_type="application/json")


@pytest.mark.parametrize(("path", "method"), sorted(described()))
async def test_a_name_in_a_query_that_an_operation_does_not_have_is_refused(
    make_client: MakeClient, path: str, method: str
) -> None:
    reply = await asked(make_client(), path, method, "nosuch=1")
    assert reply.status == 400
    assert "the query has 'nosuch'" in reply.json["detail"]


@pytest.mark.parametrize(("path", "method", "name", "many"), list(queries()))
async def test_a_second_value_of_a_query_is_refused_where_only_one_would_count(
    make_client: MakeClient, path: str, method: str, name: str, many: bool
) -> None:
    reply = await asked(make_client(), path, method, f"{name}=1&{name}=2")
    is_refused = reply.status == 400 and f"{name} more than once" in reply.json["detail"]
    assert is_refused is not many
