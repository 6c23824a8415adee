"""Bodies that break off although their client stays, files that cannot be, and what is begun."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from meshnode.config import HttpService
from meshnode.control.budgets import SessionBudgets
from meshnode.control.registry import Command, CommandRegistry, ControlSession, Handler, JsonObject
from meshnode.errors import CommandError
from meshnode.web.app import make_app
from meshnode.web.commands import Commands
from meshnode.web.routing import WebNode
from meshnode.web.spool import Spool
from tests.unit.web.asgi import Client

KIND = "multipart/form-data; boundary=next"
JOB = b'--next\r\nContent-Disposition: form-data; name="job"\r\n\r\n{"type": "cat"}\r\n'
PAYLOAD = b'--next\r\nContent-Disposition: form-data; name="payload"\r\n\r\n%s\r\n'
END = b"--next--\r\n"
BEGUN = JOB + PAYLOAD % b"hello"


class Taking:
    """The command ``work submit`` of a node, and how it fared with its payload."""

    def __init__(self, directory: Path = Path("/nonexistent")) -> None:
        self.fared: list[str] = []
        registry = CommandRegistry()
        registry.register(Command("work", lambda text: pytest.fail(text), self._parse))
        commands = Commands("foo", registry, SessionBudgets())
        node = WebNode("foo", "1", commands, _nothing_short, Spool(directory))
        self.client = Client(make_app(HttpService(port=1), node))

    def _parse(self, fields: JsonObject) -> Handler:
        return _types if fields["subcommand"] == "types" else self._submit

    async def _submit(self, session: ControlSession) -> JsonObject:
        try:
            while await session.receive_some(100):
                pass
        except BaseException as error:
            is_loss = isinstance(error, trio.BrokenResourceError)
            self.fared.append("lost" if is_loss else repr(error))
            raise
        self.fared.append("whole")
        raise CommandError("nothing is submitted here")


async def _nothing_short() -> str:
    return ""


async def _types(session: ControlSession) -> JsonObject:
    return {}


@given(
    st.integers(len(BEGUN) - 2, len(BEGUN + END) - 3).map(lambda size: (BEGUN + END)[:size])
    | st.binary(max_size=30).map(lambda odd: BEGUN + b"--next" + odd)
    | st.sampled_from([b"again", b""]).map(lambda more: BEGUN + PAYLOAD % more + END)
)
def test_a_submission_whose_body_ends_or_goes_on_within_the_payload_sees_its_client_lost(
    body: bytes,
) -> None:
    async def send() -> None:
        taking = Taking()
        reply = await taking.client.ask("/api/v1/units", "POST", body, content_type=KIND)
        if taking.fared == ["whole"]:
            assert body.startswith(BEGUN + END.rstrip()), "what is behind the end is no part"
            return
        assert (reply.status, reply.is_problem) == (400, True)
        assert taking.fared in ([], ["lost"]), "one piece may be refused before anything begins"

    trio.run(send)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (BEGUN, "the body ends within a part"),
        (BEGUN + PAYLOAD % b"more" + END, "a part follows the payload, which must be the last"),
    ],
)
async def test_what_is_wrong_behind_the_begin_of_a_payload_is_told(body: bytes, words: str) -> None:
    taking = Taking()
    reply = await taking.client.ask("/api/v1/units", "POST", body, content_type=KIND)
    assert (reply.status, reply.json["detail"]) == (400, words)
    assert taking.fared == ["lost"]


@pytest.mark.parametrize("path", ["/api/v1/units", "/api/v1/batches"])
async def test_who_stops_in_the_middle_of_a_body_is_told_so_and_the_log_has_it(
    path: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    client = Taking().client
    reply = await client.ask(path, "POST", b"{", ends=False, content_type="application/json")
    assert (reply.status, reply.json["type"]) == (408, "/problems/slow")
    assert "nothing more of the body came for 120 s" in caplog.text


DEP = b'--next\r\nContent-Disposition: form-data; name="dep"; filename="%s"\r\n\r\nx\r\n'
NAMES = [b"a", b"a/b", b"a/b/c", b"ab", b"b/a"]


@given(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
def test_files_of_which_one_lies_below_another_are_refused_before_there_is_a_unit(
    names: list[bytes],
) -> None:
    below = any(other.startswith(name + b"/") for name in names for other in names)

    async def send(directory: Path) -> None:
        taking = Taking(directory)
        body = JOB + b"".join(DEP % name for name in names) + END
        reply = await taking.client.ask("/api/v1/units", "POST", body, content_type=KIND)
        assert reply.status == (400 if below else 422)
        assert taking.fared == ([] if below else ["whole"])

    with TemporaryDirectory() as directory:
        trio.run(send, Path(directory))


@pytest.mark.parametrize("name", ["a" * 256, "sub/" + "ä" * 128, "a" * 256 + "/b"])
async def test_a_name_that_no_file_system_has_is_refused_before_there_is_a_unit(
    name: str, tmp_path: Path
) -> None:
    taking = Taking(tmp_path)
    body = JOB + DEP % name.encode() + END
    reply = await taking.client.ask("/api/v1/units", "POST", body, content_type=KIND)
    assert (reply.status, taking.fared) == (400, [])
    assert "a file cannot be called" in reply.json["detail"]
