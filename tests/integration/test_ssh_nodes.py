"""Units on hosts that have only an SSH server: real sshds, real nodes."""

import pytest
import sshd
from harness import Cluster


@pytest.fixture
def far(tmp_path):
    if reason := sshd.reason_against():
        pytest.skip(reason)
    with sshd.servers(tmp_path / "far") as place:
        yield place


def work_ssh(*servers, name="far", **more):
    """Return a directive that runs what is given it as parameters in a shell."""
    words = {"command": "sh", "allowruntimeparams": True}
    return {
        "work-ssh": words
        | {
            "worktype": name,
            "hosts": [server.as_host() for server in servers],
            "directory": str(servers[0].units),
            "grace": "2s",
        }
        | more
    }


def test_a_command_runs_on_a_host_with_its_payload_and_leaves_nothing(cluster: Cluster, far):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = node.submit(
        "far", "--payload", "-", "--", "-c", "cat; echo err >&2; pwd; exit 3", stdin=b"hello\n"
    )
    status = node.wait_unit(unit, "Failed", "Succeeded")
    lines = node.results(unit).decode().splitlines()
    assert lines[:2] == ["hello", "err"]
    assert lines[2].startswith(str(anna.units))
    assert status["Detail"] == "exit status 3"
    anna.wait_clean()
