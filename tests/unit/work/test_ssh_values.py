"""The values of work on hosts: what ssh is asked, what its texts mean, what records hold."""

import shlex
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import CommandError, WorkError
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.files.jobfiles import JobFiles
from meshnode.work.ssh.answers import MarkedPart, far_end, far_state
from meshnode.work.ssh.failures import Phase, why_refused, why_ssh_ended
from meshnode.work.ssh.hosts import Host
from meshnode.work.ssh.record import Brought, FarEnd, SshRecord
from meshnode.work.ssh.worktype import MAX_COMMAND, SshType
from meshnode.work.units.jobsettings import JobSettings
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.submission import Submission

TEXT = st.text(max_size=20)
HOSTS = st.builds(
    Host,
    name=st.text(min_size=1, max_size=20),
    address=st.text(min_size=1, max_size=20),
    port=st.none() | st.integers(1, 65535),
    user=TEXT,
    key=TEXT,
    options=st.lists(TEXT, max_size=3).map(tuple),
    directory=st.text(min_size=1, max_size=20),
    sshconfig=TEXT,
    ssh=st.text(min_size=1, max_size=20),
    sessions=st.integers(1, 10_000),
)
ENDS = st.builds(
    FarEnd, code=st.none() | st.integers(0, 255), why=TEXT, size=st.integers(0, 2**63 - 1)
)
RECORDS = st.builds(
    SshRecord,
    key=st.text(min_size=1, max_size=20),
    choice=st.text(min_size=1, max_size=20),
    host=st.none() | HOSTS,
    timeout=st.floats(0, 1e9),
    is_canceled=st.booleans(),
    end=st.none() | ENDS,
    brought=st.none()
    | st.builds(
        Brought,
        words=TEXT,
        size=st.integers(0, 2**63 - 1),
        instead=st.none() | st.sampled_from(UnitState),
    ),
    is_left=st.booleans(),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["key", "choice", "host", "boot", "timeout", "canceled", "end", "brought", "left"]
)


def status(data) -> UnitStatus:
    return UnitStatus(UnitState.PENDING, "", "far", runner="ssh", runner_data=data)


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record):
    assert SshRecord.of(status(record.to_json())) == record


@given(st.dictionaries(KEYS, JSON))
def test_any_record_is_one_or_an_error_that_says_so(data):
    told = ""
    try:
        SshRecord.of(status(data))
    except WorkError as error:
        told = str(error)
    assert not told or told.startswith("the record of its host cannot be read: ")


@given(HOSTS, st.text(), st.lists(TEXT).map(tuple))
def test_the_host_gets_the_script_and_its_arguments_whatever_they_are(host, script, arguments):
    *words, command = host.command_line(script, arguments)
    # The address cannot be taken for an option.
    assert words[-2:] == ["--", host.address]
    assert shlex.split(command) == ["exec", "sh", "-c", script, "meshnode", *arguments]


def test_what_must_be_stands_before_what_the_operator_says_and_what_is_usual_behind_it():
    words = Host("a", "a", options=("ServerAliveInterval=1",)).command_line("", ())
    options = [words[at + 1] for at, word in enumerate(words) if word == "-o"]
    assert options.index("BatchMode=yes") < options.index("ServerAliveInterval=1")
    assert options.index("ServerAliveInterval=1") < options.index("ServerAliveInterval=15")


WORDS = st.lists(st.text(max_size=10) | st.integers().map(str), min_size=1, max_size=6)


@given(WORDS)
def test_whatever_a_host_says_of_a_unit_is_a_state_that_can_be_shown(words):
    state = far_state(words)
    assert state.pid == "" or 0 <= int(state.pid) < 2**31
    assert state.boot.isprintable()
    assert len(state.boot) <= 64


@given(WORDS)
def test_whatever_a_host_says_of_an_end_is_one_that_can_be_recorded(words):
    end = far_end(words)
    assert end.code is None or 0 <= end.code <= 255
    assert end.why in {"", "cancel", "timeout"}
    record = SshRecord(key="k", end=end)
    assert SshRecord.of(status(record.to_json())) == record


def test_an_end_is_read_as_a_host_writes_it():
    assert far_end(["end", "3", "*", "70"]) == FarEnd(3, "", 70)
    assert far_end(["end", "*", "cancel", "0"]) == FarEnd(None, "cancel", 0)
    assert far_end(["end", "9" * 5000, "\x1b[2J", "9" * 5000]) == FarEnd(None, "", 0)


@given(st.binary(max_size=300), st.integers(0, 255), st.lists(st.integers(1, 400)))
def test_the_end_of_a_part_is_found_in_whatever_pieces_it_comes(content, status, cuts):
    part = MarkedPart("0123456789abcdef")
    stream = content + b"\n0123456789abcdef %d\n" % status
    ends = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    found = b"".join(part.feed(stream[begin:end]) for begin, end in pairwise(ends))
    assert (found, part.status) == (content, status)


@given(st.binary(max_size=30).filter(lambda tail: not tail[:4].rstrip(b"\n").isdigit()))
def test_a_part_whose_status_is_none_has_not_come_well(tail):
    part = MarkedPart("mark")
    assert part.feed(b"x\nmark " + tail + b"\n\n\n\n\n") == b"x"
    assert part.status == 255


CHANGED = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
Add correct host key in /home/ann/.ssh/known_hosts to get rid of this message.
Offending ED25519 key in /home/ann/.ssh/known_hosts:3
Host key for [10.0.0.7]:2222 has changed and you have requested strict checking.
Host key verification failed."""


@pytest.mark.parametrize(
    ("said", "told", "is_lasting"),
    [
        (CHANGED, "-f /home/ann/.ssh/known_hosts -R '[10.0.0.7]:2222'", True),
        (
            "No ED25519 host key is known for bert and you have requested strict checking.\n"
            "Host key verification failed.",
            "its host key is not known here",
            True,
        ),
        (
            "ann@10.0.0.7: Permission denied (publickey,password).",
            "ann@10.0.0.7 may not log in (publickey,password)",
            True,
        ),
        (
            "ssh: Could not resolve hostname bert: Name or service not known",
            "there is no host bert",
            True,
        ),
        (
            "ssh: Could not resolve hostname bert: Temporary failure in name resolution",
            "Temporary failure in name resolution",
            False,
        ),
        ("ssh: connect to host bert port 22: Connection refused", "Connection refused", False),
        ("ssh: connect to host bert port 22: No route to host", "No route to host", False),
        ("kex_exchange_identification: Connection closed by remote host", "closed", False),
        ("command-line: line 0: Bad configuration option: foo", "mend OpenSSH's", True),
        ("something new", "something new", False),
        ("", "ssh ended without a word", False),
    ],
)
def test_what_ssh_says_is_told_with_the_remedy(said, told, is_lasting):
    host = Host("bert", "10.0.0.7", 2222)
    failure = why_ssh_ended(host, Phase.CONNECT, said.splitlines(), 255)
    assert str(failure).startswith("host bert: connect: ")
    assert told in str(failure)
    assert failure.is_lasting is is_lasting


@given(st.lists(st.text(max_size=50), max_size=5), st.integers(0, 255), st.sampled_from(Phase))
def test_whatever_was_said_becomes_one_line(said, code, phase):
    host = Host("bert", "10.0.0.7")
    for failure in (why_ssh_ended(host, phase, said, code), why_refused(host, phase, said)):
        assert str(failure).isprintable()


def test_a_full_disk_is_named_with_the_directory():
    said = ["head: error writing 'standard output': No space left on device", "more"]
    failure = why_refused(Host("bert", "b", directory="/scratch"), Phase.COPY, said)
    assert str(failure) == (
        "host bert: copy: the disk there is full (/scratch): make room, or name another directory"
    )


def submission(**params) -> Submission:
    return Submission(node="foo", work_type="far", params=params)


KIND = SshType("far", (Host("anna", "a"), Host("bert", "b")), command="nice", params=("-n", "5"))


def test_a_submission_may_name_a_host_or_a_way_to_choose_one():
    for choice in ("anna", "least", "random"):
        plan = KIND.plan(submission(host=choice))
        assert plan.params == ("nice", "-n", "5")
        assert SshRecord.of(status(plan.runner_data)).choice == choice
    with pytest.raises(CommandError, match="has no host carl; it has anna, bert, or random or"):
        KIND.plan(submission(host="carl"))


def test_files_are_all_that_a_client_may_give_a_job_beside_params():
    files = JobSettings(files=JobFiles(1024))
    assert KIND.plan(replace(submission(), job=files)).params == ("nice", "-n", "5")
    for job in (
        JobSettings(arguments={"a": "b"}),
        JobSettings(env={"A": "b"}),
        JobSettings(cwd="/srv"),
        JobSettings(limits={"cpu": "1"}),
    ):
        with pytest.raises(CommandError, match="takes files, but no arguments, variables"):
            KIND.plan(replace(submission(), job=job))
    back = JobSettings(files=JobFiles(output=("*",)))
    assert KIND.plan(replace(submission(), job=back)).outputs == ("files",)
    elsewhere = replace(KIND, cwd="/srv")
    for key in ("Files", "Output"):
        assert (KIND.described("far")[key], elsewhere.described("far")[key]) == (True, False)
    with pytest.raises(CommandError, match="far takes no files, since it runs in a directory"):
        elsewhere.plan(replace(submission(), job=files))
    with pytest.raises(CommandError, match=r"far brings back no files \(output\), since"):
        elsewhere.plan(replace(submission(), job=back))


def test_a_client_s_script_runs_behind_the_operator_s_words_where_that_is_allowed():
    asked = replace(submission(params="a 'b c'"), job=JobSettings(files=JobFiles(1024, "", "job")))
    with pytest.raises(CommandError, match="far runs no scripts of clients"):
        KIND.plan(asked)
    kind = replace(KIND, allow_scripts=True)
    assert kind.plan(asked).params == ("nice", "-n", "5", "DEPS/job", "a", "b c")
    assert (KIND.described("far")["Scripts"], kind.described("far")["Scripts"]) == (False, True)
    with pytest.raises(CommandError, match="extra params provided but not allowed"):
        kind.plan(submission(params="a"))


def test_no_two_units_have_the_same_key():
    keys = {KIND.plan(submission()).runner_data["key"] for _ in range(100)}
    assert len(keys) == 100


def test_params_are_refused_where_they_are_not_allowed():
    with pytest.raises(CommandError, match="extra params provided but not allowed"):
        KIND.plan(submission(params="x"))


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ("'x", "cannot split the params into words"),
        ("a\0b", "must not contain a NUL"),
        ("x" * MAX_COMMAND, "send it as the payload"),
    ],
)
def test_params_that_no_command_can_be_given_are_refused(params, told):
    kind = SshType("far", KIND.hosts, command="nice", allow_runtime_params=True)
    with pytest.raises(CommandError, match=told):
        kind.plan(submission(params=params))
