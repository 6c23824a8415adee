"""What this machine lets a node do for isolation, found out once: and if not, why, and the remedy.

A node asks only if a type of work needs it. It does not conclude from settings whether an isolation
works, but makes one, in a process of its own; settings only explain a failure.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meshnode.work.local import launcher

SETGID, SETUID, SETPCAP, SYS_ADMIN = 6, 7, 8, 21
"""Numbers of capabilities (capabilities(7))."""

PROBE_SECONDS = 20.0
"""Seconds for one try, which takes some 50 ms. A mount of a dead file server may hold it up."""

ROOT = Path("/")

_REFUSALS = ("not permitted", "permission denied", "no space left")
"""How the system refuses what somebody may not: the last is for one namespace more than allowed."""


@dataclass(frozen=True, slots=True)
class Host:
    """What this process may do here, and what the system says that it lets processes do.

    Attributes:
        uid, gid: this process's.
        capabilities: those that it has, a bit each.
        restriction: what keeps ordinary users from namespaces, with the remedy; empty if nothing.
        is_container: whether it runs in a container.
    """

    uid: int
    gid: int
    capabilities: int
    restriction: str = ""
    is_container: bool = False

    @classmethod
    def look(cls, root: Path = ROOT) -> "Host":
        """Look at this machine; ``root`` is where its /proc is."""
        status = dict(_status(root / "proc/self/status"))
        return cls(
            int(status["Uid"].split()[1]),
            int(status["Gid"].split()[1]),
            int(status["CapEff"], 16),
            _restriction(root / "proc/sys"),
            any((root / name).exists() for name in (".dockerenv", "run/.containerenv")),
        )

    def may(self, *capabilities: int) -> bool:
        """Whether this process has all of these capabilities."""
        return all(self.capabilities >> number & 1 for number in capabilities)

    def explain(self, failure: str) -> str:
        """Return why an isolation failed on this machine, and what to do about it, in one line."""
        if "function not implemented" in failure:
            return f"{failure}: this kernel is too old; it takes Linux 5.12"
        if not any(word in failure for word in _REFUSALS):
            return failure
        if not self.may(SYS_ADMIN) and self.restriction:
            return f"{failure}: {self.restriction}"
        if "proc at /proc" in failure:
            remedy = "run it with --security-opt systempaths=unconfined, or leave out pid: true"
            return f"{failure}: parts of /proc are masked here, as in a container; {remedy}"
        if self.is_container and not self.may(SYS_ADMIN):
            remedy = "run it with --cap-add SYS_ADMIN --security-opt seccomp=unconfined"
            return f"{failure}: this container may not make namespaces; {remedy}"
        if not self.may(SYS_ADMIN):
            return f"{failure}: this user may not; run the node as root, or leave out isolation"
        return f"{failure}: something keeps even root from it here, a security module for instance"


def _status(path: Path) -> list[tuple[str, str]]:
    lines = (line.partition(":") for line in path.read_text(errors="replace").splitlines())
    return [(name, value.strip()) for name, _, value in lines]


def _restriction(settings: Path) -> str:
    """Return which setting keeps ordinary users from namespaces, and what to do; empty if none."""
    remedies = {
        ("kernel/apparmor_restrict_unprivileged_userns", "1"): (
            "AppArmor keeps namespaces from programs without a profile for them "
            "(kernel.apparmor_restrict_unprivileged_userns is 1); give the node's Python one with "
            "the line userns, as docs/isolation.md shows, or run the node as root"
        ),
        ("user/max_user_namespaces", "0"): (
            "user.max_user_namespaces is 0; set it to 15000 with sysctl, or run the node as root"
        ),
        ("kernel/unprivileged_userns_clone", "0"): (
            "kernel.unprivileged_userns_clone is 0; set it to 1 with sysctl, or run the node as "
            "root"
        ),
    }
    for (name, value), remedy in remedies.items():
        try:
            if (settings / name).read_text().strip() == value:
                return remedy
        except OSError:
            # This kernel has no such setting.
            continue
    return ""


def try_out(order: Mapping[str, object]) -> str:
    """Isolate a process as a command would be; return why that fails, empty if it works."""
    program = Path(launcher.__file__).with_name("isolationprobe.py").absolute()
    argv = [sys.executable, "-I", "-S", "-X", "utf8", str(program)]
    try:
        done = subprocess.run(
            argv,
            input=json.dumps(dict(order)).encode(),
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot isolate: it could not be tried: {error}"
    if done.returncode == 0:
        return done.stdout.decode(errors="replace")
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"cannot isolate: the try ended with {done.returncode}: {last}"
