"""An ordinary user of this machine, for as long as a test runs, who has containers by podman.

The user is known in a mount namespace only, which has files of its own for what this machine says
of its users; nothing is left of either. The nodes and commands of a cluster run there by
``Cluster.wrapping``. :func:`reason_against` says where that cannot be.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import Cluster, wait_until

from meshnode.work.local.launcher import tree

ROOT = Path(__file__).parents[2]

NAME = "podmans"

_NUMBER = os.getpid() % 1_000_000
"""Keeps users of test runs at the same time apart."""

UID = 20_000_000 + _NUMBER

SUB_IDS = 2_000
FIRST_SUB_ID = 100_000_000 + _NUMBER * SUB_IDS
"""Users and groups that containers may have."""

IMAGE = "tiny"

NEEDED = ("podman", "conmon", "newuidmap", "runc", "catatonit", "busybox", "nsenter", "setpriv")

SET_UP = r"""
set -e
cd "$PLACE"
mkdir etc stash home
cp /etc/passwd /etc/group etc
echo "$NAME:x:$ID:$ID::$PLACE/home:/bin/sh" >> etc/passwd
echo "$NAME:x:$ID:" >> etc/group
echo "$NAME:$FIRST_SUB_ID:$SUB_IDS" | tee etc/subuid > etc/subgid
for file in passwd group subuid subgid; do
    [ -e "/etc/$file" ] || continue
    mount --bind "etc/$file" "/etc/$file"
done
# Programs that are in a directory that only root may enter are shown without the rest of that.
for top in $CLOSED; do
    number=0
    for place in $OURS; do
        case $place in "$top"/*) ;; *) continue ;; esac
        number=$((number + 1))
        mkdir "stash/$number"
        mount --bind "$place" "stash/$number"
    done
    mount -t tmpfs -o mode=755 tmpfs "$top"
    number=0
    for place in $OURS; do
        case $place in "$top"/*) ;; *) continue ;; esac
        number=$((number + 1))
        mkdir -p "$place"
        mount --move "stash/$number" "$place"
    done
done
# What podman leaves in memory goes with the namespace.
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t proc proc /proc
mount --make-rshared /
mkdir -p home/.config/containers home/run home/image/bin home/image/etc
cat > home/.config/containers/containers.conf <<END
[containers]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
END
printf '[storage]\ndriver = "vfs"\n' > home/.config/containers/storage.conf
cp "$(command -v busybox)" home/image/bin/busybox
for library in $(ldd home/image/bin/busybox | grep -o '/[^ ]*'); do
    mkdir -p "home/image$(dirname "$library")"
    cp -L "$library" "home/image$library"
done
for name in sh sleep echo cat; do ln -s busybox "home/image/bin/$name"; done
tar -C home/image -cf home/image.tar .
chown -R "$ID:$ID" home
chown "$ID:$ID" .
chmod 700 home/run
echo ready
exec cat
"""


@dataclass(frozen=True)
class User:
    """A user whose namespace is that of the process ``pid``."""

    pid: int
    home: Path

    def words(self) -> list[str]:
        """Return the words before a command that the user is to run."""
        home = {
            "HOME": self.home,
            "USER": NAME,
            "LOGNAME": NAME,
            "XDG_RUNTIME_DIR": self.home / "run",
        }
        return [
            *("nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--wd=/"),
            *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
            *("env", *(f"{name}={value}" for name, value in home.items())),
        ]


def reason_against() -> str | None:
    """Return why there can be no such user here; None if containers should run."""
    if os.geteuid() != 0:
        return "only root can make another user"
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return f"there is no {', '.join(missing)} here"
    cluster = Cluster()
    try:
        with user(cluster):
            tried = cluster.run("podman", "run", "--rm", IMAGE, "/bin/echo", check=False)
            return None if tried.returncode == 0 else f"no container: {tried.stderr.decode()}"
    except AssertionError as error:
        return str(error)
    finally:
        cluster.close()


@contextmanager
def user(cluster: Cluster) -> Iterator[User]:
    """Have all programs of a cluster run by a user who has an image; end all that the user runs."""
    ours = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
    environment = os.environ | {
        **{"PLACE": str(cluster.directory), "NAME": NAME, "ID": str(UID)},
        **{"FIRST_SUB_ID": str(FIRST_SUB_ID), "SUB_IDS": str(SUB_IDS)},
        **{"OURS": " ".join(map(str, ours)), "CLOSED": " ".join(_closed(ours))},
    }
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", SET_UP],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert holder.stdout is not None
        line = holder.stdout.readline()
        assert line == b"ready\n", (line + holder.stdout.read()).decode()
        found = User(holder.pid, cluster.directory / "home")
        cluster.wrapping = found.words()
        cluster.run("podman", "import", str(found.home / "image.tar"), IMAGE)
        yield found
    finally:
        cluster.wrapping = []
        wait_until(lambda: not _kill_all(), what="the end of all that the user runs")
        holder.communicate()


def _closed(places: tuple[Path, ...]) -> list[str]:
    """Return the first directory on the way to each of the places that others may not enter."""
    found = []
    for place in places:
        for above in reversed(place.parents):
            if not above.stat().st_mode & 0o001:
                found.append(str(above))
                break
    return sorted(set(found))


def processes() -> list[tree.Process]:
    """Return the living processes of the user, those in containers included."""
    return [one for one in tree.all_processes() if not one.dead and _is_theirs(one.pid)]


def _is_theirs(pid: int) -> bool:
    for line in tree.read_proc(pid, "status", tree.STATUS_BYTES).splitlines():
        if line.startswith(b"Uid:"):
            uid = int(line.split()[2])
            return uid == UID or uid in range(FIRST_SUB_ID, FIRST_SUB_ID + SUB_IDS)
    return False


def _kill_all() -> bool:
    """Kill what the user runs; return whether there was anything."""
    found = processes()
    for one in found:
        tree.send_signal(one.pid, one.started, signal.SIGKILL)
    return bool(found)
