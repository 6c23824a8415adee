"""What people see of links: more than receptorctl shows, without moving what it shows."""

import pytest

from meshctl.render.columns import Terminal
from meshctl.render.output import size
from meshctl.render.status import status_lines, status_page
from meshctl.render.times import round_trip, uptime

BAR = {
    "NodeID": "bar",
    "Cost": 1,
    "Kind": "tcp",
    "Address": "127.0.0.1:2222",
    "Since": "2026-11-22T03:00:00.000000000Z",
    "Uptime": 3_723_000_000_000,
    "RoundTrip": 312_513,
    "SentMessages": 12,
    "SentBytes": 1_500,
    "ReceivedMessages": 7,
    "ReceivedBytes": 900,
    "Dropped": 3,
}


def link_table(connections):
    page = list(status_page({"Connections": connections}, Terminal()))
    return page[page.index("") + 1 :]


def test_a_link_is_shown_with_all_its_figures():
    assert link_table([BAR]) == [
        "Connection   Cost  Link                Up    RTT    Sent     Received  Dropped",
        "bar          1     tcp 127.0.0.1:2222  1h2m  313µs  1.5 KiB  900 B     3",
    ]


def test_what_a_node_does_not_say_is_a_dash():
    silent = BAR | {"NodeID": "mute", "RoundTrip": None}
    lines = link_table([{"NodeID": "receptor", "Cost": 2.5}, silent])
    assert lines[2].split() == ["receptor", "2.5", "-", "-", "-", "-", "-", "-"]
    assert lines[1].split()[4:6] == ["1h2m", "-"]


def test_what_is_no_number_is_a_dash_too():
    odd = BAR | {"Uptime": "long", "RoundTrip": True, "SentBytes": [], "Dropped": {}}
    assert link_table([odd])[1].split()[4:] == ["-", "-", "-", "900", "B", "-"]


def test_a_pipe_gets_what_receptorctl_prints_whatever_the_node_says():
    plain = {"NodeID": "foo", "Connections": [{"NodeID": "bar", "Cost": 1}]}
    full = {"NodeID": "foo", "Connections": [BAR]}
    assert list(status_lines(full)) == list(status_lines(plain))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0s"), (59.9e9, "59s"), (60e9, "1m0s"), (3_600e9, "1h0m"), (90_061e9, "1d1h")],
)
def test_uptimes_are_shown_in_two_units(value, text):
    assert uptime(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0µs"), (312_513, "313µs"), (1_250_000, "1.25ms"), (2.1e9, "2.1s")]
)
def test_round_trips_are_shown_to_three_digits(value, text):
    assert round_trip(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes_are_shown_in_the_largest_unit_that_fits(value, text):
    assert size(value) == text
