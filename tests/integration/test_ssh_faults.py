"""What becomes of units on hosts with only SSH when something breaks: real sshds, real nodes.

Each unit ends or goes on as docs/ssh.md says, runs once, and leaves nothing on its host.
"""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from harness import Cluster, Node, wait_until
from sshd import Gate, Sshd, children, make_key, name_of, run_on, work_ssh

QUICK = ["ServerAliveInterval=1", "ServerAliveCountMax=2"]
"""Options with which a host that answers nothing is given up after some two seconds."""

CUTTING_SSH = """#!{python}
import os, subprocess, sys
ssh = subprocess.Popen(["ssh", *sys.argv[1:]], stderr=subprocess.PIPE)
for line in ssh.stderr:
    words = line.decode(errors="replace").split()
    if words[1:2] == ["{word}"] and words[0].startswith("mn") and not os.path.exists("{mark}"):
        open("{mark}", "x").close()
        ssh.kill()
        sys.exit(255)
    sys.stderr.buffer.write(line)
    sys.stderr.buffer.flush()
sys.exit(ssh.wait())
"""
"""An ssh that is killed once, before a certain answer of the host gets through."""

ANSWERS = ["state", "made", "got", "started", "end", "removed"]
"""All answers of a host, in their order."""


class Job:
    """What a unit runs: it says that it runs, in a ledger, and waits for its gate."""

    def __init__(self, place: Path) -> None:
        self.ledger = place / "ledger"
        self.gate = Gate(place)
        self.script = f"echo x >>{self.ledger}; echo one; {self.gate.wait}; echo two"

    def check_once(self) -> None:
        assert self.ledger.read_text() == "x\n"


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def cutting_ssh(place: Path, word: str) -> Path:
    program = place / "cutting-ssh"
    program.write_text(CUTTING_SSH.format(python=sys.executable, word=word, mark=place / "was-cut"))
    program.chmod(0o755)
    return program


def ssh_of(node: Node) -> list[int]:
    """Return the processes of ssh that a node has."""
    return [pid for pid in children(node.pid) if name_of(pid).startswith("ssh ")]


def send(number: int, pids: Iterable[int]) -> None:
    """Signal processes; one may end with another."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def finish(node: Node, unit: str, job: Job, anna: Sshd) -> None:
    """Let the command end, and check that all of it came, once, and nothing is left."""
    job.gate.open()
    node.wait_unit(unit, "Succeeded")
    assert node.results(unit) == b"one\ntwo\n"
    job.check_once()
    anna.wait_clean()


# --- What is killed or frozen while the command runs -------------------------------------------


def test_the_node_is_killed_and_goes_on_from_the_byte_on_disk(cluster: Cluster, far, job):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, job.script)
    node.wait_output(unit, b"one\n")
    node.kill()
    node.start()
    finish(node, unit, job, anna)


def test_the_command_ends_while_no_node_is_there_and_its_exit_code_is_recorded(
    cluster: Cluster, far, job
):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, f"{job.script}; exit 7")
    node.wait_output(unit, b"one\n")
    node.kill()
    job.gate.open()
    wait_until(lambda: list(anna.units.glob("*/run/exit.7")), what="the exit code on the host")
    node.start()
    assert node.wait_unit(unit, "Failed")["Detail"] == "exit status 7"
    assert node.results(unit) == b"one\ntwo\n"
    job.check_once()
    anna.wait_clean()


def test_a_timeout_holds_on_the_host_also_while_no_node_is_there(cluster: Cluster, far, job):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna, timeout="2s")])
    unit = run_on(node, job.script)
    node.wait_output(unit, b"one\n")
    node.kill()
    wait_until(lambda: list(anna.units.glob("*/run/exit.*")), what="the end on the host")
    node.start()
    assert node.wait_unit(unit, "Failed")["Detail"] == "timed out after 2 s"
    assert node.results(unit) == b"one\n"
    anna.wait_clean()


def test_the_ssh_client_is_killed_and_another_one_goes_on(cluster: Cluster, far, job):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, job.script)
    node.wait_output(unit, b"one\n")
    send(signal.SIGKILL, ssh_of(node))
    finish(node, unit, job, anna)


def test_the_server_s_session_is_killed_and_another_one_goes_on(cluster: Cluster, far, job):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, job.script)
    node.wait_output(unit, b"one\n")
    send(signal.SIGKILL, anna.sessions())
    finish(node, unit, job, anna)


def test_a_session_is_frozen_and_another_one_goes_on(cluster: Cluster, far, job):
    anna = far.add("anna")
    host = anna.as_host()
    host["options"] += QUICK
    node = cluster.node("foo", more=[work_ssh(anna, hosts=[host])])
    unit = run_on(node, job.script)
    node.wait_output(unit, b"one\n")
    frozen = anna.sessions()
    send(signal.SIGSTOP, frozen)
    node.wait_log("Timeout, server 127.0.0.1 not responding")
    job.gate.open()
    node.wait_unit(unit, "Succeeded")
    assert node.results(unit) == b"one\ntwo\n"
    # Thawed, it finds its unit gone.
    send(signal.SIGCONT, frozen)
    anna.wait_clean()
    job.check_once()


def test_a_session_that_is_frozen_before_the_start_never_starts_anything_afterwards(
    cluster: Cluster, far, job, tmp_path
):
    anna = far.add("anna")
    host = anna.as_host()
    host["options"] += QUICK
    frozen: list[int] = []
    node = cluster.node("foo", more=[work_ssh(anna, hosts=[host], connect="60s")])
    os.kill(anna.process.pid, signal.SIGSTOP)
    unit = run_on(node, job.script)
    wait_until(lambda: ssh_of(node), what="ssh to connect")
    os.kill(anna.process.pid, signal.SIGCONT)
    wait_until(lambda: anna.sessions(), what="a session")
    frozen = anna.sessions()
    send(signal.SIGSTOP, frozen)
    node.wait_output(unit, b"one\n")
    job.gate.open()
    node.wait_unit(unit, "Succeeded")
    send(signal.SIGCONT, frozen)
    anna.wait_clean()
    job.check_once()


def test_much_output_is_byte_exact_although_its_sessions_are_killed(cluster: Cluster, far):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, "seq 1 600000")
    stdout = node.units / unit / "stdout"
    for size in (1, 1_000_000, 2_500_000):
        wait_until(lambda size=size: stdout.stat().st_size >= size, watch=[stdout], what="output")
        send(signal.SIGKILL, anna.sessions())
    node.wait_unit(unit, "Succeeded")
    assert node.results(unit) == "".join(f"{n}\n" for n in range(1, 600_001)).encode()
    anna.wait_clean()


def test_a_killed_supervisor_is_told_and_its_command_ended(cluster: Cluster, far, job):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, job.script)
    node.wait_output(unit, b"one\n")
    (found,) = anna.units.glob("*/run/supervisor")
    os.kill(int(found.read_text().split()[0]), signal.SIGKILL)
    detail = node.wait_unit(unit, "Failed")["Detail"]
    assert detail == "lost: its supervisor on host anna ended without recording an end"
    job.check_once()
    anna.wait_clean()


# --- Connections that break before an answer ----------------------------------------------------


@pytest.mark.parametrize("word", ANSWERS)
def test_a_connection_that_breaks_before_an_answer_costs_nothing_and_nothing_runs_twice(
    cluster: Cluster, far, job, tmp_path, word
):
    anna = far.add("anna")
    kind = work_ssh(anna, ssh=str(cutting_ssh(tmp_path, word)))
    node = cluster.node("foo", more=[kind])
    unit = run_on(node, job.script)
    finish(node, unit, job, anna)
    assert (tmp_path / "was-cut").exists()


@pytest.mark.parametrize("word", ["state", "made", "got"])
def test_a_host_that_vanishes_before_the_start_is_replaced_by_the_next(
    cluster: Cluster, far, job, tmp_path, word
):
    anna, bert = far.add("anna"), far.add("bert")
    program = cutting_ssh(tmp_path, word)
    # Only the way to the first one is cut, and it is chosen by its name being tried first.
    other = bert.as_host()
    kind = work_ssh(anna, hosts=[anna.as_host(), other], ssh=str(program), choice="random")
    node = cluster.node("foo", more=[kind])
    unit = run_on(node, job.script)
    node.wait_output(unit, b"one\n")
    finish(node, unit, job, anna)
    bert.wait_clean()
    assert node.find_log("not started there: host ")


def test_a_host_that_vanishes_when_the_command_may_have_started_is_waited_for(
    cluster: Cluster, far, job, tmp_path
):
    anna, bert = far.add("anna"), far.add("bert")
    program = cutting_ssh(tmp_path, "started")
    text = program.read_text().replace("ssh.kill()", f"ssh.kill(); os.kill({anna.process.pid}, 19)")
    program.write_text(text)
    kind = work_ssh(anna, bert, ssh=str(program), connect="3s")
    node = cluster.node("foo", more=[kind])
    unit = run_on(node, job.script, "-a", "host=anna")
    node.wait_status(
        lambda _: "host anna: connect: not done within 3 s" in node.unit_status(unit)["Detail"],
        what="the host to be missed",
    )
    os.kill(anna.process.pid, signal.SIGCONT)
    finish(node, unit, job, anna)


def test_a_host_that_is_down_is_replaced_and_told_when_there_is_no_other(
    cluster: Cluster, far, job
):
    anna, bert = far.add("anna"), far.add("bert")
    anna.stop()
    node = cluster.node("foo", more=[work_ssh(anna, bert)])
    finish(node, run_on(node, job.script), job, bert)
    unit = run_on(node, "echo there", "-a", "host=anna")
    node.wait_status(
        lambda _: node.unit_status(unit)["Detail"].startswith("waiting: host anna: connect: "),
        what="the reason to be shown",
    )
    anna.start()
    assert node.results(unit) == b"there\n"


def test_a_cancel_of_a_unit_whose_host_is_away_is_done_when_it_is_back(cluster: Cluster, far, job):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, job.script)
    node.wait_output(unit, b"one\n")
    anna.stop()
    node.wait_log("not heard from now: host anna")
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
    node.kill()
    request.wait()
    node.start()
    anna.start()
    assert node.wait_unit(unit, "Canceled")["Detail"] == "Canceled"
    anna.wait_clean()


# --- What is refused ----------------------------------------------------------------------------


def failure(node: Node, script: str = "echo there", worktype: str = "far") -> str:
    """Return why a unit fails at once, as who submits it is told and as its status keeps it."""
    before = set(node.units.iterdir())
    told = node.cluster.run(
        *("meshctl", "--socket", node.socket, "work", "submit", worktype, "--no-payload"),
        *("--", "-c", script),
        check=False,
    )
    (unit,) = [path.name for path in set(node.units.iterdir()) - before if len(path.name) == 8]
    detail = str(node.wait_unit(unit, "Failed")["Detail"])
    assert detail in told.stderr.decode()
    return detail


def test_a_changed_host_key_is_refused_with_the_command_that_removes_the_old_one(
    cluster: Cluster, far
):
    anna = far.add("anna")
    anna.stop()
    for path in (anna.host_key, anna.host_key.with_suffix(".pub")):
        path.unlink()
    make_key(anna.host_key)
    anna.start()
    node = cluster.node("foo", more=[work_ssh(anna)])
    detail = failure(node)
    assert detail == (
        "no host can run it: host anna: connect: its host key has changed: somebody may listen "
        "in, or it was installed anew; if it was, remove the old key (ssh-keygen -f "
        f"{far.known_hosts} -R '[127.0.0.1]:{anna.port}') and add the new one"
    )
    remedy = ["ssh-keygen", "-f", far.known_hosts, "-R", f"[127.0.0.1]:{anna.port}"]
    subprocess.run(remedy, check=True, capture_output=True)
    detail = failure(node)
    assert "host anna: connect: its host key is not known here" in detail
    anna.trust()
    assert node.results(run_on(node, "echo there")) == b"there\n"


def test_a_key_that_may_not_log_in_is_named_with_the_remedy(cluster: Cluster, far, tmp_path):
    anna = far.add("anna")
    other = tmp_path / "other"
    make_key(other)
    node = cluster.node("foo", more=[work_ssh(anna, hosts=[anna.as_host(key=str(other))])])
    detail = failure(node)
    assert detail.endswith(
        f"may not log in (publickey): put the public key of {other} into "
        "~/.ssh/authorized_keys there, or name user and key"
    )


def test_an_unknown_host_and_a_missing_ssh_are_told_apart(cluster: Cluster, far):
    anna = far.add("anna")
    nowhere = work_ssh(anna, hosts=["no-such-host.invalid"])
    no_ssh = work_ssh(anna, name="none", ssh="/nonexistent/ssh")
    node = cluster.node("foo", more=[nowhere, no_ssh])
    detail = failure(node)
    assert "there is no host no-such-host.invalid: give its address" in detail or (
        "name resolution" in detail
    )
    assert "/nonexistent/ssh cannot be run" in failure(node, worktype="none")


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a disk of a megabyte; it is gone with the context."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")


@needs_root
def test_a_full_disk_there_is_named_before_the_start_and_the_next_host_is_tried(
    cluster: Cluster, far, tmp_path
):
    anna = far.add("anna")
    with small_disk(anna.directory / "full") as full:
        kind = work_ssh(anna, directory="full")
        node = cluster.node("foo", more=[kind])
        payload = tmp_path / "payload"
        payload.write_bytes(os.urandom(3_000_000))
        unit = node.submit("far", "--payload", payload, "--", "-c", "cat >/dev/null; echo done")
        wanted = "waiting: host anna: copy: the disk there is full (full): make room"
        node.wait_status(
            lambda _: node.unit_status(unit)["Detail"].startswith(wanted), what="a full disk"
        )
        wait_until(lambda: not list(full.iterdir()), what="nothing to be left of the try")
        subprocess.run(["mount", "-o", "remount,size=8m", full], check=True)
        assert node.results(unit) == b"done\n"
        wait_until(lambda: not list(full.iterdir()), what="nothing to be left")


@needs_root
def test_a_disk_that_the_command_fills_keeps_neither_exit_code_nor_cleaning(cluster: Cluster, far):
    anna = far.add("anna")
    with small_disk(anna.directory / "full") as full:
        node = cluster.node("foo", more=[work_ssh(anna, directory="full")])
        unit = run_on(node, "head -c 5000000 /dev/zero; echo $? >&2; exit 9")
        assert node.wait_unit(unit, "Failed")["Detail"] == "exit status 9"
        assert 0 < node.unit_status(unit)["StdoutSize"] < 1_100_000
        wait_until(lambda: not list(full.iterdir()), what="nothing to be left")


def test_what_is_there_of_a_unit_only_its_user_can_read(cluster: Cluster, far, job):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, job.script)
    node.wait_output(unit, b"one\n")
    (directory,) = anna.units.iterdir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    finish(node, unit, job, anna)
