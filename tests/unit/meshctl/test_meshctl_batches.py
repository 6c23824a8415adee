"""Batches from the command line: what is asked of the node, and what is told of its answers."""

import errno
import hashlib
import io
import json
import os
import tarfile
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.api import batch as api
from meshctl.commands import arrays
from meshctl.commands.arrays import numbered_lines
from meshctl.render.batches import BatchProgress, member_line, summary
from meshctl.render.output import ExitCode

ASKS = '{"command": "work", "subcommand": "batch", "action": "'
BATCH = "b-12345678"
AFTER = ("--after", "UnitAAAA", "--after", f"{BATCH}:end")
RUNNING = {"Batch": BATCH, "StateName": "Running", "Members": 3, "Waiting": 1, "InFlight": 2}
ENDED = {"Batch": BATCH, "StateName": "Succeeded", "Members": 3, "Succeeded": 3}
MEMBERS = [
    {"Index": 2, "StateName": "Succeeded", "UnitID": "UnitBBBB", "ExitCode": 0},
    {"Index": 1, "StateName": "Succeeded", "UnitID": "UnitAAAA", "ExitCode": 0},
    {"Index": 3, "StateName": "Refused", "Detail": "unknown\twork type x"},
]


class Batches:
    """What a scripted node knows of batches.

    ``breaks`` sessions end after the first member, ``loses`` before the answer to a batch, which is
    kept if ``keeps`` says so.
    """

    def __init__(self, node):
        self.asked = []
        self.lists = []
        self.tars = []
        self.payloads = []
        self.end = ENDED
        self.breaks = 0
        self.loses = 0
        self.keeps = True
        self.keys = set()
        self.refuses = ""
        node.handlers[ASKS] = self.answer

    def answer(self, session, line):
        request = json.loads(line)
        self.asked.append(request)
        return getattr(self, request["action"])(session, request)

    def submit(self, session, request):
        has_payload = request.get("lines") or request.get("depssize")
        if request["submissionkey"] in self.keys:
            session.send({"batch": BATCH, "result": "Batch Already Submitted", "members": 3})
            return not has_payload
        if has_payload:
            session.send(b"Send the lines of the batch and EOF.\n")
            if self.refuses:
                session.send(f"ERROR: {self.refuses}\n".encode())
                return False
            data, size = session.read_to_end(), int(request.get("depssize", 0))
            self.payloads.append(data)
            self.tars.append(data[:size])
            self.lists.append([json.loads(one) for one in data[size:].splitlines()])
        elif self.refuses:
            session.send(f"ERROR: {self.refuses}\n".encode())
            return True
        if self.keeps:
            self.keys.add(request["submissionkey"])
        if self.loses:
            self.loses -= 1
            return False
        session.send({"batch": BATCH, "result": "Batch Submitted", "members": 3})
        return not has_payload

    def wait(self, session, request):
        journal = b"".join(json.dumps(one).encode() + b"\n" for one in MEMBERS)
        rest = journal[request["startpos"] :]
        if self.breaks:
            self.breaks -= 1
            session.send(rest.splitlines(keepends=True)[0])
            return False
        session.send(json.dumps(RUNNING).encode() + b"\n" + rest)
        session.send(self.end)
        return False

    def members(self, session, request):
        session.send(b"".join(json.dumps(one).encode() + b"\n" for one in MEMBERS))
        session.send({"Event": "end"})
        session.send(self.end)
        return False

    def list(self, session, request):
        session.send({BATCH: self.end})
        return True

    def status(self, session, request):
        session.send(self.end)
        return True

    def retry(self, session, request):
        session.send({"batch": BATCH, "retried": 2})
        return True

    def cancel(self, session, request):
        session.send({"cancel pending": BATCH})
        return True

    def release(self, session, request):
        session.send({"released": BATCH})
        return True


@pytest.fixture
def batches(node):
    return Batches(node)


def test_an_array_is_one_request_with_all_that_a_unit_may_be_given(meshctl, batches):
    result = meshctl(
        *("work", "submit", "cat", "--array", "1-3%2", "--node", "least", "--unit-label", "a=b"),
        *("--priority", "3", "-l", "hi", "--max-in-flight", 5, *AFTER, "--", "--frame", "{index}"),
    )
    assert (result.exit_code, result.stdout) == (0, f"Batch ID: {BATCH}\nMembers: 3\n")
    (asked,) = batches.asked
    assert (asked["array"], asked["maxinflight"], asked["stdin"]) == ("1-3%2", "5", "hi\n")
    assert (asked["node"], asked["placement"]) == ("localhost", "least")
    assert json.loads(asked["submissionlabels"]) == {"a": "b"}
    assert asked["jobpriority"] == "3"
    assert asked["submissionafter"] == f"UnitAAAA,{BATCH}:end"
    assert asked["params"] == "--frame '{index}'"


@pytest.mark.parametrize("names_it", [False, True])
def test_each_line_of_a_file_is_the_stdin_of_a_member_or_a_word_of_it(
    meshctl, batches, tmp_path, names_it
):
    (tmp_path / "names").write_text("one\ntwo é\n")
    words = ["--", "{line}"] if names_it else []
    result = meshctl("work", "submit", "cat", "--from-lines", tmp_path / "names", *words)
    assert result.exit_code == 0
    (sent,) = batches.lists
    assert [one["line"] for one in sent] == ["one", "two é"]
    stdin = [one.get("stdin") for one in sent]
    assert stdin == ([None, None] if names_it else ["one\n", "two é\n"])


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"))


@given(
    lines=st.lists(TEXTS.filter(lambda text: not text.startswith("\ufeff")), min_size=1),
    mark=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    ends_last=st.booleans(),
    inner=st.sampled_from(["", "\r", "\u2028", "\x85", "\x0b"]),
)
def test_a_line_ends_where_a_line_feed_stands_and_has_no_mark_of_its_editor(
    lines, mark, end, ends_last, inner
):
    lines = [f"{line}{inner}." for line in lines]
    data = ("\ufeff" if mark else "") + end.join(lines) + (end if ends_last else "")
    found = list(numbered_lines(io.BytesIO(data.encode()), "list"))
    assert found == list(enumerate(lines, 1))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("from-lines", "line 3 is no text in UTF-8"),
        ("submit-batch", "line 3 is no text in UTF-8"),
    ],
)
def test_a_line_that_is_no_text_is_told_by_its_number(meshctl, batches, tmp_path, command, told):
    (tmp_path / "list").write_bytes(b'{"worktype": "cat"}\n\n\xff\n')
    words = {
        "from-lines": ("submit", "cat", "--from-lines", tmp_path / "list"),
        "submit-batch": ("submit-batch", tmp_path / "list"),
    }[command]
    result = meshctl("work", *words)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert told in result.stderr


@pytest.mark.parametrize("command", [("submit", "cat", "--from-lines"), ("submit-batch",)])
def test_a_line_without_end_is_not_kept(meshctl, batches, command):
    result = meshctl("work", *command, "/dev/zero")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "line 1 has more than 1048576 bytes" in result.stderr


def test_a_list_of_an_editor_that_marks_its_files_is_a_list(meshctl, batches, tmp_path):
    (tmp_path / "list").write_bytes(b'\xef\xbb\xbf{"worktype": "cat"}\r\n{"worktype": "sh"}')
    assert meshctl("work", "submit-batch", tmp_path / "list", "--detach").exit_code == 0
    assert batches.lists == [[{"worktype": "cat"}, {"worktype": "sh"}]]


@pytest.mark.parametrize("lists", [True, False])
def test_files_of_all_members_are_sent_once_and_before_the_lines(
    meshctl, node, batches, tmp_path, lists
):
    described = {"Files": True, "Scripts": True}
    asked = '{"command": "work", "subcommand": "describe"'
    node.handlers[asked] = lambda session, _: session.send(described) or True
    for name in ("data", "run.sh"):
        (tmp_path / name).write_text(name)
    (tmp_path / "names").write_text("one\ntwo\n")
    members = ["--from-lines", tmp_path / "names"] if lists else ["--array", "1-3"]
    files = ["--dep", tmp_path / "data", "--script", tmp_path / "run.sh"]
    assert meshctl("work", "submit", "sh", *members, *files).exit_code == 0
    (asked,), (tar,), (sent,) = batches.asked, batches.tars, batches.lists
    assert int(asked["depssize"]) == len(tar)
    assert asked["jobscript"] == "run.sh"
    with tarfile.open(fileobj=io.BytesIO(tar)) as found:
        assert sorted(found.getnames()) == ["data", "run.sh"]
    assert [one["line"] for one in sent] == (["one", "two"] if lists else [])
    assert asked.get("lines") == ("true" if lists else None)


def test_files_go_along_with_a_list_of_submissions_as_well(meshctl, batches, tmp_path):
    (tmp_path / "data").write_text("data")
    (tmp_path / "list").write_text('{"worktype": "cat"}\n')
    given = [tmp_path / "list", "--detach", "--dep", tmp_path / "data", "--after", "UnitAAAA"]
    assert meshctl("work", "submit-batch", *given).exit_code == 0
    (asked,), (tar,), (sent,) = batches.asked, batches.tars, batches.lists
    assert int(asked["depssize"]) == len(tar)
    assert asked["submissionafter"] == "UnitAAAA"
    assert sent == [{"worktype": "cat"}]
    (tmp_path / "list").write_text('{"worktype": "cat"}\n')
    gone = meshctl("work", "submit-batch", tmp_path / "list", "--dep", tmp_path / "nothing")
    assert gone.exit_code != 0
    assert "nothing" in gone.stderr
    assert len(batches.asked) == 1


def test_a_list_of_submissions_is_sent_waited_for_and_logged(meshctl, batches, tmp_path):
    lines = [{"worktype": "cat", "stdin": "x"}, {"worktype": "cat", "node": "any"}]
    path, log = tmp_path / "list.jsonl", tmp_path / "log"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    result = meshctl("work", "submit-batch", path, "--max-in-flight", 7, "--joblog", log)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == f"({BATCH}, Succeeded: 3 succeeded)"
    assert batches.asked[0]["maxinflight"] == "7"
    placed = {"worktype": "cat", "node": "localhost", "placement": "any"}
    assert batches.lists == [[lines[0], placed]]
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    assert [row[0] for row in rows] == ["Index", "2", "1", "3"]
    assert all(len(row) == 8 for row in rows)


WAYS = [("--array", "1-3", "cat"), ("--from-lines", "-", "cat")]


@pytest.mark.parametrize("words", WAYS)
@pytest.mark.parametrize("losses", [1, 2])
def test_a_batch_whose_answer_is_lost_is_asked_for_again_and_made_once(
    meshctl, batches, monkeypatch, words, losses
):
    monkeypatch.setattr(api, "ASK_INTERVAL", 0.0)
    batches.loses = losses
    batches.keeps = losses == 1
    result = meshctl("work", "submit", *words, input=b"a\nb\nc\n")
    asked = [one for one in batches.asked if one["action"] == "submit"]
    assert len({one["submissionkey"] for one in asked}) == 1
    assert "Waiting for the node" in result.stderr
    if losses == 2 and "--from-lines" in words:
        # The node has not kept it, and what came by standard input cannot be read again.
        assert result.exit_code == 102
        assert "nothing was submitted; submit it again" in result.stderr
        assert len(asked) == 2
        return
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [f"Batch ID: {BATCH}", "Members: 3"]
    assert len(asked) == losses + 1


def test_a_node_that_stays_away_leaves_open_whether_there_is_a_batch(
    meshctl, node, batches, monkeypatch
):
    monkeypatch.setattr(api, "NODE_RETURNS", 0.0)
    batches.loses = 1
    result = meshctl("work", "submit", "cat", "--array", "1-3")
    assert result.exit_code == 102
    listed = f"meshctl --socket {node.address} work batch list"
    assert result.stderr.endswith(f"; there may be a batch. See: {listed}\n")


@pytest.mark.parametrize("words", WAYS)
def test_another_node_at_the_same_address_is_not_asked_for_the_batch_of_the_first(
    meshctl, node, batches, monkeypatch, words
):
    monkeypatch.setattr(api, "ASK_INTERVAL", 0.0)
    batches.loses = 1
    submit = batches.submit

    def submit_and_vanish(session, request):
        node.greeting = b"Receptor Control, node bar\n"
        return submit(session, request)

    batches.submit = submit_and_vanish
    result = meshctl("work", "submit", *words, input=b"a\nb\nc\n")
    assert result.exit_code == 102
    assert "node bar answers instead of foo, which may have the batch" in result.stderr
    assert len(batches.asked) == 1


@pytest.mark.parametrize("files", [(), ("--dep", "data")])
def test_a_list_in_a_file_is_announced_so_that_half_of_it_is_no_batch(
    meshctl, batches, tmp_path, monkeypatch, files
):
    monkeypatch.chdir(tmp_path)
    Path("data").write_text("data")
    Path("list").write_text("one\r\ntwo\n")
    assert meshctl("work", "submit", "--from-lines", "list", *files, "cat").exit_code == 0
    (asked,), (payload,) = batches.asked, batches.payloads
    sent = payload[int(asked.get("depssize", 0)) :]
    assert asked["listsha256"] == hashlib.sha256(sent).hexdigest()
    assert len(sent.splitlines()) == 2
    # What can be read once is not announced.
    assert meshctl("work", "submit", "--from-lines", "-", "cat", input=b"one\n").exit_code == 0
    assert "listsha256" not in batches.asked[1]


def test_of_a_list_in_a_pipe_the_lines_are_sent_and_of_a_directory_nothing(
    meshctl, batches, tmp_path
):
    os.mkfifo(tmp_path / "pipe")
    write = partial((tmp_path / "pipe").write_text, "one\ntwo\n")
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    result = meshctl("work", "submit", "--from-lines", tmp_path / "pipe", "cat")
    assert result.exit_code == 0, result.stderr
    writer.join()
    assert [one["line"] for one in batches.lists[0]] == ["one", "two"]
    result = meshctl("work", "submit", "--from-lines", tmp_path, "cat")
    assert result.stderr == f"ERROR: {tmp_path}: Is a directory\n"
    assert len(batches.asked) == 1


def test_of_a_list_with_a_line_that_is_none_no_node_is_asked(meshctl, batches, tmp_path):
    (tmp_path / "list").write_text('{"worktype": "cat"}\nnothing\n')
    result = meshctl("work", "submit-batch", tmp_path / "list")
    assert result.stderr == "ERROR: line 2 is not JSON\n"
    assert not batches.asked


@pytest.mark.parametrize("lines", [0, 2])
def test_a_list_that_cannot_be_read_to_its_end_is_named_and_no_batch(
    meshctl, batches, monkeypatch, lines
):
    read = []

    class Broken:
        def readline(self, size):
            if len(read) == lines:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            read.append(size)
            return b"a\n"

    monkeypatch.setattr(arrays.click, "open_file", lambda *_: nullcontext(Broken()))
    result = meshctl("work", "submit", "--from-lines", "/dev/broken", "cat")
    assert result.stderr == "ERROR: /dev/broken: Input/output error\n"
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert batches.lists == []


def test_a_member_is_told_once_also_if_the_node_was_away(meshctl, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "ASK_INTERVAL", 0.0)
    batches.breaks = 2
    result = meshctl("work", "batch", "wait", BATCH, "--joblog", tmp_path / "log")
    assert result.exit_code == 0
    rows = (tmp_path / "log").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["Index", "2", "1", "3"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
def test_a_job_log_that_cannot_be_written_is_named_and_not_the_output(meshctl, batches):
    result = meshctl("work", "batch", "wait", BATCH, "--joblog", "/dev/full")
    assert result.exit_code == ExitCode.LOCAL_IO
    assert result.stderr == "ERROR: the job log cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("state", "code"),
    [("Succeeded", 0), ("Failed", ExitCode.FAILURE), ("Canceled", ExitCode.UNIT_CANCELED)],
)
@pytest.mark.parametrize("command", [("work", "wait"), ("work", "batch", "wait")])
def test_the_exit_code_says_how_a_batch_has_ended(meshctl, batches, state, code, command):
    batches.end = {**ENDED, "StateName": state}
    assert meshctl(*command, BATCH).exit_code == code


@pytest.mark.parametrize("command", [("work", "results"), ("work", "batch", "results")])
def test_the_results_of_a_batch_are_those_of_its_members_in_order(meshctl, node, batches, command):
    node.add_unit("UnitAAAA", b"first\n")
    node.add_unit("UnitBBBB", b"second\n")
    result = meshctl(*command, BATCH)
    assert result.stdout == "first\nsecond\n"
    assert "member 3: unknown" in result.stderr
    assert result.exit_code == ExitCode.FAILURE


@pytest.mark.parametrize("command", [("work",), ("work", "batch")])
def test_a_batch_is_ended_by_its_id(meshctl, batches, command):
    assert f"({BATCH}, cancel pending)" in meshctl(*command, "cancel", BATCH).stdout
    assert f"({BATCH}, released)" in meshctl(*command, "release", BATCH).stdout
    assert [one["batch"] for one in batches.asked] == [BATCH, BATCH]


def test_what_has_failed_runs_again_before_it_is_waited_for(meshctl, batches):
    result = meshctl("work", "batch", "wait", BATCH, "--retry-failed")
    assert result.exit_code == 0
    assert [one["action"] for one in batches.asked] == ["retry", "wait"]
    assert result.stdout.startswith(f"({BATCH}, 2 run again)\n")


def test_batches_are_listed_and_shown(meshctl, batches):
    assert BATCH in meshctl("work", "batch", "list").stdout
    assert json.loads(meshctl("work", "batch", "list", "--json").stdout) == {BATCH: ENDED}
    assert "Succeeded: 3" in meshctl("work", "batch", "status", BATCH).stdout
    members = meshctl("work", "batch", "members", BATCH, "--json").stdout.splitlines()
    assert [json.loads(one) for one in members] == MEMBERS


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "cat", "--array", "1-2", "--from-lines", "x"),
        ("submit", "cat", "--array", "1-2", "--follow"),
        ("submit", "cat", "-n", "--max-in-flight", "3"),
        ("submit", "cat", "-n", "--joblog", "x"),
        ("submit", "cat", "--from-lines", "/no/such"),
        ("submit-batch", "/no/such"),
        ("submit", "cat", "--array", "1-2", "--joblog", "/no/such/log"),
        ("submit-batch", "/dev/null", "--joblog", "/no/such/log"),
        ("batch", "list", BATCH),
        ("batch", "wait"),
        ("batch", "cancel", BATCH, "--retry-failed"),
        ("wait", BATCH, "UnitAAAA"),
        ("results", BATCH, "--tail", "3"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage_and_asks_for_nothing(meshctl, batches, words):
    result = meshctl("work", *words)
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert result.stderr.startswith("ERROR: ")
    assert batches.asked == []


@pytest.mark.parametrize("is_list", [False, True])
def test_a_refusal_of_a_batch_is_told_in_the_words_of_the_node(meshctl, batches, tmp_path, is_list):
    batches.refuses = "line 1: it is no object in JSON"
    (tmp_path / "list").write_text('{"worktype": "x"}\n' * 5000)
    words = ("submit-batch", tmp_path / "list") if is_list else ("submit", "x", "--array", "1-2")
    result = meshctl("work", *words)
    assert result.exit_code == ExitCode.SUBMIT_FAILED
    assert "line 1: it is no object in JSON" in result.stderr


def test_a_node_without_batches_is_named_as_such(meshctl, batches):
    batches.refuses = "bad command"
    assert "knows no batches" in meshctl("work", "submit", "x", "--array", "1-2").stderr


def test_no_member_can_forge_a_line_of_a_log():
    line = member_line({"Index": 1, "StateName": "Failed", "Detail": "a\tb\nc\x1b[2J"})
    assert line.count("\t") == 7
    assert line.isprintable() or set(line) - {"\t"} == {c for c in line if c.isprintable()}


def test_the_progress_on_a_terminal_is_one_line_that_is_cleared_at_the_end():
    class Terminal:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    terminal, times = Terminal(), iter(range(100))
    with BatchProgress(terminal, lambda: next(times)) as progress:
        progress.update(RUNNING)
        assert "0 of 3: 2 in flight, 1 waiting" in terminal.text
        progress.update(ENDED)
    assert "[########################]  3 of 3: 3 succeeded" in terminal.text
    assert "\n" not in terminal.text
    assert terminal.text.endswith(" \r")


def test_a_summary_names_what_there_is():
    assert summary({"Succeeded": 1, "Failed": 2, "Waiting": 0}) == "1 succeeded, 2 failed"
    canceled = {"Canceled": 2, "Detail": "unit Ab12Cd34 failed"}
    assert summary(canceled) == "2 canceled; unit Ab12Cd34 failed"
