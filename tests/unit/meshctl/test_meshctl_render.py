"""Tables for people."""

import pytest

from meshctl.render import unit_table


def remote(state: int, **extra: object) -> dict[str, object]:
    return {"State": state, "Detail": "why", "ExtraData": {"RemoteNode": "bar", **extra}}


def test_the_newest_unit_stands_last() -> None:
    units = {
        "a": {"Created": "2026-11-22T03:00:01.000000Z"},
        "b": {"Created": "2026-11-22T03:00:00.000000Z"},
        "c": {},
    }
    assert [line.split()[0] for line in unit_table(units)[1:]] == ["c", "b", "a"]


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
    assert unit_table({"a": status})[1].endswith(f"  {end}")
