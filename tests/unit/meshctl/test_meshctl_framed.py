"""``connect`` in frames: an end is an end; whatever else happens is told, and is exit code 1."""

import json

import pytest

from meshctl import ControlClient, ProtocolMismatch, SessionLost, TlsSettings
from meshctl.api.connection import BROKEN, MAX_FRAME
from meshctl.render.output import ExitCode

FRAMED = b"Connecting framed\n"


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def failure(reason: str) -> bytes:
    data = reason.encode()
    return (BROKEN | len(data)).to_bytes(4, "big") + data


def answering(*pieces: bytes, after_end: bool = True):
    """A handler that sends these and closes, after the client's end of its own bytes or at once.

    A TCP connection that is closed with bytes unread is reset, and takes with it what was sent.
    """

    def connect(session, line):
        assert json.loads(line)["framed"] is True
        session.send(FRAMED)
        if after_end:
            assert b"".join(session.socket.recv(1) for _ in range(4)) == frame(b"")
        for piece in pieces:
            session.send(piece)
        return False

    return connect


@pytest.fixture
def options(any_node, request):
    if any_node.address.startswith("tls:"):
        return ["--rootcas", str(request.getfixturevalue("certificate")[0])]
    return []


def run_connect(any_node, options, start_process, stdin=b""):
    process = start_process(
        "--socket", any_node.address, *options, "connect", "bar", "backup", stdin=-1
    )
    out, err = process.communicate(stdin, timeout=60)
    return out, err.decode(), process.returncode


def test_a_service_that_has_ended_is_exit_0(any_node, options, start_process):
    any_node.handlers["connect"] = answering(frame(b"all "), frame(b"of it"), frame(b""))
    assert run_connect(any_node, options, start_process) == (b"all of it", "", 0)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ((frame(b"half"), failure("the service refused it")), "the service refused it"),
        ((frame(b"half"), failure("")), "the stream broke"),
        ((frame(b"half"),), "the node is gone"),
        ((frame(b"half")[:-2],), "the node is gone"),
        ((frame(b"half"), b"\0\0"), "the node is gone"),
        ((b"",), "the node is gone"),
        ((frame(b"half"), (MAX_FRAME + 1).to_bytes(4, "big")), "no frame"),
    ],
)
def test_whatever_else_ends_a_stream_is_told_and_is_a_lost_connection(
    any_node, options, start_process, pieces, text
):
    any_node.handlers["connect"] = answering(*pieces)
    out, err, code = run_connect(any_node, options, start_process)
    assert code == ExitCode.UNREACHABLE
    assert text in err
    assert b"half".startswith(out)


def test_what_is_sent_is_frames_with_an_end(any_node, options, start_process):
    received = []

    def connect(session, line):
        session.send(FRAMED + frame(b"go"))
        data = b""
        while not data.endswith(frame(b"")):
            data += session.socket.recv(65536)
        received.append(data)
        session.send(frame(b""))
        return False

    any_node.handlers["connect"] = connect
    assert run_connect(any_node, options, start_process, b"x" * 200_000) == (b"go", "", 0)
    (data,) = received
    sent = b""
    while data:
        size = int.from_bytes(data[:4], "big")
        sent, data = sent + data[4 : 4 + size], data[4 + size :]
    assert sent == b"x" * 200_000


def test_the_client_raises_what_the_node_says(any_node, options):
    any_node.handlers["connect"] = answering(
        frame(b"half"), failure("reset by bar"), after_end=False
    )
    tls = TlsSettings(rootcas=options[1]) if options else TlsSettings()
    with ControlClient(any_node.address, tls=tls) as client:
        stream = client.connect_stream("bar", "backup")
        assert stream.receive() == b"half"
        with pytest.raises(SessionLost, match="the stream broke: reset by bar"):
            stream.receive()
        stream.close()


def test_what_is_no_frame_is_a_mismatch(node):
    node.handlers["connect"] = answering((MAX_FRAME + 1).to_bytes(4, "big"), after_end=False)
    with ControlClient(node.address) as client:
        stream = client.connect_stream("bar", "backup")
        with pytest.raises(ProtocolMismatch):
            stream.receive()
        stream.close()
