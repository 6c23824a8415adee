"""The guide's example on two real nodes: run it, show it, check it.

Starts foo and bar from the two files beside this script, in a temporary directory of their own
(free port, own socket, own datadir), then types the guide's commands. What stands after ``$`` is
handed to bash as it stands, and what follows is what the command printed. Exits 0 only if all was
as the guide says. Uses only the standard library; run it with ``make demo``.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

EXAMPLES = Path(__file__).resolve().parent
COMMANDS = Path(sys.executable).parent

START_SECONDS = 20.0
"""How long a node may take to open its socket, or to learn of the other: usual is under 1 s."""

COMMAND_SECONDS = 40.0
"""How long one command may take; the longest unit of the guide runs for 10 s."""

STOP_SECONDS = 5.0
"""How long a node may take to stop after SIGTERM; it promises 2 s."""

LISTCONTENTS = """
- work-command:
    workType: listcontents
    command: ls
    allowruntimeparams: true
"""
"""The work type that the guide's section on runtime parameters adds to bar."""


class DemoFailed(Exception):
    """Something was not as the guide says."""


def check(condition: bool, what: str) -> None:
    """Fail the demo, saying what should have been true, unless ``condition`` holds."""
    if not condition:
        raise DemoFailed(what)


def replace_once(text: str, old: str, new: str) -> str:
    """Replace ``old`` where it stands exactly once, so that a changed example file is noticed."""
    check(text.count(old) == 1, f"the example file has exactly one {old!r}")
    return text.replace(old, new)


def free_port() -> int:
    """Return a TCP port that was free a moment ago, of those that no client is given."""
    while True:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


class Demo:
    """Two nodes in a directory of their own, and a terminal to type commands at."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "foo.sock"
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = os.environ | {
            "PATH": f"{COMMANDS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        }

    # --- The two nodes ---------------------------------------------------------------------

    def write_configurations(self) -> None:
        """Copy the guide's files here, with a free port, our socket and our datadir."""
        port = free_port()
        foo = (EXAMPLES / "foo.yml").read_text()
        foo = replace_once(foo, "id: foo", f"id: foo\n    datadir: {self.directory}")
        foo = replace_once(foo, "port: 2222", f"port: {port}")
        foo = replace_once(foo, "/tmp/foo.sock", str(self.socket))
        bar = (EXAMPLES / "bar.yml").read_text()
        bar = replace_once(bar, "id: bar", f"id: bar\n    datadir: {self.directory}")
        bar = replace_once(bar, "127.0.0.1:2222", f"127.0.0.1:{port}")
        (self.directory / "foo.yml").write_text(foo)
        (self.directory / "bar.yml").write_text(bar + LISTCONTENTS)

    def start(self, name: str) -> None:
        """Start a node; its log goes to a file beside its configuration."""
        command = f"meshnode -c {self.directory}/{name}.yml"
        print(f"$ {command} &", flush=True)
        with (self.directory / f"{name}.log").open("wb") as log:
            self.nodes[name] = subprocess.Popen(
                command.split(), env=self.environment, stdin=subprocess.DEVNULL, stderr=log
            )

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Ask until ``condition`` holds, as long as the nodes run."""
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            for name, node in self.nodes.items():
                check(node.poll() is None, f"node {name} runs (it ended: {node.returncode})")
            check(time.monotonic() < deadline, f"within {START_SECONDS:.0f} s: {what}")
            time.sleep(0.05)

    def foo_knows_bar(self) -> bool:
        """Whether foo has a route to bar and bar's work types have been announced to it."""
        asked = subprocess.run(
            ["meshctl", "--socket", str(self.socket), "status", "--json"],
            env=self.environment,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=True,
        )
        status = json.loads(asked.stdout)
        return "bar" in (status["RoutingTable"] or {}) and any(
            advertisement["NodeID"] == "bar" for advertisement in status["Advertisements"] or []
        )

    def stop(self) -> None:
        """End all units, then both nodes with SIGTERM, and with SIGKILL what does not heed it."""
        if self.socket.exists():
            # A node leaves running units running when it stops; ours must not outlive the demo.
            subprocess.run(
                ["meshctl", "--socket", str(self.socket), "work", "release", "--all", "--force"],
                env=self.environment,
                capture_output=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        for node in self.nodes.values():
            node.terminate()
        late = []
        for name, node in self.nodes.items():
            try:
                node.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()
                late.append(name)
        check(not late, f"SIGTERM stops a node within {STOP_SECONDS:.0f} s: {', '.join(late)}")

    def show_logs(self) -> None:
        """Print the end of both logs, for whoever must find out what went wrong."""
        for name in self.nodes:
            lines = (self.directory / f"{name}.log").read_text(errors="replace").splitlines()
            print(f"--- the last lines of {name}'s log", *lines[-40:], sep="\n", file=sys.stderr)

    # --- The terminal ----------------------------------------------------------------------

    def type(self, command: str) -> str:
        """Run a command as typed, print it and what it prints as it comes, return the output."""
        print(f"$ {command}", flush=True)
        process = subprocess.Popen(
            ["bash", "-c", command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        signal.alarm(int(COMMAND_SECONDS))
        try:
            output = ""
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                output += line
            code = process.wait()
        finally:
            signal.alarm(0)
            process.kill()
            process.wait()
        print(flush=True)
        check(code == 0, f"this command exits with 0, not with {code}: {command}")
        return output

    def meshctl(self, arguments: str, pipe: str = "") -> str:
        """Type a meshctl command at foo's socket, with something piped into it or not."""
        return self.type(f"{pipe}meshctl --socket {self.socket} {arguments}")

    def submit(self, arguments: str) -> str:
        """Submit work without following it; return the unit ID."""
        output = self.meshctl(f"work submit {arguments}")
        found = re.fullmatch(r"Result: Job (Started|Submitted)\nUnit ID: (\w{8})\n", output)
        check(found is not None, "submit prints the result and the unit ID")
        assert found is not None
        return found.group(2)

    def units(self, options: str = "") -> dict[str, dict[str, object]]:
        """Type ``work list`` and return what it says."""
        listed: dict[str, dict[str, object]] = json.loads(
            self.meshctl(f"work list --json{options}")
        )
        return listed

    def unit(self, unit: str) -> dict[str, object]:
        """Type ``work list`` for one unit and return its status."""
        return self.units(f" --unit_id {unit}")[unit]

    def unit_ids(self) -> set[str]:
        """Type ``work list -q`` and return the unit IDs."""
        return set(self.meshctl("work list -q").split())


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n=== {text}\n", flush=True)


def count(last: int) -> str:
    """Return the numbers from 1 to ``last``, a line each: what echoint prints."""
    return "".join(f"{number}\n" for number in range(1, last + 1))


# --- The guide's sections ----------------------------------------------------------------------


def start_nodes(demo: Demo) -> None:
    """Two nodes, bar linked to foo."""
    title("Two nodes, from examples/foo.yml and examples/bar.yml")
    demo.write_configurations()
    demo.start("foo")
    demo.wait("foo opens its control socket", demo.socket.exists)
    demo.start("bar")
    demo.wait("foo knows bar and its services", demo.foo_knows_bar)
    print()
    answer = demo.meshctl("ping bar --count 1")
    check("Reply from bar in" in answer, "bar answers a ping through foo's socket")


def local_and_remote(demo: Demo) -> None:
    """Sections "Local work", "Work results", "Remote work" and "Work list"."""
    title("Local work, remote work")
    local = demo.submit("echoint --no-payload")
    remote = demo.submit("echoint --node bar --no-payload")

    title("Work list")
    units = demo.units()
    check(set(units) == {local, remote}, "work list names both units")
    check(units[local]["WorkType"] == "echoint", "the local unit has its own work type")
    check(units[remote]["WorkType"] == "remote", "the unit that runs on bar is of type remote")
    extra = units[remote]["ExtraData"]
    check(
        isinstance(extra, dict)
        and extra["RemoteNode"] == "bar"
        and extra["RemoteWorkType"] == "echoint",
        "ExtraData names the node and the work type",
    )

    title("Work results: foo's echoint counts to 5, bar's to 10, one number a second")
    check(demo.meshctl(f"work results {local}") == count(5), "foo's echoint counts to 5")
    check(demo.meshctl(f"work results {remote}") == count(10), "bar's echoint counts to 10")
    for unit, size in ((local, 10), (remote, 21)):
        status = demo.unit(unit)
        check(status["StateName"] == "Succeeded", f"{unit} has succeeded")
        check(status["Detail"] == "exit status 0", f"{unit}'s detail is its exit status")
        check(status["StdoutSize"] == size, f"{unit} has printed {size} bytes")


def payload(demo: Demo) -> None:
    """Sections "Payload" and "Units on disk"."""
    title("Payload: three lines into a command on bar, which takes 3 seconds for each")
    shouted = "HI\nI AM FOO\nWHAT IS YOUR NAME\n"
    before = demo.unit_ids()
    output = demo.meshctl(
        "work submit echopayload --node bar --payload - -f",
        pipe=r'echo -e "hi\ni am foo\nwhat is your name" | ',
    )
    check(output == shouted, "bar answers in upper case")

    title("Units on disk")
    (unit,) = demo.unit_ids() - before
    status = json.loads(demo.type(f"cat {demo.directory}/foo/{unit}/status"))
    check(status["State"] == 2, "foo's record of the unit says Succeeded")
    check(status["StdoutSize"] == len(shouted), "foo's record knows the size of the output")
    remote = status["ExtraData"]["RemoteUnitID"]
    here, there = f"{demo.directory}/foo/{unit}", f"{demo.directory}/bar/{remote}"
    tree = demo.type(f"find {here} {there} -type f | sort").split()
    for directory in (here, there):
        for name in ("status", "stdin", "stdout"):
            check(f"{directory}/{name}" in tree, f"there is a file {directory}/{name}")
    for directory in (here, there):
        text = demo.type(f"cat {directory}/stdin")
        check(text == shouted.lower(), "stdin is the payload, on both nodes")
    for directory in (here, there):
        check(demo.type(f"cat {directory}/stdout") == shouted, "stdout is the same on both nodes")


def runtime_parameters(demo: Demo) -> None:
    """Section "Runtime Parameters", on a directory whose contents we know."""
    title("Runtime parameters: bar's listcontents is ls, and takes what the submitter adds")
    directory = demo.directory / "pictures"
    directory.mkdir()
    (directory / "cat.png").touch()
    (directory / ".album").touch()
    submit = "work submit --node bar --no-payload -f"
    output = demo.meshctl(f"{submit} listcontents {directory}")
    check(output == "cat.png\n", "ls lists the directory given at submission")
    output = demo.meshctl(f"{submit} --param params='--all' listcontents {directory}")
    check(output.split() == [".", "..", ".album", "cat.png"], "--all reaches ls")


def cancel_and_release(demo: Demo) -> None:
    """Sections "Work cancel", "Work release" and "Work force-release"."""
    title("Work cancel")
    unit = demo.submit("echoint --node bar --no-payload")
    check(unit in demo.meshctl(f"work cancel {unit}"), "cancel names the unit")
    # Results end when the unit has: this waits for the cancellation to be complete.
    demo.type(f"meshctl --socket {demo.socket} work results {unit} > /dev/null || true")
    shown = demo.unit(unit)
    check(shown["StateName"] == "Canceled", "the unit on foo is Canceled")
    extra = shown["ExtraData"]
    assert isinstance(extra, dict)
    remote = str(extra["RemoteUnitID"])
    there = demo.units(f" --node bar --unit_id {remote}")[remote]
    check(there["StateName"] == "Canceled", "the unit on bar is Canceled")

    title("Work release")
    check(unit in demo.meshctl(f"work release {unit}"), "release names the unit")
    check(unit not in demo.unit_ids(), "a released unit is no longer listed")
    check(not (demo.directory / "foo" / unit).exists(), "its files on foo are gone")
    check(not (demo.directory / "bar" / remote).exists(), "its files on bar are gone")

    title("Work force-release")
    unit = demo.submit("echoint --node bar --no-payload")
    check(unit in demo.meshctl(f"work force-release {unit}"), "force-release names the unit")
    check(unit not in demo.unit_ids(), "the unit is no longer listed")
    check(not (demo.directory / "foo" / unit).exists(), "its files on foo are gone")


def ended(number: int, frame: FrameType | None) -> None:
    """Turn a signal into an exception, so that the nodes are stopped also then."""
    if number == signal.SIGALRM:
        raise DemoFailed(f"a command ends within {COMMAND_SECONDS:.0f} s")
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo; return the exit code."""
    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGALRM, ended)
    started = time.monotonic()
    # /tmp and not TMPDIR: the path of a unix socket may have no more than 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="mn-demo-", dir="/tmp"))
    demo = Demo(directory)
    failure = ""
    try:
        try:
            start_nodes(demo)
            local_and_remote(demo)
            payload(demo)
            runtime_parameters(demo)
            cancel_and_release(demo)
        finally:
            title("Stopping both nodes")
            demo.stop()
    except DemoFailed as error:
        failure = f"demo: not as the guide says. Expected: {error}"
    except KeyboardInterrupt:
        failure = "demo: interrupted"
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        failure = f"demo: failed: {type(error).__name__}: {error}"
    finally:
        if failure:
            demo.show_logs()
        shutil.rmtree(directory, ignore_errors=True)
    if failure:
        print(failure, file=sys.stderr)
        return 1
    print(f"demo: all as the guide says, in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
