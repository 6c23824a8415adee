"""``--dep``: files and directories go along as a tar that is made while it is sent."""

import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_meshctl_jobs import DESCRIBE, FIB, answer, refuse

from meshctl import BadSettings, ControlClient, JobSettings, PayloadLost
from meshctl.api import deps
from meshctl.api.deps import Dependencies
from meshctl.render.output import ExitCode
from meshctl.safetar import stays_inside
from meshnode.work.files.unpacking import DEPS, unpack

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where files are made that no disk need keep: many, for each example."""

NAMES = st.sampled_from(["a", "b", "c", "ü", "\udcff", "n" * 120, "sp ace"])
TREES = st.recursive(
    st.binary(max_size=2000) | st.sampled_from([b"", b"x" * 512, b"y" * (300 * 1024)]),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
TARGETS = st.lists(st.sampled_from(["..", "a", ".", "", "b"]), max_size=5).map("/".join)


def plant(path: Path, tree: bytes | dict) -> None:
    if isinstance(tree, bytes):
        path.write_bytes(tree)
        return
    path.mkdir()
    for name, below in tree.items():
        plant(path / name, below)


def harvest(path: Path) -> bytes | dict:
    if path.is_file():
        return path.read_bytes()
    return {below.name: harvest(below) for below in path.iterdir()}


def sent(files: Dependencies) -> bytes:
    data = b"".join(files.chunks())
    assert len(data) == files.size
    return data


def arrived(root: Path, files: Dependencies) -> Path:
    """Return the directory into which a node unpacks it."""
    (root / "deps").write_bytes(sent(files))
    unpack(root / "deps", root / "work")
    return root / "work" / DEPS


@given(st.dictionaries(NAMES, TREES, max_size=3))
def test_what_a_node_unpacks_is_what_was_there(trees):
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        here = Path(root, "here")
        plant(here, trees)
        files = Dependencies([here / name for name in trees])
        assert harvest(arrived(Path(root), files)) == trees


@given(TARGETS, st.integers(0, 3))
def test_a_link_is_sent_if_a_node_takes_it_and_named_before_anything_is_sent_if_not(target, depth):
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        place = Path(root, "here", *"xyz"[:depth])
        place.mkdir(parents=True)
        if not target:
            return  # no link has none
        os.symlink(target, place / "link")
        if not stays_inside(target, depth + 1):
            with pytest.raises(BadSettings, match="leads out of what is sent"):
                Dependencies([Path(root, "here")])
            return
        there = arrived(Path(root), Dependencies([Path(root, "here")]))
        link = there.joinpath("here", *"xyz"[:depth], "link")
        assert os.readlink(link) == target


def test_programs_stay_programs_and_a_named_link_is_what_it_leads_to(tmp_path):
    program = tmp_path / "run"
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o4711)
    os.symlink("run", tmp_path / "other")
    there = arrived(tmp_path, Dependencies([program, tmp_path / "other"]))
    assert (there / "run").stat().st_mode & 0o7777 == 0o700
    assert not (there / "other").is_symlink()
    assert (there / "other").read_bytes() == b"#!/bin/sh\n"


def test_what_is_no_file_or_not_there_or_twice_is_named_and_nothing_is_submitted(tmp_path, node):
    (tmp_path / "a").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "a" / "socket"))
        (tmp_path / "one" / "same").mkdir(parents=True)
        (tmp_path / "two" / "same").mkdir(parents=True)
        for paths, why in (
            (["a"], "a/socket: it is neither a file nor a directory"),
            (["gone"], "gone: No such file or directory"),
            (["one/same", "two/same"], "two dependencies are called 'same'"),
            (["/"], "dependency '/' has no name of its own"),
        ):
            given_paths = tuple(tmp_path / path for path in paths)
            with (
                ControlClient(node.address) as client,
                pytest.raises(BadSettings, match=why),
            ):
                client.submit("cat", job=JobSettings(deps=given_paths))
    assert node.submissions == []


def test_a_file_that_became_shorter_loses_the_payload_and_starts_nothing(tmp_path, node):
    file = tmp_path / "log"
    file.write_bytes(b"x" * 3_000_000)

    def cut(unit_id: str) -> None:
        file.write_bytes(b"x" * 1_000_000)

    with ControlClient(node.address) as client, pytest.raises(PayloadLost, match="became shorter"):
        client.submit("cat", job=JobSettings(deps=(file,)), on_created=cut)
    assert node.payload_ended.wait(60)
    assert node.payload_ends == ["reset"]


def test_what_is_appended_meanwhile_is_not_sent(tmp_path):
    (tmp_path / "log").write_bytes(b"first\n")
    files = Dependencies([tmp_path / "log"])
    (tmp_path / "log").write_bytes(b"first\nsecond\n")
    assert (arrived(tmp_path, files) / "log").read_bytes() == b"first\n"


def test_no_more_than_a_piece_is_in_memory(tmp_path):
    with open(tmp_path / "big", "wb") as file:
        file.truncate(50 * 1024 * 1024)
    for name in range(300):
        (tmp_path / f"small{name}").write_bytes(b"x" * 3000)
    files = Dependencies([tmp_path])
    assert max(map(len, files.chunks())) < 4 * deps.CHUNK_BYTES


def test_a_client_refuses_what_a_node_would(tmp_path, monkeypatch):
    monkeypatch.setattr(deps, "MAX_FILES", 3)
    for name in "abc":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadSettings, match="more than 3 files"):
        Dependencies([tmp_path])


# --- the command line -------------------------------------------------------------------------


@pytest.fixture
def cat(node):
    node.handlers[DESCRIBE] = answer(FIB | {"Arguments": [], "Files": True})
    return node


@pytest.mark.parametrize(("options", "stdin"), [((), b""), (("-l", "a line"), b"a line\n")])
def test_files_go_before_the_payload_which_may_be_none(meshctl, cat, tmp_path, options, stdin):
    (tmp_path / "data").write_bytes(b"1")
    (tmp_path / "d").mkdir()
    given_options = ["--dep", str(tmp_path / "data"), "--dep", str(tmp_path / "d/"), *options]
    assert meshctl("work", "submit", "cat", *given_options).exit_code == 0
    (request,) = cat.submissions
    size = int(request["depssize"])
    payload = cat.units["Unit0001"].stdout
    assert payload[:size] == sent(Dependencies([tmp_path / "data", tmp_path / "d"]))
    assert payload[size:] == stdin
    assert request.get("stdinsize", "0") == str(len(stdin))


@pytest.mark.parametrize(
    "reply", [answer(FIB | {"Arguments": [], "Files": False}), refuse("bad command")]
)
def test_a_node_or_type_that_takes_no_files_is_sent_nothing(meshctl, node, tmp_path, reply):
    node.handlers[DESCRIBE] = reply
    result = meshctl("work", "submit", "cat", "--dep", str(tmp_path))
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "--dep" in result.stderr
    assert node.submissions == []


def test_a_script_goes_along_and_is_named_with_the_words_for_it(meshctl, cat, tmp_path):
    cat.handlers[DESCRIBE] = answer(FIB | {"Arguments": [], "Files": True, "Scripts": True})
    (tmp_path / "run.sh").write_bytes(b"#!/bin/sh\n")
    script = str(tmp_path / "run.sh")
    assert meshctl("work", "submit", "sh", "--script", script, "--", "-x", "a b").exit_code == 0
    (request,) = cat.submissions
    assert (request["jobscript"], request["params"]) == ("run.sh", "-x 'a b'")
    payload = cat.units["Unit0001"].stdout
    assert payload == sent(Dependencies([], script))
    (tmp_path / "deps").write_bytes(payload)
    unpack(tmp_path / "deps", tmp_path / "work")
    assert os.access(tmp_path / "work" / DEPS / "run.sh", os.X_OK)


def test_a_type_that_runs_no_scripts_is_sent_none(meshctl, cat, tmp_path):
    (tmp_path / "run.sh").write_bytes(b"")
    result = meshctl("work", "submit", "cat", "--script", str(tmp_path / "run.sh"))
    assert "runs no scripts of clients" in result.stderr
    result = meshctl("work", "submit", "cat", "--dep", str(tmp_path), "--script", str(tmp_path))
    assert "runs no scripts of clients" in result.stderr
    assert cat.submissions == []


def test_a_script_that_is_no_file_is_refused(tmp_path, node):
    with ControlClient(node.address) as client, pytest.raises(BadSettings, match="is no file"):
        client.submit("cat", job=JobSettings(script=tmp_path))
    assert node.submissions == []


def test_an_empty_name_is_refused(meshctl, cat):
    assert "names no file" in meshctl("work", "submit", "cat", "--dep", "").stderr


def test_a_pipe_is_named_as_it_was_given_and_not_as_what_it_leads_to(tmp_path):
    reader, writer = os.pipe()
    try:
        path = f"/dev/fd/{reader}"
        told = f"dependency {path}: it is neither a file nor a directory"
        with pytest.raises(BadSettings) as refused:
            Dependencies([path])
        assert str(refused.value) == told
        with pytest.raises(BadSettings) as refused:
            Dependencies([], script=path)
        assert str(refused.value) == f"script {path}: it is no file"
    finally:
        os.close(reader)
        os.close(writer)
    with pytest.raises(BadSettings) as refused:
        Dependencies([], script=tmp_path / "gone")
    assert str(refused.value) == f"script {tmp_path}/gone: No such file or directory"


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="there is no /proc")
def test_a_file_that_does_not_say_how_long_it_is_is_refused_and_not_sent_empty(tmp_path):
    (tmp_path / "empty").touch()
    assert Dependencies([tmp_path / "empty"]).size
    with pytest.raises(BadSettings) as refused:
        Dependencies([tmp_path / "empty", "/proc/version"])
    told = "dependency /proc/version: it has bytes, and says that it has none: send a copy of it"
    assert str(refused.value) == told
