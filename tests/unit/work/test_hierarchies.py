"""Which control groups a process finds, on every kind of host: from what /proc says."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import load_arguments
from meshnode.config.faults import ConfigFaults
from meshnode.work.local.cgroups import JobGroups
from meshnode.work.local.hierarchies import (
    USERS_OF_MACHINE,
    Hierarchies,
    look,
    may_raise_limits,
)
from meshnode.work.local.keptlimits import kept_limits

V1 = ("cpu,cpuacct", "memory", "pids", "blkio", "freezer")


class Host:
    """A /proc and file systems of groups below a directory."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.proc.mkdir()
        self.mounts = root / "cgroup"
        self._own: list[str] = []
        self._mounted: list[str] = []

    def mount(self, kind: str, name: str, own: str, root: str = "/") -> Path:
        """Mount a hierarchy; return the directory of this process in it."""
        point = self.mounts / (name or "unified")
        inside = point / own.removeprefix(root.rstrip("/")).lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        self._own.append(f"{len(self._own)}:{name}:{own}")
        options = f"rw,{name}" if name else "rw"
        self._mounted.append(f"30 24 0:26 {root} {point} rw - {kind} {kind} {options}")
        (self.proc / "cgroup").write_text("\n".join(self._own) + "\n")
        (self.proc / "mountinfo").write_text("\n".join(self._mounted) + "\n")
        return inside

    def look(self) -> Hierarchies:
        """Return what a process of this host finds."""
        return look(self.proc)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_controllers_on_v1_are_used_with_the_kill_of_v2_beside_them(host: Host) -> None:
    for name in V1:
        host.mount("cgroup", name, "/service")
    (host.mount("cgroup2", "", "/service") / "cgroup.kill").touch()
    found = host.look()
    assert found.version == 1
    assert found.kills
    assert set(found.directories) == {
        *("cpu", "cpuacct", "memory", "pids", "blkio", "freezer", "unified")
    }
    assert found.directories["cpu"] == found.directories["cpuacct"]
    assert found.refusal(["cpu", "memory", "pids", "io-read", "files"]) is None
    assert found.in_words.endswith("with cgroup.kill")


def test_a_container_sees_its_own_groups_below_its_mounts(host: Host) -> None:
    inside = host.mount("cgroup", "memory", "/docker/abc/x", root="/docker/abc")
    assert host.look().directories["memory"] == str(inside)
    host.mount("cgroup", "pids", "/elsewhere", root="/docker/abc")
    assert "pids" not in host.look().directories


def test_a_controller_that_is_not_there_is_a_reason(host: Host) -> None:
    host.mount("cgroup", "memory", "/")
    reason = host.look().refusal(["memory", "cpu"])
    assert reason == "cpu: the kernel's cgroup v1 has no controller cpu mounted here"


def test_no_groups_at_all_are_a_reason_but_not_for_rlimits(host: Host) -> None:
    (host.proc / "cgroup").write_text("0::/\n")
    (host.proc / "mountinfo").write_text("1 1 0:1 / / rw - ext4 /dev/vda rw\nshort\n")
    found = host.look()
    assert (found.version, found.in_words) == (0, "no control groups")
    assert found.refusal(["files", "core"]) is None
    assert "mount /sys/fs/cgroup" in str(found.refusal(["pids"]))


def service(host: Host, own: str = "/system.slice/meshnode.service") -> Path:
    inside = host.mount("cgroup2", "", own)
    (inside / "cgroup.controllers").write_text("cpu memory pids\n")
    (inside / "cgroup.events").touch()
    (inside / "cgroup.kill").touch()
    return inside


def test_v2_that_is_not_delegated_is_refused_with_the_remedy(host: Host) -> None:
    service(host)
    reason = str(host.look().refusal(["memory"]))
    assert "is not this node's to divide" in reason
    assert "Delegate=yes" in reason


def test_a_controller_that_v2_does_not_pass_on_is_a_reason(host: Host) -> None:
    service(host, "/")
    assert "has no controller io" in str(host.look().refusal(["io-read"]))


def test_the_root_of_a_namespace_may_be_divided_and_what_is_in_it_goes_into_a_child(
    host: Host, tmp_path: Path
) -> None:
    inside = service(host, "/")
    (inside / "cgroup.procs").write_text("7\n8\n")
    found = host.look()
    assert found.refusal(["cpu", "memory", "pids"]) is None
    (inside / "meshnode-itself").mkdir()
    for name in ("meshnode-itself/cgroup.procs", "cgroup.subtree_control"):
        (inside / name).touch()
    (tmp_path / "node").mkdir()
    groups = JobGroups(tmp_path / "node", found)
    base = next(iter(_bases(groups, inside)))
    assert (inside / "meshnode-itself/cgroup.procs").read_text() in {"7", "8", "78", "87"}
    assert (inside / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (base / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert str(inside / "meshnode-itself") in groups.order({"cpu": 1.0})


def _bases(groups: JobGroups, inside: Path) -> list[Path]:
    """Make groups ready; a kernel would make the files of their directory."""
    from meshnode.errors import WorkError

    with pytest.raises(WorkError, match="cannot make control groups"):
        groups.make_ready()
    found = [path for path in inside.glob("meshnode-*") if path.name != "meshnode-itself"]
    for base in found:
        (base / "cgroup.subtree_control").touch()
    groups.make_ready()
    return found


@given(gone=st.sets(st.sampled_from(("cpu", "memory", "pids", "unified")), min_size=1))
def test_directories_of_groups_that_somebody_removes_are_made_again(gone: set[str]) -> None:
    with TemporaryDirectory() as place:
        directories = {name: f"{place}/{name}" for name in ("cpu", "memory", "pids", "unified")}
        for path in (f"{place}/node", *directories.values()):
            os.mkdir(path)
        groups = JobGroups(Path(place, "node"), Hierarchies(1, directories, kills=True))
        groups.make_ready()
        bases = [path for directory in gone for path in Path(directories[directory]).iterdir()]
        assert len(bases) == len(gone)
        for base in bases:
            base.rmdir()
        groups.make_ready()
        assert all(base.is_dir() for base in bases)
        groups.close()
        assert not any(base.exists() for base in bases)


def test_a_node_that_was_started_in_its_child_divides_the_parent(host: Host) -> None:
    own = "/system.slice/meshnode.service"
    parent = service(host, own)
    host._own.clear()
    host._mounted.clear()
    host.mount("cgroup2", "", f"{own}/meshnode-itself")
    assert host.look().directories == {"unified": str(parent)}


LIMITED = ["--work-command", "worktype=x", "command=true", 'limits={"cpu": "1", "files": "99"}']


def test_what_cannot_be_kept_refuses_the_start_or_is_warned_of() -> None:
    nothing = Hierarchies(0, {})
    base = ["--node", "id=foo", "--local-only"]
    with pytest.raises(ConfigFaults, match="limits-optional: true"):
        kept_limits(load_arguments([*base, *LIMITED]), lambda: nothing)
    optional = load_arguments([*base, *LIMITED, "limits-optional=true"])
    kept = kept_limits(optional, lambda: nothing)
    assert kept.of_type["x"].values == {"files": 99}
    assert [warning.text for warning in kept.warnings] == [
        "cpu: no cgroup controllers are mounted here; mount /sys/fs/cgroup; units of type x run "
        "without this limit"
    ]


def test_without_limits_nobody_looks() -> None:
    def look_at_nothing() -> Hierarchies:
        raise AssertionError("looked")

    kept = kept_limits(load_arguments(["--node", "id=foo", "--local-only"]), look_at_nothing)
    assert kept.of_type == {}


@pytest.mark.parametrize(
    ("capabilities", "users", "may"),
    [
        ("000001ffffffffff", USERS_OF_MACHINE, True),
        ("000001fffeffffff", USERS_OF_MACHINE, False),
        ("000001ffffffffff", 4026532000, False),
    ],
)
def test_hard_limits_are_raised_again_only_by_who_may_on_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: str, users: int, may: bool
) -> None:
    (tmp_path / "status").write_text(f"Name:\tx\nCapEff:\t{capabilities}\n")
    found = SimpleNamespace(st_ino=users)
    monkeypatch.setattr("meshnode.work.local.hierarchies.os.stat", lambda path: found)
    assert may_raise_limits(tmp_path) is may
