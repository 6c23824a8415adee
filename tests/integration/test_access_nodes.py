"""Access rules of real nodes: users of a machine, a TCP port, another node, and a reload."""

import json
import os
import socket
import subprocess
from collections.abc import Callable

import pytest
from harness import PATIENCE, Cluster, Directive, Node, free_port

ANN, BOB = 4001, 4002

Start = Callable[..., tuple[Node, Node, int]]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def rule(action: str, who: str | list[str], do: str | list[str], **conditions: object) -> Directive:
    return {"access-rule": {"action": action, "who": who, "do": do, **conditions}}


WORK = ["submit", "list", "status", "results", "cancel", "release"]


@pytest.fixture
def start(cluster: Cluster) -> Start:
    """Return what starts foo and bar with access rules each; foo's socket is for all users."""

    def start_both(for_foo: list[Directive], for_bar: list[Directive]) -> tuple[Node, Node, int]:
        port, control = free_port(), free_port()
        tcp: Directive = {
            "control-service": {"service": "tcp", "tcplisten": f"127.0.0.1:{control}"}
        }
        operator = rule("allow", f"uid={os.geteuid()}", "any", units="all", name="operator")
        foo = cluster.node(
            "foo",
            listen=port,
            work={"cat": {"command": "cat"}},
            more=[tcp, operator, *for_foo],
            control={"permissions": "0666"},
        )
        bar = cluster.node(
            "bar", peers=[port], work={"cat": {"command": "cat"}}, more=[operator, *for_bar]
        )
        foo.wait_knows("bar")
        foo.wait_service("bar")
        # The directory of a test is its owner's alone.
        cluster.directory.chmod(0o755)
        return foo, bar, control

    return start_both


def ask_as(node: Node, uid: int, *lines: str) -> list[str]:
    """Send lines to a node's socket as another user; return the answers."""
    program = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.sendall(sys.stdin.buffer.read()); s.shutdown(1)\n"
        "while data := s.recv(65536): sys.stdout.buffer.write(data)\n"
    )
    done = subprocess.run(
        ["python3", "-c", program, node.socket],
        input="".join(f"{line}\n" for line in lines).encode(),
        capture_output=True,
        check=True,
        user=uid,
        group=uid,
        extra_groups=[],
        cwd="/",
    )
    return done.stdout.decode().splitlines()[1:]


def submit_as(node: Node, uid: int, target: str) -> str:
    _, answer = ask_as(node, uid, f"work submit {target} cat")
    return str(json.loads(answer)["unitid"])


@needs_root
def test_users_of_a_machine_have_their_own_units_each(start: Start) -> None:
    foo, _, _ = start([rule("allow", "any", WORK, units="own", **{"from": "socket"})], [])
    units = {uid: submit_as(foo, uid, "foo") for uid in (ANN, BOB)}
    for uid, other in ((ANN, BOB), (BOB, ANN)):
        (listed,) = ask_as(foo, uid, "work list")
        assert set(json.loads(listed)) == {units[uid]}
        answers = ask_as(
            foo,
            uid,
            f"work status {units[other]}",
            f"work cancel {units[other]}",
            f"work release {units[other]}",
            "work release XXXXXXXX",
            "reload",
            "connect bar control",
            f"work release {units[uid]}",
        )
        hidden = f"ERROR: unknown work unit {units[other]}"
        assert answers == [
            *[hidden] * 3,
            "ERROR: unknown work unit XXXXXXXX",
            "ERROR: permission denied: reload",
            "ERROR: permission denied: connect control at bar",
            json.dumps({"released": units[uid]}, separators=(",", ":")),
        ]
        units[uid] = submit_as(foo, uid, "foo")
    assert set(foo.ask("work list")) == set(units.values())
    foo.wait_log("WARNING access: refused status .* socket client .*: no rule allows it")


@needs_root
def test_both_halves_of_remote_work_are_asked_for(start: Start) -> None:
    foo, bar, _ = start(
        [rule("allow", f"uid={ANN}", WORK, units="own", tonode="bar")],
        [rule("allow", "node=foo", WORK, units="own", worktype="cat")],
    )
    question = json.dumps({"command": "auth", "subcommand": "can", "verb": "submit"})[:-1]
    asks = [question + ', "worktype": "cat", "node": "bar"}', question + ', "worktype": "cat"}']
    there, here = map(json.loads, ask_as(foo, ANN, *asks))
    assert there == {"Allowed": True, "Here": True, "There": True}
    assert here["Allowed"] is False
    unit = submit_as(foo, ANN, "bar")
    foo.wait_unit(unit, "Succeeded")
    (theirs,) = bar.ask("work list").values()
    assert theirs["SubmittedBy"]["Node"] == "foo"
    (refused,) = ask_as(foo, ANN, "work submit foo cat")
    assert refused == "ERROR: permission denied: submit cat at foo"
    assert ask_as(foo, BOB, f"work cancel {unit}") == [f"ERROR: unknown work unit {unit}"]
    assert json.loads(ask_as(foo, ANN, f"work release {unit}")[0]) == {"released": unit}
    assert bar.ask("work list") == {}


def test_a_node_that_another_one_does_not_allow_is_refused_with_the_rule_in_its_log(
    start: Start,
) -> None:
    foo, bar, _ = start([], [rule("deny", "node=foo", "submit", name="not foo")])
    can = foo.cluster.run(
        *("meshctl", "--socket", foo.socket, "auth", "can", "submit", "cat", "--node", "bar"),
        check=False,
    )
    assert (can.returncode, can.stdout) == (1, b"no: node bar would refuse it\n")
    assert bar.find_log("access: refused") is None
    done = foo.cluster.run(
        *("meshctl", "--socket", foo.socket, "work", "submit", "cat", "--node", "bar"),
        *("--no-payload", "--wait"),
        check=False,
    )
    assert done.returncode != 0
    assert b"permission denied: submit cat at bar" in done.stderr
    bar.wait_log('access: refused submit cat at bar: mesh client .*: denied by rule "not foo" ')
    assert bar.ask("work list") == {}


def test_a_client_of_the_tcp_port_may_do_what_rules_from_there_allow(start: Start) -> None:
    _, _, control = start([rule("allow", "any", "ping", **{"from": "tcp"})], [])
    with socket.create_connection(("127.0.0.1", control), timeout=PATIENCE) as client:
        client.sendall(b"ping bar\nstatus\nwork list\n")
        client.shutdown(socket.SHUT_WR)
        _, pong, status, units = client.makefile().read().splitlines()
    assert json.loads(pong)["Success"] is True
    assert status == "ERROR: permission denied: mesh-status"
    assert units == "ERROR: permission denied: list"


def test_a_reload_changes_rules_and_keeps_them_if_they_are_wrong(start: Start) -> None:
    foo, _, _ = start([rule("allow", "any", "ping", name="pings")], [])
    written = foo.config.read_text()
    assert foo.ask("work list") == {}
    foo.config.write_text(written.replace(f"uid={os.geteuid()}", "udi=7"))
    refusal = foo.ask("reload")
    assert (refusal["Success"], refusal["ErrorCode"]) == (False, 4)
    assert foo.ask("work list") == {}
    only_reload = "do: reload" if "do: any" in written else '"do": "reload"'
    foo.config.write_text(
        written.replace("do: any", only_reload).replace('"do": "any"', only_reload)
    )
    assert foo.ask("reload") == {"Success": True}
    assert foo.ask("ping bar")["Success"] is True
    with pytest.raises(AssertionError, match="permission denied: list"):
        foo.ask("work list")
