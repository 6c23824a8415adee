"""Files that a client sends along with a job: they are there when it starts, or it does not."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import CommandError, WorkError
from meshnode.protocol.control import CLAIM_KEY, DEPS_SHA256_KEY, DEPS_SIZE_KEY, SCRIPT_KEY
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.files.jobfiles import JobFiles
from meshnode.work.local.isolation import IsolationPlan
from meshnode.work.local.worktypes import CommandType
from meshnode.work.units.queue import QueueBounds
from meshnode.work.units.quotas import QuotaBounds

BIG = os.urandom(3 * 1024 * 1024 + 17)
FILES = {"a": b"1", "dir/big": BIG, "dir/empty": b""}
STDIN = b"typed\n"


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.TarFile(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


TAR = tar_of(FILES)


def announced(tar: bytes = TAR, digest: bool = False) -> dict[str, str]:
    fields = {DEPS_SIZE_KEY: str(len(tar))}
    return fields | ({DEPS_SHA256_KEY: hashlib.sha256(tar).hexdigest()} if digest else {})


def found_in(directory: str | None) -> dict[str, bytes]:
    """Return the files below a directory."""
    assert directory is not None
    root = Path(directory)
    return {
        os.fspath(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


EXPECTED = {f"DEPS/{name}": data for name, data in FILES.items()}


@pytest.fixture
def seen(foo, bar, monkeypatch):
    """What commands find where they start, of each node."""
    seen: dict[str, list[dict[str, bytes]]] = {"foo": [], "bar": []}
    for node in (foo, bar):

        def start_now(request, start=node.launcher.start_now, seen=seen[node.node_id]):
            seen.append(found_in(request.cwd))
            return start(request)

        monkeypatch.setattr(node.launcher, "start_now", start_now)
    return seen


async def refusal(node, payload: bytes, to: str = "foo", worktype: str = "cat", **fields) -> str:
    request = {"command": "work", "subcommand": "submit", "node": to, "worktype": worktype}
    lines = await node.talk(request | fields, payload)
    assert lines[-1].startswith("ERROR: "), lines
    return lines[-1].removeprefix("ERROR: ")


# --- Here ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stdin", [b"", STDIN, BIG])
@pytest.mark.parametrize("digest", [False, True])
async def test_files_lie_below_the_directory_of_the_command_and_stdin_is_what_follows(
    foo, seen, stdin, digest, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", TAR + stdin, **announced(digest=digest))
        assert seen["foo"] == [EXPECTED]
        assert foo.stdout(unit_id) == stdin
        final = await foo.wait_final(unit_id)
        assert (final.stdin_size, final.deps_size) == (len(stdin), len(TAR))
        left = {path.name for path in foo.store.directory(unit_id).iterdir()}
        assert left == {"status", "stdin", "stdout", "work"}
        shown = json.loads((await foo.talk(f"work status {unit_id}"))[-1])
        assert shown["DepsSize"] == len(TAR)
        assert shown["SubmittedParams"] == f"dependencies={len(TAR)}"
        await foo.talk(f"work release {unit_id}")
        assert foo.left() == []


@pytest.mark.parametrize(
    ("payload", "fields", "why"),
    [
        (TAR[:-1], announced(), f"{len(TAR) - 1} of the {len(TAR)} bytes that were announced"),
        (b"", announced(), f"0 of the {len(TAR)} bytes that were announced"),
        (
            TAR[:-1] + b"x",
            announced(digest=True),
            "its SHA-256 is not the one that was announced",
        ),
    ],
)
async def test_what_is_not_the_tar_that_was_announced_starts_nothing_and_takes_no_room(
    foo, seen, payload, fields, why, autojump_clock
):
    async with foo.running():
        told = await refusal(foo, payload, **fields)
        assert told == f"Error reading input data: the tar of dependencies: {why}"
        (unit,) = foo.units.all()
        assert unit.status.state is UnitState.FAILED
        assert seen["foo"] == []
        assert not foo.store.deps_path(unit.unit_id).exists()


async def test_a_tar_that_may_not_be_unpacked_fails_the_unit_with_the_reason(
    foo, seen, autojump_clock
):
    hostile = tar_of({"../../stdout": b"x"})
    async with foo.running():
        told = await refusal(foo, hostile, **announced(hostile))
        what = "the name '../../stdout' is not one inside its directory"
        why = f"cannot unpack its dependencies: {what}"
        assert told == why
        (unit,) = foo.units.all()
        assert unit.status.detail == f"Error starting worker: {why}"
        left = {path.name for path in foo.store.directory(unit.unit_id).iterdir()}
        assert left == {"status", "stdin", "stdout"}
        assert seen["foo"] == []


async def test_a_unit_that_waits_for_its_turn_has_its_files_after_a_restart(
    foo, seen, autojump_clock
):
    foo.queue_bounds = QueueBounds(running=1)
    async with foo.running():
        first = await foo.submit("foo", "wait", TAR, **announced())
        second = await foo.submit("foo", "cat", TAR + STDIN, **announced())
        assert len(seen["foo"]) == 1
    async with foo.running():
        foo.launcher.supervisors[first].finish()
        await foo.wait_final(second)
        assert seen["foo"] == [EXPECTED, EXPECTED]
        assert foo.stdout(second) == STDIN


async def test_files_count_as_payload_of_their_submitter_once(foo, autojump_clock):
    async with foo.running():
        foo.units.quotas.bounds = QuotaBounds(payload=2 * len(TAR) + 10)
        first = await foo.submit("foo", "cat", TAR + b"12345", **announced())
        await foo.wait_final(first)
        told = await refusal(foo, TAR + b"123456", **announced(), stdinsize="6")
        assert "bytes of payload (submitter-maxpayload)" in told
        assert await foo.submit("foo", "cat", TAR + b"12345", **announced())


AS_ANOTHER = CommandType("cat", isolation=IsolationPlan({"uid": 1}, {}))
ISOLATED = CommandType("cat", cwd="/", isolation=IsolationPlan({"mounts": True}, {}, cwd="/"))


async def test_an_isolated_type_takes_files_and_starts_where_they_are(foo, seen, autojump_clock):
    foo.work_types = {"cat": ISOLATED}
    async with foo.running():
        await foo.submit("foo", "cat", TAR, **announced())
        assert seen["foo"] == [EXPECTED]


@pytest.mark.parametrize(
    ("kind", "fields", "why"),
    [
        (CommandType("cat", cwd="/srv"), {}, "it takes no files, since it runs in a directory of"),
        (AS_ANOTHER, {}, "it takes no files, since it runs as another than the node"),
        (CommandType("cat"), {DEPS_SIZE_KEY: "1k"}, "field depssize value 1k is not a number of"),
        (CommandType("cat"), {DEPS_SHA256_KEY: "1"}, "field depssha256 must be 64 hexadecimal"),
    ],
)
async def test_what_cannot_have_files_is_refused_and_nothing_is_made(
    foo, kind, fields, why, autojump_clock
):
    foo.work_types = {"cat": kind}
    async with foo.running():
        told = await refusal(foo, b"", **(announced() | fields))
        assert why in told
        assert foo.left() == []


# --- Scripts --------------------------------------------------------------------------------------

SHELL = CommandType("cat", ("-e",), allow_scripts=True)


@pytest.mark.parametrize("where", ["foo", "bar"])
async def test_a_script_is_the_word_after_the_types_own_and_has_the_clients_words(
    foo, bar, seen, where, autojump_clock
):
    foo.work_types = bar.work_types = {"cat": SHELL}
    node = {"foo": foo, "bar": bar}[where]
    async with foo.running(), bar.running():
        given_words = {"params": "one 'two three'", SCRIPT_KEY: "a"}
        await foo.submit(where, "cat", TAR + STDIN, **announced(), **given_words)
        assert node.launcher.started == [("cat", "-e", "DEPS/a", "one", "two three")]
        assert seen[where] == [EXPECTED]


@pytest.mark.parametrize(
    ("kind", "fields", "why"),
    [
        (CommandType("cat"), {}, "work type cat: it runs no scripts of clients (allowscripts)"),
        (SHELL, {SCRIPT_KEY: "../a"}, "field jobscript must be the name of a file in depssize"),
        (SHELL, {DEPS_SIZE_KEY: "0"}, "field jobscript must be the name of a file in depssize"),
    ],
)
async def test_a_script_where_none_may_be_is_refused_and_nothing_is_made(
    foo, kind, fields, why, autojump_clock
):
    foo.work_types = {"cat": kind}
    async with foo.running():
        given_fields = announced() | {SCRIPT_KEY: "a"} | fields
        assert await refusal(foo, b"", **given_fields) == why
        assert foo.left() == []


async def test_a_script_that_is_not_in_the_tar_starts_nothing_and_the_refusal_says_so(
    foo, seen, autojump_clock
):
    foo.work_types = {"cat": SHELL}
    async with foo.running():
        told = await refusal(foo, TAR, **announced(), **{SCRIPT_KEY: "big"})
        assert told == "cannot unpack its dependencies: the script 'big' is none of the files"
        assert seen["foo"] == []
        assert foo.launcher.started == []


async def test_words_are_the_clients_only_with_a_script(foo, autojump_clock):
    foo.work_types = {"cat": SHELL}
    async with foo.running():
        told = await refusal(foo, b"", params="x", **announced())
        assert told == "extra params provided but not allowed"


# --- On another node -----------------------------------------------------------------------------


async def test_files_reach_the_node_that_runs_the_work_with_their_digest(
    foo, bar, seen, autojump_clock
):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat", TAR + STDIN, **announced())
        assert seen == {"foo": [], "bar": [EXPECTED]}
        await foo.wait_final(unit_id)
        assert foo.stdout(unit_id) == STDIN


async def test_files_wait_for_a_node_that_is_away_also_through_a_restart(
    foo, bar, seen, autojump_clock
):
    async with foo.running():
        unit_id = await foo.submit("bar", "wait", TAR + STDIN, **announced())
        assert foo.status(unit_id).job.files == JobFiles.parse(announced(digest=True))
    async with foo.running(), bar.running():
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        assert seen == {"foo": [], "bar": [EXPECTED]}
        (there,) = bar.units.all()
        assert there.status.job.files == JobFiles.parse(announced(digest=True))


@pytest.mark.parametrize("where", ["foo", "bar"])
async def test_files_go_to_whichever_node_is_chosen(foo, bar, seen, where, autojump_clock):
    foo.mesh.shows_types = True
    {"foo": bar, "bar": foo}[where].work_types = {}
    async with foo.running(), bar.running():
        unit_id = await foo.submit("foo", "cat", TAR + STDIN, placement="least", **announced())
        final = await foo.wait_final(unit_id)
        assert (final.state, final.remote.node) == (UnitState.SUCCEEDED, where)
        assert seen[where] == [EXPECTED]
        assert foo.stdout(unit_id) == STDIN


SMALL = tar_of({"a": b"1", "dir/b": b"2"})

STEPS = 40
"""More than one submission with files has sends and receives, on either end."""


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("event", ["link is cut", "foo is killed", "bar is killed"])
async def test_whatever_fails_at_whatever_moment_work_with_files_runs_once_and_has_them(
    foo, bar, seen, event, step, autojump_clock
):
    def happens(count: int) -> None:
        if count == step:
            {"link is cut": foo.mesh.cut, "foo is killed": foo.kill, "bar is killed": bar.kill}[
                event
            ]()

    foo.mesh.before_operation = happens
    async with foo.running(), bar.running():
        client = foo.connect()
        request = {"command": "work", "subcommand": "submit", "node": "bar", "worktype": "cat"}
        await client.send_all(json.dumps(request | announced(SMALL)).encode() + b"\n")
        await client.send_all(SMALL + STDIN)
        await client.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        (unit,) = foo.units.all()
    foo.mesh.before_operation = lambda count: None
    foo.mesh.heal()
    async with foo.running(), bar.running():
        final = await foo.wait_final(unit.unit_id)
        assert final.state is UnitState.SUCCEEDED, final.detail
        assert foo.stdout(unit.unit_id) == STDIN
    assert seen == {"foo": [], "bar": [{"DEPS/a": b"1", "DEPS/dir/b": b"2"}]}


async def test_files_spoiled_on_this_nodes_disk_start_nothing_there(foo, bar, seen, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("bar", "cat", TAR, **announced())
        path = foo.store.deps_path(unit_id)
        path.write_bytes(bytes(len(TAR)))
    async with foo.running(), bar.running():
        final = await foo.wait_final(unit_id)
        assert final.state is UnitState.FAILED
        assert "its SHA-256 is not the one that was announced" in final.detail
        assert seen["bar"] == []


@pytest.mark.parametrize("kind", ["receptor", "older"])
async def test_a_node_that_knows_nothing_of_files_is_not_sent_the_work(
    foo, bar, kind, autojump_clock
):
    bar.is_receptor = kind == "receptor"
    foo.mesh.taken_keys = frozenset({CLAIM_KEY})
    async with foo.running(), bar.running():
        told = await refusal(foo, TAR, "bar", **announced())
        assert told == (
            "node bar is of a version that takes no dependencies from clients: it is receptor's, "
            "or an older meshnode"
        )
        assert bar.units.all() == ()


# --- What is sent and kept -----------------------------------------------------------------------

DIGESTS = st.sampled_from(["", "0" * 64, "f" * 64])


@given(st.integers(1, 10**18 - 1), DIGESTS, st.sampled_from(["", "a", "run me", "..."]))
def test_what_is_sent_and_what_is_kept_is_what_was_given(size, sha256, script):
    files = JobFiles(size, sha256, script)
    assert JobFiles.parse(files.fields()) == files
    assert JobFiles.from_disk(json.loads(json.dumps(files.to_disk()))) == files


@given(st.text() | st.integers().map(str), st.text() | DIGESTS, st.text(max_size=3))
def test_any_texts_are_files_or_one_line_why_not(size, sha256, script):
    fields = {DEPS_SIZE_KEY: size, DEPS_SHA256_KEY: sha256, SCRIPT_KEY: script}
    try:
        files = JobFiles.parse(fields)
    except CommandError:
        return
    assert (files.size, files.script) == (int(size or 0), script)
    assert "/" not in files.script
    assert files.script not in {".", ".."}
    assert len(os.fsencode(files.script)) <= 255


@given(st.text(min_size=1).filter(lambda text: text.isprintable() and "/" not in text))
def test_the_name_of_a_script_is_bounded_as_names_of_files_are_in_bytes(part):
    longest = part * (255 // len(part.encode()))
    for name in (longest, longest + part):
        fields = {DEPS_SIZE_KEY: "1", SCRIPT_KEY: name}
        if len(name.encode()) <= 255 and name not in {"", ".", ".."}:
            assert JobFiles.parse(fields).script == name
        elif name:
            with pytest.raises(CommandError, match="must be the name of a file"):
                JobFiles.parse(fields)


@given(
    st.dictionaries(
        st.sampled_from(["Size", "Sha256", "Script"]), st.none() | st.integers() | st.text()
    )
)
def test_any_record_is_files_or_an_error(data):
    try:
        files = JobFiles.from_disk(data)
    except WorkError:
        return
    assert files.size >= 0
