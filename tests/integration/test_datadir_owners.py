"""Local users who prepare the place of a node's units: nothing of theirs is read, run or filled."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Cluster
from strangers import STRANGER, as_stranger
from test_bad_start import IN_USE, fails_to_start

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user")


def plant(unit: Path, secret: Path) -> None:
    """Make a datadir with a finished unit whose output is another file."""
    unit.mkdir(parents=True)
    unit.parent.parent.chmod(0o777)
    status = {"State": 2, "Detail": "", "StdoutSize": 100, "WorkType": "cat"}
    (unit / "status").write_text(json.dumps(status))
    (unit / "stdout").symlink_to(secret)


def test_a_datadir_that_a_local_user_made_first_is_refused(cluster: Cluster) -> None:
    secret = cluster.directory / "secret"
    secret.write_text("only root may read this")
    secret.chmod(0o600)
    cluster.directory.chmod(0o1777)
    unit = cluster.directory / "data" / "foo" / "PLANTED1"
    assert as_stranger(lambda: plant(unit, secret))
    text = f"- node: {{id: foo, datadir: {cluster.directory}/data}}\n- local-only\n"
    line = fails_to_start(cluster, text)
    assert line.endswith(
        f'faulty.yml:1: node: datadir: "{cluster.directory}/data" belongs to another user'
        f" (uid {STRANGER}); choose another directory, or move it away if it is a leftover"
    )
    done = cluster.run("meshnode", "check", cluster.directory / "faulty.yml", check=False)
    assert b"belongs to another user" in done.stdout + done.stderr
    assert done.returncode != 0


def test_a_local_user_cannot_get_at_the_default_place_once_the_node_has_made_it(
    cluster: Cluster,
) -> None:
    node = cluster.node("foo", work={"cat": {"command": "cat"}})
    cluster.directory.chmod(0o1777)
    unit = node.submit("cat", "-l", "hi")
    for path in (node.units.parent, node.units, node.units / unit):
        assert path.stat().st_mode & 0o777 == 0o700
    acts: list[Callable[[], object]] = [
        (node.units / unit / "stdout").read_bytes,
        (node.units / "PLANTED1").mkdir,
        lambda: node.units.parent.rename(node.units.parent.with_name("x")),
        lambda: os.listdir(node.units.parent),
    ]
    for act in acts:
        assert not as_stranger(lambda act=act: act() and None)
    assert node.results(unit) == b"hi\n"


def test_a_lock_file_of_another_user_is_named_and_nothing_waits_for_a_pipe(
    cluster: Cluster,
) -> None:
    cluster.directory.chmod(0o1777)
    control = cluster.directory / "foo.sock"
    text = (
        f"- node: {{id: foo, datadir: {cluster.directory}/data}}\n- local-only\n"
        f"- control-service: {{filename: {control}}}\n"
    )
    assert as_stranger(lambda: os.mkfifo(f"{control}.lock"))
    line = fails_to_start(cluster, text, IN_USE)
    # Where fs.protected_fifos or .protected_regular are set, the kernel refuses them before we can
    # look.
    pipe = f"has a lock file that is a named pipe and not a file; move {control}.lock away"
    assert pipe in line or "Permission denied" in line
    os.unlink(f"{control}.lock")
    Path(f"{control}.lock").touch()
    os.chown(f"{control}.lock", STRANGER, STRANGER)
    line = fails_to_start(cluster, text, IN_USE)
    assert "belongs to another user" in line or "Permission denied" in line
