"""Paths mean what they mean in a shell: ``~``, ``~user`` and variables are replaced."""

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import load_arguments
from meshnode.config.names import expand_path

ME = pwd.getpwuid(os.getuid())

PATHS = {
    "node": ("datadir", "node"),
    "work-signing": ("privatekey", "work_signing"),
    "work-verification": ("publickey", "work_verifications"),
}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/foo")
    monkeypatch.setenv("EMPTY", "")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/data", "/home/foo/data"),
        ("~", "/home/foo"),
        ("$HOME/data", "/home/foo/data"),
        ("${HOME}data", "/home/foodata"),
        ("/a$EMPTY/b", "/a/b"),
        (f"~{ME.pw_name}/data", f"{ME.pw_dir.rstrip('/')}/data"),
        ("/a/~/b", "/a/~/b"),
        ("/a/$/5", "/a/$/5"),
    ],
)
@pytest.mark.parametrize("directive", PATHS)
def test_what_a_shell_replaces_is_replaced(directive: str, written: str, meant: str):
    parameter, field = PATHS[directive]
    node = [] if directive == "node" else ["--node", "foo"]
    config = load_arguments(
        [
            *node,
            "--local-only",
            f"--{directive}",
            *(["id=foo"] if not node else []),
            f"{parameter}={written}",
        ]
    )
    found = getattr(config, field)
    (one,) = found if isinstance(found, tuple) else (found,)
    assert getattr(one, parameter) == Path(meant)


def test_the_sockets_and_directories_of_services_and_work_are_replaced_too():
    config = load_arguments(
        [
            *("--node", "foo", "--local-only"),
            *("--control-service", "filename=~/c.sock"),
            *("--unix-socket-server", "filename=$HOME/s.sock", "remotenode=a", "remoteservice=b"),
            *("--work-command", "worktype=x", "command=true", "cwd=~/work"),
        ]
    )
    (service,), (relay,), (work,) = config.control_services, config.services, config.work_types
    assert service.filename == "/home/foo/c.sock"
    assert getattr(relay, "filename", "") == "/home/foo/s.sock"
    assert work.cwd == "/home/foo/work"


@given(st.text(st.characters(exclude_characters="~$")))
def test_other_paths_stay_as_they_are(path: str):
    assert expand_path(path) == path
