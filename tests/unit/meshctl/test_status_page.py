"""A node's status on a terminal and in a pipe."""

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.render.columns import (
    NARROWEST,
    NARROWEST_LAST,
    Cell,
    Terminal,
    columns_of,
    shortened,
    wrapped,
)
from meshctl.render.output import wants_colour
from meshctl.render.status import natural, status_lines, status_page

SECOND = 1_000_000_000
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def peer(address: str, **more: Any) -> dict[str, Any]:
    return {
        "Directive": "tcp-peer",
        "Address": address,
        "State": "up",
        "NodeID": "bar",
        "Since": "2026-11-22T03:00:00.000000000Z",
        "Age": 3_723 * SECOND,
        "Attempts": 1,
        "LastError": None,
        "LastErrorTime": None,
        "LastErrorAge": None,
        "NextTry": None,
        "NextTryIn": None,
    } | more


AWAY = peer(
    "10.0.0.9:2222",
    State="waiting",
    NodeID=None,
    Age=65 * SECOND,
    Attempts=7,
    LastError="the peer rejected us: cost 1 here, 5 there; both ends must name the same",
    NextTryIn=8 * SECOND,
)
STATUS: dict[str, Any] = {
    "NodeID": "foo",
    "Version": "1",
    "Peers": [AWAY, peer("10.0.0.10:2222"), peer("10.0.0.8:2222", LastError="refused: x")],
    "Listeners": [
        {
            "Directive": "tcp-listener",
            "Address": "*:2222",
            "State": "listening",
            "Age": 9 * SECOND,
            "Links": 3,
            "Opening": 0,
            "LastError": "tcp 10.0.0.7:4711: the peer closed the link",
            "LastErrorAge": 2 * SECOND,
        },
        {
            "Directive": "tcp-listener",
            "Address": "*:2223",
            "State": "closed",
            "Age": 9 * SECOND,
            "Links": 0,
            "Opening": 0,
            "LastError": "cannot listen: the address is in use already",
        },
    ],
    "Rejected": [
        {
            "NodeID": "baz",
            "Address": "10.0.0.7",
            "Via": "tcp 0.0.0.0:2222",
            "Reason": "baz is not in allowedpeers",
            "Count": 12,
            "Last": "2026-11-22T03:00:00Z",
            "LastAge": 3 * SECOND,
        }
    ],
    "Connections": [{"NodeID": "n-10", "Cost": 1}, {"NodeID": "n-9", "Cost": 1}],
    "RoutingTable": {"n-10": "n-10", "n-9": "n-9"},
}


def page(status: dict[str, Any], width: int | None = None) -> list[str]:
    return list(status_page(status, Terminal(width)))


def line_of(lines: list[str], word: str) -> str:
    (line,) = [line for line in lines if line.startswith(word)]
    return line


def test_each_configured_link_is_a_line_with_state_time_tries_and_reason() -> None:
    lines = page(STATUS)
    assert line_of(lines, "Peer").split() == [
        *("Peer", "State", "For", "Tries", "Next", "Node,", "or", "what", "is", "wrong")
    ]
    assert re.fullmatch(
        r"tcp-peer 10\.0\.0\.9:2222 +waiting  1m5s  7      8s    the peer rejected us: cost 1 here"
        r", 5 there; both ends must name the same",
        line_of(lines, "tcp-peer 10.0.0.9"),
    )
    assert line_of(lines, "tcp-peer 10.0.0.8").split()[2:] == ["up", "1h2m", "1", "-", "bar"]
    assert line_of(lines, "tcp-listener *:2222").endswith(
        "listening  9s   3      0        2s ago: tcp 10.0.0.7:4711: the peer closed the link"
    )
    assert "closed" in line_of(lines, "tcp-listener *:2223")
    assert line_of(lines, "baz").split()[:2] == ["baz", "10.0.0.7"]
    assert line_of(lines, "baz").endswith("12     3s ago  baz is not in allowedpeers")


def test_what_is_listed_is_sorted_and_numbers_in_names_count() -> None:
    shuffled = STATUS | {"Peers": random.sample(STATUS["Peers"], 3)}
    lines = page(shuffled)
    assert [x.split()[1] for x in lines if x.startswith("tcp-peer")] == [
        "10.0.0.8:2222",
        "10.0.0.9:2222",
        "10.0.0.10:2222",
    ]
    assert [line.split()[0] for line in lines if line.startswith("n-")] == ["n-9", "n-10"] * 2


def test_a_pipe_gets_receptorctls_part_first_and_no_colour_and_nothing_is_left_over() -> None:
    lines = list(status_lines(STATUS))
    assert lines.index("Connection   Cost") < lines.index(line_of(lines, "Peer"))
    assert "waiting" in line_of(lines, "tcp-peer 10.0.0.9")
    assert not any("\x1b" in line or "Additional" in line for line in lines)


@pytest.mark.parametrize("lines", [page, lambda status: list(status_lines(status))])
def test_a_receptor_node_that_has_none_of_this_is_shown(lines: Any) -> None:
    plain = {
        "NodeID": "bar",
        "Version": "1.5.0",
        "Connections": [{"NodeID": "foo", "Cost": 1}],
        "KnownConnectionCosts": {"bar": {"foo": 1}, "foo": {"bar": 1}},
        "RoutingTable": {"foo": "foo"},
        "Advertisements": None,
        "Later": 1,
    }
    text = "\n".join(lines(plain))
    assert re.search(r"^foo +1\b", text, re.MULTILINE)
    assert re.search(r"^foo +foo$", text, re.MULTILINE)
    assert '"Later": 1' in text
    assert "Peer" not in text
    assert "Rejected" not in text


def test_colours_say_what_is_well_and_what_is_not_and_nothing_else_changes() -> None:
    coloured = list(status_page(STATUS, Terminal(100, in_colour=True)))
    assert [COLOUR.sub("", line) for line in coloured] == page(STATUS, 100)
    text = "\n".join(coloured)
    assert re.search(r"\x1b\[32mup\x1b\[0m", text)
    assert re.search(r"\x1b\[31mwaiting\x1b\[0m", text)
    assert re.search(r"\x1b\[31mclosed\x1b\[0m", text)


def test_a_node_that_is_linked_by_another_dial_is_shown_by_its_name_and_as_well_as_one_that_is_up():
    linked = peer("10.0.0.77:2222", State="linked", NextTryIn=8 * SECOND, LastError="refused: x")
    (line,) = [
        line
        for line in status_page(STATUS | {"Peers": [linked]}, Terminal(100, in_colour=True))
        if "10.0.0.77" in line
    ]
    assert "\x1b[32mlinked\x1b[0m" in line
    assert "\x1b[31m" not in line
    assert COLOUR.sub("", line).split()[2:] == ["linked", "1h2m", "1", "8s", "bar"]


@pytest.mark.parametrize(
    ("tty", "environment", "wanted"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_whose_owner_wants_them(
    tty: bool, environment: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream:
        def isatty(self) -> bool:
            return tty

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(Stream()) is wanted  # type: ignore[arg-type]


@given(st.text(max_size=300), st.text(max_size=40))
def test_nothing_that_a_node_says_moves_a_cursor_or_makes_a_colour(reason: str, name: str) -> None:
    status = STATUS | {
        "NodeID": name,
        "Warnings": [reason],
        "Peers": [peer(name, State="waiting", LastError=reason)],
        "RoutingTable": {name: reason},
        name: reason,
    }
    for line in page(json.loads(json.dumps(status)), 80):
        assert line.isprintable()


CELLS = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=60)


@given(st.integers(40, 200), st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5))
def test_a_table_fits_the_terminal_and_loses_nothing_of_its_last_column(
    width: int, texts: list[tuple[str, str, str]]
) -> None:
    rows = [[Cell.of(text) for text in row] for row in texts]
    lines = Terminal(width).table(("One", "Two", "Three"), rows)
    assert all(columns_of(line) <= width for line in lines)
    shown = "".join("".join(lines).split())
    for row in rows:
        # Word by word: a line may break it between any two.
        for word in row[-1].text.split():
            assert "".join(word.split()) in shown or columns_of(word) > NARROWEST_LAST


@given(CELLS, st.integers(2, 80))
def test_wrapped_lines_fit_and_have_all_of_the_text(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert all(columns_of(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@given(CELLS, st.integers(NARROWEST, 80))
def test_a_shortened_name_has_both_its_ends(text: str, width: int) -> None:
    short = shortened(text, width)
    assert columns_of(short) <= width
    if short != text:
        start, end = short.split("…")[0], short.rsplit("…", 1)[1]
        assert text.startswith(start)
        assert text.endswith(end)


@given(st.lists(st.text(max_size=8)))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    assert [natural(name) for name in sorted(names, key=natural)] == sorted(map(natural, names))


def test_many_columns_give_way_to_a_short_last_one() -> None:
    link = {"NodeID": "a" * 30, "Cost": 1, "Kind": "tcp", "Address": "b" * 40, "Dropped": 7}
    lines = page({"Connections": [link]}, 80)
    assert all(len(line) <= 80 for line in lines)
    (row,) = [line for line in lines if "…" in line]
    assert row.endswith("7")


def certificate(**more: Any) -> dict[str, Any]:
    return {
        "Directive": "tls-server",
        "Name": "srv",
        "File": "/etc/foo.crt",
        "NodeIDs": ["foo"],
        "Hosts": ["a.example", "10.0.0.7"],
        "NotAfter": "2027-01-02T03:04:05.000000000Z",
        "EndsIn": 90 * 86_400 * SECOND,
    } | more


@pytest.mark.parametrize("is_page", [True, False])
@pytest.mark.parametrize(
    ("ends_in", "words"), [(90 * 86_400 * SECOND, "90d0h"), (-SECOND, "over"), (None, "-")]
)
def test_certificates_are_shown_with_their_names_and_ends(
    is_page: bool, ends_in: int | None, words: str
) -> None:
    status = {"NodeID": "foo", "Certificates": [certificate(EndsIn=ends_in)]}
    lines = status_page(status, Terminal()) if is_page else status_lines(status)
    (row,) = [line for line in lines if "tls-server srv" in line]
    for text in ("foo", "a.example, 10.0.0.7", "2027-01-02", words, "/etc/foo.crt"):
        assert text in row
    assert "Additional data" not in "\n".join(lines)


@pytest.mark.parametrize("show", [status_lines, lambda status: status_page(status, Terminal(80))])
def test_what_became_of_messages_is_a_line_for_people(show) -> None:
    counts = {"Firewall": {"Dropped": 0, "Rejected": 3}, "Dropped": {"Faults": 1}, "New": {"A": 1}}
    lines = list(show({"NodeID": "foo", **counts}))
    start = lines.index("Firewall: 0 dropped, 3 rejected")
    assert lines[start + 1 :][:3] == [
        "",
        "Dropped: 1 faults",
        "Additional data returned from Receptor:",
    ]
    assert "Firewall" not in "".join(lines[start + 3 :])
