"""Which files hold keys, what else leads to them, and what other users can do with them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import load_file
from meshnode.security.keyfiles import (
    changed_files,
    doubts,
    key_files,
    look_at_all,
    others_of,
    watched_names,
)

ALL = """\
- node: foo
- tls-server: {name: s, cert: D/s.crt, key: D/s.key, clientcas: D/ca.crt}
- tls-client: {name: c, cert: D/c.crt, key: D/c.key, rootcas: D/ca.crt}
- tls-client: {name: bare}
- local-only
- work-signing: D/sign.pem
- work-verification: D/a.pem
- work-verification: D/b.pem
"""


def load(directory: Path):
    file = directory / "foo.yml"
    file.write_text(ALL.replace("D/", f"{directory}/"))
    return load_file(str(file))


def test_all_files_of_a_configuration_are_known_and_which_are_secret(tmp_path):
    found = key_files(load(tmp_path))
    assert [file.path.name for file in found] == [
        *("sign.pem", "a.pem", "b.pem", "s.crt", "s.key", "ca.crt", "c.crt", "c.key", "ca.crt"),
    ]
    assert {file.path.name for file in found if file.is_secret} == {"sign.pem", "s.key", "c.key"}


# --- whether a file is another one -------------------------------------------------------------


@given(st.binary(max_size=9), st.binary(max_size=9), st.sampled_from(["write", "rename", "link"]))
def test_a_file_has_changed_if_it_holds_other_bytes_whichever_way_they_came(
    tmp_path_factory, before, after, way
):
    directory = tmp_path_factory.mktemp("keys")
    config, file = load(directory), directory / "sign.pem"
    (directory / "one").write_bytes(before)
    file.symlink_to("one")
    first = look_at_all(config)
    assert look_at_all(config, first) == first
    if way == "write":
        file.write_bytes(after)
    else:
        (directory / "two").write_bytes(after)
        new = directory / "new"
        new.symlink_to("two") if way == "link" else new.write_bytes(after)
        new.rename(file)
    second = look_at_all(config, first)
    assert changed_files(first, second) == ({file} if before != after else set())


def test_a_file_that_goes_or_cannot_be_read_has_changed(tmp_path):
    config, file = load(tmp_path), tmp_path / "sign.pem"
    file.write_bytes(b"x")
    first = look_at_all(config)
    file.unlink()
    gone = look_at_all(config, first)
    assert changed_files(first, gone) == {file}
    os.mkfifo(file)
    assert changed_files(first, look_at_all(config, gone)) == {file}


def test_each_link_on_the_way_to_a_file_is_watched(tmp_path):
    # As Kubernetes mounts secrets.
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "tls.key").write_bytes(b"")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "tls.key").symlink_to("..data/tls.key")
    found = watched_names(tmp_path / "tls.key")
    assert found[tmp_path] == {"tls.key", "..data", "..2026"}
    assert found[tmp_path / "..2026"] == {"tls.key"}
    assert found[tmp_path.parent] == {tmp_path.name}
    assert found[Path("/")] == {tmp_path.parts[1]}


def test_where_a_directory_is_missing_it_is_waited_for(tmp_path):
    found = watched_names(tmp_path / "not" / "yet" / "tls.key")
    assert found[tmp_path] == {"not"}
    assert tmp_path / "not" not in found


def test_links_that_lead_round_end(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert watched_names(tmp_path / "a")[tmp_path] == {"a", "b"}


# --- what others can do ------------------------------------------------------------------------


@given(st.integers(0, 0o777))
def test_a_private_key_is_warned_of_exactly_if_others_may_read_or_write_it(tmp_path_factory, mode):
    path = tmp_path_factory.getbasetemp() / "private.pem"
    path.write_bytes(b"")
    path.chmod(mode)
    shown = f"(mode {mode:04o}); now: chmod 600 {path}"
    expected = []
    if mode & 0o044:
        expected = [f'"{path}" can be read by other users {shown}']
    elif mode & 0o022:
        expected = [f'"{path}" can be replaced by other users {shown}']
    assert list(others_of(path, is_secret=True)) == expected
    path.unlink()


@pytest.mark.parametrize(
    ("mode", "warns"), [(0o644, False), (0o600, False), (0o664, True), (0o646, True)]
)
def test_a_public_key_that_others_can_replace_is_warned_of(tmp_path, mode, warns):
    path = tmp_path / "public.pem"
    path.write_bytes(b"")
    path.chmod(mode)
    text = f'"{path}" can be replaced by other users (mode {mode:04o}); now: chmod go-w {path}'
    assert list(others_of(path, is_secret=False)) == ([text] if warns else [])


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_key_of_another_user_is_warned_of(tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(b"")
    path.chmod(0o600)
    os.chown(path, 4242, 4242)
    assert list(others_of(path, is_secret=True)) == [
        f'"{path}" belongs to another user (uid 4242), who can replace it; now: chown 0 {path}'
    ]


def test_a_key_of_roots_may_be_read_by_the_group_through_which_the_node_reads_it(
    tmp_path, monkeypatch
):
    path = tmp_path / "key.pem"
    path.write_bytes(b"")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    path.chmod(0o640)
    assert not [text for text in others_of(path, is_secret=True) if "read" in text]
    path.chmod(0o644)
    (text,) = [text for text in others_of(path, is_secret=True) if "read" in text]
    assert text == f'"{path}" can be read by other users (mode 0644); now: chmod o-rwx {path}'


@pytest.mark.parametrize("linked", [False, True])
def test_a_key_in_a_directory_that_others_may_write_to_is_warned_of(tmp_path, linked):
    open_one, path = tmp_path / "open", tmp_path / "key.pem"
    open_one.mkdir()
    open_one.chmod(0o777)
    if linked:
        path.symlink_to(open_one / "key.pem")
    else:
        path = open_one / "key.pem"
    (open_one / "key.pem").write_bytes(b"")
    (open_one / "key.pem").chmod(0o600)
    (text,) = others_of(path, is_secret=True)
    assert text.startswith(
        f'"{path}" can be replaced by other users: "{open_one}" can be written by other users'
    )


def test_a_warning_names_the_place_in_the_configuration(tmp_path):
    config = load(tmp_path)
    (tmp_path / "sign.pem").write_bytes(b"")
    (tmp_path / "sign.pem").chmod(0o644)
    (doubt,) = doubts(key_files(config))
    assert str(doubt).startswith(f"{tmp_path}/foo.yml:6: work-signing: privatekey: ")
