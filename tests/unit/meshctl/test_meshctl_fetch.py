"""``work fetch``: what a unit brings back is put where it was to go, whole, or nothing is."""

import io
import json
import os
import stat
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_node import CANCELED, FAILED, SUCCEEDED

from meshctl import CommandRefused, ControlClient, JobSettings, NotFetched, SessionLost
from meshctl.api import fetching
from meshctl.api.fetching import fetch_ended
from meshctl.render.output import ExitCode

DESCRIBE = '{"command": "work", "subcommand": "describe"'
RESULTS = '{"command": "work", "subcommand": "results"'

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None

BIG = os.urandom(300_000)
BATCH = "b-12345678"
FILES = {"a": b"1", "out/big": BIG, "out/sub/c": b"3"}


def tar_of(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.TarFile(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in more:
            tar.addfile(info)
    return out.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def found_in(place: Path) -> dict[str, bytes | str]:
    return {
        os.fspath(path.relative_to(place)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(fetching, "ASK_INTERVAL", 0.001)


@pytest.fixture
def unit(node):
    """A unit that has ended and has files."""
    unit = node.add_unit("one", b"printed")
    unit.more["FilesSize"] = tar_of(FILES)
    return unit


@pytest.mark.parametrize(
    ("status", "code"), [(SUCCEEDED, 0), (FAILED, 1), (CANCELED, ExitCode.UNIT_CANCELED)]
)
def test_files_lie_in_the_directory_and_the_code_is_that_of_the_end(
    meshctl, unit, tmp_path, status, code
):
    unit.status = dict(status)
    place = tmp_path / "new" / "place"
    result = meshctl("work", "fetch", "one", "-o", str(place))
    assert found_in(place) == FILES
    assert sorted(os.listdir(place)) == ["a", "out"]
    assert result.stdout == f"3 files in {place}\n"
    assert result.exit_code == code


def test_without_a_directory_they_lie_here_and_their_names_are_told_as_json(
    meshctl, unit, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = meshctl("work", "fetch", "one", "--json")
    assert json.loads(result.stdout) == {
        "unitid": "one",
        "directory": ".",
        "files": ["a", "out/big", "out/sub/c"],
    }
    assert found_in(tmp_path / "here") == FILES


@pytest.mark.parametrize("how", [("--tar",), ("-o", "-")])
def test_a_tar_goes_to_stdout_byte_for_byte(meshctl, unit, how):
    result = meshctl("work", "fetch", "one", *how)
    assert result.stdout_bytes == unit.more["FilesSize"]
    assert result.exit_code == 0


def test_the_end_of_a_unit_is_waited_for_unless_nobody_wants_that(meshctl, node, tmp_path):
    unit = node.add_unit("one", ended=False)
    unit.more["FilesSize"] = b""
    result = meshctl("work", "fetch", "one", "--no-wait", "-o", str(tmp_path))
    assert "unit one is Running: its files come with its end" in result.stderr
    assert result.exit_code == ExitCode.WAIT_TIMED_OUT

    def watch(session, line):
        unit.more["FilesSize"] = tar_of(FILES)
        node.change("one", SUCCEEDED)
        session.send(unit.to_json())
        return False

    node.handlers["work watch"] = watch
    assert meshctl("work", "fetch", "one", "-o", str(tmp_path / "x")).exit_code == 0
    assert found_in(tmp_path / "x") == FILES


@pytest.mark.parametrize("cut", [0, 1, 511, 5000, 300_000])
def test_a_session_that_breaks_is_gone_on_with_from_the_next_byte(node, unit, tmp_path, cut):
    asked = []
    whole = unit.more["FilesSize"]

    def results(session, line):
        start = int(json.loads(line)["startpos"])
        asked.append(start)
        session.send(b"Streaming results for work unit one\n")
        session.send(whole[start : cut if len(asked) == 1 else None])
        return False

    node.handlers[RESULTS] = results
    told, shown = [], []
    with ControlClient(node.address) as client:
        names = client.fetch(
            "one",
            tmp_path / "x",
            on_received=lambda done, total: shown.append((done, total)),
            on_away=told.append,
        )
    assert names == ("a", "out/big", "out/sub/c")
    assert found_in(tmp_path / "x") == FILES
    assert asked == [0, cut]
    assert shown[-1] == (len(whole), len(whole))
    assert told == [f"the node sends no more than {cut} bytes"] or told


def test_a_node_that_has_lost_the_rest_is_not_asked_for_ever(node, unit, tmp_path):
    whole = unit.more["FilesSize"]
    unit.status = dict(SUCCEEDED) | {"FilesSize": len(whole) + 512}
    with ControlClient(node.address) as client, pytest.raises(SessionLost, match="no more than"):
        client.fetch("one", tmp_path / "x")
    assert os.listdir(tmp_path / "x") == [".fetching-one"]


def test_a_unit_that_brings_nothing_back_says_so(meshctl, node, tmp_path):
    node.add_unit("one", b"printed")
    result = meshctl("work", "fetch", "one", "-o", str(tmp_path / "x"))
    told = "unit one has no files: it was submitted without --output, or never started"
    assert result.stderr == f"ERROR: {told}\n"
    assert result.exit_code == ExitCode.FAILURE
    assert not (tmp_path / "x").exists()
    with ControlClient(node.address) as client, pytest.raises(CommandRefused):
        client.fetch("two", tmp_path / "x")


def test_nothing_at_all_is_no_failure(node, tmp_path):
    node.add_unit("one").more["FilesSize"] = b""
    with ControlClient(node.address) as client:
        assert client.fetch("one", tmp_path / "x") == ()
    assert os.listdir(tmp_path / "x") == []


# --- What is there -------------------------------------------------------------------------------


def test_files_that_are_there_are_kept_and_nothing_is_written_unless_that_is_asked_for(
    meshctl, unit, tmp_path
):
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "mine").write_bytes(b"mine")
    (tmp_path / "out" / "sub" / "c").write_bytes(b"mine")
    before = found_in(tmp_path)
    result = meshctl("work", "fetch", "one", "-o", str(tmp_path))
    assert f"{tmp_path}/out/sub/c is there; nothing was written (see --force)" in result.stderr
    assert result.exit_code == ExitCode.FAILURE
    assert found_in(tmp_path) == before
    assert meshctl("work", "fetch", "one", "-o", str(tmp_path), "--force").exit_code == 0
    assert found_in(tmp_path) == FILES | {"out/mine": b"mine"} | {
        name: data for name, data in before.items() if name.endswith(".sock")
    }


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", ["link", "file", "directory"])
def test_what_is_of_another_kind_is_never_replaced_nor_followed(node, unit, tmp_path, what, force):
    outside, place = tmp_path / "outside", tmp_path / "place"
    outside.mkdir()
    place.mkdir()
    match what:
        case "link":
            (place / "out").symlink_to(outside)
        case "file":
            (place / "out").write_bytes(b"mine")
        case _:
            (place / "a").mkdir()
    with ControlClient(node.address) as client, pytest.raises(NotFetched, match="is there, and is"):
        client.fetch("one", place, force=force)
    assert os.listdir(outside) == []
    assert len(os.listdir(place)) == 1


def test_with_force_a_link_is_replaced_and_not_written_through(node, unit, tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "a").symlink_to(tmp_path / "precious")
    with ControlClient(node.address) as client:
        client.fetch("one", tmp_path / "place", force=True)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert found_in(tmp_path / "place") == FILES


# --- Nodes that are not to be trusted ------------------------------------------------------------


@pytest.mark.parametrize(
    "tar",
    [
        tar_of({"../a": b"x"}),
        tar_of({"/a": b"x"}),
        tar_of({}, link("a", "/etc"), link("b", "../x")),
        tar_of({"a/x": b""}, link("a", "b")),
        tar_of({}, link("a", "b")) + tar_of({"a/x": b""}),
        b"no tar at all" * 100,
        tar_of(FILES)[:9000],
    ],
)
def test_a_tar_that_leads_out_or_is_damaged_leaves_nothing(meshctl, node, tmp_path, tar):
    node.add_unit("one").more["FilesSize"] = tar
    result = meshctl("work", "fetch", "one", "-o", str(tmp_path / "x"))
    assert "the node's tar is not unpacked: " in result.stderr
    assert result.exit_code == ExitCode.FAILURE
    assert os.listdir(tmp_path / "x") == []


def test_no_program_is_setuid_and_the_umask_counts(node, tmp_path):
    info = tarfile.TarInfo("a")
    info.mode = 0o6777
    node.add_unit("one").more["FilesSize"] = tar_of({}, info)
    before = os.umask(0o027)
    try:
        with ControlClient(node.address) as client:
            client.fetch("one", tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750


def test_a_place_that_is_a_file_is_left_alone_and_called_so(meshctl, unit, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = meshctl("work", "fetch", "one", "-o", str(tmp_path / "file"))
    assert result.stderr == f"ERROR: cannot write to {tmp_path / 'file'}: it is no directory\n"
    assert result.exit_code == ExitCode.FAILURE
    assert (tmp_path / "file").read_text() == "mine"


def test_who_is_killed_before_all_is_here_has_put_no_file_in_its_place(unit, node, tmp_path):
    seen = []

    def look(received: int, size: int | None) -> None:
        seen.append((received > 0, os.listdir(tmp_path / "new")))

    with ControlClient(node.address) as client:
        client.fetch("one", tmp_path / "new", on_received=look)
    assert seen
    assert all(found == (True, [".fetching-one"]) for found in seen)
    assert sorted(os.listdir(tmp_path / "new")) == ["a", "out"]


class Pieces:
    """A client that sends a tar."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def results(self, unit_id: str, start: int, stream: str):
        assert stream == "files"
        return _Context(iter([self.data[start:]]))


class _Context:
    def __init__(self, pieces) -> None:
        self.pieces = pieces

    def __enter__(self):
        return self.pieces

    def __exit__(self, *exc_info: object) -> None:
        pass


NAMES = st.lists(
    st.sampled_from(["a", "b", "..", ".", "", "c d", "x" * 300]), min_size=1, max_size=3
).map("/".join)


@st.composite
def members(draw):
    info = tarfile.TarInfo(draw(NAMES))
    info.type = draw(st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, b"3"]))
    info.linkname = draw(NAMES)
    return info


@given(st.lists(members(), max_size=6), st.booleans())
def test_any_tar_changes_nothing_outside_and_nothing_that_is_there(infos, force):
    with TemporaryDirectory(dir=MEMORY) as directory:
        root = Path(directory)
        place, outside = root / "place", root / "outside"
        outside.mkdir()
        place.mkdir()
        (outside / "a").write_bytes(b"precious")
        (place / "a").write_bytes(b"mine")
        (place / "b").symlink_to(outside)
        data = tar_of({}, *infos)
        before = found_in(root)
        status = {"State": 2, "FilesSize": len(data)}
        try:
            names = fetch_ended(Pieces(data), "one", status, place, force=force)
        except NotFetched:
            assert found_in(root) == before
        else:
            assert all((place / name).is_symlink() or (place / name).is_file() for name in names)
            assert force or found_in(root).items() >= before.items()
        assert found_in(outside) == {"a": b"precious"}
        assert not any(name.startswith(".fetching-") for name in os.listdir(place))


# --- Submissions ---------------------------------------------------------------------------------


DESCRIBED = {"Worktype": "cat", "Files": True, "Output": True, "Scripts": True, "Arguments": []}


def test_patterns_go_with_a_submission(meshctl, node):
    def describe(session, line):
        session.send(DESCRIBED)
        return True

    node.handlers[DESCRIBE] = describe
    result = meshctl("work", "submit", "cat", "--output", "*.png", "--output", "out/**")
    assert result.exit_code == 0, result.stderr
    (request,) = node.submissions
    assert json.loads(request["joboutput"]) == ["*.png", "out/**"]


@pytest.mark.parametrize("described", [{"Files": True}, {"Files": True, "Output": False}])
def test_a_type_that_brings_nothing_back_is_not_sent_the_work(meshctl, node, described):
    def describe(session, line):
        session.send(DESCRIBED | {"Output": None} | described)
        return True

    node.handlers[DESCRIBE] = describe
    result = meshctl("work", "submit", "cat", "--output", "*")
    assert "work type cat brings back no files (--output)" in result.stderr
    assert node.submissions == []


def test_files_that_are_to_come_back_are_not_deleted_at_the_end(meshctl, node):
    result = meshctl("work", "submit", "cat", "--output", "*", "--follow", "--rm")
    assert "--rm would delete what --output brings back" in result.stderr
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert node.submissions == []


def test_an_empty_pattern_is_refused(meshctl, node):
    assert "its value is empty" in meshctl("work", "submit", "cat", "--output", "").stderr


def test_settings_have_the_key_only_with_patterns():
    assert JobSettings().fields() == {}
    assert JobSettings(output=("a",)).fields() == {"joboutput": '["a"]'}
    assert JobSettings(output=("a",)).is_typed


def test_a_client_that_fetches_nothing_loads_no_tar():
    code = "import sys, meshctl.api.client; sys.exit('tarfile' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


@pytest.fixture
def batch(node):
    """A batch of which two members have files, and one was refused."""
    for unit_id in ("one", "two"):
        node.add_unit(unit_id).more["FilesSize"] = tar_of({"name": unit_id.encode()})
    told = [{"Index": 1, "UnitID": "one"}, {"Index": 2}, {"Index": 30, "UnitID": "two"}]
    end = {"Batch": BATCH, "StateName": "Succeeded", "Members": 3, "Succeeded": 3}

    def answer(session, line):
        for one in (*(told if '"members"' in line else ()), end):
            session.send(one)
        return False

    node.handlers['{"command": "work", "subcommand": "batch"'] = answer
    return end


def test_the_files_of_a_batch_lie_in_directories_of_its_members(meshctl, batch, tmp_path):
    result = meshctl("work", "fetch", BATCH, "-o", str(tmp_path / "x"))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"2 files of 3 members in {tmp_path / 'x'}\n"
    assert found_in(tmp_path / "x") == {"1/name": b"one", "30/name": b"two"}


def test_a_file_in_the_way_of_one_member_is_not_in_that_of_the_others(meshctl, batch, tmp_path):
    place = tmp_path / "x"
    (place / "1").mkdir(parents=True)
    (place / "1" / "name").write_bytes(b"mine")
    result = meshctl("work", "fetch", BATCH, "-o", str(place))
    assert result.exit_code == ExitCode.FAILURE
    assert result.stderr.startswith(f"ERROR: member 1: {place}/1/name is there")
    assert found_in(place) == {"1/name": b"mine", "30/name": b"two"}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (SessionLost("the session broke"), ExitCode.UNREACHABLE),
    ],
)
def test_what_ends_the_fetching_of_a_batch_is_told_with_its_name(
    meshctl, batch, tmp_path, monkeypatch, fault, code
):
    def end(self, unit_id, *_, **__):
        raise fault

    monkeypatch.setattr(ControlClient, "results", end)
    monkeypatch.setattr(fetching, "NODE_RETURNS", 0)
    result = meshctl("work", "fetch", BATCH, "-o", str(tmp_path / "x"))
    assert result.exit_code == code
    last = result.stderr.splitlines()[-1]
    assert f"the files of batch {BATCH} are not all here" in last
    assert f"work fetch {BATCH} -o {tmp_path / 'x'} --force" in last


def test_a_node_that_is_away_between_two_members_is_waited_for(
    meshctl, batch, tmp_path, monkeypatch, node
):
    genuine, breaks = ControlClient.work_status, [SessionLost("the node was restarted")]

    def status(self, unit_id):
        if unit_id == "two" and breaks:
            raise breaks.pop()
        return genuine(self, unit_id)

    monkeypatch.setattr(ControlClient, "work_status", status)
    result = meshctl("work", "fetch", BATCH, "-o", str(tmp_path / "x"))
    assert result.exit_code == 0, result.stderr
    assert found_in(tmp_path / "x") == {"1/name": b"one", "30/name": b"two"}


def test_the_files_of_a_batch_are_no_tar(meshctl):
    result = meshctl("work", "fetch", "b-1x2y3z4w", "--tar")
    assert "b-1x2y3z4w is a batch: give a directory, and no --propagate." in result.stderr
    assert result.exit_code == ExitCode.WRONG_USAGE
