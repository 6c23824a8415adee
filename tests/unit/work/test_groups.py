"""What is written to control groups, on trees of plain files: v2 cannot be had everywhere.

What a kernel makes of it is tried in tests/integration/test_limits.py, where it has the
controllers.
"""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.work.local.launcher import groups
from meshnode.work.local.launcher.groups import SPAWN_ROOM_BYTES, Group, Layout
from meshnode.work.local.launcher.limitedrun import open_group, size_text

MIB = 1024 * 1024
EVERYTHING = {
    "cpu": 1.5,
    "memory": 256 * MIB,
    "swap": 0,
    "pids": 64,
    "io-read": 10 * MIB,
    "io-write": 5 * MIB,
}
V1 = ("cpu", "cpuacct", "memory", "pids", "blkio", "freezer", "unified")


@pytest.fixture(autouse=True)
def one_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshnode.work.local.launcher.groupsv1.disks", lambda: ["8:0"])
    monkeypatch.setattr("meshnode.work.local.launcher.groupsv2.disks", lambda: ["8:0"])


def layout(root: Path, version: int = 2, *, kills: bool = True, swap: bool = True) -> Layout:
    bases, homes = {}, {}
    for name in ("unified",) if version == 2 else V1:
        home, base = root / name, root / name / "meshnode-1"
        base.mkdir(parents=True)
        bases[name], homes[name] = str(base), str(home)
    return Layout(version, kills, swap, bases, homes)


def written(group: Group, values: dict[str, float], root: Path) -> dict[str, str]:
    """Return what each file below ``root`` would hold, by its place below the groups' directory."""
    told = {}
    for path, text in group.settings(values):
        told[path.removeprefix(f"{root}/")] = text
    return told


def test_on_v2_each_limit_is_in_its_file_of_one_directory(tmp_path: Path) -> None:
    group = open_group(layout(tmp_path), "u", EVERYTHING)
    unit = "unified/meshnode-1/u/"
    assert written(group, EVERYTHING, tmp_path) == {
        unit + "cpu.max": "150000 100000",
        unit + "memory.oom.group": "1",
        unit + "memory.max": str(256 * MIB),
        unit + "memory.swap.max": "0",
        # With the supervisor, which is inside while it spawns.
        unit + "pids.max": "65",
        unit + "io.max": f"8:0 rbps={10 * MIB} wbps={5 * MIB}",
    }
    assert group.final_settings(EVERYTHING) == [(f"{tmp_path}/{unit}pids.max", "64")]


def test_on_v1_each_limit_is_in_the_hierarchy_of_its_controller(tmp_path: Path) -> None:
    group = open_group(layout(tmp_path, 1), "u", EVERYTHING)
    assert written(group, EVERYTHING, tmp_path) == {
        "cpu/meshnode-1/u/cpu.cfs_period_us": "100000",
        "cpu/meshnode-1/u/cpu.cfs_quota_us": "150000",
        "memory/meshnode-1/u/memory.limit_in_bytes": str(256 * MIB),
        "memory/meshnode-1/u/memory.memsw.limit_in_bytes": str(256 * MIB),
        "pids/meshnode-1/u/pids.max": "65",
        "blkio/meshnode-1/u/blkio.throttle.read_bps_device": f"8:0 {10 * MIB}",
        "blkio/meshnode-1/u/blkio.throttle.write_bps_device": f"8:0 {5 * MIB}",
    }


@pytest.mark.parametrize("version", [1, 2])
def test_swap_that_is_not_accounted_is_not_written(tmp_path: Path, version: int) -> None:
    group = open_group(layout(tmp_path, version, swap=False), "u", EVERYTHING)
    assert not [path for path, _ in group.settings(EVERYTHING) if "sw" in os.path.basename(path)]


@pytest.mark.parametrize("version", [1, 2])
@given(memory=st.integers(1, 2**40), swap=st.integers(0, 2**40), pids=st.integers(1, 2**22))
def test_a_supervisor_inside_always_has_room_and_the_limit_is_exact_after_it(
    tmp_path_factory: pytest.TempPathFactory, version: int, memory: int, swap: int, pids: int
) -> None:
    values: dict[str, float] = {"memory": memory, "swap": swap, "pids": pids}
    root = tmp_path_factory.mktemp("tree")
    group = open_group(layout(root, version), "u", values)
    first = {os.path.basename(path): text for path, text in group.settings(values)}
    last = first | {os.path.basename(path): text for path, text in group.final_settings(values)}
    name = "memory.max" if version == 2 else "memory.limit_in_bytes"
    assert int(first[name]) >= SPAWN_ROOM_BYTES
    assert (int(last[name]), int(last["pids.max"])) == (memory, pids)
    assert int(first["pids.max"]) == pids + 1
    if version == 1:
        # The kernel refuses a limit of memory above that of both.
        assert int(first["memory.memsw.limit_in_bytes"]) >= int(first[name])
        assert int(last["memory.memsw.limit_in_bytes"]) == memory + swap


def test_on_v1_only_hierarchies_that_limit_count_or_kill_are_used(tmp_path: Path) -> None:
    group = open_group(layout(tmp_path, 1), "u", {"files": 10})
    group.make({})
    assert {path.parent.parent.name for path in tmp_path.glob("*/*/u")} == {
        "cpuacct",
        "memory",
        "unified",
    }
    group = open_group(layout(tmp_path / "other", 1, kills=False), "u", {"pids": 3})
    with pytest.raises(FileNotFoundError):
        group.make({"pids": 3})  # plain directories have no pids.max
    assert not list((tmp_path / "other").glob("*/*/u"))


def test_hierarchies_on_one_mount_are_one_place(tmp_path: Path) -> None:
    made = layout(tmp_path, 1)
    made.bases["cpuacct"], made.homes["cpuacct"] = made.bases["cpu"], made.homes["cpu"]
    group = open_group(made, "u", {"cpu": 1.0})
    group.make({})
    (tmp_path / "cpu/meshnode-1/u/tasks").touch()
    (tmp_path / "memory/meshnode-1/u/tasks").touch()
    (tmp_path / "unified/meshnode-1/u/cgroup.procs").touch()
    group.enter()
    assert (tmp_path / "cpu/meshnode-1/u/tasks").read_text() == "0"
    assert not (tmp_path / "cpuacct/meshnode-1/u").exists()


@pytest.mark.parametrize("version", [1, 2])
def test_who_cannot_go_in_everywhere_comes_out_everywhere(tmp_path: Path, version: int) -> None:
    made = layout(tmp_path, version)
    group = open_group(made, "u", {})
    group.make({})
    for home in made.homes.values():
        for entry in ("tasks", "cgroup.procs"):
            (Path(home) / entry).touch()
    with pytest.raises(FileNotFoundError):
        group.enter()  # plain directories have neither file
    left = [
        (Path(home) / entry).read_text()
        for home in made.homes.values()
        for entry in ("tasks", "cgroup.procs")
    ]
    # One for each hierarchy that is used.
    assert "".join(left) == "0" * (3 if version == 1 else 1)


def test_what_a_command_made_in_its_group_goes_with_it(tmp_path: Path) -> None:
    group = open_group(layout(tmp_path), "u", {})
    group.make({})
    (tmp_path / "unified/meshnode-1/u/a/b").mkdir(parents=True)
    (tmp_path / "unified/meshnode-1/u/c").mkdir()
    assert group.remove()
    assert list((tmp_path / "unified/meshnode-1").iterdir()) == []
    assert group.remove(), "a group that is gone is nothing left"


def test_a_group_in_which_something_is_left_is_not_gone(tmp_path: Path) -> None:
    group = open_group(layout(tmp_path), "u", {})
    group.make({})
    (tmp_path / "unified/meshnode-1/u/busy").touch()
    assert not group.remove()


def test_usage_on_v2_is_read_from_its_files(tmp_path: Path) -> None:
    group = open_group(layout(tmp_path), "u", {})
    group.make({})
    unit = tmp_path / "unified/meshnode-1/u"
    assert (group.cpu_seconds(), group.peak_memory(), group.moved_bytes()) == (None, None, None)
    assert not group.ended_for_memory()
    (unit / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n")
    (unit / "memory.peak").write_text("4096\n")
    (unit / "io.stat").write_text("8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2 rios=9\n")
    (unit / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert (group.cpu_seconds(), group.peak_memory()) == (2.5, 4096)
    assert group.moved_bytes() == (11, 22)
    assert group.ended_for_memory()


def test_on_v2_all_is_killed_by_one_write_and_frozen_where_that_is_not_known(
    tmp_path: Path,
) -> None:
    group = open_group(layout(tmp_path), "u", {})
    group.make({})
    unit = tmp_path / "unified/meshnode-1/u"
    (unit / "cgroup.kill").touch()
    group.kill()
    assert (unit / "cgroup.kill").read_text() == "1"
    older = open_group(layout(tmp_path / "older", kills=False), "u", {})
    older.make({})
    (tmp_path / "older/unified/meshnode-1/u/cgroup.freeze").touch()
    older.kill()
    assert (tmp_path / "older/unified/meshnode-1/u/cgroup.freeze").read_text() == "0"


def test_a_signal_reaches_who_is_listed_and_neither_this_process_nor_who_has_it_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = open_group(layout(tmp_path), "u", {})
    group.make({})
    child = os.posix_spawn("/bin/sleep", ["sleep", "600"], {})
    try:
        procs = tmp_path / "unified/meshnode-1/u/cgroup.procs"
        procs.write_text(f"{os.getpid()}\n{child}\n0\n")
        assert group.processes() == [os.getpid(), child]
        assert group.send_signal(signal.SIGTERM, but={child}) == []
        assert group.send_signal(signal.SIGTERM, but=set()) == [child]
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    assert group.send_signal(signal.SIGTERM, but=set()) == [], "nobody has that PID any more"


def test_a_group_without_a_base_is_not_made(tmp_path: Path) -> None:
    made = layout(tmp_path)
    os.rmdir(made.bases["unified"])
    with pytest.raises(FileNotFoundError):
        open_group(made, "u", {}).make({})


def test_a_layout_is_made_again_from_what_it_tells(tmp_path: Path) -> None:
    made = layout(tmp_path, 1)
    assert Layout(**made.to_wire()).to_wire() == made.to_wire()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (256 * MIB, "256 MiB"),
        (255 * MIB + 5, "255 MiB"),
        (1024 * MIB, "1 GiB"),
        (1536 * MIB, "1536 MiB"),
        (9, "9 bytes"),
        (4096, "4 KiB"),
        (20_000, "19 KiB"),
    ],
)
def test_sizes_are_told_in_the_unit_that_a_person_would_choose(size: int, text: str) -> None:
    assert size_text(size) == text


def test_disks_are_those_with_a_size() -> None:
    for disk in groups.disks():
        major, minor = disk.split(":")
        assert Path(f"/sys/dev/block/{int(major)}:{int(minor)}").exists()
