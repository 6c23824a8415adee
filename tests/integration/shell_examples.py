"""Run the shell examples of a document as its reader would, and compare what they print.

The convention, which CONTRIBUTING.md tells to those who write documents:

* A block fenced as ``console`` holds examples. A line that begins with ``$ `` is a command (a line
  that begins with ``> `` continues it); what follows, up to the next command, is what it prints.
  If nothing follows, what it prints is not looked at. It must exit with 0, or with N if the line
  ends in ``# exits with N``.
* A document is one session from top to bottom, but each command has a shell of its own: only
  ``$ export NAME=VALUE`` is remembered. ``$ meshnode …`` without a verb starts a node that
  runs on. ``<!-- nodes: foo bar -->`` starts nodes of examples/ for what follows it.
* A block of another kind whose first line is ``# name.yml`` or ``# name.py`` is that file.
* What differs on every run may differ: durations, times, PIDs, sizes after ``~``, and unit IDs,
  which are the same wherever the document says the same. ``...`` stands for anything.
* ``$ make …`` is only asked what it would do (``make -n``): tests cannot run inside themselves.

The session has a directory of its own in place of /tmp, free ports in place of 2222 to 2224 and
8043, and the naps of the guide's work types are short.
"""

import errno
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tty
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from harness import PATIENCE, Cluster, ControlConnection, free_port, wait_until

ROOT = Path(__file__).parents[2]

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>\S+)\n(?P<body>.*?)^(?P=indent)```$"
    r"|^<!-- nodes: (?P<nodes>[^\n]*) -->$",
    re.MULTILINE | re.DOTALL,
)

VARYING = re.compile(
    r"(?P<any>\.\.\.)"
    r"|(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?Z?)"
    r"|(?P<duration>\b\d+(?:\.\d+)?(?:µs|ms|s)\b)"
    r"|(?P<pid>(?<=PID )\d+)"
    r"|(?P<size>~\d+)"
    r"|(?P<unit>\b(?=\w*\d)(?=\w*[A-Za-z])[0-9A-Za-z]{8}\b)"
)
"""What an example shows only by way of example. A unit ID is taken to hold a digit and a letter."""

ACTUAL = {
    "any": r"(?s:.*?)",
    "time": r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?Z?",
    "duration": r"[\d.]+(?:µs|ms|s)",
    "pid": r"\d+",
    "size": r"~?\d+",
}

EXPORT = re.compile(r"export (?P<name>\w+)=(?P<value>[^\s$]+)")
"""The one thing that a command leaves to the commands after it: each has a shell of its own."""

ANSI = re.compile(r"\x1b\[[0-9;]*m")

PORTS = ("2222", "2223", "2224", "8043")

CERT_OPTIONS = ("--cert-init", "--cert-makereq", "--cert-signreq")

ABOUT_NOW = re.compile(
    r"^meshctl\b.* (?:traceroute|work (?:status|list|logs)|--no-follow)\b(?!.* -\w*f)"
    r"|^curl (?:-s|-K \S+) \S+$"
)
"""Commands that show how something is at this moment: the best way, the output up to now."""

NODE_VERBS = ("check", "cert", "--help", "-h", "--version", *CERT_OPTIONS)


@dataclass(slots=True)
class Example:
    """One command of a document, with what it is shown to print (None: not shown)."""

    line: int
    command: str
    output: str | None
    code: int = 0


@dataclass(slots=True)
class File:
    """A file that the document shows."""

    line: int
    name: str
    text: str


@dataclass(slots=True)
class Nodes:
    """Nodes of examples/ that the document takes as running."""

    line: int
    names: list[str]


Step = Example | File | Nodes


def read_document(text: str) -> list[Step]:
    """Return the steps of a document, in order."""
    steps: list[Step] = []
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        if block["nodes"]:
            steps.append(Nodes(line, block["nodes"].split()))
            continue
        body = "".join(row.removeprefix(block["indent"]) for row in block["body"].splitlines(True))
        named = re.match(r"# (\S+\.(?:yml|py))\n", body)
        if block["kind"] == "console":
            steps += read_console(body, line + 1)
        elif named:
            steps.append(File(line, named[1], body))
    return steps


def read_console(body: str, first_line: int) -> list[Example]:
    """Return the commands of one console block."""
    examples: list[Example] = []
    for number, row in enumerate(body.splitlines(), first_line):
        if row.startswith("$ "):
            code = re.search(r"\s+# exits with (\d+)$", row)
            command = row[2 : code.start()] if code else row[2:]
            examples.append(Example(number, command, None, int(code[1]) if code else 0))
        elif row.startswith("> ") and examples and examples[-1].output is None:
            examples[-1].command += "\n" + row[2:]
        elif not examples:
            raise ValueError(f"line {number}: output before the first command")
        else:
            examples[-1].output = (examples[-1].output or "") + row + "\n"
    for example in examples:
        if example.output is not None:
            # A blank line between two commands is for the reader's eye.
            example.output = example.output.rstrip("\n") + "\n"
    return examples


@dataclass(slots=True)
class RunningNode:
    """A node that the session has started."""

    name: str
    control: Path | None
    process: subprocess.Popen[bytes]


def ports_in_order() -> dict[str, str]:
    """Return a free port for each that documents show: in their order, for what is sorted by it."""
    free = sorted(str(free_port()) for _ in PORTS)
    return dict(zip(PORTS, free, strict=True))


@dataclass(slots=True)
class Session:
    """Where a document's examples run."""

    cluster: Cluster
    ports: dict[str, str] = field(default_factory=ports_in_order)
    unit_ids: dict[str, str] = field(default_factory=dict)
    nodes: list[RunningNode] = field(default_factory=list)

    def __post_init__(self) -> None:
        examples = self.cluster.directory / "examples"
        shutil.copytree(ROOT / "examples", examples)
        for file in examples.glob("*.yml"):
            file.write_text(self.rewrite_file(file.read_text()))
        (self.cluster.directory / ".venv").symlink_to(sys.prefix)

    # --- Between the document's world and the session's ------------------------------------------

    def rewrite(self, text: str) -> str:
        """Put the session's paths, ports and unit IDs for the document's."""
        text = text.replace("/tmp/", f"{self.cluster.directory}/")
        text = text.replace("/var/lib/meshnode", f"{self.cluster.directory}/receptor")
        for shown, real in self.ports.items():
            text = re.sub(rf"\b{shown}\b", real, text)
        for shown, real in self.unit_ids.items():
            text = text.replace(shown, real)
        return text

    def rewrite_file(self, text: str) -> str:
        """Do the same to a configuration, and give it our datadir and short naps."""
        text = self.rewrite(text)
        if "datadir" not in text:
            datadir = self.cluster.directory / "receptor"
            text = re.sub(r"^- node: (\w+)$", r"- node: {id: \1}", text, flags=re.MULTILINE)
            # On the same line, so that the lines that errors name are those of the document.
            text = re.sub(r"^( +)id: (\w+)$", r"\1{id: \2}", text, flags=re.MULTILINE)
            text = re.sub(r"{id: (\w+)}", rf"{{id: \1, datadir: {datadir}}}", text)
        return re.sub(r"\bsleep \d\b", "sleep 0.05", text)

    def as_shown(self, output: str) -> str:
        """Put the document's paths and ports for the session's."""
        output = output.replace(f"{self.cluster.directory}/", "/tmp/")
        for shown, real in self.ports.items():
            output = re.sub(rf"\b{real}\b", shown, output)
        return output

    # --- The steps ---------------------------------------------------------------------------

    def take(self, step: Step) -> None:
        """Do one step of the document; raises AssertionError if it is not as shown."""
        match step:
            case Nodes(names=names):
                for name in names:
                    self.start_node(f"meshnode -c examples/{name}.yml")
            case File(name=name, text=text):
                (self.cluster.directory / name).write_text(self.rewrite_file(text))
            case Example(command=command) if self.starts_node(command):
                self.start_node(self.rewrite(command))
            case Example(command=command) if exported := EXPORT.fullmatch(command):
                self.cluster.environment[exported["name"]] = self.rewrite(exported["value"])
            case Example(command=command) if command.startswith("make"):
                subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, check=True)
            case Example():
                self.run(step)

    def starts_node(self, command: str) -> bool:
        """Whether the command is a node that runs until it is stopped."""
        words = command.split()
        return words[0] == "meshnode" and not set(words) & set(NODE_VERBS)

    def start_node(self, command: str) -> None:
        """Start a node and wait until it, and all nodes before it, know each other."""
        command = command.rstrip("& \n")
        match command.split():
            case [_, "-c" | "--config", path]:
                directives = yaml.safe_load((self.cluster.directory / path).read_text())
                name, control = describe(directives)
            case _:
                command = re.sub(
                    r"--node id=\w+", rf"\g<0> datadir={self.cluster.directory}/receptor", command
                )
                found = re.search(r"--node id=(\w+)", command)
                assert found, f"no node ID in {command}"
                filename = re.search(r"filename=(\S+)", command)
                name, control = found[1], filename[1] if filename else ""
        with (self.cluster.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                env=self.cluster.environment,
                cwd=self.cluster.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.nodes.append(RunningNode(name, Path(control) if control else None, process))
        wait_until(
            self.all_know_all,
            watch=[self.cluster.directory],
            what=f"{', '.join(node.name for node in self.nodes)} to know each other",
        )

    def show_log(self, node: "RunningNode") -> None:
        """Print a node's log, which is shown if the test fails."""
        print((self.cluster.directory / f"{node.name}.log").read_text())

    def all_know_all(self) -> bool:
        """Whether each node with a control socket knows the services of each other node."""
        names = {node.name for node in self.nodes}
        for node in self.nodes:
            log = self.cluster.directory / f"{node.name}.log"
            assert node.process.poll() is None, f"{node.name} has ended:\n{log.read_text()}"
            if node.control is not None and not names <= known_nodes(node.control):
                return False
        return True

    def run(self, example: Example) -> None:
        """Run a command and compare its exit code and what it prints."""
        if ABOUT_NOW.search(example.command):
            # What it is about goes on by itself, and may be as shown in a moment.
            try:
                wait_until(lambda: not self.fault(example), what=f"$ {example.command} as shown")
            except AssertionError as late:
                raise AssertionError(self.fault(example)) from late
        else:
            fault = self.fault(example)
            assert not fault, fault

    def fault(self, example: Example) -> str:
        """Run a command; return what is not as shown, empty if all is."""
        code, printed = self.execute(self.rewrite(example.command))
        output = re.sub(r" +$", "", self.as_shown(printed), flags=re.MULTILINE)
        # Blank lines at the end are not shown either.
        output = re.sub(r"\n+\Z", "\n", output)
        where = f"line {example.line}: $ {example.command}"
        if code != example.code:
            return f"{where}\nexited with {code}:\n{output}"
        if example.output is None:
            return ""
        found = re.fullmatch(self.pattern(example.output), output)
        if not found:
            return f"{where}\nshown:\n{example.output}\nprinted:\n{output}"
        for group, real in found.groupdict().items():
            self.unit_ids[group.removeprefix("unit_")] = real
        return ""

    def execute(self, command: str) -> tuple[int, str]:
        """Run a command; return its exit code and what it printed."""
        return run_in_terminal(
            ["bash", "-c", command], self.cluster.environment, self.cluster.directory
        )

    def pattern(self, shown: str) -> str:
        """Return the regular expression for what a command may print, given what is shown."""
        pattern, position = "", 0
        for varying in VARYING.finditer(shown):
            pattern += re.escape(shown[position : varying.start()])
            position = varying.end()
            kind, text = varying.lastgroup or "", varying.group()
            if kind != "unit":
                pattern += ACTUAL[kind]
            elif text in self.unit_ids:
                pattern += self.unit_ids[text]
            elif f"(?P<unit_{text}>" in pattern:
                pattern += f"(?P=unit_{text})"
            else:
                pattern += rf"(?P<unit_{text}>\w{{8}})"
        return pattern + re.escape(shown[position:])

    def close(self) -> None:
        """End the nodes, and print their logs; the cluster ends what they have started."""
        for node in self.nodes:
            node.process.kill()
        for node in self.nodes:
            node.process.wait(PATIENCE)
            self.show_log(node)


def run_in_terminal(
    command: list[str], environment: dict[str, str], directory: Path
) -> tuple[int, str]:
    """Run a command whose output goes to a terminal, as a reader's does; return code and output."""
    terminal, its_end = pty.openpty()
    # Newlines come as they were written; a terminal's own carriage returns are no output.
    tty.setraw(its_end)
    process = subprocess.Popen(
        command,
        env=environment | {"NO_COLOR": "1"},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=its_end,
        stderr=its_end,
    )
    os.close(its_end)
    printed = b""
    try:
        while select.select([terminal], [], [], PATIENCE)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError as error:
                # How Linux says that nobody has the other end open any more.
                if error.errno != errno.EIO:
                    raise
                break
            printed += data
        code = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    return code, ANSI.sub("", printed.decode())


def describe(directives: list[dict[str, object]]) -> tuple[str, str]:
    """Return the node ID and the path of the control socket (or "") of a configuration."""
    name = control = ""
    for directive in directives:
        for kind, parameters in directive.items():
            if kind == "node":
                name = parameters["id"] if isinstance(parameters, dict) else str(parameters)
            if kind == "control-service" and isinstance(parameters, dict):
                control = parameters.get("filename", "")
    return name, control


def known_nodes(control: Path) -> set[str]:
    """Return the nodes whose control service the node at this socket has heard of."""
    try:
        with ControlConnection(control) as connection:
            status = yaml.safe_load(connection.ask("status"))
    except (FileNotFoundError, ConnectionRefusedError):
        return set()
    return {advertisement["NodeID"] for advertisement in status["Advertisements"] or []}
