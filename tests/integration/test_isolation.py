"""Jobs that try to break out of their isolation, one a promise; run by root and by any user."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from harness import Cluster, Node, wait_until
from isolated import PYTHON, WHO, begin, cancel, isolating, output, run

from meshnode.work.local.launcher import tree
from meshnode.work.local.processes import ProcessId, UnitProcesses
from meshnode.work.local.seccomp import REFUSED


@pytest.fixture(scope="module", params=WHO)
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    cluster = Cluster()
    try:
        with isolating(cluster, request.param) as node:
            yield node
            cluster.close()
    finally:
        cluster.close()


# --- Other processes ------------------------------------------------------------------------------


def test_a_job_sees_its_own_processes_alone(node: Node) -> None:
    text = output(node, "full", "sleep 100 & cd /proc; echo [0-9]*; kill %1; exec true")
    assert text.split() == ["1", "2", "3"]


def test_a_job_that_kills_whatever_it_can_reaches_nobody_else(node: Node) -> None:
    other = begin(node, "plain", "echo up; exec sleep 1000")
    pid = node.unit_status(other)["Pid"]
    text = output(
        node,
        "full",
        f"kill -9 {pid} {node.pid}; for n in KILL STOP TERM INT; do kill -$n 1; done; "
        "sleep 100 & trap '' TERM; kill -TERM -1; wait; kill -0 1; echo alive",
    )
    assert text.count("No such process") >= 1
    assert text.endswith("alive\n")
    assert node.unit_status(other)["StateName"] == "Running"
    cancel(node, other)


def test_a_job_learns_nothing_of_the_process_above_it(node: Node) -> None:
    script = """
for file in environ mem maps root/etc fd/0 cwd/etc exe stack; do
    cat /proc/1/$file >/dev/null 2>&1 && echo read $file; ls /proc/1/$file/ >/dev/null 2>&1 &&
    echo listed $file
done; echo done"""
    assert output(node, "full", script) == "done\n"


def test_a_job_traces_nobody(node: Node) -> None:
    script = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if not child:
    while True: pass
for pid in (1, child):
    print(libc.ptrace(16, pid, 0, 0), ctypes.get_errno())
os.kill(child, 9)
"""
    assert output(node, "python", script) == "-1 1\n-1 1\n"


# --- The network ----------------------------------------------------------------------------------

CONNECT = """
import socket
for family, address in {addresses}:
    with socket.socket(family, socket.SOCK_STREAM) as one:
        try:
            one.connect(address)
            print("connected", address)
        except OSError as error:
            print("no")
"""


@pytest.mark.parametrize("kind", ["full", "loopback", "network"])
def test_a_job_reaches_no_socket_of_this_machine_nor_of_the_node(node: Node, kind: str) -> None:
    name = f"\0meshnode-test-{node.cluster.mark}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(name)
        abstract.listen()
        addresses = [
            (int(socket.AF_INET), tcp.getsockname()),
            (int(socket.AF_UNIX), name),
            (int(socket.AF_UNIX), str(node.socket)),
        ]
        script = CONNECT.format(addresses=addresses)
        command = f"{PYTHON} - <<'END'\n{script}\nEND\n"
        assert output(node, "plain", command).count("connected") == 3
        assert output(node, kind, command) == "no\nno\nno\n"


def test_a_job_with_a_loopback_of_its_own_speaks_to_itself(node: Node) -> None:
    script = f"""{PYTHON} - <<'END'
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()) as client:
        print("heard" if server.accept()[0] else "")
END
"""
    assert output(node, "loopback", script) == "heard\n"
    assert run(node, "full", script)[0]["StateName"] == "Failed"


def test_a_job_reaches_the_host_of_its_virtual_machine_by_no_other_family(node: Node) -> None:
    script = """
import socket
for family in (38, 40):
    try: socket.socket(family, socket.SOCK_STREAM if family == 40 else socket.SOCK_SEQPACKET)
    except OSError as error: print(error.errno)
"""
    assert output(node, "python", script) == "1\n1\n"


# --- Files ----------------------------------------------------------------------------------------


def test_a_job_reads_no_file_of_another_unit_nor_of_the_node(node: Node) -> None:
    other = begin(node, "plain", "echo a secret", "a secret\n")
    paths = [node.units / other / "stdout", node.units / other / "stdin", node.config, node.socket]
    script = "; ".join(f"cat {path} 2>/dev/null && echo read; ls -d {path}" for path in paths)
    assert "secret" in output(node, "plain", f"cat {paths[0]}; true")
    for kind in ("full", "loopback", "network"):
        text = output(node, kind, f"{script}; ls {node.units}; true")
        assert "secret" not in text
        assert "node:" not in text
        # Of all units it sees the directory of its own.
        _, text = run(node, kind, f"ls {node.units}; echo $MESHNODE_UNIT_ID")
        first, second = text.split()
        assert first == second


def test_a_job_may_look_at_its_units_directory_and_change_nothing_there(node: Node) -> None:
    script = """
cd $MESHNODE_UNIT_DIR; echo *; cat stdin | head -c 2 | wc -c
echo x >new; echo x >>stdout; rm -f stdin; chmod 777 .; mv status other
echo *"""
    status, text = run(node, "full", script)
    assert status["StateName"] == "Succeeded"
    lines = [line for line in text.splitlines() if ":" not in line]
    assert lines[0] == lines[-1]
    assert {"stdin", "status", "stdout"} <= set(lines[0].split())
    assert lines[1] == "2"
    assert text.count("Read-only file system") >= 4


def test_a_job_writes_nowhere_but_to_what_is_its_own(node: Node) -> None:
    places = ["/", "/etc", "/usr", "/usr/bin", "/var", "/var/lib", "/home", "/run", "/dev", "/sys"]
    places += ["/proc/sys/kernel/core_pattern", "/sys/fs/cgroup", "/proc/sysrq-trigger"]
    script = "".join(
        f"(echo x >{place}/x-$$) 2>/dev/null && echo wrote {place}\n"
        f"(echo x >{place}) 2>/dev/null && echo wrote to {place}\n"
        for place in places
    )
    name = node.cluster.mark
    own = "".join(
        f"echo x >{p}/{name} && echo own $(ls {p})\n" for p in ("/tmp", "/var/tmp", "/dev/shm")
    )
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    assert output(node, "full", script + own + "pwd") == f"own {name}\n" * 3 + "/tmp\n"
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
    assert not Path(f"/tmp/{name}").exists()


def test_two_jobs_share_no_temporary_file(node: Node) -> None:
    with Path(f"/tmp/{node.cluster.mark}").open("w") as outside:
        try:
            assert output(node, "plain", f"ls {outside.name}") == f"{outside.name}\n"
            assert output(node, "full", "ls -A /tmp; touch /tmp/mine /dev/shm/mine") == ""
            assert output(node, "full", "ls -A /tmp /dev/shm /var/tmp | grep mine; true") == ""
        finally:
            os.unlink(outside.name)


def test_a_job_finds_no_disk_and_no_memory_of_the_machine(node: Node) -> None:
    script = "ls /dev; head -c 1 /proc/kcore | wc -c; ls -A /run; true"
    text = output(node, "full", script)
    devices, _, rest = text.partition("zero\n")
    assert set(devices.split()) <= {
        *("fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"),
        *("tty", "urandom"),
    }
    # Either the machine has no such file, or it is empty to the job.
    assert "kcore" in rest or rest.split() == ["0"]


def test_what_a_job_writes_to_its_standard_streams_by_name_arrives(node: Node) -> None:
    script = "echo out >>/dev/stdout; echo err >>/dev/stderr; echo fd >>/proc/self/fd/1"
    assert output(node, "full", script) == "out\nerr\nfd\n"
    assert output(node, "full", "cat /dev/stdin <<'END'\nin\nEND\n") == "in\n"


def test_a_job_has_terminals_of_its_own(node: Node) -> None:
    script = "import os, pty; a, b = pty.openpty(); os.write(b, b'x'); print(os.read(a, 1))"
    assert output(node, "python", script) == "b'x'\n"


# --- Privileges -----------------------------------------------------------------------------------


def test_a_job_has_no_capability_and_gains_none(node: Node) -> None:
    script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"
    found = dict(line.split(":\t") for line in output(node, "full", script).splitlines())
    assert {name: int(value, 16) for name, value in found.items()} == {
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0),
        "NoNewPrivs": 1,
        "Seccomp": 2,
    }


def test_a_job_undoes_nothing_by_mounts_and_namespaces(node: Node) -> None:
    script = f"""
umount /run; umount -l {node.units.parent}; mount -t tmpfs tmpfs /tmp; mount -o remount,rw /
unshare -Ur true; unshare -m true; nsenter -t 1 -m true; chroot / true; hostname other
ls {node.units} | wc -l; (echo x >/etc/x) 2>/dev/null; ls /etc/x 2>/dev/null; ls -A /run; hostname
"""
    status, text = run(node, "full", script)
    assert status["StateName"] == "Succeeded"
    *refused, count, name = text.splitlines()
    assert (count, name) == ("1", socket.gethostname()) or len(name) == 8
    assert len(refused) >= 9


def test_a_jobs_machine_is_called_as_its_unit(node: Node) -> None:
    before = socket.gethostname()
    name, unit = output(node, "full", "hostname; echo $MESHNODE_UNIT_ID").split()
    assert name == unit
    assert socket.gethostname() == before


def test_a_job_makes_no_dangerous_system_call(node: Node) -> None:
    script = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
library = ctypes.CDLL("libseccomp.so.2")
for name in {list(REFUSED)!r}:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        result = libc.syscall(number, -1, 0, 0, 0, 0, 0)
        assert (result, ctypes.get_errno()) == (-1, errno.EPERM), name
    else:
        print("unknown", name)
print("all", libc.syscall(435, 0, 0), ctypes.get_errno() == errno.ENOSYS)
for flag in (1 << 28, 1 << 29, 1 << 30, 1 << 17, 1 << 26, 1 << 27, 1 << 25):
    assert libc.syscall(library.seccomp_syscall_resolve_name(b"clone"), flag | 17, 0, 0, 0, 0) == -1
    assert ctypes.get_errno() == errno.EPERM
"""
    last = output(node, "python", script).splitlines()[-1]
    assert last == "all -1 True"


def test_a_job_types_into_no_terminal(node: Node) -> None:
    script = """
import fcntl, pty
_, end = pty.openpty()
for request in (0x5412, 0x541C):
    try: fcntl.ioctl(end, request, b"x")
    except OSError as error: print(error.errno)
"""
    assert output(node, "python", script) == "1\n1\n"


# --- Its end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code", "signal_name"),
    [
        ("exit 0", 0, None),
        ("exit 137", 137, None),
        ("kill -KILL $$", None, "SIGKILL"),
        ("ulimit -c 0; kill -SEGV $$", None, "SIGSEGV"),
        ("exec 3< <(echo x; exec sleep 100); read -u 3 x; exit 3", 3, None),
    ],
)
def test_a_jobs_end_is_told_exactly(
    node: Node, script: str, code: int | None, signal_name: str | None
) -> None:
    status, _ = run(node, "full", script)
    assert (status["ExitCode"], status["Signal"]) == (code, signal_name)
    left = "sleep" in script
    assert ("; ended 1 process that it left behind" in status["Detail"]) == left


def left_of(node: Node, unit: str) -> list[ProcessId]:
    return UnitProcesses.look().of(node.units / unit)


def test_a_daemon_that_a_job_leaves_is_ended_with_it(node: Node) -> None:
    script = "(setsid bash -c 'trap \"\" TERM INT HUP; exec -c sleep 1000' & ) &"
    status, text = run(node, "full", script + " echo $MESHNODE_UNIT_ID")
    assert status["StateName"] == "Succeeded", (status, text)
    assert left_of(node, text.strip()) == []


def test_a_cancel_asks_the_job_and_not_what_is_above_it(node: Node) -> None:
    script = "trap 'echo bye; exit 5' INT; echo up; while :; do sleep 0.1; done"
    unit = begin(node, "patient", script)
    status = cancel(node, unit)
    assert status["StateName"] == "Canceled"
    assert (status["ExitCode"], status["Signal"]) == (5, None)
    assert node.results(unit) == b"up\nbye\n"


def test_a_job_that_is_deaf_to_a_cancel_is_killed_with_all_that_it_started(node: Node) -> None:
    script = "trap '' INT TERM; setsid setsid sleep 1000 & echo up; while :; do sleep 100; done"
    unit = begin(node, "full", script)
    status = cancel(node, unit)
    assert (status["StateName"], status["Signal"]) == ("Canceled", "SIGKILL")
    assert left_of(node, unit) == []


def test_a_job_does_not_outlive_its_supervisor(node: Node) -> None:
    script = "trap '' INT TERM HUP; setsid sleep 1000 & echo up; while :; do sleep 100; done"
    unit = begin(node, "full", script)
    supervisor = wait_until(
        lambda: node.stored_status(unit).get("Supervisor"),
        watch=[node.units / unit],
        what="a supervisor",
    )
    assert len(left_of(node, unit)) >= 2
    assert tree.send_signal(supervisor["Pid"], supervisor["Started"], signal.SIGKILL)
    status = node.wait_unit(unit, "Failed")
    assert status["Detail"].startswith("lost: its supervisor")
    assert left_of(node, unit) == []


def test_nothing_of_isolated_jobs_is_mounted_on_the_machine(node: Node) -> None:
    def mounts() -> list[str]:
        return Path("/proc/self/mounts").read_text().splitlines()

    before = mounts()
    units = [begin(node, "full", "echo up; exec sleep 1000") for _ in range(3)]
    assert mounts() == before
    for unit in units:
        cancel(node, unit)
    assert mounts() == before


def test_the_status_of_a_job_says_how_it_is_isolated(node: Node) -> None:
    status, _ = run(node, "full", "true")
    assert status["Isolation"] == (
        "network none, mount readonly, pid, tmp private, hostname job, no-new-privileges, "
        "capabilities none, seccomp default"
    )
    assert "Isolation" not in run(node, "plain", "true")[0]


def test_a_job_runs_on_while_its_node_and_launcher_are_killed(cluster: Cluster) -> None:
    with isolating(cluster, WHO[0]) as node:
        gate = "until [ -e $MESHNODE_UNIT_DIR/gate ]; do sleep 0.1; done"
        unit = begin(node, "full", f"echo up; {gate}; echo on; exit 4")
        supervisor = node.stored_status(unit)["Supervisor"]["Pid"]
        launcher = tree.read_process(supervisor)
        assert launcher is not None
        node.kill()
        with suppress(ProcessLookupError):
            os.kill(launcher.parent, signal.SIGKILL)
        node.start()
        (node.units / unit / "gate").touch()
        status = node.wait_unit(unit, "Failed", "Succeeded")
        assert (status["ExitCode"], status["Detail"]) == (4, "exit status 4")
        assert node.results(unit) == b"up\non\n"
        cluster.close()
