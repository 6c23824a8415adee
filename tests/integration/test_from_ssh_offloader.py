"""The page for those who come from an SSH offloader, done as it says with real SSH servers."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Cluster
from shell_examples import ROOT, Session, read_document
from sshd import Servers

PAGE = ROOT / "docs" / "from-ssh-offloader.md"

HOSTS = ("anna", "bert", "carl", "gate")
"""The hosts that the page speaks of."""


@pytest.fixture
def session(cluster: Cluster) -> Iterator[Session]:
    session = Session(cluster)
    yield session
    session.close()


def ssh_configuration(far: Servers, page: str) -> str:
    """Return what is in the file of the page's reader: its own lines, and where the hosts are."""
    (shown,) = re.findall(r"^```ssh-config\n(.*?)^```$", page, re.M | re.S)
    places = "".join(
        f"Host {name}\n    HostName 127.0.0.1\n    Port {host.port}\n"
        for name, host in far.all.items()
    )
    ours = f"Host *\n    IdentityFile {far.key}\n    UserKnownHostsFile {far.known_hosts}\n"
    return f"{shown}{places}{ours}"


def find_ssh_with(configuration: Path, place: Path) -> str:
    """Return a PATH in which ssh takes this for the file of its user, whose home is no other."""
    ssh = place / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {configuration} "$@"\n')
    ssh.chmod(0o755)
    return f"{ssh.parent}{os.pathsep}"


@pytest.mark.timeout(600)
def test_each_example_of_the_page_does_what_is_shown_on_real_hosts(
    session: Session, cluster: Cluster, far: Servers, tmp_path: Path
) -> None:
    for name in HOSTS:
        host = far.add(name, f"SetEnv HOSTNAME={name}")
        host.units = host.directory / ".meshnode"
    page = PAGE.read_text()
    configuration = tmp_path / "ssh_config"
    configuration.write_text(ssh_configuration(far, page))
    before = find_ssh_with(configuration, tmp_path)
    cluster.environment["PATH"] = before + cluster.environment["PATH"]
    for step in read_document(page):
        session.take(step)
    for name in ("anna", "bert", "carl"):
        far.all[name].wait_clean()
    assert "Accepted publickey" in far.all["gate"].log.read_text()
    assert not far.all["gate"].units.exists()
