"""Files of a job come back from a host with only SSH, whatever is killed meanwhile: real sshds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Cluster, Node, free_port, wait_until
from sshd import Gate, Sshd, children, name_of, run_on, work_ssh

from meshctl import ControlClient, JobSettings

BIG_BYTES = 96 * 1024 * 1024
"""More than a process may grow by, which has a piece of it in memory at a time; and enough that who
is killed is killed amid it."""

SMALL_FILES = 300

MOST_GROWTH = 48 * 1024 * 1024

GLOBS = ("--output", "out/**", "--output", "*.log", "--output", "nothing*")

LITTLE_BYTES = 1024 * 1024
"""Enough where it does not matter how long they take."""

MAKE = f"""
echo x >>{{ledger}}
mkdir -p out/small
head -c 1048576 /dev/urandom >part
for i in $(seq {{pieces}}); do cat part; done >out/big
for i in $(seq {SMALL_FILES}); do echo $i >out/small/$i; done
ln -s small/7 out/link
ln out/small/8 out/same
echo done >job.log
find out job.log -type f | LC_ALL=C sort | xargs sha256sum
"""

QUICK = ["ServerAliveInterval=1", "ServerAliveCountMax=2"]
"""Options with which a host that answers nothing is given up after some two seconds."""

CUTTING_SSH = """#!{python}
import os, subprocess, sys, threading
ssh = subprocess.Popen(["ssh", *sys.argv[1:]], stdin=subprocess.PIPE)
def relay():
    while data := os.read(0, 65536):
        if data.split()[:1] == [b"{word}"] and not os.path.exists("{mark}"):
            open("{mark}", "x").close()
            if {is_sent}:
                os.write(ssh.stdin.fileno(), data)
            ssh.kill()
            return
        os.write(ssh.stdin.fileno(), data)
    ssh.stdin.close()
threading.Thread(target=relay, daemon=True).start()
sys.exit(ssh.wait() and 255)
"""
"""An ssh that is killed once, before or after a certain request has gone through it."""


class Maker:
    """A job that makes files and prints their checksums, and what must become of them."""

    def __init__(self, place: Path, size: int = BIG_BYTES) -> None:
        self.ledger = place / "ledger"
        self.place = place / "fetched"
        self.script = MAKE.format(ledger=self.ledger, pieces=size >> 20)

    def check(self, node: Node, unit: str, *hosts: Sshd) -> None:
        """See that all files are here, byte for byte, and the job ran once and left nothing."""
        status = node.wait_unit(unit, "Succeeded")
        assert status["Detail"] == (
            f"exit status 0; collected {SMALL_FILES + 4} files; nothing matches 'nothing*'"
        )
        node.meshctl("work", "fetch", unit, "-o", self.place)
        checked = subprocess.run(
            ["sha256sum", "--check", "--quiet", "--strict"],
            input=node.results(unit),
            cwd=self.place,
            check=False,
        )
        assert checked.returncode == 0
        assert os.readlink(self.place / "out" / "link") == "small/7"
        assert not (self.place / "part").exists()
        assert self.ledger.read_text() == "x\n"
        for host in hosts:
            host.wait_clean()


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def peak(pid: int) -> int:
    """Return the most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def wait_amid(node: Node, unit: str) -> None:
    """Wait until a part of a unit's files is here."""
    path = node.units / unit / "files.new"
    wait_until(
        lambda: path.exists() and path.stat().st_size > 5_000_000,
        watch=[path.parent],
        what="a part of the files",
    )


def test_files_come_back_in_bounded_memory_and_to_the_node_that_submitted(
    cluster: Cluster, far, maker: Maker
) -> None:
    anna, port = far.add("anna"), free_port()
    bar = cluster.node("bar", listen=port, more=[work_ssh(anna)])
    foo = cluster.node("foo", peers=[port])
    foo.wait_service("bar")
    idle = peak(bar.pid)
    unit = run_on(foo, maker.script, "--node", "bar", *GLOBS)
    maker.check(foo, unit, anna)
    assert peak(bar.pid) < idle + MOST_GROWTH
    assert foo.unit_status(unit)["FilesSize"] > BIG_BYTES


@pytest.mark.parametrize("who", ["node", "ssh", "session", "frozen"])
def test_what_is_killed_or_frozen_amid_the_files_costs_nothing_and_nothing_runs_again(
    cluster: Cluster, far, maker: Maker, who: str
) -> None:
    anna = far.add("anna")
    host = anna.as_host()
    host["options"] += QUICK
    node = cluster.node("foo", more=[work_ssh(anna, hosts=[host])])
    unit = run_on(node, maker.script, *GLOBS)
    wait_amid(node, unit)
    sessions = anna.sessions()
    if who == "node":
        node.kill()
        node.start()
    elif who == "ssh":
        for pid in children(node.pid):
            if name_of(pid).startswith("ssh "):
                os.kill(pid, signal.SIGKILL)
    for pid in sessions if who in {"session", "frozen"} else ():
        os.kill(pid, signal.SIGKILL if who == "session" else signal.SIGSTOP)
    node.wait_unit(unit, "Succeeded")
    for pid in sessions if who == "frozen" else ():
        os.kill(pid, signal.SIGCONT)
    maker.check(node, unit, anna)


@pytest.mark.parametrize("word", ["list", "bring", "remove"])
@pytest.mark.parametrize("is_sent", [False, True])
def test_a_connection_that_breaks_at_a_request_for_files_costs_nothing(
    cluster: Cluster, far, tmp_path: Path, word: str, is_sent: bool
) -> None:
    maker = Maker(tmp_path, LITTLE_BYTES)
    anna, mark = far.add("anna"), tmp_path / "was-cut"
    program = tmp_path / "cutting-ssh"
    program.write_text(
        CUTTING_SSH.format(python=sys.executable, word=word, mark=mark, is_sent=is_sent)
    )
    program.chmod(0o755)
    node = cluster.node("foo", more=[work_ssh(anna, ssh=str(program))])
    unit = run_on(node, maker.script, *GLOBS)
    maker.check(node, unit, anna)
    assert mark.exists()


def test_files_of_a_job_that_is_canceled_or_exceeds_its_time_come_back(
    cluster: Cluster, far, tmp_path: Path
) -> None:
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    script = "echo so far >a.log; echo up; sleep 1000"
    for how, told in (("cancel", "Canceled"), ("timeout", "timed out after 1 s; collected 1 file")):
        time = ("--timeout", "1s") if how == "timeout" else ()
        unit = run_on(node, script, "--output", "*.log", *time)
        node.wait_output(unit, b"up\n")
        if how == "cancel":
            node.meshctl("work", "cancel", unit)
        assert node.wait_unit(unit, "Canceled", "Failed")["Detail"] == told
        node.meshctl("work", "fetch", unit, "-o", tmp_path / how, check=False)
        assert (tmp_path / how / "a.log").read_text() == "so far\n"
    anna.wait_clean()


def test_who_cancels_a_unit_whose_host_is_away_amid_its_files_does_not_wait_for_them(
    cluster: Cluster, far, maker: Maker
) -> None:
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, maker.script, *GLOBS)
    wait_amid(node, unit)
    anna.stop()
    node.wait_status(
        lambda _: node.unit_status(unit)["Detail"].startswith(
            "Collecting files; waiting: host anna: "
        ),
        what="the host to be missed",
    )
    request = subprocess.Popen(
        ["meshctl", "--socket", node.socket, "work", "cancel", unit],
        env=cluster.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(
        lambda: node.stored_status(unit)["RunnerData"].get("canceled"),
        watch=[node.units / unit],
        what="the request to be on record",
    )
    anna.start()
    request.wait()
    status = node.wait_unit(unit, "Canceled")
    assert (status["Detail"], status["FilesSize"]) == ("Canceled", 0)
    assert not (node.units / unit / "files.new").exists()
    anna.wait_clean()


def test_files_that_do_not_come_in_time_fail_the_unit_and_are_removed_there(
    cluster: Cluster, far, maker: Maker
) -> None:
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna, collect="100ms")])
    unit = run_on(node, maker.script, *GLOBS)
    assert node.wait_unit(unit, "Failed")["Detail"] == (
        "exit status 0; its files were not collected: host anna: collect: not done within 0.1 s"
    )
    assert maker.ledger.read_text() == "x\n"
    anna.wait_clean()


def test_a_python_client_gets_files_of_hosts_as_of_any_node(
    cluster: Cluster, far, tmp_path: Path
) -> None:
    anna, bert, gate = far.add("anna"), far.add("bert"), Gate(tmp_path)
    node = cluster.node("foo", more=[work_ssh(anna, bert)])
    (tmp_path / "in.txt").write_text("in")
    job = JobSettings(deps=(tmp_path / "in.txt",), output=("out/*.txt",))
    words = f"-c 'mkdir out; {gate.wait}; tr i o <DEPS/in.txt >out/out.txt; exit 3'"
    gate.open(2)
    with ControlClient(str(node.socket)) as client:
        for host in ("anna", "least"):
            unit = client.submit("far", params={"host": host, "params": words}, job=job).unit_id
            assert client.wait(unit)["ExitCode"] == 3
            assert client.fetch(unit, tmp_path / host) == ("out/out.txt",)
            assert (tmp_path / host / "out" / "out.txt").read_text() == "on"
    for server in (anna, bert):
        server.wait_clean()
