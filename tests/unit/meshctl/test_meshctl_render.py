"""Tables for people."""

from datetime import UTC, datetime

import pytest

from meshctl.render.tables import unit_table

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
