"""Which files and functions one remote submission crosses on its client, foo and bar.

``python -m bench.crossing [TREE]`` starts the nodes of a tree, ours by default, with the tree's own
``.venv`` (or ``--python``), and runs ``meshctl work submit echo --node bar --payload FILE
--follow`` there. ``--json`` names every function.

A profiler sees every call of a Python function in the three processes. It is no part of what it
looks at: a ``sitecustomize`` of this script's own, which Python loads because it is on PYTHONPATH.
The nodes begin to count at SIGUSR1 and write at SIGUSR2; the client counts from its start, imports
included. The launchers start without site packages, and are not seen.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
"""Seconds after which what is waited for will not come any more."""

Calls = dict[str, list[str]]
"""File → the functions of it that were called."""

PROFILER = """
import atexit, json, os, signal, sys, threading

tree, out = os.environ["CROSSING_TREE"] + os.sep, os.environ["CROSSING_OUT"]
packages = tuple(tree + name + os.sep for name in ("meshnode", "meshctl"))
seen = set()

def profile(frame, event, argument):
    if event == "call":
        seen.add(frame.f_code)

def begin(*_):
    seen.clear()

def write(*_):
    calls = {}
    for code in list(seen):
        if code.co_filename.startswith(packages) and code.co_flags & 1:  # no bodies of classes
            calls.setdefault(code.co_filename[len(tree):], set()).add(code.co_qualname)
    with open(out + ".part", "w") as file:
        json.dump({name: sorted(names) for name, names in calls.items()}, file)
    os.replace(out + ".part", out)

signal.signal(signal.SIGUSR1, begin)
signal.signal(signal.SIGUSR2, write)
if os.environ.get("CROSSING_AT_EXIT"):
    atexit.register(write)
threading.setprofile(profile)
sys.setprofile(profile)
"""


def measure(tree: Path, python: Path) -> dict[str, Calls]:
    """Run one submission; return what each of the three processes called."""
    with tempfile.TemporaryDirectory(prefix="mn-", dir="/tmp") as place:
        return _Crossing(tree.resolve(), python.absolute(), Path(place)).run()


class _Crossing:
    def __init__(self, tree: Path, python: Path, place: Path) -> None:
        self._tree = tree
        self._python = python
        self._place = place
        (place / "sitecustomize.py").write_text(PROFILER)

    def run(self) -> dict[str, Calls]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (self._place / "payload").write_bytes(b"hello\n")
        with (
            self._node("foo", {"tcp-listener": {"port": port, "bindaddr": "127.0.0.1"}}) as foo,
            self._node("bar", {"tcp-peer": {"address": f"127.0.0.1:{port}"}}) as bar,
        ):
            self._wait_for_bar(foo)
            nodes = {"foo": foo, "bar": bar}
            for node in nodes.values():
                node.send_signal(signal.SIGUSR1)
            self._submit()
            for node in nodes.values():
                node.send_signal(signal.SIGUSR2)
            return {name: self._calls(name) for name in ("client", *nodes)}

    @contextlib.contextmanager
    def _node(self, name: str, link: Mapping[str, object]) -> Iterator[subprocess.Popen[bytes]]:
        directives: list[Mapping[str, object]] = [
            {"node": {"id": name, "datadir": str(self._place / "data")}},
            {"log-level": {"level": "error"}},
            {"control-service": {"service": "control", "filename": self._socket(name)}},
            {"work-command": {"worktype": "echo", "command": "cat"}},
            link,
        ]
        config = self._place / f"{name}.yml"
        config.write_text(json.dumps(directives))  # JSON is YAML
        process = subprocess.Popen(
            [self._python, "-m", "meshnode", "-c", config],
            env=self._environment(name),
            cwd=self._tree,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)

    def _socket(self, name: str) -> str:
        return str(self._place / f"{name}.sock")

    def _environment(self, name: str, **more: str) -> dict[str, str]:
        ours = {
            "PYTHONPATH": os.pathsep.join((str(self._place), str(self._tree))),
            "CROSSING_TREE": str(self._tree),
            "CROSSING_OUT": str(self._place / f"{name}.json"),
        }
        return os.environ | ours | more

    def _meshctl(self, name: str, *arguments: str, **more: str) -> bytes:
        command = [self._python, "-m", "meshctl", "--socket", self._socket("foo"), *arguments]
        return subprocess.run(
            command,
            env=self._environment(name, **more),
            cwd=self._tree,
            check=True,
            stdout=subprocess.PIPE,
        ).stdout

    def _wait_for_bar(self, foo: subprocess.Popen[bytes]) -> None:
        """Return when foo has a route to bar and knows its control service."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and foo.poll() is None:
            if not Path(self._socket("foo")).exists():
                time.sleep(0.05)  # nothing tells of a socket's birth
                continue
            status = json.loads(self._meshctl("other", "status", "--json"))
            heard = {(a["NodeID"], a["Service"]) for a in status["Advertisements"] or []}
            # Measured once, too: the first ping over the link is no part of what is looked at.
            measured = all(c.get("RoundTrip", 0) is not None for c in status["Connections"] or [])
            if measured and "bar" in (status["RoutingTable"] or {}) and ("bar", "control") in heard:
                return
        raise TimeoutError("foo never heard of bar")

    def _submit(self) -> None:
        payload = str(self._place / "payload")
        arguments = ("work", "submit", "echo", "--node", "bar", "--payload", payload, "--follow")
        printed = self._meshctl("client", *arguments, CROSSING_AT_EXIT="1")
        assert printed == b"hello\n", printed

    def _calls(self, name: str) -> Calls:
        file = self._place / f"{name}.json"
        deadline = time.monotonic() + PATIENCE
        while not file.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} did not write what it called")
            time.sleep(0.05)
        calls: Calls = json.loads(file.read_text())
        return calls


def report(calls: Mapping[str, Calls]) -> list[str]:
    """Lay the counts out, a process a line."""
    rows = [(name, set(called), _functions(called)) for name, called in calls.items()]
    rows.append(("together", *(set().union(*parts) for parts in list(zip(*rows, strict=True))[1:])))
    return [
        f"{name:<10}{len(files):>4} files {len(functions):>5} functions"
        for name, files, functions in rows
    ]


def _functions(called: Calls) -> set[str]:
    return {f"{file}:{name}" for file, names in called.items() for name in names}


def main(argv: Sequence[str] | None = None) -> None:
    """Print what one submission crosses in a tree."""
    parser = argparse.ArgumentParser(prog="python -m bench.crossing", description=__doc__)
    parser.add_argument("tree", type=Path, nargs="?", default=ROOT, help="default: this one")
    parser.add_argument("--python", type=Path, help="default: that of the tree's .venv, or ours")
    parser.add_argument("--json", action="store_true", dest="as_json", help="name every function")
    options = parser.parse_args(argv)
    python = options.python or options.tree / ".venv/bin/python"
    calls = measure(options.tree, python if python.exists() else Path(sys.executable))
    print(json.dumps(calls, indent=1) if options.as_json else "\n".join(report(calls)))


if __name__ == "__main__":
    main()
