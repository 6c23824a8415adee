"""A disposable machine with systemd, for tests of what an administrator does.

It has this machine's files under an overlay that vanishes with it, processes, mounts and control
groups of its own, and this machine's network. The programs under test are where they are here.
Only root can have one, and not on every kernel: :func:`reason_against` says why not.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from harness import PATIENCE, wait_until
from marks import MARK

ROOT = Path(__file__).parents[2]

SOURCE = (
    *("Makefile", "README.md", "LICENSE", "pyproject.toml", "setup.py"),
    *("meshnode", "meshctl", "packaging", "examples"),
)
"""What an installation is made from."""

CGROUPS = Path("/sys/fs/cgroup")

SOCKET = "/run/meshnode/control.sock"
"""Of the node that systemd runs by packaging/."""

GATE = "/var/tmp/gate"

USER = "ann"
"""Somebody without any rights, who has a home."""

BOOT = r"""
set -e
mount -t tmpfs tmpfs "$PLACE"
mkdir "$PLACE/changes" "$PLACE/work" "$PLACE/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$PLACE/changes,workdir=$PLACE/work" "$PLACE/root"
root=$PLACE/root
cp -a "$PLACE.source" "$root/usr/src/meshnode"
for place in run tmp var/tmp; do mount -t tmpfs -o mode=1777 tmpfs "$root/$place"; done
for place in $OURS; do
    mkdir -p "$root$place"
    # Whoever runs it must get there.
    while [ "$place" != / ]; do place=$(dirname "$place"); chmod a+x "$root$place"; done
done
for place in $OURS; do
    mount --bind "$place" "$root$place"
    mount -o remount,bind,ro "$root$place"
done
mount -t proc proc "$root/proc"
# The settings of the kernel are this machine's: nobody may change them.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount --rbind /dev "$root/dev"
# Nor are units started that set a machine up.
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mkdir "$root/sys/fs/cgroup/unified" "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
fi
rm -rf "$root"/etc/systemd/system/*.wants "$root"/lib/systemd/system/*.wants
# Where services are not to be started, packages must not do it; here they must.
rm -f "$root/usr/sbin/policy-rc.d"
cat > "$root/etc/systemd/system/machine.target" <<END
[Unit]
Requires=systemd-journald.socket systemd-journald.service
After=systemd-journald.service
END
# The kernel's log and its audits are this machine's.
ln -s /dev/null "$root/etc/systemd/system/systemd-journald-audit.socket"
printf '[Journal]\nAudit=\nReadKMsg=no\nStorage=volatile\n' > "$root/etc/systemd/journald.conf"
echo "$USER:x:4242:4242::/home/$USER:/bin/bash" >> "$root/etc/passwd"
echo "$USER:x:4242:" >> "$root/etc/group"
mkdir -p "$root/home/$USER"
chown -R 4242:4242 "$root/home/$USER" "$root/usr/src/meshnode"
exec env -i container=test PATH="$PATH" "$MARK=$MARKED" chroot "$root" \
    /lib/systemd/systemd --system --unit=machine.target --log-target=null --show-status=no
"""


@dataclass(frozen=True)
class Machine:
    """A machine that runs; commands are run in it by entering the namespaces of its systemd."""

    pid: int

    def run(
        self, command: str, *, user: str = "root", check: bool = True, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command by bash in the checkout, to its end."""
        done = subprocess.run(
            self.words(command, user),
            input=stdin,
            capture_output=True,
            timeout=PATIENCE * 2,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{command} exited with {done.returncode}:\n{(done.stdout + done.stderr).decode()}"
        )
        return done

    def output(self, command: str, *, user: str = "root") -> str:
        """Return what a command prints."""
        return self.run(command, user=user).stdout.decode()

    def words(self, command: str, user: str = "root") -> list[str]:
        """Return the arguments that run a command in the machine as that user, by bash."""
        home = "/root" if user == "root" else f"/home/{user}"
        # The way to the index of packages is this machine's.
        pip = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
        path = f"{home}/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return [
            *("nsenter", f"--target={self.pid}", "--all", "--root", "--wd"),
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"),
            *("env", "-i", f"HOME={home}", f"USER={user}", f"PATH={path}", "NO_COLOR=1", *pip),
            *("bash", "-c", f"cd /usr/src/meshnode && {command}"),
        ]

    # --- The node that its systemd runs ----------------------------------------------------------

    def offer_gate(self) -> None:
        """Add a work type ``wait`` to the node's file, which prints what comes through the gate."""
        self.run(f"mkfifo -m 0666 {GATE}")
        wait = {"work-command": {"worktype": "wait", "command": "cat", "params": GATE}}
        self.run("cat >> /etc/meshnode/meshnode.yml", stdin=yaml.safe_dump([wait]).encode())

    def open_gate(self, text: str) -> None:
        """Let the unit of ``wait`` print this, and end."""
        self.run(f"echo {text} > {GATE}")

    def meshctl(self, command: str) -> str:
        """Return what meshctl prints, at the node's socket."""
        return self.output(f"/opt/meshnode/bin/meshctl --socket {SOCKET} {command}")

    def submit(self, worktype: str) -> str:
        """Submit work without payload; return the unit's ID."""
        found = re.search(r"Unit ID: (\w+)", self.meshctl(f"work submit {worktype} --no-payload"))
        assert found
        return found[1]

    def state(self, unit: str) -> str:
        """Return the name of a unit's state."""
        return str(json.loads(self.meshctl(f"work status --json {unit}"))["StateName"])

    def node_pid(self) -> int:
        """Return the PID of the node, 0 between two of them."""
        return int(self.output("systemctl show meshnode --value -p MainPID"))

    def wait_node(self, *, other_than: int = 0) -> None:
        """Wait until a node answers (another one than that with this PID)."""
        wait_until(lambda: self.node_pid() not in {0, other_than}, what="a node")
        command = f"/opt/meshnode/bin/meshctl --socket {SOCKET} status"
        self.wait_for(command, what="the node to answer")

    # --- Waiting ---------------------------------------------------------------------------------

    def wait_for(self, command: str, *, what: str) -> None:
        """Wait until a command succeeds in the machine."""
        wait_until(lambda: self.run(command, check=False).returncode == 0, what=what)


def reason_against() -> str | None:
    """Return why no machine can be had here; None if one should boot."""
    if os.geteuid() != 0:
        return "only root can boot a machine"
    if not Path("/lib/systemd/systemd").exists() or shutil.which("systemctl") is None:
        return "there is no systemd here"
    if not _hierarchies():
        return "there are no control groups for systemd here"
    script = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/a /mnt/b /mnt/c && mount -t overlay overlay "
    script += "-o lowerdir=/,upperdir=/mnt/a,workdir=/mnt/b /mnt/c"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script],
        capture_output=True,
        check=False,
    )
    if tried.returncode != 0:
        return f"no namespaces or overlays here: {tried.stderr.decode().strip()}"
    return None


def _hierarchies() -> list[Path]:
    """Return the trees of control groups that systemd uses here."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [tree for tree in (CGROUPS / "unified", CGROUPS / "systemd") if tree.is_dir()]


@contextmanager
def boot(place: Path) -> Iterator[Machine]:
    """Boot a machine whose files are in ``place`` (as long as it runs); end it afterwards."""
    place.mkdir()
    copy_source(Path(f"{place}.source"))
    name = f"meshnode-test-{uuid.uuid4().hex}"
    groups = [tree / name for tree in _hierarchies()]
    for group in groups:
        group.mkdir()
    # Namespaces of control groups begin where their first process is.
    enter = "".join(f'echo "$$" > {group}/cgroup.procs; ' for group in groups)
    process = subprocess.Popen(
        [
            *("sh", "-c", f'{enter}exec "$@"', "sh"),
            *("unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork"),
            *("--kill-child", "bash", "-c", BOOT),
        ],
        env=os.environ
        | {"PLACE": str(place), "USER": USER, "MARK": MARK, "MARKED": name}
        | {"OURS": f"{ROOT} {sys.prefix} {sys.base_prefix}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        machine = Machine(wait_until(lambda: _first_process(process), what="systemd to start"))
        machine.wait_for("systemctl is-active --quiet machine.target", what="the machine to boot")
        yield machine
    finally:
        # With its first process all of it ends, and unshare, which waits for that.
        for child in _children(process) or [process.pid]:
            os.kill(child, signal.SIGKILL)
        process.communicate()
        for group in groups:
            wait_until(lambda group=group: _removed(group), what=f"the end of all in {group}")


def copy_source(place: Path) -> None:
    """Copy what an installation is made from, without what building leaves behind."""
    place.mkdir()
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place)


def _first_process(process: subprocess.Popen[bytes]) -> int | None:
    """Return the PID of the machine's systemd once the boot script has become that."""
    assert process.stdout is not None
    assert process.poll() is None, f"the machine did not boot:\n{process.stdout.read().decode()}"
    for child in _children(process):
        if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
            return child
    return None


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    if process.poll() is not None:
        return []
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in found.split()]


def _removed(group: Path) -> bool:
    """Remove a control group with all that is below it; return whether nothing is left."""
    with suppress(OSError):
        for below in sorted(group.rglob("*"), reverse=True):
            if below.is_dir():
                below.rmdir()
        group.rmdir()
    return not group.exists()
