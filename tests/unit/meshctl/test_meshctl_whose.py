"""Whose a unit is, and who ended it, as people read it."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.render.clients import (
    WIDEST_PARAMS,
    how_ended,
    killed,
    shown_params,
    who,
    who_briefly,
)
from meshctl.render.tables import NARROWEST_LAST, unit_lines, unit_table

NOW = datetime(2026, 11, 26, tzinfo=UTC)
ANN = {"Kind": "unix", "Uid": 1000, "Gid": 100, "Pid": 7, "User": "ann"}
FOO = {"Kind": "mesh", "Node": "foo", "Service": "abc"}


def with_certificate(subject: str, *nodes: str) -> dict[str, object]:
    """Return a client of TCP that has shown a certificate, as a status tells it."""
    certificate = {"Subject": subject, "Nodes": list(nodes)}
    return {"Kind": "tcp", "Address": "10.0.0.7:4312", "Certificate": certificate}


@pytest.mark.parametrize(
    ("client", "line", "brief"),
    [
        (ANN, "ann (uid 1000, pid 7)", "ann"),
        ({**ANN, "User": ""}, "uid 1000, pid 7", "uid 1000"),
        ({"Kind": "tcp", "Address": "10.0.0.7:4312"}, "10.0.0.7:4312", "10.0.0.7:4312"),
        (with_certificate("CN=ann", "ann"), "CN=ann (10.0.0.7:4312)", "CN=ann"),
        (
            with_certificate("", "ann", "ben"),
            "certificate of ann, ben (10.0.0.7:4312)",
            "certificate of ann, ben",
        ),
        (with_certificate(""), "10.0.0.7:4312", "10.0.0.7:4312"),
        (FOO, "node foo", "node foo"),
        ({**FOO, "Claim": ANN}, "node foo, which says for ann (uid 1000, pid 7)", "node foo (ann)"),
        ({"Kind": "unknown"}, "an unknown client", "unknown"),
        ({"Kind": "cert", "Subject": "CN=x"}, "Kind cert, Subject CN=x", "cert"),
        (None, "-", "-"),
        ("ann", "-", "-"),
    ],
)
def test_a_client_is_told_in_words(client, line, brief) -> None:
    assert (who(client), who_briefly(client)) == (line, brief)


def test_a_node_is_not_shown_as_the_user_or_the_address_that_it_is_called() -> None:
    for client in (ANN, {"Kind": "tcp", "Address": "10.0.0.7:4312"}):
        namesake = {**FOO, "Node": who_briefly(client)}
        assert who_briefly(namesake) != who_briefly(client)
        assert who(namesake) != who(client)


@pytest.mark.parametrize(
    ("end", "line"),
    [
        ({"Cause": "cancel", "By": ANN}, "cancel by ann (uid 1000, pid 7)"),
        (
            {"Cause": "cancel", "By": ANN, "Node": "bar"},
            "cancel by ann (uid 1000, pid 7) on node bar",
        ),
        ({"Cause": "timeout"}, "timeout"),
        ({"Cause": "signal", "Pid": 9, "Uid": 0}, "signal by process 9 (uid 0)"),
        ({"Cause": "signal", "Pid": 9}, "signal by process 9 (uid ?)"),
        (None, "-"),
    ],
)
def test_an_end_is_told_in_words(end, line) -> None:
    assert how_ended(end) == line


CANCELED_BY_ANN = {"Cause": "cancel", "By": ANN}


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ({"State": 1}, "-"),
        ({"State": 1, "EndedBy": CANCELED_BY_ANN}, "-"),
        ({"State": 2, "ExitCode": 0, "Signal": None, "EndedBy": None}, "no"),
        ({"State": 3, "ExitCode": 3}, "no"),
        ({"State": 3, "Signal": "SIGSEGV", "EndedBy": {"Cause": "signal"}}, "yes: SIGSEGV"),
        (
            {"State": 4, "Signal": "SIGTERM", "EndedBy": CANCELED_BY_ANN},
            "yes: SIGTERM, cancel by ann (uid 1000, pid 7)",
        ),
        ({"State": 4, "EndedBy": CANCELED_BY_ANN}, "yes: cancel by ann (uid 1000, pid 7)"),
        ({"State": 3, "Signal": "SIGINT", "EndedBy": {"Cause": "timeout"}}, "yes: SIGINT, timeout"),
        (
            {"State": 3, "Signal": "SIGKILL", "EndedBy": {"Cause": "signal", "Pid": 9, "Uid": 0}},
            "yes: SIGKILL, signal by process 9 (uid 0)",
        ),
    ],
)
def test_a_status_says_whether_a_unit_was_killed_and_by_whom(status, shown) -> None:
    assert killed(status) == shown
    lines = unit_lines("a", {"Signal": None, **status}, NOW)
    assert [line.split(None, 1)[1] for line in lines if line.startswith("Killed:")] == [shown]


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ({"State": 0, "Started": None, "Finished": None}, "-"),
        ({"State": 1, "Started": "2026-11-25T23:57:00Z", "Finished": None}, "3m0s"),
        (
            {"State": 2, "Started": "2026-11-25T23:57:00.25Z", "Finished": "2026-11-25T23:57:01Z"},
            "750ms",
        ),
        ({"State": 3, "Started": None, "Finished": "2026-11-25T23:57:01Z"}, "-"),
    ],
)
def test_a_status_says_how_long_a_unit_has_run(times, shown) -> None:
    lines = unit_lines("a", times, NOW)
    assert [line.split()[1] for line in lines if line.startswith("Duration:")] == [shown]


def test_a_table_says_who_canceled_a_unit() -> None:
    told = {
        "ann": {"State": 4, "Detail": "Canceled", "EndedBy": CANCELED_BY_ANN},
        "foo": {"State": 4, "Detail": "Canceled", "EndedBy": {"Cause": "cancel", "By": FOO}},
        "nobody": {"State": 4, "Detail": "Canceled", "EndedBy": {"Cause": "cancel"}},
        "late": {"State": 3, "Detail": "exit status 3", "EndedBy": CANCELED_BY_ANN},
    }
    lines = {line.split()[0]: line for line in unit_table(told, NOW)[1:]}
    assert lines["ann"].endswith("  Canceled by ann")
    assert lines["foo"].endswith("  Canceled by node foo")
    assert lines["nobody"].endswith("  Canceled")
    assert lines["late"].endswith("  exit status 3")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
keys = st.sampled_from(
    [
        "Kind",
        "Uid",
        "Pid",
        "User",
        "Address",
        "Node",
        "Claim",
        "Cause",
        "By",
        "Certificate",
        "Subject",
        "Nodes",
    ]
)
kinds = st.sampled_from(["unix", "tcp", "mesh", "unknown", "x"])


@given(anything | st.dictionaries(keys, anything | kinds, max_size=6))
def test_whatever_a_node_says_of_clients_it_can_be_shown(data) -> None:
    status = {"State": 2, "SubmittedBy": data, "EndedBy": data, "SubmittedParams": data}
    assert unit_table({"a": status}, NOW)
    assert unit_lines("a", status, NOW)
    assert len(shown_params(status)) <= WIDEST_PARAMS


def test_claims_within_claims_are_not_followed_however_deep() -> None:
    client = dict(ANN)
    for _ in range(100_000):
        client = {**FOO, "Claim": client}
    assert who(client) == "node foo, which says for node foo"
    assert who_briefly(client) == "node foo (node foo)"


def test_a_list_says_whose_each_unit_is_and_what_was_asked_for() -> None:
    units = {
        "a": {"State": 2, "Detail": "x", "SubmittedBy": ANN, "SubmittedParams": "-n 3"},
        "b": {"State": 2, "Detail": "y", "SubmittedBy": None, "SubmittedParams": ""},
    }
    header, first, second = (line.split() for line in unit_table(units, NOW))
    assert header[-3:] == ["By", "Params", "Detail"]
    assert first[-4:] == ["ann", "-n", "3", "x"]
    assert second[-3:] == ["-", "-", "y"]


def test_a_list_of_a_node_that_says_nothing_of_clients_has_no_columns_for_them() -> None:
    (header, _) = unit_table({"a": {"State": 2, "Detail": "x"}}, NOW)
    assert header.split()[-2:] == ["Stdout", "Detail"]


@given(st.integers(0, 300), st.text(st.characters(categories=["Lu"]), max_size=300))
def test_a_table_fits_a_terminal_that_has_room_for_its_columns(width: int, detail: str) -> None:
    status = {"State": 2, "StateName": "Succeeded", "WorkType": "cat", "SubmittedBy": ANN}
    whole = unit_table({"a": {**status, "Detail": detail}}, NOW)
    lines = unit_table({"a": {**status, "Detail": detail}}, NOW, width)
    columns = whole[0].index("Detail")
    for line, cut in zip(whole, lines, strict=True):
        assert len(cut) <= max(width, columns + NARROWEST_LAST)
        assert cut == line or (cut.endswith("…") and line.startswith(cut[:-1]))


def test_status_tells_whose_a_unit_is_in_one_line_and_json_has_all_of_it(meshctl, node) -> None:
    node.add_unit("far", SubmittedBy={**FOO, "Claim": ANN}, SubmittedParams="-n 3")
    reply = json.loads(meshctl("work", "status", "far", "--json").stdout)
    assert reply["SubmittedBy"] == {**FOO, "Claim": ANN}
    lines = unit_lines("far", reply, NOW)
    whose = "node foo, which says for ann (uid 1000, pid 7)"
    assert [line.split(None, 1)[1] for line in lines if line.startswith("Submitted")] == [
        whose,
        "-n 3",
    ]
