"""What clients write into queries and jobs: whatever it is, it is read or refused."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from meshnode.web.api.batches import read_batch
from meshnode.web.api.jobs import FIELDS, read_job
from meshnode.web.api.queries import flag, moment, seconds, whole_number
from meshnode.web.problems import Problem
from meshnode.work.batches.spec import NOT_OF_A_MEMBER
from meshnode.work.units.submission import NOT_PARAMS

OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(timezones=OFFSETS | st.none()).map(datetime.isoformat)
EDGES = st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 4000).map(lambda digits: 10**digits)
    | st.floats()
    | st.text(st.characters(categories=None), max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def asked(**query: str) -> Request:
    text = urlencode(query, errors="surrogatepass").encode()
    return Request({"type": "http", "query_string": text, "headers": []})


@given(st.text(max_size=30) | TIMES | EDGES)
def test_whatever_is_written_for_a_time_is_one_in_utc_or_refused(text: str) -> None:
    try:
        found = moment(asked(since=text), "since")
    except Problem:
        return
    assert found is not None
    assert found.tzinfo is UTC


@given(st.text(max_size=20) | st.floats().map(str) | st.integers().map(str))
def test_whatever_is_written_for_a_number_is_one_or_refused(text: str) -> None:
    request = asked(n=text)
    for read in (
        lambda: whole_number(request, "n", 0),
        lambda: seconds(request, "n", 0.0),
        lambda: flag(request, "n", default=False),
    ):
        with suppress(Problem):
            assert read() >= 0


@pytest.mark.parametrize("name", FIELDS)
@given(value=VALUES)
def test_whatever_stands_in_a_member_of_a_job_is_text_for_the_command_or_refused(
    name: str, value: Any
) -> None:
    job = json.dumps({"type": "echo", name: value}).encode()
    try:
        fields, _ = read_job(job)
    except Problem:
        return
    assert all(isinstance(text, str) for text in fields.values())


TAKEN = NOT_OF_A_MEMBER | NOT_PARAMS | {"line"}
KEYS = [*sorted(TAKEN), "batch", "own"]
PARAMETERS = st.dictionaries(st.sampled_from(KEYS), st.just("other"), max_size=3)


@given(PARAMETERS, PARAMETERS)
def test_no_parameter_of_a_job_makes_another_command_of_a_batch(
    of_all: dict[str, str], of_one: dict[str, str]
) -> None:
    job = {"type": "cat", "payload": "stdin", "parameters": of_all}
    lines = [{"line": "text", "payload": "mine", "parameters": of_one}]
    batch = {"job": job, "max_in_flight": 7, "lines": lines}
    if TAKEN & (of_all.keys() | of_one.keys()):
        with pytest.raises(Problem, match="of its own"):
            read_batch(json.dumps(batch).encode())
        return
    command, told = read_batch(json.dumps(batch).encode())
    [line] = map(json.loads, (told or b"").splitlines())
    ours = {"command": "work", "subcommand": "batch", "action": "submit", "lines": "true"}
    ours |= {"maxinflight": "7", "stdin": "stdin", "worktype": "cat", "node": "localhost"}
    assert command == {**of_all, **ours}
    assert line == {**of_one, "line": "text", "stdin": "mine"}
