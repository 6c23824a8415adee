"""Nodes whose units are isolated, run by root and by an ordinary user, and jobs for them."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import Cluster, Node, Status

from meshctl.api.client import ControlClient

NOBODY = 65534
"""The user and group that stand for any without privilege."""

WHO = ("root", "user") if os.getuid() == 0 else ("user",)
"""Who runs nodes here: only root can become another."""

PYTHON = "/usr/bin/python3"
"""A Python that is not in /tmp, where the tests may be."""

AS_NOBODY = """
set -e
mount -t tmpfs none /mnt
for path in "$@"; do
    [ "$path" != -- ] || break
    closed=$path
    while [ "$closed" != / ] && ! [ -k "$closed" ]; do
        case $(stat -c %a "$closed") in *[1357]) ;; *) found=$closed ;; esac
        closed=$(dirname "$closed")
    done
    if [ -n "$found" ]; then
        mkdir -p "/mnt$path"
        mount --rbind "$path" "/mnt$path"
        chmod 755 "/mnt$found"
    fi
done
while [ "$1" != -- ]; do shift; done
shift
if [ -n "$found" ]; then mount --rbind "/mnt$found" "$found"; fi
exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"
"""
"""Runs a program as nobody, also one in a directory that nobody may enter: in a mount namespace in
which that has a copy with what is needed."""

PLACES = [str(path) for path in (sys.base_prefix, sys.prefix, Path(__file__).parents[2])]

BASH = {"command": "bash", "grace": "500ms"}
FULL: dict[str, Any] = BASH | {"isolation": "full"}
WORK: dict[str, Any] = {
    "full": FULL,
    "python": FULL | {"command": PYTHON, "params": "-"},
    "patient": FULL | {"grace": "10m"},
    "loopback": BASH | {"isolation": {"pid": True, "network": "loopback"}},
    "network": BASH | {"isolation": {"network": "none"}},
    "plain": BASH,
}


@contextmanager
def isolating(
    cluster: Cluster, who: str, work: Mapping[str, Any] | None = None, **options: Any
) -> Iterator[Node]:
    """Run a node with work that is isolated."""
    # Not in /tmp, which the jobs would not see in any case.
    place = Path("/var/lib") if os.getuid() == 0 else Path.home()
    data = place / f"meshnode-test-{cluster.mark[:8]}"
    data.mkdir(mode=0o755)
    try:
        settings = {"datadir": str(data)}
        node = cluster.node("foo", work=work or WORK, settings=settings, start=False, **options)
        node.units = data / "foo"
        if who == "user" and os.getuid() == 0:
            shell = ("unshare", "--mount", "sh", "-c", AS_NOBODY, "as-nobody")
            node.prefix = (*shell, *PLACES, "--")
            for path in (data, cluster.directory, node.config):
                os.chown(path, NOBODY, NOBODY)
        node.start()
        yield node
    finally:
        shutil.rmtree(data, ignore_errors=True)


def run(node: Node, kind: str, script: str) -> tuple[Status, str]:
    """Run a script as a unit of that type; return how it ended, and what it printed."""
    with ControlClient(str(node.socket)) as client:
        unit = client.submit(kind, script.encode()).unit_id
        text = b"".join(client.results(unit)).decode(errors="replace")
        return dict(client.wait(unit)), text


def begin(node: Node, kind: str, script: str, said: str = "up\n") -> str:
    """Submit a script and wait until it has printed that; return the unit's ID."""
    with ControlClient(str(node.socket)) as client:
        unit = client.submit(kind, script.encode()).unit_id
    node.wait_output(unit, said.encode())
    return unit


def cancel(node: Node, unit: str) -> Status:
    """Cancel a unit; return its last status."""
    with ControlClient(str(node.socket)) as client:
        client.cancel(unit)
        return dict(client.wait(unit))


def output(node: Node, kind: str, script: str) -> str:
    """Return what a script prints that ends well."""
    status, text = run(node, kind, script)
    assert status["StateName"] == "Succeeded", (status, text)
    return text
