"""What changes at a node, shown to people and to programs, and over breaks of the session."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl import shells
from meshctl.api import events as api_events
from meshctl.cli import cli
from meshctl.render.events import event_line
from meshctl.render.output import ExitCode

START = {"seq": 6, "time": "2026-11-26T11:08:10Z", "topic": "start", "topics": ["link", "unit"]}
UP = {
    "seq": 7,
    "time": "2026-11-26T11:08:11Z",
    "topic": "link",
    "id": "foo/bar",
    "change": "up",
    "link": {"a": "foo", "b": "bar", "cost_ab": 1, "cost_ba": 1, "kind": "tcp"},
}
ENDED = {
    "seq": 9,
    "time": "2026-11-26T11:08:12Z",
    "topic": "unit",
    "id": "AbCdEfGh",
    "change": "ended",
    "unit": {
        "ID": "AbCdEfGh",
        "Node": "bar",
        "StateName": "Succeeded",
        "Detail": "exit status 0",
        "WorkType": "remote",
        "RemoteWorkType": "echo",
    },
}


class Teller:
    """A node that tells events, over several sessions; the last one ends with an error line."""

    def __init__(self, *sessions):
        self.sessions = list(sessions)
        self.requests = []

    def __call__(self, session, line):
        self.requests.append(json.loads(line))
        if not self.sessions:
            session.send(b"ERROR: enough\n")
            return True
        session.send(b"Streaming events\n")
        for event in self.sessions.pop(0):
            session.send(event)
        return False


@pytest.fixture
def telling(node, monkeypatch):
    """Has the node tell these events, a list for each session."""
    monkeypatch.setattr(api_events, "ASK_INTERVAL", 0.0)

    def tell(*sessions):
        node.handlers['{"command": "events"'] = teller = Teller(*sessions)
        return teller

    return tell


def clockless(text):
    return [line.partition("  ")[2] for line in text.splitlines()]


def test_people_see_a_line_for_each_change(telling, meshctl):
    telling([START, UP, ENDED])
    result = meshctl("events")
    assert clockless(result.stdout) == [
        "link foo - bar up (tcp, cost 1)",
        "unit AbCdEfGh ended: echo on bar: Succeeded: exit status 0",
    ]
    assert result.exit_code == ExitCode.REFUSED
    assert "enough" in result.stderr


def test_programs_have_each_event_as_the_node_tells_it(telling, meshctl):
    telling([START, UP, ENDED])
    lines = meshctl("events", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [START, UP, ENDED]


def test_a_session_that_breaks_is_followed_by_one_that_goes_on_after_the_last_event(
    telling, meshctl
):
    teller = telling([START, UP], [{**START, "seq": 7}, ENDED])
    result = meshctl("events", "--topics", "units,links")
    assert [request.get("since") for request in teller.requests] == [None, 7, 9]
    assert all(request["topics"] == ["units", "links"] for request in teller.requests)
    assert len(result.stdout.splitlines()) == 2
    assert "Waiting for the node" in result.stderr


def test_who_knows_a_number_goes_on_from_there(telling, meshctl):
    teller = telling()
    meshctl("events", "--since", "17")
    assert teller.requests == [{"command": "events", "since": 17}]


def test_a_node_without_the_command_is_told_to_be_another_kind(node, meshctl):
    node.handlers["{"] = lambda session, line: session.send(b"ERROR: Unknown command\n") or True
    result = meshctl("events")
    assert result.exit_code == ExitCode.REFUSED
    assert result.stderr == (
        "ERROR: Unknown command. The node is receptor's, or an older meshnode.\n"
    )


def test_a_node_that_is_away_at_first_is_no_reason_to_wait(meshctl, tmp_path):
    result = meshctl("events", socket=str(tmp_path / "nobody.sock"))
    assert result.exit_code == ExitCode.UNREACHABLE


def test_a_topic_that_there_is_not_is_wrong_usage(meshctl):
    result = meshctl("events", "--topics", "units,weather")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "weather" in result.stderr


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"topic": "route", "change": "removed", "route": {"node": "baz"}}, "route to baz removed"),
        (
            {"topic": "route", "change": "added", "route": {"node": "baz", "via": "bar"}},
            "route to baz added: via bar",
        ),
        (
            {"topic": "service", "change": "added", "service": {"node": "b", "service": "echo"}},
            "service echo of b added",
        ),
        (
            {"topic": "link", "change": "down", "link": {"a": "foo", "b": "bar", "cost_ab": 1}},
            "link foo - bar down",
        ),
        (
            {"topic": "link", "change": "peer", "peer": {"address": "b:1", "reason": "refused"}},
            "peer b:1 down: refused",
        ),
        (
            {
                "topic": "link",
                "change": "peer",
                "peer": {"address": "b:1", "node": "bar", "state": "up"},
            },
            "peer b:1 up (bar)",
        ),
        (
            {"topic": "lost", "missed": 3},
            "lost: up to 3 changes were not told; meshctl status and work list have what there is "
            "now",
        ),
    ],
)
def test_each_kind_of_event_has_its_words(event, line):
    assert event_line(event) == f"--:--:--  {line}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["time", "topic", "id", "change", "missed", "unit", "link", "peer"])
TOPICS = st.sampled_from(["unit", "link", "route", "service", "lost", "start", "weather"])


@given(st.dictionaries(KEYS, JSON), TOPICS)
def test_whatever_a_node_tells_is_a_line_or_none(event, topic):
    assert isinstance(event_line(event), str)
    assert isinstance(event_line({**event, "topic": topic}), str)


def test_topics_are_completed_one_after_the_other(node, monkeypatch, capsysbinary):
    monkeypatch.setenv("MESHCTL_SOCKET", node.address)
    for line, expected in (
        ("meshctl events --topics u", ["units"]),
        ("meshctl events --topics units,l", ["units,links"]),
    ):
        monkeypatch.setenv("COMP_LINE", line)
        find = shells.of_click(cli, "meshctl")
        assert shells.answer("fish_complete", "meshctl", find) == 0
        out = capsysbinary.readouterr().out.decode()
        assert [row.split("\t")[1] for row in out.splitlines() if row] == expected
