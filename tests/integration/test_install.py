"""docs/install.md step by step, and the systemd unit, on a machine that they may change."""

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from harness import COMMANDS, wait_until
from machine import ROOT, SOCKET, USER, Machine
from shell_examples import (
    EXPORT,
    Example,
    File,
    RunningNode,
    Session,
    Step,
    read_document,
    run_in_terminal,
)

PACKAGING = ROOT / "packaging"
PAGE = ROOT / "docs" / "install.md"

STARTS = re.compile(r"systemctl (enable --now|start|restart) meshnode")
"""Commands after which the node's socket is there, in a moment."""


class OnMachine(Session):
    """The page's session, on a machine: as a user without rights, or with ``sudo`` as root."""

    def __init__(self, box: Machine) -> None:
        self.box = box
        self.unit_ids = {}
        self.ports = {}
        self.nodes = []
        self.exports = ""

    def take(self, step: Step) -> None:
        match step:
            case Example(command=command) if EXPORT.fullmatch(command):
                self.exports += f"{command}; "
            case Example(command=command) if self.starts_node(command):
                words = self.box.words(f"exec {command}", USER)
                node = subprocess.Popen(words, stderr=subprocess.DEVNULL)
                self.nodes.append(RunningNode("foo", None, node))
                self.box.wait_for("test -S /tmp/foo.sock", what="the node's socket")
            case Example(command=command) if command.startswith("make"):
                super().take(step)
            case Example(command=command):
                self.run(step)
                if STARTS.search(command):
                    self.box.wait_node()
            case File():
                raise AssertionError("a file of the page: say who owns it")

    def execute(self, command: str) -> tuple[int, str]:
        # There need be no sudo on the machine of the tests: being root is what it does.
        user, command = USER, command.replace('"$USER"', USER)
        if words := re.match(r"sudo (?:-u (\w+) )?", command):
            user, command = words[1] or "root", command[words.end() :]
        return run_in_terminal(self.box.words(self.exports + command, user), {}, Path("/"))

    def show_log(self, node: RunningNode) -> None:
        """Nothing is kept of what it logs."""

    def rewrite(self, text: str) -> str:
        return text

    def as_shown(self, output: str) -> str:
        return output


@pytest.mark.timeout(600)
def test_each_step_of_the_page_does_what_it_is_shown_to_do(box: Machine) -> None:
    session = OnMachine(box)
    try:
        for step in read_document(PAGE.read_text()):
            session.take(step)
    finally:
        session.close()


# --- The unit ------------------------------------------------------------------------------------


NO_ANALYSIS = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here"
)

MOST_EXPOSED = 30
"""Tenths of what systemd-analyze calls exposure that a node with the drop-in has at most: what is
left is that it has the network, other users' processes and /tmp, which work is there for."""


def unit_with_drop_in(place: Path) -> Path:
    """Return the unit and its drop-in as they would be installed."""
    unit = (PACKAGING / "meshnode.service").read_text()
    assert unit.count("/opt/meshnode/bin/") == 2
    # Its programs are not under /opt here, which systemd-analyze would say.
    (place / "meshnode.service").write_text(unit.replace("/opt/meshnode/bin", str(COMMANDS)))
    dropins = place / "meshnode.service.d"
    dropins.mkdir()
    shutil.copy(PACKAGING / "strict.conf", dropins)
    return place / "meshnode.service"


@NO_ANALYSIS
def test_systemd_finds_nothing_to_say_about_the_unit_and_its_drop_in(tmp_path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", unit_with_drop_in(tmp_path)],
        capture_output=True,
        check=False,
    )
    # It reads the units of the machine as well, and complains of those.
    said = [
        line for line in done.stderr.decode().splitlines() if "meshnode" in line or "strict" in line
    ]
    assert (said, done.returncode) == ([], 0)


@NO_ANALYSIS
def test_with_its_drop_in_little_of_the_machine_is_exposed_to_the_node(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *("systemd-analyze", "security", "--offline=yes", f"--threshold={MOST_EXPOSED}"),
            unit_with_drop_in(tmp_path),
        ],
        capture_output=True,
        check=False,
    )
    if b"unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze judges no files")
    assert done.returncode == 0, done.stdout.decode()[-3000:]


def test_there_is_one_systemd_unit_and_every_page_leads_to_it() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    copies = [page.name for page in pages if "ExecStart=" in page.read_text()]
    assert copies == []
    assert "../packaging/meshnode.service" in PAGE.read_text()


@pytest.fixture
def service(box: Machine) -> Machine:
    """Return a machine whose systemd runs the meshnode under test by the unit of packaging/.

    Beside ``echo`` it has the work type ``wait`` of :meth:`Machine.offer_gate`.
    """
    box.run(f"mkdir /opt/meshnode && ln -s {COMMANDS} /opt/meshnode/bin")
    box.run("useradd --system --user-group --home-dir /var/lib/meshnode meshnode")
    box.run("install -D -m 0640 -g meshnode packaging/meshnode.yml /etc/meshnode/meshnode.yml")
    box.offer_gate()
    box.run("cp packaging/meshnode.service /etc/systemd/system/ && systemctl start meshnode")
    box.wait_node()
    return box


def test_units_run_on_while_systemd_restarts_stops_or_loses_their_node(service: Machine) -> None:
    unit = service.submit("wait")
    for harm in (
        "systemctl restart meshnode",
        "systemctl stop meshnode && systemctl start meshnode",
        "systemctl kill --kill-whom=main --signal=KILL meshnode",
    ):
        before = service.node_pid()
        service.run(harm)
        service.wait_node(other_than=before)
        assert service.state(unit) == "Running", harm
    service.open_gate("through")
    assert service.meshctl(f"work results {unit}") == "through\n"


def test_a_wrong_file_is_not_tried_again_and_anything_else_is(service: Machine) -> None:
    before = service.node_pid()
    service.run("cp -a /etc/meshnode/meshnode.yml /etc/good.yml")
    service.run("echo '- nosuch' >> /etc/meshnode/meshnode.yml && systemctl restart meshnode")
    service.wait_for("systemctl is-failed --quiet meshnode", what="the end of the service")
    shown = service.output("systemctl show meshnode -p NRestarts,ExecMainStatus")
    assert set(shown.split()) == {"NRestarts=0", "ExecMainStatus=2"}
    service.run("cp -a /etc/good.yml /etc/meshnode/meshnode.yml")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listener = f"- tcp-listener: {{bindaddr: 127.0.0.1, port: {taken.getsockname()[1]}}}"
        service.run(f"sed -i 's/^- local-only/{listener}/' /etc/meshnode/meshnode.yml")
        service.run("systemctl start meshnode")
        wait_until(
            lambda: "NRestarts=0" not in service.output("systemctl show meshnode -p NRestarts"),
            what="a second try",
        )
    service.wait_node(other_than=before)


def test_only_the_group_may_control_the_node(service: Machine) -> None:
    status = f"{COMMANDS}/meshctl --socket {SOCKET} status"
    refused = service.run(status, user=USER, check=False)
    assert b"permission denied" in refused.stderr
    service.run(f"usermod -aG meshnode {USER}")
    service.run(status, user=USER)
    assert service.run("cat /var/lib/meshnode/.", user=USER, check=False).returncode != 0
