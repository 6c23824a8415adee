"""``work ...`` in its two forms, as values."""

import contextlib
from datetime import UTC, datetime

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import CommandError
from meshnode.work.units.requests import (
    AdoptRequest,
    CancelRequest,
    ListRequest,
    ReleaseRequest,
    ResultsRequest,
    StatusRequest,
    SubmitRequest,
    WatchRequest,
    parse_json,
    parse_text,
)
from meshnode.work.units.submission import Submission

KEYS = st.sampled_from(
    [
        *("subcommand", "node", "worktype", "unitid", "startpos", "signature", "signwork"),
        *("unless", "remote", "submissionlabels"),
    ]
)
WORDS = st.sampled_from(
    [
        *("submit", "list", "status", "watch", "results", "cancel", "release", "force-release"),
        *("adopt", ""),
    ]
)
VALUES = (
    WORDS
    | st.text(max_size=5)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.none()
    | st.booleans()
    | st.lists(st.none())
)


@given(st.lists(WORDS | st.text(max_size=5), max_size=5).map(" ".join))
def test_any_text_is_a_request_or_a_refusal(words):
    with contextlib.suppress(CommandError):
        assert parse_text(words)


NAMES = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=9)


@given(NAMES, st.characters(categories=["Cc", "Cs"]), NAMES)
def test_no_node_has_a_control_character_in_its_name(before, control, after):
    node = before + control + after
    for subcommand in ("submit", "adopt"):
        data = {"subcommand": subcommand, "node": node, "worktype": "cat", "unitid": "one"}
        with pytest.raises(CommandError, match="field node has a control character"):
            parse_json(data)
    if " " not in node:
        for line in (f"submit {node} cat", f"adopt {node} one"):
            with pytest.raises(CommandError, match="field node has a control character"):
                parse_text(line)


@given(NAMES.filter(bool))
def test_any_other_name_may_be_that_of_a_node(node):
    assert parse_json({"subcommand": "submit", "node": node, "worktype": "cat"})
    assert parse_json({"subcommand": "adopt", "node": node, "unitid": "one"})


@given(st.dictionaries(KEYS, VALUES))
def test_any_object_is_a_request_or_a_refusal(data):
    with contextlib.suppress(CommandError):
        assert parse_json(data)


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        ("list", ListRequest(None)),
        ("LIST x", ListRequest("x")),
        ("status x", StatusRequest("x")),
        ("watch x", WatchRequest("x")),
        ("cancel x", CancelRequest("x")),
        ("release x", ReleaseRequest("x")),
        ("force-release x", ReleaseRequest("x", force=True)),
        ("adopt bar x", AdoptRequest("bar", "x")),
        ("results x", ResultsRequest("x", 0)),
        ("results x 12", ResultsRequest("x", 12)),
        ("results x -1", ResultsRequest("x", -1)),
        (
            "submit bar echo a  'b c' ",
            SubmitRequest(Submission("bar", "echo", {"params": "a  'b c' "})),
        ),
    ],
)
def test_the_text_form(words, request_):
    assert parse_text(words) == request_


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        ({"subcommand": "list", "unitid": 7}, ListRequest(None)),
        ({"subcommand": "results", "unitid": "x", "startpos": 3.9}, ResultsRequest("x", 3)),
        (
            {"subcommand": "results", "unitid": "x", "startpos": 3, "signature": "s"},
            ResultsRequest("x", 3, "s"),
        ),
        (
            {"subcommand": "cancel", "unitid": "x", "unless": "started"},
            CancelRequest("x", unless_started=True),
        ),
        ({"subcommand": "Watch", "unitid": "x"}, WatchRequest("x")),
        (
            {
                **{"subcommand": "adopt", "node": "bar", "unitid": "x", "tlsclient": "t"},
                **{"signwork": "true", "signature": "s"},
            },
            AdoptRequest("bar", "x", "t", True, "s"),
        ),
        (
            {"subcommand": "release", "unitid": "x", "remote": True},
            ReleaseRequest("x", remote=True),
        ),
        (
            {"subcommand": "force-release", "unitid": "x", "remote": "true"},
            ReleaseRequest("x", force=True, remote=True),
        ),
        (
            {
                **{"command": "work", "subcommand": "submit", "node": "bar", "worktype": "echo"},
                **{"tlsclient": "t", "ttl": "1h", "signwork": "true", "signature": "s"},
                **{"params": "a", "secret_x": "y"},
            },
            SubmitRequest(
                Submission("bar", "echo", {"params": "a", "secret_x": "y"}, "t", "1h", True, "s")
            ),
        ),
    ],
)
def test_the_json_form(data, request_):
    assert parse_json(data) == request_


@pytest.mark.parametrize("start", ["", " ", "1_0", "٣", "1e3", "+", "9" * 19, "9" * 5000])
def test_positions_that_receptor_would_not_read_are_refused(start):
    with pytest.raises(CommandError, match="position"):
        parse_text(f"results x {start}")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"subcommand": 1}, "field subcommand must be a string"),
        ({"subcommand": "cancel", "unitid": 1}, "field unitid must be a string"),
        ({"subcommand": "cancel", "unitid": "x", "unless": "x"}, "field unless must be started"),
        (
            {"subcommand": "results", "unitid": "x", "startpos": True},
            "field startpos value of another type is not convertible to an int",
        ),
        (
            {"subcommand": "submit", "node": "x", "worktype": "y", "signwork": "yes"},
            "field signwork value yes is not convertible to a bool",
        ),
        (
            {"subcommand": "submit", "node": "", "worktype": "y"},
            "work submit requires a target node and work type",
        ),
    ],
)
def test_refusals_name_the_field(data, text):
    with pytest.raises(CommandError) as refusal:
        parse_json(data)
    assert str(refusal.value) == text


# --- what the node checks before it makes a unit -----------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"worktype": "remote"}, "unknown work type remote"),
        ({"worktype": "wait", "params": "'"}, "cannot split the params into words: "),
        ({"worktype": "wait", "params": "a\0b"}, "params must not contain a NUL character"),
        ({"worktype": "signed", "kind": "tcp"}, "could not verify signature: "),
        ({"worktype": "signed", "kind": "mesh", "signature": "x"}, "could not verify signature: "),
        (
            {"node": "bar", "signwork": "true"},
            "this node has no work-signing directive: it cannot sign work",
        ),
        ({"node": "bar", "signature": "x"}, "work type did not expect a signature"),
        ({"node": "bar", "ttl": "2000000h"}, "ttl 2000000h ends after the year 9999"),
        ({"node": "bar", "ttl": "1d"}, 'time: unknown unit "d" in duration "1d"'),
    ],
)
async def test_a_refused_submission_leaves_no_unit(foo, fields, text):
    request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
    kind = fields.pop("kind", "unix")
    if "2000000h" in text:
        foo.mesh.now = lambda: datetime.max.replace(tzinfo=UTC)
    async with foo.running():
        (line,) = await foo.talk(request | fields, kind=kind)
        assert line.startswith(f"ERROR: {text}")
        assert foo.units.all() == ()
        assert foo.left() == []


async def test_a_unix_socket_needs_no_signature_for_a_verifying_type(foo):
    async with foo.running():
        unit_id = await foo.submit("foo", "signed")
        for subcommand in ("cancel", "release", "results"):
            (line,) = await foo.talk(f"work {subcommand} {unit_id}", kind="tcp")
            assert line.startswith("ERROR: could not verify signature: ")
        assert await foo.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']


async def test_unless_started_cancels_only_what_waits_for_input(foo):
    ask = {"command": "work", "subcommand": "cancel", "unless": "started"}
    async with foo.running():
        running = await foo.submit("foo", "wait")
        finished = await foo.submit("foo", "cat")
        for unit_id in (running, finished):
            before = foo.status(unit_id)
            assert await foo.talk(ask | {"unitid": unit_id}) == [
                f"ERROR: work unit {unit_id} does not wait for input any more"
            ]
            assert foo.status(unit_id) == before
        client = foo.connect()
        await client.send_all(b"work submit foo cat\nhalf")
        await trio.testing.wait_all_tasks_blocked()
        (waiting,) = {unit.unit_id for unit in foo.units.all()} - {running, finished}
        assert await foo.talk(ask | {"unitid": waiting}) == [f'{{"cancelled":"{waiting}"}}']
