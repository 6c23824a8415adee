"""A submission whose session is cut goes on from the byte that its node has, and runs once.

The node is a model in memory: its sessions break after any byte, and it may forget the last ones.
"""

import errno
import hashlib
import io
import itertools
import json
import os
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshctl import (
    CannotReach,
    CommandRefused,
    ControlClient,
    JobSettings,
    PayloadLost,
    SessionLost,
    SubmissionUnconfirmed,
)
from meshctl.api import uploading
from meshctl.api.connection import Connection
from meshctl.api.deps import Dependencies, PayloadWithFiles
from meshctl.api.payload import Payload
from meshctl.api.submitting import LEAST_RESUMED

KEPT = 64 * 1024
"""Bytes of a payload that a node keeps at least."""

SIZE = 3 * KEPT + 123
PAYLOAD = random.Random(7).randbytes(SIZE)
STORE = "ab" * 16


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(uploading, "ASK_INTERVAL", 0.0)


@dataclass
class Cut:
    """What becomes of one session: it breaks after so many bytes, both ways together."""

    after: int
    forgets: int = 0
    """Bytes that the node has lost of what had come: it was killed."""
    away: int = 0
    """How often nobody answers then."""
    seems_an_end: bool = False
    """A proxy was cut off: to the node it looks as if the client had ended its bytes."""


@dataclass
class Unit:
    unit_id: str
    request: dict
    received: bytearray = field(default_factory=bytearray)
    state: int = 0
    is_whole: bool = False
    never_ran: bool = False

    @property
    def key(self):
        return self.request.get("submissionkey", "")

    @property
    def awaits_rest(self):
        resumes = self.request.get("submissionresume") == "true"
        return resumes and self.state == 0 and not self.is_whole


class Model:
    """A meshnode, or a receptor node, behind links that are cut."""

    def __init__(self, *cuts, is_receptor=False):
        self.cuts = list(cuts)
        self.is_receptor = is_receptor
        self.units = {}
        self.released = {}
        self.runs = []
        self.lines = []
        self.carried = 0
        self.away = 0
        self.last_left = 0
        """Bytes that were left of the last session that was to be cut."""
        self.store = STORE
        self.may_look = True
        self.before_asked = lambda: None
        self.before_submission = lambda unit: None
        self._moments = itertools.count(1)

    def take(self):
        if self.away:
            self.away -= 1
            raise CannotReach("here", "nobody listens on it")
        return Connection(Link(self, self.cuts.pop(0) if self.cuts else None))

    def of_key(self, key):
        return next((unit for unit in self.units.values() if key and unit.key == key), None)

    def submissions(self):
        return [line for line in self.lines if line.get("subcommand") == "submit"]


class Link:
    """A session as a transport: what is sent reaches the model at once."""

    def __init__(self, model, cut):
        self._model = model
        self._cut = cut
        self._left = None if cut is None else cut.after
        self._coming = bytearray()
        self._line = bytearray()
        self._unit = None
        self._is_over = False
        self._ended = False

    # --- the client's side --------------------------------------------------------------------

    def send_all(self, data):
        passed = self._pass(len(data))
        self._take(bytes(data[:passed]))
        if passed < len(data):
            self._break()

    def receive(self, max_bytes):
        if self._is_over:
            raise OSError(errno.EBADF, "closed")
        if not self._coming and self._ended:
            return b""
        assert self._coming, "the client waits for what never comes"
        passed = self._pass(min(max_bytes, len(self._coming)))
        if not passed:
            self._break()
        data = bytes(self._coming[:passed])
        del self._coming[:passed]
        return data

    def receive_line_guarded(self, max_bytes):
        line = b""
        while self._coming[:1] != b"\n":
            line += self.receive(1)
        return line

    def drop_guard(self):
        assert self.receive(1) == b"\n"

    def send_eof(self):
        if not self._pass(1):
            self._break()
        self._end_payload()

    def set_timeout(self, seconds):
        pass

    def is_idle(self):
        return False

    def fileno(self):
        return -1 if self._is_over else 7

    def interrupt(self):
        raise AssertionError("nobody is to be woken")

    def close(self):
        self._lose()

    # --- the cut ------------------------------------------------------------------------------

    def _pass(self, count):
        if self._is_over:
            raise OSError(errno.EBADF, "closed")
        if self._left is None:
            return count
        passed = min(count, self._left)
        self._left -= passed
        self._model.last_left = self._left
        return passed

    def _break(self):
        if self._cut.seems_an_end and self._unit is not None and not self._ended:
            self._end_payload()
            self._left = None
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        self._lose()
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    def _lose(self):
        if self._is_over:
            return
        self._is_over = True
        if self._left == 0:
            self._model.away = self._cut.away
            forgets = self._cut.forgets
        else:
            forgets = 0
        unit = self._unit
        if unit is None or unit.is_whole or unit.state:
            return
        del unit.received[max(len(unit.received) - forgets, 0) :]
        if not unit.awaits_rest or len(unit.received) < KEPT:
            unit.state = 3

    # --- the node's side ----------------------------------------------------------------------

    def _say(self, text):
        self._coming += f"{text}\n".encode()

    def _take(self, data):
        if self._unit is not None:
            self._model.carried += len(data)
            self._unit.received += data
            return
        self._line += data
        while b"\n" in self._line:
            line, _, rest = bytes(self._line).partition(b"\n")
            self._line = bytearray(rest)
            self._answer(line.decode())

    def _answer(self, text):
        request = (
            json.loads(text)
            if text.startswith("{")
            else dict(zip(("command", "subcommand", "unitid"), text.split(), strict=False))
        )
        self._model.lines.append(request)
        getattr(self, f"_{request['subcommand']}")(request)

    def _submitted(self, request):
        model = self._model
        if model.is_receptor:
            self._say("ERROR: bad command")
            return
        model.before_asked()
        key = request["submissionkey"]
        reply = {"Mark": f"{model.store}@{next(model._moments)}", "Trace": "nothing"}
        if unit := model.of_key(key):
            reply |= {"Trace": "unit", "UnitID": unit.unit_id, "Work": "w"}
            reply |= {"NeverRan": unit.never_ran or not unit.is_whole}
            if unit.awaits_rest:
                reply |= {"Received": len(unit.received)}
        elif key in model.released:
            reply |= {"Trace": "released", "State": 2}
        self._say(json.dumps(reply))

    def _status(self, request):
        unit = self._model.units[request["unitid"]]
        if not self._model.may_look:
            self._say("ERROR: not allowed")
            return
        size = len(unit.received) if unit.is_whole else None
        self._say(json.dumps({"State": unit.state, "StdinSize": size, "Detail": "no such command"}))

    def _release(self, request):
        del self._model.units[request["unitid"]]
        self._say(json.dumps({"released": request["unitid"]}))

    def _cancel(self, request):
        assert request["unless"] == "started"
        unit = self._model.units[request["unitid"]]
        if unit.is_whole:
            self._say("ERROR: it was started")
            return
        unit.state = 4
        self._say(json.dumps({"cancelled": unit.unit_id}))

    def _submit(self, request):
        model, key = self._model, request.get("submissionkey", "")
        unit = model.of_key(key)
        model.before_submission(unit)
        receipt = f" Store {model.store}@{next(model._moments)}." if key else ""
        if unit is not None and unit.awaits_rest:
            assert unit.request == request
            self._unit = unit
            count = len(unit.received)
            self._say(
                f"Work unit resumed with ID {unit.unit_id}. "
                f"Send stdin data from byte {count} and EOF.{receipt}"
            )
            return
        if unit is not None:
            self._say(f"ERROR: already submitted as unit {unit.unit_id}")
            return
        self._unit = Unit(f"Unit{len(model.submissions()):04d}", request)
        model.units[self._unit.unit_id] = self._unit
        self._say(
            f"Work unit created with ID {self._unit.unit_id}. Send stdin data and EOF.{receipt}"
        )

    def _end_payload(self):
        unit = self._unit
        self._ended = True
        if unit.state:
            self._say(f"ERROR: work unit {unit.unit_id} was canceled before it was started")
            return
        data, request = bytes(unit.received), unit.request
        size = int(request["stdinsize"]) + int(request.get("depssize", "0"))
        if len(data) < size:
            if len(data) < KEPT or not unit.awaits_rest:
                unit.state = 3
            told = f"{len(data)} of the {size} bytes that were announced"
            self._say(f"ERROR: Error reading input data: {told}")
            return
        tar = int(request.get("depssize", "0"))
        digests = {"stdinsha256": data[tar:], "depssha256": data[:tar]}
        for name, part in digests.items():
            if name in request and request[name] != hashlib.sha256(part).hexdigest():
                unit.state = 3
                self._say("ERROR: Error reading input data: its SHA-256 is not the announced one")
                return
        unit.is_whole = True
        unit.state = 2
        self._model.runs.append(data)
        self._say(json.dumps({"result": "Job Started", "unitid": unit.unit_id}))


class Client(ControlClient):
    def __init__(self, model):
        super().__init__("/model")
        self.take = model.take


def submit(model, payload=PAYLOAD, **more):
    return Client(model).submit("cat", payload, node="bar", **more)


def as_file(data):
    file = os.fdopen(os.memfd_create("payload"), "w+b")
    file.write(data)
    file.seek(0)
    return file


cuts = st.builds(
    Cut,
    after=st.integers(0, SIZE + 5000),
    forgets=st.sampled_from([0, 0, 1, KEPT, SIZE]),
    away=st.integers(0, 2),
    seems_an_end=st.booleans(),
)


@settings(max_examples=80)
@given(st.lists(cuts, max_size=5), st.sampled_from([bytes, io.BytesIO, as_file]))
def test_wherever_sessions_are_cut_the_payload_runs_once_and_whole(several, source):
    # The first session breaks before there is a unit, if it breaks so early: nothing to go on with.
    model = Model(*(cut for cut in several if cut.after > 2000))
    given = source(PAYLOAD)
    done = submit(model, given)
    if source is not bytes:
        given.close()
    assert model.runs == [PAYLOAD]
    assert done.unit_id in model.units
    assert done.result == "Job Started"


@settings(max_examples=30)
@given(st.lists(st.integers(KEPT + 2000, SIZE + 5000), min_size=1, max_size=4))
def test_no_byte_that_the_node_has_is_sent_again(several):
    model = Model(*(Cut(after) for after in several))
    submit(model)
    assert model.runs == [PAYLOAD]
    assert model.carried == SIZE
    assert len(model.units) == 1


def test_what_a_killed_node_has_lost_is_sent_again_and_nothing_else():
    model = Model(Cut(2 * KEPT, forgets=1000, away=3))
    submit(model)
    assert model.runs == [PAYLOAD]
    assert model.carried == SIZE + 1000


def test_too_little_to_be_kept_is_sent_anew_and_its_unit_is_released():
    model = Model(Cut(30_000))
    created = []
    done = submit(model, on_created=created.append)
    assert model.runs == [PAYLOAD]
    assert list(model.units) == [done.unit_id] == created[1:]


def test_each_cut_is_told_once_with_its_reason():
    told = []
    model = Model(Cut(2 * KEPT, away=5), Cut(KEPT), Cut(2000))
    submit(model, on_away=told.append)
    assert told == ["the session broke: Connection reset by peer"] * 3


def test_a_file_is_read_again_from_where_the_node_is(tmp_path):
    path = tmp_path / "payload"
    path.write_bytes(b"skipped" + PAYLOAD)
    model = Model(Cut(2 * KEPT), Cut(KEPT))
    with path.open("rb") as file:
        file.seek(7)
        submit(model, file)
    assert model.runs == [PAYLOAD]
    assert model.carried == SIZE


def test_bytes_in_memory_that_are_open_as_a_file_go_on_as_well():
    model = Model(Cut(2 * KEPT))
    submit(model, io.BytesIO(PAYLOAD))
    assert model.runs == [PAYLOAD]
    assert model.carried == SIZE


def tree(place):
    """Make some dependencies; return them."""
    directory = place / "tree"
    (directory / "deep").mkdir(parents=True)
    (directory / "deep" / "empty").touch()
    (directory / "deep" / "block").write_bytes(b"b" * 512)
    (directory / "deep" / "odd").write_bytes(PAYLOAD[:70_001])
    (directory / "link").symlink_to("deep/odd")
    (place / ("n" * 150)).write_bytes(PAYLOAD[:999])
    return (directory, place / ("n" * 150))


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory):
    return tree(tmp_path_factory.mktemp("deps"))


@settings(max_examples=60)
@given(data=st.data())
def test_a_tar_is_the_same_bytes_again_from_any_byte_on(dependencies, data):
    whole = PayloadWithFiles(Dependencies(dependencies), Payload(b"typed"))
    content = b"".join(whole.chunks())
    start = data.draw(st.integers(0, len(content)))
    assert b"".join(whole.chunks(start)) == content[start:]


@settings(max_examples=20)
@given(st.lists(st.integers(KEPT + 2000, SIZE), min_size=1, max_size=3))
def test_files_and_the_payload_behind_them_go_on_as_one(dependencies, several):
    model = Model(*(Cut(after) for after in several))
    job = JobSettings(deps=dependencies)
    submit(model, PAYLOAD[:KEPT], job=job)
    expected = b"".join(Dependencies(dependencies).chunks()) + PAYLOAD[:KEPT]
    assert model.runs == [expected]
    assert model.carried == len(expected)


def test_files_without_a_payload_go_on_too(dependencies):
    model = Model(Cut(KEPT + 5000))
    submit(model, None, job=JobSettings(deps=dependencies))
    assert model.carried == len(model.runs[0])


# --- where there is nothing to go on with ---------------------------------------------------------


def test_a_receptor_node_gets_the_submission_that_it_always_got_and_is_not_asked_again():
    model, before = Model(Cut(2 * KEPT), is_receptor=True), Model(is_receptor=True)
    submit(before, PAYLOAD[: LEAST_RESUMED - 1])
    with pytest.raises(SessionLost, match="Unit0001 was not started"):
        submit(model)
    (line,), (short,) = model.submissions(), before.submissions()
    assert set(line) == set(short)
    assert model.runs == []


def test_of_a_short_payload_nothing_is_asked():
    model = Model()
    submit(model, PAYLOAD[: LEAST_RESUMED - 1])
    assert [line["subcommand"] for line in model.lines] == ["submit"]


def test_a_payload_that_cannot_be_read_again_says_what_to_do():
    model = Model(Cut(2 * KEPT))
    reading, writing = os.pipe()
    os.close(writing)

    class Piped(io.RawIOBase):
        def __init__(self):
            self.pieces = [PAYLOAD]

        def fileno(self):
            return reading

        def read(self, size=-1):
            return self.pieces.pop() if self.pieces else b""

    with pytest.raises(SessionLost, match=r"Unit0001 was not started.*read again.*in a file"):
        submit(model, Piped())
    os.close(reading)
    assert len(model.submissions()) == 1


def test_a_node_that_is_not_there_at_the_beginning_is_not_waited_for():
    model = Model()
    model.away = 1
    with pytest.raises(CannotReach):
        submit(model)
    assert model.away == 0


def test_a_node_that_stays_away_amid_the_payload_has_started_nothing(monkeypatch):
    monkeypatch.setattr(uploading, "NODE_RETURNS", 0.0)
    model = Model(Cut(2 * KEPT, away=1000))
    with pytest.raises(SessionLost, match="Unit0001 was not started") as caught:
        submit(model)
    assert not isinstance(caught.value, SubmissionUnconfirmed)
    assert model.runs == []


def test_a_link_that_breaks_whenever_it_is_used_is_given_up_at_last():
    # Each session brings less than its node loses with it.
    model = Model(Cut(2 * KEPT), *(Cut(3000, forgets=2500) for _ in range(1000)))
    with pytest.raises(SessionLost, match="Unit0001 was not started"):
        submit(model)
    assert len(model.submissions()) < 30
    assert model.runs == []


@settings(max_examples=40)
@given(st.integers(0, 100))
def test_a_node_that_stays_away_after_the_payload_leaves_it_open_what_runs(rest):
    model = Model(Cut(10**9))
    submit(model)
    talk = 10**9 - model.last_left
    model = Model(Cut(talk - rest, away=10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploading, "NODE_RETURNS", 0.0)
        if not rest:
            submit(model)
            return
        with pytest.raises(SessionLost) as caught:
            submit(model)
    # What is not known to have run may be submitted again: so it must not have.
    assert isinstance(caught.value, SubmissionUnconfirmed) or model.runs == []


def test_an_end_that_was_not_answered_is_asked_about_and_runs_once():
    model = Model(Cut(10**9))
    submit(model)
    whole = 10**9 - model.last_left
    for before in range(1, 60):
        model = Model(Cut(whole - before, away=1))
        assert submit(model).unit_id == "Unit0001"
        assert model.runs == [PAYLOAD]


def test_a_client_that_may_submit_and_not_look_goes_on_too():
    model = Model(Cut(10**9))
    submit(model)
    whole = 10**9 - model.last_left
    for before in (1, 70, whole - 2 * KEPT):
        model = Model(Cut(whole - before))
        model.may_look = False
        assert submit(model).unit_id == "Unit0001"
        assert model.runs == [PAYLOAD]


def test_a_start_that_failed_after_the_cut_is_told_with_its_reason():
    model = Model(Cut(10**9))
    submit(model)
    model = Model(Cut(10**9 - model.last_left - 1))

    def fail():
        for unit in model.units.values():
            unit.state = 3
            unit.never_ran = True

    model.before_asked = fail
    with pytest.raises(CommandRefused, match="no such command") as caught:
        submit(model)
    assert caught.value.unit_id == "Unit0001"


def test_a_unit_that_somebody_cancels_meanwhile_is_not_submitted_again():
    model = Model(Cut(2 * KEPT))

    def cancel():
        for unit in model.units.values():
            unit.state = 4

    model.before_asked = cancel
    with pytest.raises(CommandRefused, match="Unit0001 was canceled before it was started"):
        submit(model)
    assert model.runs == []


def test_a_unit_that_ran_and_was_released_meanwhile_is_not_submitted_again():
    model = Model(Cut(10**9))
    submit(model)
    whole = 10**9 - model.last_left
    model = Model(Cut(whole - 1))

    def release():
        model.released |= {unit.key: unit for unit in model.units.values() if unit.is_whole}
        model.units.clear()

    model.before_asked = release
    assert submit(model).unit_id == "Unit0001"
    assert model.runs == [PAYLOAD]


def test_another_directory_of_the_node_cannot_tell_whether_the_work_ran():
    model = Model(Cut(10**9))
    submit(model)
    whole = 10**9 - model.last_left
    model = Model(Cut(whole - 1))

    def replace():
        if model.units:
            model.units.clear()
            model.store = "cd" * 16

    model.before_asked = replace
    with pytest.raises(SubmissionUnconfirmed, match="another directory"):
        submit(model)
    assert len(model.submissions()) == 1


def test_a_file_that_changes_meanwhile_is_told_and_starts_nothing(tmp_path):
    path = tmp_path / "payload"
    path.write_bytes(PAYLOAD)
    model = Model(Cut(2 * KEPT))

    def change(_reason):
        path.write_bytes(PAYLOAD[::-1])

    with path.open("rb") as file, pytest.raises(PayloadLost, match="is not what it was"):
        submit(model, file, on_away=change)
    assert model.runs == []


@pytest.mark.parametrize("when", ["created", "sent", "away"])
def test_who_stops_amid_the_payload_leaves_nothing_that_waits_for_the_rest(when):
    model = Model(Cut(2 * KEPT))

    def stop(*_args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit(model, **{f"on_{when}": stop})
    assert not any(unit.awaits_rest for unit in model.units.values())
    assert model.runs == []


def test_a_payload_that_cannot_be_read_to_its_end_leaves_nothing_that_waits(tmp_path):
    path = tmp_path / "payload"
    path.write_bytes(PAYLOAD)
    model = Model(Cut(2 * KEPT))
    with path.open("rb", buffering=0) as file, pytest.raises(PayloadLost, match="of its"):
        submit(model, file, on_away=lambda _: os.truncate(path, KEPT))
    assert not any(unit.awaits_rest for unit in model.units.values())
    assert model.runs == []


def test_a_node_that_says_it_has_more_than_there_is_is_not_believed():
    model = Model(Cut(2 * KEPT))

    def grow():
        for unit in model.units.values():
            unit.received += bytes(SIZE)

    model.before_asked = grow
    with pytest.raises(PayloadLost, match="Unit0001 was not started"):
        submit(model)
    assert model.runs == []


def test_what_was_put_together_of_wrong_parts_is_sent_anew():
    """A power cut has changed what the node had; that shows when all of it is there."""
    model = Model(Cut(2 * KEPT))

    def damage():
        for unit in model.units.values():
            if unit.awaits_rest:
                unit.received[100] ^= 1

    model.before_asked = damage
    done = submit(model)
    assert model.runs == [PAYLOAD]
    assert list(model.units) == [done.unit_id]


def test_a_payload_that_the_old_session_has_completed_meanwhile_is_not_refused():
    """What was on its way at the cut reaches the node between our question and our submission."""
    model = Model(Cut(2 * KEPT))
    submissions = iter([None, PAYLOAD])

    def complete(unit):
        if (late := next(submissions, None)) is not None:
            unit.received[:], unit.is_whole, unit.state = late, True, 2
            model.runs.append(late)

    model.before_submission = complete
    assert submit(model).unit_id == "Unit0001"
    assert model.runs == [PAYLOAD]
