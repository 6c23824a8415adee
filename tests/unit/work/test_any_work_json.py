"""Any JSON in any field of a ``work`` command: an answer, and the node lives."""

import itertools
import json
import logging
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from work_fakes import LONG, FakeMesh, FakeNode

ON_UNIT = {"unitid": "UNIT", "signature": ""}
USUAL: dict[str, dict[str, object]] = {
    "submit": {
        **{"node": "foo", "worktype": "wait", "params": "", "tlsclient": "", "ttl": ""},
        **{"signwork": "false", "signature": "", "stdinsize": "", "stdinsha256": ""},
        **{"submissionkey": "", "submissionfollow": "", "other": ""},
        **{"submissionlabels": ""},
    },
    "adopt": {
        **{"node": "bar", "unitid": "UNIT", "tlsclient": ""},
        **{"signwork": "false", "signature": ""},
    },
    "list": {
        **{"unitid": None, "signature": "", "state": "running", "type": "cat", "node": "foo"},
        **{"label": "a=b", "submitter": "1", "batch": "b", "limit": 3, "cursor": None},
        "since": "2026-11-02",
    },
    "status": ON_UNIT,
    "watch": ON_UNIT,
    "results": {**ON_UNIT, "startpos": 0},
    "cancel": {**ON_UNIT, "unless": "started"},
    "release": {**ON_UNIT, "remote": "false"},
    "force-release": {**ON_UNIT, "remote": False},
    "nosuch": ON_UNIT,
}
"""Every field of every subcommand."""

TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=20)
OURS = st.sampled_from(
    [
        *("foo", "localhost", "nowhere", "cat", "wait", "signed", "UNIT", "true", "started"),
        *("1h", "0", "-1", "9" * 30, "1e9", "\x00", "\ud800", "a\nb", "'", "%s", "x" * 70_000),
        *("0" * 64, "foo:UNIT", "../..", "/", "٣"),
    ]
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**400), 10**400), st.floats(), TEXT, OURS, OURS
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)


def commands_of(subcommand: str) -> st.SearchStrategy[dict[str, object]]:
    """What a command may be, with anything at all in some of its fields."""
    fields = ["subcommand", *USUAL[subcommand]]
    return st.builds(
        lambda some: {"subcommand": subcommand} | USUAL[subcommand] | some,
        st.dictionaries(st.sampled_from(fields), JSON, max_size=2),
    )


@pytest.fixture(scope="module")
def numbers() -> itertools.count:
    return itertools.count()


@pytest.mark.parametrize("subcommand", USUAL)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=60,
)
@given(
    data=st.data(),
    kind=st.sampled_from(["unix", "tcp", "mesh"]),
    payload=st.sampled_from([b"", b"\xff\x00\n"]),
)
def test_any_json_in_any_field_of_work_is_answered(
    inline_threads, tmp_path: Path, caplog, numbers, subcommand, data, kind, payload
) -> None:
    caplog.clear()
    commands = data.draw(st.lists(commands_of(subcommand), min_size=1, max_size=5))

    async def main() -> None:
        foo = FakeNode(FakeMesh(), "foo", tmp_path / str(next(numbers)))
        async with foo.running():
            unit_id = await foo.submit("foo", "cat", b"hi")
            await foo.wait_final(unit_id)
            for command in commands:
                line = json.dumps({**command, "command": "work"}).replace("UNIT", unit_id)
                with trio.fail_after(LONG):
                    lines = await foo.talk(line, payload, kind=kind, peer="bar")
                assert not any("internal error" in answer for answer in lines), lines
                for answer in lines[:1]:
                    known = answer.startswith(("ERROR: ", "Work unit ", "Streaming results"))
                    assert known or isinstance(json.loads(answer), dict)
            assert json.loads((await foo.talk("work list"))[0]) is not None

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
