import hashlib
import io
import os
import socket

import pytest
from scripted_node import RUNNING, STATUS, exact_vectors, unix_listener
from tls_makers import DAY, authority

import meshctl
from meshctl import (
    BadSettings,
    CannotReach,
    CommandRefused,
    ControlClient,
    NotTrusted,
    PayloadLost,
    ProtocolMismatch,
    SessionLost,
    SubmissionUnconfirmed,
    TlsSettings,
)


@pytest.fixture
def client(any_node, request):
    """A client of the scripted node over each kind of connection."""
    tls = TlsSettings()
    if any_node.address.startswith("tls:"):
        tls = TlsSettings(rootcas=str(request.getfixturevalue("certificate")[0]))
    with ControlClient(any_node.address, tls=tls) as opened:
        yield opened


def test_every_public_name_can_be_imported():
    for name in meshctl.__all__:
        assert getattr(meshctl, name) is not None
    assert dir(meshctl) == sorted(meshctl.__all__)
    with pytest.raises(AttributeError, match="nosuch"):
        meshctl.nosuch  # noqa: B018


def test_commands_share_one_session(any_node, client):
    assert client.node_id == "foo"
    assert client.status() == STATUS
    assert client.status(["NodeID"]) == {"NodeID": "foo"}
    assert client.ping("bar")["From"] == "bar"
    assert [hop["From"] for hop in client.traceroute("bar")] == ["foo", "bar"]
    assert client.reload() == {"Success": True}
    assert any_node.sessions == 1


@pytest.mark.parametrize("vector", exact_vectors(), ids=lambda v: v["send"].strip())
def test_each_recorded_refusal_is_raised_with_its_text_and_the_session_goes_on(node, vector):
    node.handlers[vector["send"].rstrip("\n")] = lambda s, _: s.send(vector["reply"].encode()) or 1
    with ControlClient(node.address) as client:
        with pytest.raises(CommandRefused) as caught:
            client.command(vector["send"].rstrip("\n"))
        assert str(caught.value) == vector["reply"].removeprefix("ERROR: ").strip()
        assert client.status() == STATUS
    assert node.sessions == 1


def test_a_command_may_be_an_object(node):
    with ControlClient(node.address) as client:
        reply = client.command({"command": "ping", "target": "bar"})
    assert reply["Success"]


def test_a_session_that_the_node_has_closed_meanwhile_is_opened_again(any_node, client):
    def answer_and_close(session, line):
        session.send(STATUS)
        return False

    any_node.handlers["status"] = answer_and_close
    for _ in range(3):
        any_node.session_closed.clear()
        assert client.status() == STATUS
        assert any_node.session_closed.wait(60)
    assert any_node.sessions == 3


def test_a_session_that_the_node_has_ended_with_a_reason_is_opened_again(any_node, client):
    """A node tells clients that wait for long, or have many sessions, why it ends one."""

    def answer_and_end(session, line):
        session.send(STATUS)
        session.send(b"ERROR: no command came for 3600 s\n")
        return False

    any_node.handlers["status"] = answer_and_end
    for _ in range(3):
        any_node.session_closed.clear()
        assert client.status() == STATUS
        assert any_node.session_closed.wait(60)
    assert any_node.sessions == 3


def test_a_session_closed_before_the_answer_is_an_error_and_the_next_command_works(node):
    node.handlers["reload"] = lambda session, line: False
    with ControlClient(node.address) as client:
        with pytest.raises(SessionLost, match="closed the session before it answered"):
            client.reload()
        assert client.status() == STATUS


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_payload_of_any_size_comes_back_byte_exact(any_node, client, size):
    payload = os.urandom(size)
    done = client.submit("cat", payload)
    assert (done.unit_id, done.result) == ("Unit0001", "Job Started")
    assert b"".join(client.results(done.unit_id)) == payload
    assert b"".join(client.results(done.unit_id, startpos=size // 2)) == payload[size // 2 :]
    assert client.status() == STATUS
    assert any_node.payload_ends == ["eof"]


def test_a_file_is_sent_from_where_it_stands_to_its_end(node, tmp_path):
    path = tmp_path / "payload"
    path.write_bytes(b"skipped" + b"x" * 700_000)
    with ControlClient(node.address) as client, path.open("rb") as file:
        file.seek(7)
        client.submit("cat", file)
    assert node.units["Unit0001"].stdout == b"x" * 700_000
    assert node.submissions[0]["stdinsize"] == "700000"
    assert node.submissions[0]["stdinsha256"] == hashlib.sha256(b"x" * 700_000).hexdigest()


def test_what_a_file_gains_while_it_is_sent_is_not_part_of_the_payload(node, tmp_path):
    path = tmp_path / "payload"
    path.write_bytes(b"x" * 700_000)

    def append(_unit_id):
        with path.open("ab") as more:
            more.write(b"y" * 700_000)

    with ControlClient(node.address) as client, path.open("rb") as file:
        client.submit("cat", file, on_created=append)
    assert node.units["Unit0001"].stdout == b"x" * 700_000


def test_of_a_pipe_nothing_is_announced(node):
    reading, writing = os.pipe()
    os.write(writing, b"piped")
    os.close(writing)
    with ControlClient(node.address) as client, open(reading, "rb") as file:
        client.submit("cat", file)
    assert node.units["Unit0001"].stdout == b"piped"
    assert not {"stdinsize", "stdinsha256"} & set(node.submissions[0])


def test_a_submission_says_all_it_was_told(node):
    with ControlClient(node.address) as client:
        client.submit(
            "echo",
            node="bar",
            params={"params": "ä --all", "x": ""},
            ttl="1h",
            signwork=True,
            tls_client="t",
        )
        client.submit("echo")
    assert node.submissions == [
        {
            "command": "work",
            "subcommand": "submit",
            "node": "bar",
            "worktype": "echo",
            "tlsclient": "t",
            "ttl": "1h",
            "signwork": "true",
            "params": "ä --all",
            "x": "",
        },
        {"command": "work", "subcommand": "submit", "node": "localhost", "worktype": "echo"},
    ]


@pytest.mark.parametrize(
    "key",
    [
        "command",
        "subcommand",
        "node",
        "worktype",
        "ttl",
        "stdinsize",
        "submissionkey",
        "submissionfollow",
        "submissionresume",
    ],
)
def test_a_parameter_cannot_take_the_place_of_an_option(node, key):
    with ControlClient(node.address) as client, pytest.raises(BadSettings, match=key):
        client.submit("echo", ttl="1h", params={key: "x"})
    assert node.lines == []


class Breaking(io.RawIOBase):
    """A file whose disk fails after the first piece."""

    def __init__(self):
        self.pieces = [b"first"]

    def readable(self):
        return True

    def read(self, size=-1):
        if self.pieces:
            return self.pieces.pop()
        raise OSError(5, "Input/output error")


def test_a_payload_that_cannot_be_read_to_its_end_is_not_ended_but_reset(any_node, client):
    with pytest.raises(PayloadLost, match=r"Input/output error.*Unit0001 was not started"):
        client.submit("cat", Breaking())
    assert any_node.payload_ended.wait(60)
    assert any_node.payload_ends == ["reset"]
    assert client.status() == STATUS


def test_a_file_that_shrinks_while_it_is_read_is_not_a_payload(any_node, client, tmp_path):
    path = tmp_path / "payload"
    path.write_bytes(b"x" * 3_000_000)
    with path.open("rb", buffering=0) as file, pytest.raises(PayloadLost, match="of its 3000000"):
        client.submit("cat", file, on_created=lambda _: os.truncate(path, 100))
    assert any_node.payload_ended.wait(60)
    assert any_node.payload_ends == ["reset"]


@pytest.mark.parametrize("payload", ["text", "", io.StringIO("text"), 7, ["a"], object()])
def test_what_is_not_bytes_is_refused_before_a_unit_exists(node, payload):
    with ControlClient(node.address) as client, pytest.raises(BadSettings, match="the payload is"):
        client.submit("cat", payload)
    assert node.units == {}
    assert node.submissions == []


def test_an_exception_while_the_payload_is_sent_resets_the_session(any_node, client):
    def interrupt(unit_id):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.submit("cat", b"half a payload", on_created=interrupt)
    assert any_node.payload_ended.wait(60)
    assert any_node.payload_ends == ["reset"]


def test_a_non_blocking_file_that_has_nothing_yet_is_not_at_its_end(node):
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    class Slow(io.FileIO):
        def read(self, size=-1):
            data = super().read(size)
            if data is None:
                os.write(writing, b"late")
                os.close(writing)
            return data

    with ControlClient(node.address) as client, Slow(reading) as file:
        client.submit("cat", file)
    assert node.units["Unit0001"].stdout == b"late"


def test_a_refusal_after_the_payload_names_the_unit(node):
    def refuse(session, line):
        session.send(b"Work unit created with ID 6jF7F76k. Send stdin data and EOF.\n")
        session.read_to_end()
        session.send(b"ERROR: could not parse response: ERROR: unknown work type nosuch\n")
        return False

    node.handlers["{"] = refuse
    with ControlClient(node.address) as client, pytest.raises(CommandRefused) as caught:
        client.submit("nosuch", node="bar")
    assert caught.value.unit_id == "6jF7F76k"
    assert str(caught.value).endswith("unknown work type nosuch")


def test_a_refusal_amid_the_payload_is_told_with_its_reason(node):
    def refuse(session, line):
        session.send(b"Work unit created with ID 6jF7F76k. Send stdin data and EOF.\n")
        session.socket.recv(1000)
        session.send(b"ERROR: no space left on device\n")
        return False

    node.handlers['{"command": "work", "subcommand": "submit"'] = refuse
    with ControlClient(node.address) as client, pytest.raises(CommandRefused, match="no space"):
        client.submit("cat", bytes(30_000_000))


def test_a_submission_without_an_answer_names_the_unit_to_ask_about(node):
    def vanish(session, line):
        session.send(b"Work unit created with ID 6jF7F76k. Send stdin data and EOF.\n")
        session.read_to_end()
        return False

    node.handlers["{"] = vanish
    with ControlClient(node.address) as client, pytest.raises(SubmissionUnconfirmed) as caught:
        client.submit("cat", b"x")
    assert caught.value.unit_id == "6jF7F76k"


def test_a_refusal_before_the_payload_has_no_unit(node):
    node.handlers["{"] = lambda s, line: s.send(b"ERROR: unknown work type nosuch\n") or True
    with ControlClient(node.address) as client, pytest.raises(CommandRefused) as caught:
        client.submit("nosuch", b"x")
    assert caught.value.unit_id is None


def test_results_come_while_the_unit_runs(any_node, client):
    unit = any_node.add_unit("running", b"early", ended=False)
    with client.results("running") as pieces:
        assert next(pieces) == b"early"
        assert not unit.may_end.is_set()
        unit.may_end.set()
        assert list(pieces) == []
        assert list(pieces) == []


def test_results_of_an_unknown_unit_are_refused_at_once(client):
    with pytest.raises(CommandRefused, match="unknown work unit nosuch"):
        client.results("nosuch")


def test_units_are_listed_asked_about_and_ended(any_node, client):
    any_node.add_unit("one")
    any_node.add_unit("two")
    assert list(client.work_list()) == ["one", "two"]
    assert list(client.work_list("two")) == ["two"]
    assert client.work_status("one")["StateName"] == "Succeeded"
    assert client.cancel("one") == "cancelled"
    assert client.release("one") == "released"
    assert client.force_release("o8SqFijx") == "released"
    with pytest.raises(CommandRefused, match="unknown work unit one"):
        client.work_status("one")


def test_another_nodes_units_are_listed_through_ours(node):
    def connect(session, line):
        session.send(b"Connecting\nReceptor Control, node bar\n")
        assert session.read_line() == "work list"
        session.send({"far": RUNNING})
        return False

    node.handlers["connect bar control mytls"] = connect
    with ControlClient(node.address) as client:
        assert client.work_list(node="bar", tls_client="mytls") == {"far": RUNNING}
        assert client.node_id == "foo"


def test_a_stream_carries_bytes_both_ways_and_its_halves_end_alone(any_node, client):
    def echo(session, line):
        session.send(b"Connecting\n\0hello")
        session.send(b"[" + session.read_to_end() + b"]")
        return False

    any_node.handlers["connect bar ssh"] = echo
    with client.connect_stream("bar", "ssh") as stream:
        received = stream.receive(3)
        assert received == b"\0he"
        assert stream.fileno() >= 0
        stream.send(b"\xff\r\n")
        stream.send_eof()
        while data := stream.receive():
            received += data
    assert received == b"\0hello[\xff\r\n]"


def test_a_stream_that_cannot_be_opened_says_why(node):
    with ControlClient(node.address) as client, pytest.raises(CommandRefused, match="no route"):
        client.connect_stream("nosuch", "control")


@pytest.mark.parametrize("name", ["", "two words", "a\nwork release x", "a\rb", "a\x1b[2J"])
def test_a_name_cannot_smuggle_a_second_command(node, name):
    with ControlClient(node.address) as client:
        for use in (client.ping, client.work_status, client.results, client.cancel):
            with pytest.raises(BadSettings):
                use(name)
        with pytest.raises(BadSettings):
            client.connect_stream("bar", name)
    assert node.lines == []


@pytest.mark.parametrize(
    "command", ["", "status\nreload", "{", '{"x": 1}', '{"command": 1}', {}, {"command": None}]
)
def test_a_command_that_would_not_get_exactly_one_reply_is_not_sent(node, command):
    with ControlClient(node.address) as client, pytest.raises(BadSettings):
        client.command(command)
    assert node.sessions == 0


@pytest.mark.parametrize("reply", [b"hello\n", b"[1]\n", b"\n", b'"x"\n'])
def test_a_reply_that_is_no_json_object_is_a_mismatch(node, reply):
    node.handlers["status"] = lambda session, line: session.send(reply) or True
    with ControlClient(node.address) as client:
        with pytest.raises(ProtocolMismatch):
            client.status()
        del node.handlers["status"]
        assert client.status() == STATUS


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\n", b"x" * 9999])
def test_what_greets_otherwise_is_no_control_service(node, greeting):
    node.greeting = greeting
    with ControlClient(node.address) as client, pytest.raises(ProtocolMismatch):
        client.connect()


def test_a_node_that_refuses_the_session_is_quoted(any_node, client):
    any_node.greeting = b"ERROR: too many sessions; try again later\n"
    refused = "the node refused the session: too many sessions; try again later$"
    with pytest.raises(CannotReach, match=refused):
        client.connect()


def test_what_closes_without_a_greeting_is_no_control_service(node):
    node._serve = lambda sock: sock.close()
    with ControlClient(node.address) as client, pytest.raises(ProtocolMismatch, match="without"):
        client.connect()


def test_what_does_not_greet_is_given_up(tmp_path):
    with unix_listener(tmp_path / "mute") as listener:
        client = ControlClient(str(tmp_path / "mute"), timeout=0.05)
        with pytest.raises(CannotReach, match="no greeting in time"):
            client.connect()
        listener.accept()[0].close()


def test_a_missing_socket_is_told_with_the_remedy(tmp_path):
    path = str(tmp_path / "foo.sock")
    with pytest.raises(CannotReach) as caught:
        ControlClient(path).connect()
    assert str(caught.value) == (
        f"cannot reach {path}: no such file. Is meshnode running with a control-service on it?"
    )
    assert caught.value.address == path


def test_a_socket_that_nobody_listens_on_is_told(tmp_path):
    unix_listener(tmp_path / "stale").close()
    with pytest.raises(CannotReach, match="nobody listens on it"):
        ControlClient(str(tmp_path / "stale")).connect()


def test_a_socket_that_we_may_not_use_is_told(tmp_path, monkeypatch):
    # Root may use any socket, so the kernel's refusal is played.
    def refuse(self, address):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(CannotReach, match=r"permission denied\. Run as the user of its meshnode"):
        ControlClient(str(tmp_path / "foo.sock")).connect()


def test_an_overlong_path_is_told(tmp_path):
    with pytest.raises(CannotReach, match="too long"):
        ControlClient(str(tmp_path / ("x" * 200))).connect()


def test_a_port_that_nobody_listens_on_is_told():
    with socket.socket() as holder:  # whose port nobody else is given
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        with pytest.raises(CannotReach, match=r"connection refused.*tcplisten"):
            ControlClient(f"tcp://127.0.0.1:{port}").connect()


def test_a_host_that_does_not_exist_is_told(monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(CannotReach, match=r"unknown host nosuch\.invalid"):
        ControlClient("tcp://nosuch.invalid:1").connect()


def test_a_machine_that_vanishes_without_a_word_is_noticed(tcp_node):
    with ControlClient(tcp_node.address) as client:
        session = client.take()
        with socket.socket(fileno=os.dup(session.fileno())) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            told = [
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ]
        session.close()
    assert told[0] + told[1] * told[2] <= 60


def test_an_unknown_certificate_is_refused_unless_one_insists(tls_node):
    with pytest.raises(NotTrusted, match=r"certificate refused.*--rootcas"):
        ControlClient(tls_node.address).connect()
    insisting = TlsSettings(insecureskipverify=True)
    with ControlClient(tls_node.address, tls=insisting) as client:
        assert client.node_id == "foo"


def test_a_certificate_for_another_host_is_refused(tls_node, certificate):
    address = tls_node.address.replace("127.0.0.1", "localhost")
    with pytest.raises(NotTrusted, match="certificate refused"):
        ControlClient(address, tls=TlsSettings(rootcas=str(certificate[0]))).connect()


def test_tls_to_a_service_without_tls_is_told(tcp_node):
    with pytest.raises(CannotReach, match="does not speak TLS"):
        ControlClient(tcp_node.address.replace("tcp:", "tls:")).connect()


def test_a_client_certificate_is_shown(tls_node, server_context, certificate):
    import ssl

    cert, key = map(str, certificate)
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(cert)
    with ControlClient(tls_node.address, tls=TlsSettings(cert, key, cert)) as client:
        assert client.status() == STATUS


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (TlsSettings(rootcas="/no/such"), "--rootcas /no/such: No such file"),
        (TlsSettings(key="/key"), "--key and --cert go together"),
        (
            TlsSettings(key="/no/key", cert="/no/cert"),
            "--cert and --key /no/cert, /no/key: No such",
        ),
        (TlsSettings(key=__file__, cert=__file__), "not usable PEM"),
        (TlsSettings(rootcas=__file__), "not usable PEM"),
    ],
)
def test_unusable_tls_files_are_named(tls_node, settings, reason):
    with pytest.raises(BadSettings, match=reason):
        ControlClient(tls_node.address, tls=settings).connect()


def test_a_certificate_out_of_its_time_says_check_the_clocks(tls_node, server_context, tmp_path):
    old = authority().issue("old", begins=-9 * DAY, ends=-DAY)
    cert, key = old.write(tmp_path, "old")
    server_context.load_cert_chain(cert, key)
    tls = TlsSettings(rootcas=str(authority().write(tmp_path)))
    with pytest.raises(NotTrusted, match=r"has expired\. Renew it, or check the clocks"):
        ControlClient(tls_node.address, tls=tls).connect()


def test_a_node_that_asks_for_a_certificate_says_how_to_give_one(
    tls_node, server_context, certificate
):
    import ssl

    server_context.verify_mode = ssl.CERT_REQUIRED
    with pytest.raises(NotTrusted, match="it asks for a certificate: give --cert and --key"):
        ControlClient(tls_node.address, tls=TlsSettings(str(certificate[0]))).connect()


def test_a_certificate_as_openssl_makes_it_by_default_is_good_enough(
    tls_node, server_context, tmp_path
):
    """It has no key identifiers, and its CA no key usage."""
    cert, key = authority().issue("plain").write(tmp_path, "plain")
    server_context.load_cert_chain(cert, key)
    tls = TlsSettings(rootcas=str(authority().write(tmp_path)))
    with ControlClient(tls_node.address, tls=tls) as client:
        assert client.node_id == "foo"
