"""``work list`` of some units only, and its two forms."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from scripted_node import FAILED, RUNNING

from meshctl.render.output import ExitCode


def made(**ago):
    moment = datetime.now(UTC) - timedelta(**ago)
    return {"Created": moment.isoformat().replace("+00:00", "Z")}


@pytest.fixture(params=["receptor", "meshnode"])
def units(node, request):
    node.chooses = request.param == "meshnode"
    extra = {"RemoteNode": "bar", "RemoteWorkType": "sleep"}
    node.add_unit("good", **made(minutes=1))
    node.add_unit("bad", **FAILED, **made(hours=3))
    node.add_unit("far", ended=False, WorkType="remote", ExtraData=extra, **made(days=2))


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        ([], ["good", "bad", "far"]),
        (["--state", "Running"], ["far"]),
        (["--state", "failed", "--state", "SUCCEEDED"], ["good", "bad"]),
        (["--type", "cat"], ["good", "bad"]),
        (["--type", "sleep", "--type", "nosuch"], ["far"]),
        (["--type", "remote"], []),
        (["--since", "2h"], ["good"]),
        (["--since", "1d"], ["good", "bad"]),
        (["--since", "1d", "--state", "failed", "--type", "cat"], ["bad"]),
    ],
)
@pytest.mark.parametrize("form", [["-q", "--json"], ["--json"], []])
def test_units_are_listed_by_what_they_are_like(meshctl, units, options, listed, form):
    result = meshctl("work", "list", *options, *form)
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(json.loads(result.stdout)) == sorted(listed)


def test_a_node_that_can_choose_tells_no_more_than_is_listed(meshctl, node):
    node.chooses = True
    told = []
    send = node.page
    node.page = lambda request: told.append(send(request)) or told[-1]
    for number in range(9):
        node.add_unit(f"u{number}", **(FAILED if number % 2 else {}), **made(minutes=number))
    options = ["--state", "failed", "--last", "2", "--label", "a", "--type", "x", "--since", "1h"]
    assert meshctl("work", "list", "-q", *options[:4]).stdout == "u3\nu1\n"
    assert [unit["ID"] for unit in told[0]["items"]] == ["u1", "u3"]
    meshctl("work", "list", *options)
    request = json.loads(node.lines[-1])
    assert request.pop("since").endswith("+00:00")
    assert request == {
        **{"command": "work", "subcommand": "list", "state": ["Failed"], "limit": 2},
        **{"label": ["a"], "type": ["x"]},
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"items": None},
        {"items": [{"State": 1}]},
        {"items": [7]},
        {"items": [{"ID": 7}]},
        {"next": 7},
        {"states": None},
        {"states": {"Running": "many"}},
    ],
    ids=str,
)
def test_what_is_no_page_of_units_is_told_in_one_line(meshctl, node, wrong):
    page = {"items": [], "next": None, "states": {}, "total": 0} | wrong
    node.handlers["work list"] = lambda session, line: session.send(page) or True
    result = meshctl("work", "list", "--state", "failed")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert result.stderr.startswith("ERROR: the node's reply is no page of units")
    assert result.stderr.count("\n") == 1


def test_a_table_may_go_into_a_pipe(meshctl, units):
    lines = meshctl("work", "list", "--table", "--state", "failed").stdout.splitlines()
    assert lines == [
        "Unit ID  Node  Work Type  State   Age   Duration  Stdout  Detail",
        "bad      -     cat        Failed  3h0m  -         0 B     exit status 7",
    ]
    assert meshctl("work", "list", "--table", "--type", "x").stdout == "No units of work.\n"


def test_units_whose_age_is_not_told_are_named_and_not_listed(meshctl, node):
    node.add_unit("receptors", **RUNNING)
    result = meshctl("work", "list", "--since", "2h")
    assert result.stdout == "{}\n"
    assert result.stderr == "Warning: the node does not say when these were made: receptors\n"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--state", "done"], "'done' is not one of"),
        (["--since", "yesterday"], "--since"),
        (["--table", "--json"], "Cannot combine --table with --json"),
        (["--table", "-q"], "Cannot combine --table with --quiet"),
    ],
)
def test_what_cannot_be_listed_is_refused_before_anything_is_asked(meshctl, node, options, text):
    result = meshctl("work", "list", *options)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert text in result.stderr
    assert node.sessions == 0
