"""Commands with ``--node``: another node's units through ours, in frames or in plain bytes."""

import json

import pytest
from scripted_node import CANCELED, RUNNING, SUCCEEDED, ScriptedNode, Session, unix_listener

from meshctl import BadSettings, CannotReach, CommandRefused, ControlClient, SessionLost
from meshctl.api.connection import BROKEN
from meshctl.render.output import ExitCode


class FramedSession(Session):
    """What comes through the node in between: bytes in frames of all sizes."""

    def __init__(self, sock):
        super().__init__(sock)
        self.buffer = b""

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ConnectionResetError("the client is gone")
            data += more
        return data

    def receive(self):
        return self.exactly(int.from_bytes(self.exactly(4), "big"))

    def read_line(self):
        while b"\n" not in self.buffer:
            if not (data := self.receive()):
                return None
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    def send(self, data):
        if isinstance(data, dict):
            data = json.dumps(data).encode() + b"\n"
        # Pieces of one byte and pieces of many: a line may come in any.
        for piece in filter(None, (data[:1], data[1:])):
            self.socket.sendall(len(piece).to_bytes(4, "big") + piece)

    def read_to_end(self):
        data = self.buffer
        while piece := self.receive():
            data += piece
        return data


class FarNode(ScriptedNode):
    """The node bar, reached through foo."""

    def __init__(self, listener, address, framed):
        super().__init__(listener, address)
        self.framed = framed
        self.breaks = ""

    def reached(self, session, line):
        asked = json.loads(line)
        if asked["node"] != "bar":
            session.send(b"ERROR: no route to node\n")
            return True
        session.send(b"Connecting framed\n" if self.framed else b"Connecting\n")
        there = FramedSession(session.socket) if self.framed else session
        there.send(b"Receptor Control, node bar\n")
        while (command := there.read_line()) is not None:
            self.lines.append(command)
            if self.breaks and command.startswith(self.breaks):
                reason = b"a node on the way has ended"
                session.socket.sendall((BROKEN | len(reason)).to_bytes(4, "big") + reason)
                return False
            if not self._answer(there, command):
                break
        if self.framed:
            session.socket.sendall(bytes(4))
        return False


@pytest.fixture(params=["framed", "plain"])
def bar(request, node, tmp_path):
    """Bar, behind foo: a meshnode, which knows frames, or a receptor node, which does not."""
    path = tmp_path / "bar.sock"
    far = FarNode(unix_listener(path), str(path), request.param == "framed")
    node.handlers["connect"] = far.reached
    yield far
    far.close()


def test_status_of_a_unit_of_another_node(meshctl, bar):
    bar.add_unit("far", b"x", ended=False)
    result = meshctl("work", "status", "far", "--node", "bar")
    assert (result.exit_code, json.loads(result.stdout)["StateName"]) == (0, "Running")


def test_a_list_of_another_node_with_all_filters(meshctl, bar):
    bar.add_unit("one")
    bar.add_unit("two", ended=False)
    result = meshctl("work", "list", "--node", "bar", "--state", "running", "-q")
    assert (result.exit_code, result.stdout) == (0, "two\n")


def test_cancel_and_release_reach_the_units_of_another_node(meshctl, node, bar):
    bar.add_unit("far")
    node.add_unit("far")
    cancelled = meshctl("work", "cancel", "--node", "bar", "far")
    assert (cancelled.exit_code, cancelled.stdout) == (0, "Cancelled:\n(far, cancelled)\n")
    released = meshctl("work", "release", "--node", "bar", "--all")
    assert (released.exit_code, released.stdout) == (0, "Released:\n(far, released)\n")
    assert (list(bar.units), list(node.units)) == ([], ["far"])


def test_several_commands_to_another_node_share_one_session_there(node, bar):
    bar.add_unit("one")
    with ControlClient(node.address, node="bar") as client:
        assert client.node_id == "bar"
        for _ in range(3):
            client.work_status("one")
    assert node.sessions == 1


def test_results_of_another_node_are_its_units_bytes(meshctl, bar):
    bar.add_unit("far", b"\x00 all\n of it \xff")
    result = meshctl("work", "results", "far", "--node", "bar")
    assert (result.exit_code, result.stdout_bytes) == (0, b"\x00 all\n of it \xff")


def test_waiting_for_a_unit_of_another_node_ends_with_it(meshctl, bar):
    bar.add_unit("far", ended=False)
    bar.handlers["work watch"] = lambda session, line: (
        session.send(RUNNING | {"StdoutSize": 0}),
        session.send(CANCELED | {"StdoutSize": 0}),
        False,
    )[-1]
    result = meshctl("work", "wait", "far", "--node", "bar")
    assert (result.exit_code, result.stdout) == (6, "(far, Canceled)\n")


@pytest.mark.parametrize(
    "command", [["status"], ["results"], ["wait"], ["cancel"], ["release"], ["force-release"]]
)
def test_a_unit_that_another_node_does_not_know_is_told_with_the_nodes_name(meshctl, bar, command):
    result = meshctl("work", *command, "nosuch", "--node", "bar")
    assert result.exit_code == ExitCode.REFUSED
    assert "node bar: unknown work unit nosuch" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        *(["list"], ["status", "x"], ["results", "x"], ["wait", "x"], ["cancel", "x"]),
        *(["release", "x"], ["release", "--all"], ["force-release", "x"]),
    ],
)
def test_a_node_without_a_route_is_named(meshctl, bar, command):
    result = meshctl("work", *command, "--node", "nosuch")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "cannot reach node nosuch: no route to node" in result.stderr


@pytest.mark.parametrize("name", ["foo", "localhost", "LocalHost", ""])
def test_the_node_itself_is_asked_without_the_mesh(meshctl, node, name):
    node.add_unit("near")
    result = meshctl("work", "list", "-q", "--node", name)
    assert (result.exit_code, result.stdout) == (0, "near\n")
    assert not any("connect" in line for line in node.lines)


def test_the_tls_client_is_for_the_way_to_the_node(meshctl, node, bar):
    bar.add_unit("far")
    meshctl("work", "status", "far", "--node", "bar", "--tls-client", "mytls")
    assert json.loads(node.lines[-1])["tls"] == "mytls"


def test_what_answers_for_another_node_must_be_a_control_service(meshctl, node):
    node.handlers["connect"] = lambda session, line: (
        session.send(b"Connecting\nSSH-2.0-OpenSSH_9.9\n") or False
    )
    result = meshctl("work", "status", "x", "--node", "bar")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "service control of bar is no control service" in result.stderr


def test_a_hint_names_the_node_too(meshctl, bar, impatient):
    bar.add_unit("far", b"123", StdoutSize=9)
    result = meshctl("work", "results", "far", "--node", "bar")
    assert result.exit_code != 0
    assert "work results --node bar far --startpos 3" in result.stderr


@pytest.mark.parametrize("bar", ["framed"], indirect=True)
def test_a_stream_that_breaks_is_no_end_of_results(node, bar):
    bar.add_unit("far")
    bar.breaks = "work results"
    with (
        ControlClient(node.address, node="bar") as client,
        pytest.raises(SessionLost, match=r"node bar: .*a node on the way has ended"),
    ):
        client.results("far")


def test_a_payload_ends_only_where_frames_tell_its_end(node, bar):
    client = ControlClient(node.address, node="bar")
    if bar.framed:
        unit = client.submit("cat", b"payload").unit_id
        assert bar.units[unit].stdout == b"payload"
    else:
        with pytest.raises(BadSettings, match="plain bytes"):
            client.submit("cat", b"payload")
        assert bar.units == {}


def test_a_client_at_a_node_raises_what_other_clients_raise(node, bar):
    with ControlClient(node.address) as ours, ours.at("bar") as client:
        bar.add_unit("far", **SUCCEEDED)
        assert client.wait("far")["StateName"] == "Succeeded"
        with pytest.raises(CommandRefused, match=r"^node bar: unknown work unit x$"):
            client.work_status("x")
    with pytest.raises(CannotReach, match=r"^cannot reach node nosuch: "):
        ControlClient(node.address, node="nosuch").connect()
    with pytest.raises(BadSettings, match="node 'b r' is not one word"):
        ControlClient(node.address, node="b r")
