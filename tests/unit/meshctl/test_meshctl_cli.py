"""The command line in this process, stdout no terminal: what scripts see."""

import hashlib
import io
import json
import os
import threading
from datetime import UTC, datetime, timedelta

import click
import pytest
from click.testing import CliRunner
from scripted_node import CANCELED, FAILED, RECORDED, RUNNING, STATUS, SUCCEEDED

from meshctl.cli import cli
from meshctl.commands import work
from meshctl.render.output import ExitCode
from meshctl.version import VERSION


def test_help_lists_every_exit_code(meshctl):
    text = meshctl("--help").stdout
    for code in ExitCode:
        assert f"{code.value:>3}  {code.meaning}" in text


@pytest.mark.parametrize("args", [["work"], ["work", "submit"], ["status"], []])
def test_help_needs_no_socket(args):
    result = CliRunner().invoke(cli, [*args, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")


def test_the_version_of_meshctl_alone_needs_no_node():
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"meshctl {VERSION}\n"


def test_every_command_takes_json_but_top_which_is_for_people():
    for command in cli.commands.values():
        if command.name == "top":
            continue
        for leaf in command.commands.values() if isinstance(command, click.Group) else [command]:
            assert "--json" in [o for p in leaf.params for o in p.opts], leaf.name


def test_without_a_socket_the_options_and_the_variable_are_named(meshctl):
    result = meshctl("status", socket=None)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert result.stderr == (
        "ERROR: no control socket given: use --socket, or set MESHCTL_SOCKET\n"
    )


@pytest.mark.parametrize("name", ["MESHCTL_SOCKET", "RECEPTORCTL_SOCKET"])
def test_the_socket_may_come_from_the_environment(meshctl, node, monkeypatch, name):
    monkeypatch.setenv(name, node.address)
    assert meshctl("status", socket=None).exit_code == 0


def test_our_own_variable_wins_over_receptorctls(meshctl, node, monkeypatch):
    monkeypatch.setenv("MESHCTL_SOCKET", node.address)
    monkeypatch.setenv("RECEPTORCTL_SOCKET", "/no/such")
    assert meshctl("status", socket=None).exit_code == 0


@pytest.mark.parametrize("prefix", ["MESHCTL", "RECEPTORCTL"])
def test_the_tls_client_may_come_from_the_environment(
    meshctl, tls_node, certificate, tmp_path, monkeypatch, prefix
):
    config = tmp_path / "foo.yml"
    config.write_text(f"- tls-client:\n    name: mine\n    rootcas: {certificate[0]}\n")
    monkeypatch.setenv(f"{prefix}_CONFIG", str(config))
    monkeypatch.setenv(f"{prefix}_TLSCLIENT", "mine")
    assert meshctl("status", socket=tls_node.address).exit_code == 0


@pytest.mark.parametrize("value", [[], ["true"], ["1"]])
def test_insecureskipverify_stands_alone_or_has_a_value(meshctl, tls_node, value):
    result = meshctl("--insecureskipverify", *value, "ping", "bar", "--count", 1, socket=None)
    assert "no control socket" in result.stderr
    result = meshctl("--insecureskipverify", *value, "status", socket=tls_node.address)
    assert result.exit_code == 0, result.stderr


def test_insecureskipverify_may_be_false(meshctl, tls_node):
    result = meshctl("--insecureskipverify", "false", "status", socket=tls_node.address)
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "certificate refused" in result.stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["nosuch"], "No such command 'nosuch'. See: meshctl --help"),
        (["ping"], "Missing argument 'NODE'. See: meshctl ping --help"),
        (["ping", "bar", "--count", "x"], "'x' is not a valid integer. See: meshctl ping --help"),
        (["status", "--nosuch"], "No such option: --nosuch. See: meshctl status --help"),
    ],
)
def test_wrong_usage_is_one_line_with_a_code_of_its_own(meshctl, args, text):
    result = meshctl(*args)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert result.stderr.startswith("ERROR: ")
    assert result.stderr.endswith(f"{text}\n")
    assert result.stderr.count("\n") == 1


def test_a_missing_socket_is_one_line_with_the_remedy(meshctl):
    result = meshctl("status", socket="/tmp/no/foo.sock")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert result.stderr == (
        "ERROR: cannot reach /tmp/no/foo.sock: no such file. "
        "Is meshnode running with a control-service on it?\n"
    )


def test_status_shows_what_the_node_knows(meshctl):
    lines = meshctl("status").stdout.splitlines()
    assert lines[0] == "Node ID: foo"
    assert "a-very-long-name 2.5" in lines
    assert "bar              echo, cat" in lines
    assert "bar              signed" in lines
    assert "Additional data returned from Receptor:" not in lines


def test_status_as_json_is_the_nodes_reply(meshctl):
    result = meshctl("status", "--json")
    assert json.loads(result.stdout) == STATUS
    assert result.stdout == json.dumps(STATUS, indent=4, sort_keys=True) + "\n"


def test_a_name_cannot_move_the_terminals_cursor(meshctl, node):
    node.handlers["status"] = lambda s, _: s.send(STATUS | {"NodeID": "a\x1b[2J\nNode ID: b"}) or 1
    assert meshctl("status").stdout.splitlines()[0] == r"Node ID: a\x1b[2J\nNode ID: b"


def test_ping_shows_each_reply(meshctl, node):
    result = meshctl("ping", "bar", "--count", 3, "--delay", 0)
    assert result.stdout == "Reply from bar in 312.513µs\n" * 3
    assert result.exit_code == 0
    assert node.lines == ["ping bar"] * 3


def test_a_failed_ping_is_told_on_stderr_with_its_own_exit_code(meshctl):
    result = meshctl("ping", "nosuch", "--count", 2, "--delay", 0)
    line = "ERROR: node nosuch: no route to node; known nodes: a-very-long-name, bar, foo\n"
    assert (result.stdout, result.stderr) == ("", line * 2)
    assert result.exit_code == ExitCode.PING_FAILED == 2


def test_a_ping_that_expired_on_the_way_names_the_hop(meshctl, node):
    reply = {"Success": False, "Error": "message expired", "From": "mid", "TimeStr": "1ms"}
    node.handlers["ping"] = lambda session, line: session.send(reply) or True
    assert meshctl("ping", "x", "--count", 1).stderr == (
        "ERROR: node x: message expired from mid in 1ms\n"
    )


def test_ping_as_json_is_one_reply_a_line(meshctl):
    result = meshctl("ping", "bar", "--count", 2, "--delay", 0, "--json")
    assert [json.loads(line)["From"] for line in result.stdout.splitlines()] == ["bar", "bar"]


def test_traceroute_shows_each_hop_and_where_it_fails(meshctl):
    assert meshctl("traceroute", "bar").stdout == "0: foo in 263.61µs\n1: bar in 362.438µs\n"
    result = meshctl("traceroute", "nosuch")
    assert result.stdout == "0: foo in 362.117µs\n"
    assert result.stderr == (
        "ERROR: 1: Error no route to node from foo in 5.278µs; "
        "known nodes: a-very-long-name, bar, foo\n"
    )
    assert json.loads(meshctl("traceroute", "bar", "--json").stdout)["1"]["From"] == "bar"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("cannot change port of node ERRORCODE 3", 3),
        ("yaml: line 2 ERRORCODE 4", 4),
        ("anything else ERRORCODE 9", 5),
    ],
)
def test_reload_tells_its_failures_apart(meshctl, node, error, code):
    assert meshctl("reload").stdout == "Reload successful\n"
    reply = {"Success": False, "Error": error}
    node.handlers["reload"] = lambda session, line: session.send(reply) or True
    result = meshctl("reload")
    shown = f"ERROR: {error.partition(' ERRORCODE')[0]}\n"
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", shown)
    result = meshctl("reload", "--json")
    assert (result.exit_code, json.loads(result.stdout), result.stderr) == (code, reply, "")


@pytest.mark.parametrize(
    ("code", "exit_code"), [(3, 3), (4, 4), (5, 5), (9, 5), (None, 5), ("3", 5), ({}, 5)]
)
def test_the_code_of_a_refused_reload_is_believed_before_its_text(meshctl, node, code, exit_code):
    # The text may quote anything: here a name in the configuration.
    reply = {"Success": False, "Error": "no such port: ERRORCODE 9", "ErrorCode": code}
    node.handlers["reload"] = lambda session, line: session.send(reply) or True
    assert meshctl("reload").exit_code == exit_code
    told = reply | {"Error": "yaml: ERRORCODE 4 ERRORCODE 3", "ErrorCode": 4}
    node.handlers["reload"] = lambda session, line: session.send(told) or True
    assert meshctl("reload").exit_code == 4


def test_version_asks_the_node_and_no_other_command_does(meshctl, node):
    result = meshctl("version")
    assert result.stdout == f"meshctl  {VERSION}\nnode     1.4.9+git52be4019\n"
    assert json.loads(meshctl("version", "--json").stdout)["meshctl"] == VERSION
    node.lines.clear()
    meshctl("ping", "bar", "--count", 1)
    assert node.lines == ["ping bar"]


def test_work_list_in_a_pipe_is_sorted_indented_json(meshctl, node):
    node.add_unit("UnitTwo2")
    node.add_unit("UnitOne1")
    units = {key: unit.to_json() for key, unit in node.units.items()}
    assert meshctl("work", "list").stdout == json.dumps(units, indent=4, sort_keys=True) + "\n"
    assert list(json.loads(meshctl("work", "list", "--unit_id", "UnitTwo2").stdout)) == ["UnitTwo2"]
    assert meshctl("work", "list", "-q").stdout == "UnitTwo2\nUnitOne1\n"
    assert json.loads(meshctl("work", "list", "-q", "--json").stdout) == ["UnitTwo2", "UnitOne1"]
    assert node.lines[1] == "work list UnitTwo2"


def test_work_list_of_another_node_goes_through_ours(meshctl, node):
    def connect(session, line):
        session.send(b"Connecting\nReceptor Control, node bar\n")
        assert session.read_line() == "work list farUnit1"
        session.send({"farUnit1": RUNNING})
        return False

    node.handlers["connect bar control mytls"] = connect
    args = ["work", "list", "--node", "bar", "--tls-client", "mytls", "--unit_id", "farUnit1"]
    assert json.loads(meshctl(*args).stdout) == {"farUnit1": RUNNING}


def test_work_status_in_a_pipe_is_json(meshctl, node):
    unit = node.add_unit("one")
    assert json.loads(meshctl("work", "status", "one").stdout) == unit.to_json()
    result = meshctl("work", "status", "nosuch")
    assert (result.exit_code, result.stderr) == (
        ExitCode.REFUSED,
        "ERROR: unknown work unit nosuch\n",
    )


def test_on_a_terminal_units_are_a_table(meshctl, node, monkeypatch):
    monkeypatch.setattr(work, "stdout_is_terminal", lambda: True)
    assert meshctl("work", "list").stdout == "No units of work.\n"
    node.add_unit("one", b"12345")
    extra = {"RemoteNode": "bar", "RemoteWorkType": "sleep", "RemoteParams": {}}
    node.add_unit("two", ended=False, WorkType="remote", ExtraData=extra)
    assert meshctl("work", "list").stdout.splitlines() == [
        "Unit ID  Node  Work Type  State      Age  Duration  Stdout  Detail",
        "one      -     cat        Succeeded  -    -         5 B     exit status 0",
        "two      bar   sleep      Running    -    -         0 B     Running: PID 42",
    ]
    assert meshctl("work", "status", "two").stdout.splitlines() == [
        "Unit ID:           two",
        "StdoutSize:        0",
        "WorkType:          remote",
        "ExtraData:",
        "  RemoteNode:      bar",
        "  RemoteWorkType:  sleep",
        "  RemoteParams:    {}",
        "State:             1",
        "StateName:         Running",
        "Detail:            Running: PID 42",
    ]
    assert json.loads(meshctl("work", "list", "--json").stdout)["one"]["WorkType"] == "cat"


def test_a_unit_on_a_host_without_a_node_is_listed_with_that_host(meshctl, node, monkeypatch):
    monkeypatch.setattr(work, "stdout_is_terminal", lambda: True)
    host = {"Name": "anna", "Chosen": "random of 2"}
    node.add_unit("one", Host=host)
    extra = {"RemoteNode": "bar", "RemoteWorkType": "far", "RemoteParams": {}}
    node.add_unit("two", WorkType="remote", ExtraData=extra, Host=host)
    node.add_unit("zoo")
    assert [line.split()[:3] for line in meshctl("work", "list").stdout.splitlines()] == [
        ["Unit", "ID", "Node"],
        ["one", "-", "anna"],
        ["two", "bar", "anna"],
        ["zoo", "-", "-"],
    ]
    shown = meshctl("work", "status", "one").stdout.splitlines()
    at = shown.index("Host:")
    assert [" ".join(line.split()) for line in shown[at + 1 : at + 3]] == [
        "Name: anna",
        "Chosen: random of 2",
    ]


def test_submit_prints_what_scripts_parse(meshctl, node):
    result = meshctl("work", "submit", "cat", "--no-payload")
    assert result.stdout == "Result: Job Started\nUnit ID: Unit0001\n"
    assert result.exit_code == 0
    result = meshctl("work", "submit", "cat", "-n", "--json")
    assert json.loads(result.stdout) == {"result": "Job Started", "unitid": "Unit0002"}


def test_submit_passes_on_every_option(meshctl, node, tmp_path):
    (tmp_path / "value").write_bytes("ä\r\n".encode())
    meshctl(
        *["work", "submit", "ls", "--node", "bar", "--tls-client", "t", "--ttl", "1h"],
        *["--signwork", "-l", "hi", "-a", "params=--all", "--param", f"f=@{tmp_path}/value"],
        *["-a", "at=@@home", "-a", "empty=", "-a", "eq=a=b", "/root/", "/bin/"],
    )
    assert node.submissions == [
        {
            "command": "work",
            "subcommand": "submit",
            "node": "bar",
            "worktype": "ls",
            "tlsclient": "t",
            "ttl": "1h",
            "signwork": "true",
            "stdinsize": "3",
            "stdinsha256": hashlib.sha256(b"hi\n").hexdigest(),
            "params": "--all /root/ /bin/",
            "f": "ä\r\n",
            "at": "@home",
            "empty": "",
            "eq": "a=b",
        }
    ]
    assert node.units["Unit0001"].stdout == b"hi\n"


def test_the_payload_may_come_from_a_file_or_from_stdin(meshctl, node, tmp_path):
    (tmp_path / "payload").write_bytes(b"\0\xff\r\n")
    meshctl("work", "submit", "cat", "-p", tmp_path / "payload")
    meshctl("work", "submit", "cat", "--payload", "-", input=b"\xfe piped")
    stdouts = [unit.stdout for unit in node.units.values()]
    assert stdouts == [b"\0\xff\r\n", b"\xfe piped"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "Must provide one of --payload, --no-payload or --payload-literal."),
        (["-n", "-l", "x"], "Cannot provide more than one of --payload"),
        (["-p", "/no/such"], "Failed to load payload file: /no/such: No such file or directory"),
        (["-p", "/"], "Failed to load payload file: /: Is a directory"),
    ],
)
def test_nothing_is_asked_of_the_node_without_one_good_payload(meshctl, node, options, text):
    result = meshctl("work", "submit", "cat", *options)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert text in result.stderr
    assert node.sessions == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["-a", "novalue"], "--param novalue: write KEY=VALUE"),
        (["-a", "f=@/no/such"], "--param @/no/such: No such file or directory"),
        (["-a", "worktype=x"], "worktype cannot be given as a parameter"),
    ],
)
def test_a_bad_parameter_is_wrong_usage(meshctl, node, options, text):
    result = meshctl("work", "submit", "cat", "-n", *options)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert text in result.stderr
    assert node.lines == []


def test_a_refused_submission_has_receptorctls_exit_code_and_text(meshctl, node):
    node.handlers["{"] = lambda s, line: s.send(b"ERROR: unknown work type nosuch\n") or True
    result = meshctl("work", "submit", "nosuch", "-n")
    assert result.exit_code == ExitCode.SUBMIT_FAILED
    assert result.stderr == "ERROR: Failed to start work unit: unknown work type nosuch\n"


def test_a_refusal_after_the_payload_says_how_to_see_the_unit(meshctl, node):
    def refuse(session, line):
        session.send(RECORDED["work submit bar nosuchtype"].split(b"\n")[0] + b"\n")
        session.read_to_end()
        session.send(b"ERROR: could not parse response\n")
        return False

    node.handlers["{"] = refuse
    result = meshctl("work", "submit", "nosuch", "-n")
    assert result.exit_code == ExitCode.SUBMIT_FAILED
    see = f"See: meshctl --socket {node.address} work status KFrm792R\n"
    assert result.stderr.endswith(see)


def test_submit_to_a_missing_socket_is_no_failed_submission(meshctl):
    result = meshctl("work", "submit", "cat", "-n", socket="/no/such")
    assert result.exit_code == ExitCode.UNREACHABLE


def test_a_payload_that_shrinks_fails_the_submission(meshctl, node, tmp_path, monkeypatch):
    class Cut(io.FileIO):
        """Cut after it was measured."""

        measured = False

        def read(self, size=-1):
            return b"" if self.measured else super().read(size)

        def seek(self, *args):
            self.measured = True
            return super().seek(*args)

    path = tmp_path / "payload"
    path.write_bytes(b"12345")
    opened = Cut(path)
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: opened)
    result = meshctl("work", "submit", "cat", "-p", path)
    assert result.exit_code == ExitCode.SUBMIT_FAILED
    assert "ended after 0 of its 5 bytes: unit Unit0001 was not started" in result.stderr
    assert node.payload_ended.wait(60)
    assert node.payload_ends == ["reset"]


def test_following_writes_only_the_units_bytes_to_stdout(meshctl, node):
    payload = bytes(range(256)) * 1000
    result = meshctl("work", "submit", "cat", "-p", "-", "-f", input=payload)
    assert result.stdout_bytes == payload
    assert (result.exit_code, result.stderr) == (0, "Unit ID: Unit0001\n")


def test_rm_releases_the_unit_after_its_results_and_keeps_stdout_clean(meshctl, node):
    result = meshctl("work", "submit", "cat", "-l", "hi", "-f", "--rm")
    assert (result.stdout, result.stderr) == ("hi\n", "Unit ID: Unit0001\n(Unit0001, released)\n")
    assert node.units == {}


def test_rm_releases_a_unit_only_at_its_end(meshctl, node):
    node.unit_status = dict(RUNNING)

    def end() -> None:
        node.watch_began.wait()
        node.change("Unit0001", SUCCEEDED)

    ends = threading.Thread(target=end)
    ends.start()
    result = meshctl("work", "submit", "cat", "-n", "--rm")
    ends.join()
    released = [line for line in node.lines if "release" in line]
    watched = [line for line in node.lines if "watch" in line]
    assert node.lines.index(watched[0]) < node.lines.index(released[0])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-2:] == ["Unit ID: Unit0001", "(Unit0001, released)"]
    assert node.units == {}


def test_rm_releases_a_unit_that_the_node_has_refused(meshctl, node):
    def refuse(session, line):
        session.send(b"Work unit created with ID Unit0001. Send stdin data and EOF.\n")
        session.read_to_end()
        node.add_unit("Unit0001", **FAILED)
        session.send(b"ERROR: could not parse response\n")
        return False

    node.handlers["{"] = refuse
    result = meshctl("work", "submit", "nosuch", "-n", "--rm")
    assert result.exit_code == ExitCode.SUBMIT_FAILED
    assert result.stderr.endswith("Failed to start work unit: could not parse response\n")
    assert node.units == {}


def test_rm_without_follow_warns(meshctl, node):
    result = meshctl("work", "submit", "cat", "-n", "--rm")
    assert result.stdout.splitlines() == [
        *("Result: Job Started", "Unit ID: Unit0001"),
        "(Unit0001, released)",
    ]
    assert result.stderr == (
        "Warning: using --rm without --follow. Unit results will never be seen.\n"
    )
    assert node.units == {}


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (FAILED, 1, "ERROR: unit Unit0001 failed: exit status 7\n"),
        (CANCELED, 6, "ERROR: unit Unit0001 was canceled\n"),
    ],
)
def test_a_unit_that_ended_badly_ends_meshctl_so(meshctl, node, status, code, text):
    node.unit_status = status
    result = meshctl("work", "submit", "cat", "-l", "hi", "-f")
    assert (result.exit_code, result.stdout) == (code, "hi\n")
    assert result.stderr == f"Unit ID: Unit0001\n{text}"
    result = meshctl("work", "results", "Unit0001")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "hi\n", text)


def test_a_failed_unit_is_released_by_rm_too(meshctl, node):
    node.unit_status = FAILED
    result = meshctl("work", "submit", "cat", "-n", "-f", "--rm")
    assert result.exit_code == ExitCode.FAILURE
    assert node.units == {}


def test_results_with_json_leave_the_final_status_on_stderr(meshctl, node):
    node.add_unit("one", b"\xff\0")
    result = meshctl("work", "results", "one", "--json", "--startpos", 1)
    assert result.stdout_bytes == b"\0"
    assert json.loads(result.stderr)["StateName"] == "Succeeded"


def test_results_that_break_off_say_how_to_go_on(meshctl, node, impatient):
    def cut(session, line):
        session.send(b"Streaming results for work unit one\n12345")
        return False

    node.add_unit("one", b"1234567")
    node.handlers["work results"] = cut
    result = meshctl("work", "results", "one")
    assert (result.exit_code, result.stdout) == (ExitCode.UNREACHABLE, "12345")
    assert "after byte 5: there are 7 bytes. Go on with: meshctl" in result.stderr
    assert result.stderr.endswith(
        f"meshctl --socket {node.address} work results one --startpos 5\n"
    )


def test_results_of_a_node_that_dies_meanwhile_say_how_to_go_on(meshctl, node, impatient):
    def die(session, line):
        session.send(b"Streaming results for work unit one\n12345")
        os.unlink(node.address)
        return False

    node.handlers["work results"] = die
    result = meshctl("work", "results", "one")
    assert (result.exit_code, result.stdout) == (ExitCode.UNREACHABLE, "12345")
    assert result.stderr.splitlines()[-1].startswith(
        "ERROR: the results of unit one broke off after byte 5: cannot reach "
    )
    assert result.stderr.endswith("--startpos 5\n")


def test_rm_does_not_release_a_unit_whose_results_broke_off(meshctl, node, impatient):
    node.unit_status = RUNNING
    node.handlers["work results"] = lambda session, line: (
        session.send(b"Streaming results for work unit Unit0001\n") or False
    )
    result = meshctl("work", "submit", "cat", "-n", "-f", "--rm")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "the unit is still Running" in result.stderr
    assert list(node.units) == ["Unit0001"]


def test_results_of_an_unknown_unit_are_refused(meshctl):
    result = meshctl("work", "results", "nosuch")
    assert (result.exit_code, result.stderr) == (
        ExitCode.REFUSED,
        "ERROR: unknown work unit nosuch\n",
    )


def test_cancel_and_release_print_what_scripts_parse(meshctl, node):
    for unit_id in ("one", "two"):
        node.add_unit(unit_id)
    result = meshctl("work", "cancel", "one", "two")
    assert result.stdout == "Cancelled:\n(one, cancelled)\n(two, cancelled)\n"
    assert meshctl("work", "release", "one").stdout == "Released:\n(one, released)\n"
    assert json.loads(meshctl("work", "release", "two", "--json").stdout) == {"two": "released"}


def test_release_all_releases_every_unit(meshctl, node):
    for unit_id in ("one", "two"):
        node.add_unit(unit_id)
    result = meshctl("work", "release", "--all")
    assert result.stdout == "Released:\n(one, released)\n(two, released)\n"
    assert node.units == {}


def old(days):
    moment = datetime.now(UTC) - timedelta(days=days)
    return {"Finished": moment.isoformat().replace("+00:00", "Z")}


@pytest.mark.parametrize(
    ("options", "released"),
    [
        (["--failed"], ["failed", "failed-old"]),
        (["--succeeded"], ["good", "good-old"]),
        (["--failed", "--succeeded"], ["failed", "failed-old", "good", "good-old"]),
        (["--older-than", "7d"], ["canceled-old", "failed-old", "good-old"]),
        (["--older-than", "167h59m"], ["canceled-old", "failed-old", "good-old"]),
        (["--older-than", "2w"], []),
        (["--failed", "--older-than", "1w"], ["failed-old"]),
    ],
)
def test_release_can_choose_among_the_units_that_have_ended(meshctl, node, options, released):
    node.add_unit("good", **old(0))
    node.add_unit("good-old", **old(8))
    node.add_unit("failed", **FAILED, **old(0))
    node.add_unit("failed-old", **FAILED, **old(8))
    node.add_unit("canceled-old", **CANCELED, **old(8))
    node.add_unit("running", **RUNNING)
    before = set(node.units)
    result = meshctl("work", "release", *options)
    assert result.exit_code == 0
    assert sorted(before - set(node.units)) == released
    assert all(f"({unit_id}, released)" in result.stdout for unit_id in released)
    assert ("No unit matches the selection" in result.stderr) == (not released)


def test_a_unit_whose_end_is_unknown_is_not_called_old(meshctl, node):
    node.add_unit("receptors")
    result = meshctl("work", "release", "--older-than", "1s")
    assert "does not say when these ended: receptors" in result.stderr
    assert list(node.units) == ["receptors"]


@pytest.mark.parametrize("age", ["7", "d", "-7d", "7d ", "7 d", "1y", "", "1e3s", "9999999w"])
def test_an_age_that_is_none_is_refused_before_anything_is_asked(meshctl, node, age):
    result = meshctl("work", "release", "--older-than", age)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "--older-than" in result.stderr
    assert node.sessions == 0


@pytest.mark.parametrize("other", ["--all", "one"])
def test_two_ways_to_name_units_are_refused(meshctl, node, other):
    result = meshctl("work", "release", "--failed", other)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "Cannot combine" in result.stderr
    assert node.sessions == 0


@pytest.mark.parametrize("args", [["release", "--force"], ["force-release"]])
def test_both_forms_of_a_forced_release_are_the_same(meshctl, node, args):
    result = meshctl("work", *args, "o8SqFijx")
    assert result.stdout == "Released:\n(o8SqFijx, released)\n"
    assert node.lines == ["work force-release o8SqFijx"]


def test_a_unit_that_cannot_be_released_does_not_keep_the_others(meshctl, node):
    node.add_unit("one")
    result = meshctl("work", "release", "nosuch", "one")
    assert result.stdout == "Released:\n(one, released)\n"
    assert result.stderr == "ERROR: unknown work unit nosuch\n"
    assert result.exit_code == ExitCode.REFUSED


@pytest.mark.parametrize("command", ["cancel", "release", "force-release"])
def test_without_unit_ids_nothing_is_done(meshctl, node, command):
    result = meshctl("work", command)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "Warning: No unit ID is given; nothing to do.\n"
    assert node.sessions == 0
