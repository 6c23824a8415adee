"""Tables for people."""

from contextlib import suppress
from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given

from meshctl.api.connection import Connection
from meshctl.api.errors import ProtocolMismatch
from meshctl.render.columns import Terminal
from meshctl.render.status import status_lines, status_page
from meshctl.render.tables import laid_out, unit_lines, unit_table
from meshctl.render.times import stamp

NOW = datetime(2026, 11, 22, 4, 0, 0, tzinfo=UTC)


def remote(state: int, **extra: object) -> dict[str, object]:
    return {"State": state, "Detail": "why", "ExtraData": {"RemoteNode": "bar", **extra}}


def test_the_newest_unit_stands_last() -> None:
    units = {
        "a": {"Created": "2026-11-22T03:00:01.000000Z"},
        "b": {"Created": "2026-11-22T03:00:00.000000Z"},
        "c": {},
    }
    assert [line.split()[0] for line in unit_table(units, NOW)[1:]] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (remote(2, LocalReleased=True, LocalCancelled=True), "why (release pending)"),
        (remote(1, LocalCancelled=True), "why (cancel pending)"),
        (remote(4, LocalCancelled=True), "why"),
        (remote(1), "why"),
        ({"State": 1, "Detail": "why", "ExtraData": None}, "why"),
    ],
)
def test_what_waits_for_the_other_node_is_shown(status: dict[str, object], end: str) -> None:
    assert unit_table({"a": status}, NOW)[1].endswith(f"  {end}")


@pytest.mark.parametrize(
    ("status", "cells"),
    [
        ({"State": 0, "Created": "2026-11-22T03:59:55.5Z"}, ["4s", "-"]),
        (
            {"State": 1, "Created": "2026-11-21T03:00:00Z", "Started": "2026-11-22T03:58:59Z"},
            ["1d1h", "1m1s"],
        ),
        (
            {
                "State": 2,
                "Created": "2026-11-22T03:00:00Z",
                "Started": "2026-11-22T03:00:01Z",
                "Finished": "2026-11-22T03:00:13Z",
            },
            ["1h0m", "12s"],
        ),
        ({"State": 2, "Created": "2026-11-22T03:00:00Z", "Started": None}, ["1h0m", "-"]),
        ({"State": 1, "Created": "2026-11-22T04:00:05Z"}, ["0s", "-"]),
        ({"State": 2, "Created": "yesterday"}, ["-", "-"]),
    ],
)
def test_age_and_duration_are_spans_that_people_read(
    status: dict[str, object], cells: list[str]
) -> None:
    header, row = unit_table({"a": {"StateName": "x", "WorkType": "y", **status}}, NOW)
    assert header.split()[-4:] == ["Age", "Duration", "Stdout", "Detail"]
    assert row.split()[4:6] == cells


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (2048, "2.0 KiB"), (3_500_000, "3.3 MiB"), (None, "-")]
)
def test_the_size_of_stdout_has_a_unit(count: int | None, shown: str) -> None:
    _, row = unit_table({"a": {"State": 1, "StdoutSize": count, "Detail": "why"}}, NOW)
    assert row.endswith(f"  {shown}".ljust(2 + max(6, len(shown))) + "  why")


KEYS = st.sampled_from(
    [
        "NodeID",
        "Connections",
        "Uptime",
        "Advertisements",
        "WorkCommands",
        "RoutingTable",
        "KnownConnectionCosts",
        "Warnings",
        "Peers",
        "Listeners",
        "Rejected",
        "Age",
        "LastError",
        "State",
        "Created",
        "Started",
        "ExtraData",
        "Host",
        "StdoutSize",
        "Time",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, JSON, max_size=5))
def test_whatever_a_node_replies_is_shown_or_named_as_no_reply(reply: dict[str, object]) -> None:
    for lines in (
        lambda: status_lines(reply),
        lambda: status_page(reply, Terminal(80, in_colour=True)),
        lambda: unit_table(reply, NOW),  # type: ignore[arg-type]
        lambda: unit_lines("a", reply, NOW),
    ):
        with suppress(ProtocolMismatch):
            laid_out(lines)


class _Node:
    """A transport that brings one line."""

    def __init__(self, line: bytes) -> None:
        self._line = line

    def receive(self, max_bytes: int) -> bytes:
        line, self._line = self._line, b""
        return line


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_reply_that_is_nested_too_deep_is_no_reply(opening: bytes) -> None:
    with pytest.raises(ProtocolMismatch, match="not JSON"):
        Connection(_Node(opening * 200_000 + b"\n")).read_json()  # type: ignore[arg-type]


@given(st.datetimes(datetime(1970, 1, 1)))  # hypothesis takes no aware ones
def test_a_stamp_is_the_moment_in_utc_to_the_microsecond(moment: datetime) -> None:
    told = moment.replace(tzinfo=UTC)
    since = told - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
    shown = stamp(microseconds)
    assert datetime.fromisoformat(shown) == told
    assert (len(shown), shown[-1]) == (27, "Z")


def test_limits_and_what_was_used_are_told_in_units_for_people() -> None:
    status = {
        "Limits": {"cpu": 0.5, "io-write": 10485760, "memory": 67108864, "pids": 64},
        "Usage": {"CpuSeconds": 1.5, "PeakMemory": 2822144, "ReadBytes": 0},
    }
    lines = [line.split(None, 1) for line in unit_lines("a", status, NOW)]
    assert ["cpu:", "0.5"] in lines
    assert ["io-write:", "10.0 MiB/s"] in lines
    assert ["memory:", "64.0 MiB"] in lines
    assert ["pids:", "64"] in lines
    assert ["CpuSeconds:", "1.5 s"] in lines
    assert ["PeakMemory:", "2.7 MiB"] in lines
    assert ["ReadBytes:", "0 B"] in lines
