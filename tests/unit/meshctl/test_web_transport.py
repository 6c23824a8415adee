"""A control session through a websocket: whatever the other end sends is a session or an error."""

import json
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Ping, Pong, Request

from meshctl.api.errors import BadSettings, CannotReach, NotTrusted
from meshctl.api.settings import WebAddress, parse_address, read_token, with_token
from meshctl.api.web import MESSAGE_BYTES, SUBPROTOCOL, WebTransport, open_web


class Inner:
    """A connection whose other end is a server of this test."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.server = WSConnection(ConnectionType.SERVER)
        self.coming: deque[bytes] = deque()
        self.messages: list[bytes] = []
        self.pongs = 0
        self.asked: Request | None = None
        self.closed = False
        self._answer = answer
        self._piece = b""

    def send_all(self, data: bytes | memoryview) -> None:
        if self._answer is not None:
            self.coming.append(self._answer)
            return
        self.server.receive_data(bytes(data))
        for event in self.server.events():
            match event:
                case Request():
                    self.asked = event
                    accepted = AcceptConnection(subprotocol=SUBPROTOCOL)
                    self.coming.append(self.server.send(accepted))
                case BytesMessage(data=part, message_finished=is_whole):
                    self._piece += part
                    if is_whole:
                        self.messages.append(self._piece)
                        self._piece = b""
                case Pong():
                    self.pongs += 1

    def say(self, *messages: bytes) -> None:
        self.coming += [self.server.send(BytesMessage(message)) for message in messages]

    def receive(self, max_bytes: int) -> bytes:
        return self.coming.popleft() if self.coming else b""

    def close(self) -> None:
        self.closed = True

    def is_idle(self) -> bool:
        return not self.coming


ADDRESS = WebAddress("h", 8043, tls=True, prefix="/mesh", token="secret")


def opened(inner: Inner) -> WebTransport:
    return open_web(inner, ADDRESS, "https://h")  # type: ignore[arg-type]


def test_a_session_is_asked_for_at_its_path_with_the_token() -> None:
    inner = Inner()
    opened(inner)
    assert inner.asked is not None
    assert (inner.asked.target, inner.asked.host) == ("/mesh/api/v1/session", "h:8043")
    assert inner.asked.subprotocols == [SUBPROTOCOL]
    assert (b"authorization", b"Bearer secret") in inner.asked.extra_headers


@given(st.lists(st.binary(max_size=9)), st.integers(1, 9))
def test_bytes_come_as_they_were_said_until_an_empty_message(
    pieces: list[bytes], most: int
) -> None:
    inner = Inner()
    transport = opened(inner)
    inner.say(*filter(None, pieces), b"")
    found = b""
    while data := transport.receive(most):
        assert len(data) <= most
        found += data
    assert found == b"".join(pieces)
    assert transport.receive(most) == b""


@given(st.binary(max_size=3 * MESSAGE_BYTES))
def test_what_is_sent_is_cut_and_never_empty_before_its_end(data: bytes) -> None:
    inner = Inner()
    transport = opened(inner)
    transport.send_all(data)
    transport.send_eof()
    *sent, end = inner.messages
    assert end == b""
    assert all(sent)
    assert b"".join(sent) == data


@given(st.lists(st.binary(max_size=6), max_size=4))
def test_a_line_is_read_to_its_newline_and_the_rest_is_kept(pieces: list[bytes]) -> None:
    said = b"".join(pieces) + b"\nrest"
    inner = Inner()
    transport = opened(inner)
    inner.say(*filter(None, pieces), b"\nrest", b"")
    line, _, rest = said.partition(b"\n")
    assert transport.receive_line_guarded(4096) == line
    found = b""
    while data := transport.receive(100):
        found += data
    assert found == rest


def test_a_connection_that_breaks_off_is_no_end() -> None:
    inner = Inner()
    transport = opened(inner)
    inner.say(b"half")
    assert transport.receive(10) == b"half"
    with pytest.raises(OSError, match="broke off"):
        transport.receive(10)


def test_a_ping_is_answered_and_is_nothing_to_read() -> None:
    inner = Inner()
    transport = opened(inner)
    inner.coming.append(inner.server.send(Ping(b"x")))
    inner.say(b"data")
    assert transport.receive(10) == b"data"
    assert inner.pongs == 1


def refusal(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, NotTrusted, "who are you. Give --token-file"),
        (403, NotTrusted, "who are you"),
        (404, CannotReach, "who are you"),
    ],
)
def test_a_refusal_is_told_in_the_words_of_the_service(
    status: int, kind: type[Exception], words: str
) -> None:
    inner = Inner(refusal(status, json.dumps({"detail": "who are you"}).encode()))
    with pytest.raises(kind, match=words):
        opened(inner)
    assert inner.closed


@given(st.binary() | st.binary().map(lambda body: refusal(404, body)))
def test_whatever_answers_the_request_is_an_error_with_a_reason(answer: bytes) -> None:
    inner = Inner(answer)
    with pytest.raises((CannotReach, NotTrusted)):
        opened(inner)
    assert inner.closed


@given(st.binary(min_size=1))
def test_whatever_comes_later_is_bytes_or_an_error_of_the_connection(data: bytes) -> None:
    inner = Inner()
    transport = opened(inner)
    inner.coming.append(data)
    try:
        while transport.receive(100):
            pass
    except OSError:
        pass


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://h", WebAddress("h", 443, tls=True)),
        ("http://h:8043/", WebAddress("h", 8043, tls=False)),
        ("https://[::1]:5/a/b/", WebAddress("::1", 5, tls=True, prefix="/a/b")),
    ],
)
def test_addresses_of_services_are_read(text: str, address: WebAddress) -> None:
    assert parse_address(text) == address


def test_a_token_is_one_word_and_for_services_only(tmp_path) -> None:
    with pytest.raises(BadSettings, match="for https"):
        with_token(parse_address("/tmp/x.sock"), "t")
    with pytest.raises(BadSettings, match="one word"):
        with_token(parse_address("https://h"), "a b")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(BadSettings, match="is empty"):
        read_token(str(tmp_path / "empty"))
    with pytest.raises(BadSettings, match="cannot read"):
        read_token(str(tmp_path / "none"))
