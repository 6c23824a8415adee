"""JSON that is many values, and bodies that many clients keep a node busy with."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshnode.config import HttpService
from meshnode.control.budgets import FREE, SessionBudgets
from meshnode.control.registry import Command, CommandRegistry, Handler, JsonObject
from meshnode.errors import CommandError
from meshnode.shares import Budget
from meshnode.web.api import bodies
from meshnode.web.api.bodies import MAX_VALUES, read_object
from meshnode.web.app import make_app
from meshnode.web.commands import Commands
from meshnode.web.problems import TOO_LARGE, Problem
from meshnode.web.routing import WebNode
from meshnode.web.spool import Spool
from tests.unit.web.asgi import Client

FEW = 20

MARKS = st.text(st.sampled_from('[{,"\\:]} aé\n'), max_size=30)
VALUES = st.recursive(
    st.integers() | MARKS,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(MARKS, inner, max_size=8),
    max_leaves=30,
)


def values_in(value: Any) -> int:
    """Return how many values stand in one."""
    match value:
        case list():
            return 1 + sum(map(values_in, value))
        case dict():
            return 1 + sum(map(values_in, value.values()))
    return 1


@given(st.dictionaries(MARKS, VALUES, max_size=8), st.booleans())
@example({"a": '\\",[' * 30}, True)
def test_json_is_refused_by_its_values_whatever_its_texts_are(
    value: dict[str, Any], is_ascii: bool
) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "MAX_VALUES", FEW)
        if values_in(value) > FEW + 1:
            with pytest.raises(Problem) as refused:
                read_object(text, "it")
            assert refused.value.kind is TOO_LARGE
        elif 2 * values_in(value) <= FEW:
            assert read_object(text, "it") == value


@pytest.mark.parametrize(
    "values",
    [b"[]," * MAX_VALUES, b'"",' * MAX_VALUES * 2, b"{}," * MAX_VALUES, b"1," * MAX_VALUES],
)
def test_json_of_very_many_values_is_not_read(
    values: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies.json, "loads", lambda text: pytest.fail("it was read"))
    with pytest.raises(Problem, match="more than 200000 values"):
        read_object(b'{"type": [' + values + b"1]}", "the job")


def test_json_in_another_encoding_in_which_nothing_could_be_counted_is_refused() -> None:
    with pytest.raises(Problem, match="no JSON"):
        read_object('{"type": "echo"}'.encode("utf-16"), "the job")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_words_that_json_does_not_have_for_numbers_are_refused(word: str) -> None:
    with pytest.raises(Problem, match=f"the job is no JSON: {word} is no number"):
        read_object(b'{"labels": {"a": %s}}' % word.encode(), "the job")


@pytest.mark.parametrize("path", ["/api/v1/units", "/api/v1/batches"])
@pytest.mark.parametrize(("size", "status"), [(FREE, 422), (FREE + 200, 429)])
async def test_what_a_client_may_have_kept_of_its_bodies_is_bounded_and_given_back(
    path: str, size: int, status: int
) -> None:
    def parse(fields: JsonObject) -> Handler:
        raise CommandError("nothing is submitted here")

    registry = CommandRegistry()
    registry.register(Command("work", lambda text: pytest.fail(text), parse))
    budgets = SessionBudgets(bodies=Budget(100, 100))
    commands = Commands("foo", registry, budgets)

    async def nothing_short() -> str:
        return ""

    node = WebNode("foo", "1", commands, nothing_short, Spool(Path("/nonexistent")))
    client = Client(make_app(HttpService(port=1), node))
    job = b'{"type": "cat"}' if path.endswith("units") else b'{"array": "1"}'
    for _ in range(3):
        body = job.ljust(size)
        reply = await client.ask(path, "POST", body, content_type="application/json")
        assert reply.status == status
        assert budgets.bodies.used == 0
