"""The guide's example, from "Local work" to "Work force-release", on two real nodes."""

import json
import os
import stat
from pathlib import Path

import pytest
from harness import Node, wait_until

FooBar = tuple[Node, Node]

RECEPTORS_KEYS = {"State", "StateName", "Detail", "StdoutSize", "WorkType", "ExtraData"}

REMOTE_KEYS = {
    "RemoteNode",
    "RemoteWorkType",
    "RemoteParams",
    "RemoteUnitID",
    "RemoteStarted",
    "LocalCancelled",
    "LocalReleased",
    "SignWork",
    "TLSClient",
    "Expiration",
}


def lines(last: int) -> bytes:
    """What echoint prints."""
    return "".join(f"{number}\n" for number in range(1, last + 1)).encode()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_gone(pid: int) -> None:
    wait_until(lambda: not is_alive(pid), what=f"the end of process {pid}")


def lasting_child(node: Node, unit: str) -> int:
    """Return the PID of the child that a ``lasting`` unit has printed."""
    node.wait_output(unit, b"")
    stdout = node.units / unit / "stdout"
    wait_until(
        lambda: stdout.read_bytes().endswith(b"\n"), watch=[stdout], what="the unit to print"
    )
    pid = int(stdout.read_text())
    assert is_alive(pid)
    return pid


def test_a_local_unit_runs_here_and_its_results_are_what_it_printed(foo_bar: FooBar) -> None:
    foo, bar = foo_bar
    unit = foo.submit("echoint", "--no-payload")
    assert foo.results(unit) == lines(5)
    status = foo.unit_status(unit)
    assert (status["State"], status["StateName"]) == (2, "Succeeded")
    assert (status["Detail"], status["StdoutSize"]) == ("exit status 0", 10)
    assert bar.ask("work list") == {}


def test_a_remote_unit_runs_on_the_named_node(foo_bar: FooBar) -> None:
    foo, bar = foo_bar
    unit = foo.submit("echoint", "--node", "bar", "--no-payload")
    assert foo.results(unit) == lines(10)
    here = foo.unit_status(unit)
    assert here["StateName"] == "Succeeded"
    assert here["Detail"] == "exit status 0"
    assert here["WorkType"] == "remote"
    assert here["ExtraData"]["RemoteNode"] == "bar"
    assert here["ExtraData"]["RemoteWorkType"] == "echoint"
    there = bar.unit_status(here["ExtraData"]["RemoteUnitID"])
    assert there["StateName"] == "Succeeded"
    assert there["WorkType"] == "echoint"


def test_a_payload_is_piped_into_the_command_and_the_submitter_can_follow(foo_bar: FooBar) -> None:
    foo, _ = foo_bar
    output = foo.meshctl(
        *("work", "submit", "echopayload", "--node", "bar", "--payload", "-", "-f"),
        stdin=b"hi\ni am foo\nwhat is your name\n",
    )
    assert output == b"HI\nI AM FOO\nWHAT IS YOUR NAME\n"


def test_runtime_parameters_reach_a_command_that_allows_them(
    foo_bar: FooBar, tmp_path: Path
) -> None:
    foo, _ = foo_bar
    (tmp_path / "seen").touch()
    (tmp_path / ".album").touch()
    submit = ("work", "submit", "--node", "bar", "--no-payload", "-f")
    assert foo.meshctl(*submit, "listcontents", tmp_path) == b"seen\n"
    with_option = foo.meshctl(*submit, "--param", "params=--all", "listcontents", tmp_path)
    assert with_option.split() == [b".", b"..", b".album", b"seen"]


def test_runtime_parameters_are_refused_by_a_command_that_does_not_allow_them(
    foo_bar: FooBar,
) -> None:
    foo, _ = foo_bar
    done = foo.cluster.run(
        *("meshctl", "--socket", foo.socket, "work", "submit", "-n", "cat", "/etc/hostname"),
        check=False,
    )
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1


def test_work_list_tells_receptors_keys_for_local_and_remote_units(foo_bar: FooBar) -> None:
    foo, _ = foo_bar
    local = foo.submit("echoint", "--no-payload")
    remote = foo.submit("echoint", "--node", "bar", "--no-payload")
    foo.results(local)
    foo.results(remote)
    listed = json.loads(foo.meshctl("work", "list", "--json"))
    assert set(listed) == {local, remote}
    assert set(listed[local]) >= RECEPTORS_KEYS
    assert listed[local]["ExtraData"] is None
    assert set(listed[remote]["ExtraData"]) >= REMOTE_KEYS
    assert listed[remote]["ExtraData"]["Expiration"] == "0001-01-01T00:00:00Z"
    assert set(foo.meshctl("work", "list", "-q").decode().split()) == {local, remote}


def test_a_command_that_fails_is_failed_with_its_exit_status(foo_bar: FooBar) -> None:
    foo, _ = foo_bar
    for options in ([], ["--node", "bar"]):
        unit = foo.submit("fail", "--no-payload", *options)
        assert foo.results(unit) == b"before\n"
        status = foo.unit_status(unit)
        assert (status["StateName"], status["Detail"]) == ("Failed", "exit status 7")


@pytest.mark.parametrize(
    ("work_type", "remote"),
    [
        pytest.param("lasting", False, id="local"),
        pytest.param("lasting", True, id="remote"),
        pytest.param("stubborn", False, id="local, and a process that is deaf to SIGINT"),
    ],
)
def test_cancel_ends_the_whole_process_tree(foo_bar: FooBar, work_type: str, remote: bool) -> None:
    foo, bar = foo_bar
    unit = foo.submit(work_type, "--no-payload", *(["--node", "bar"] if remote else []))
    pid = lasting_child(foo, unit)
    assert unit in foo.meshctl("work", "cancel", unit).decode()
    assert foo.wait_unit(unit, "Canceled")["State"] == 4
    wait_gone(pid)
    if remote:
        there = foo.unit_status(unit)["ExtraData"]["RemoteUnitID"]
        assert bar.wait_unit(there, "Canceled")["WorkType"] == "lasting"


def test_results_of_a_canceled_unit_end(foo_bar: FooBar) -> None:
    foo, _ = foo_bar
    unit = foo.submit("lasting", "--no-payload")
    pid = lasting_child(foo, unit)
    foo.meshctl("work", "cancel", unit)
    assert foo.results(unit) == f"{pid}\n".encode()


@pytest.mark.parametrize("verb", [["release"], ["release", "--force"], ["force-release"]])
@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
def test_release_ends_a_unit_and_deletes_its_files_on_both_nodes(
    foo_bar: FooBar, remote: bool, verb: list[str]
) -> None:
    foo, bar = foo_bar
    unit = foo.submit("lasting", "--no-payload", *(["--node", "bar"] if remote else []))
    pid = lasting_child(foo, unit)
    assert unit in foo.meshctl("work", *verb, unit).decode()
    wait_until(lambda: foo.ask("work list") == {}, what="foo to forget the unit")
    wait_until(lambda: not (foo.units / unit).exists(), what="foo to delete the unit's files")
    wait_gone(pid)
    if remote:
        wait_until(lambda: bar.ask("work list") == {}, what="bar to forget the unit")
        wait_until(
            lambda: not any(entry.is_dir() for entry in bar.units.iterdir()),
            what="bar to delete the unit's files",
        )


def test_a_unit_on_disk_is_the_guides_tree_with_private_modes(foo_bar: FooBar) -> None:
    foo, bar = foo_bar
    unit = foo.submit("echopayload", "--node", "bar", "-p", "-", stdin=b"hi\ni am foo\n")
    assert foo.results(unit) == b"HI\nI AM FOO\n"
    remote = foo.stored_status(unit)["ExtraData"]["RemoteUnitID"]
    for directory in (foo.units / unit, bar.units / remote):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        files = {entry.name: entry for entry in directory.iterdir()}
        assert set(files) == {"status", "stdin", "stdout"}
        assert {stat.S_IMODE(entry.stat().st_mode) for entry in files.values()} == {0o600}
        assert files["stdin"].read_bytes() == b"hi\ni am foo\n"
        assert files["stdout"].read_bytes() == b"HI\nI AM FOO\n"
    stored = bar.stored_status(remote)
    assert {key: stored[key] for key in RECEPTORS_KEYS - {"StateName"}} == {
        "State": 2,
        "Detail": "exit status 0",
        "StdoutSize": 12,
        "WorkType": "echopayload",
        "ExtraData": None,
    }
    assert stored["StdinSize"] == 12
    assert stored["ExitCode"] == 0
    assert stored["Created"] <= stored["Started"] <= stored["Finished"]


def test_a_release_waits_for_a_node_that_is_down(foo_bar: FooBar) -> None:
    foo, bar = foo_bar
    unit = foo.submit("echoint", "--node", "bar", "--no-payload")
    assert foo.results(unit) == lines(10)
    remote = foo.unit_status(unit)["ExtraData"]["RemoteUnitID"]
    bar.kill()
    foo.wait_status(lambda status: not status["Connections"], what="the end of the link to bar")
    assert "release pending" in foo.meshctl("work", "release", unit).decode()
    assert (foo.units / unit).exists()
    bar.start()
    wait_until(lambda: not (foo.units / unit).exists(), what="foo to release the unit")
    assert not (bar.units / remote).exists()


def test_a_force_release_does_not_wait_for_a_node_that_is_down(foo_bar: FooBar) -> None:
    foo, bar = foo_bar
    unit = foo.submit("echoint", "--node", "bar", "--no-payload")
    assert foo.results(unit) == lines(10)
    bar.kill()
    foo.wait_status(lambda status: not status["Connections"], what="the end of the link to bar")
    assert unit in foo.meshctl("work", "force-release", unit).decode()
    assert foo.ask("work list") == {}
    assert not (foo.units / unit).exists()
