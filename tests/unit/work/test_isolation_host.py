"""Why a machine does not let a node isolate, told with the remedy; and what is hidden of a node."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from meshnode.config import ConfigFaults, load_file
from meshnode.work.local.isolation import Planner, hidden_paths
from meshnode.work.local.isolationhost import SETUID, SYS_ADMIN, Host

DENIED = "cannot isolate: new namespaces: operation not permitted"


def host(
    tmp_path: Path, capabilities: int = 0, settings: Mapping[str, str] = MappingProxyType({})
) -> Host:
    """Return a machine with these settings in its /proc/sys."""
    process = tmp_path / "proc/self"
    process.mkdir(parents=True)
    status = f"Name:\tx\nUid:\t7\t8\t8\t8\nGid:\t9\t9\t9\t9\nCapEff:\t{capabilities:016x}\n"
    (process / "status").write_text(status)
    for name, value in settings.items():
        file = tmp_path / "proc/sys" / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value + "\n")
    return Host.look(tmp_path)


def test_a_machine_is_seen_as_it_is(tmp_path: Path) -> None:
    seen = host(tmp_path, 1 << SETUID)
    assert (seen.uid, seen.gid, seen.restriction) == (8, 9, "")
    assert seen.may(SETUID)
    assert not seen.may(SETUID, SYS_ADMIN)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"kernel__apparmor_restrict_unprivileged_userns": "1"}, "AppArmor"),
        ({"user__max_user_namespaces": "0"}, "user.max_user_namespaces is 0; set it to 15000"),
        ({"kernel__unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone is 0"),
        ({"user__max_user_namespaces": "100"}, "run the node as root, or leave out isolation"),
    ],
)
def test_the_setting_that_is_in_the_way_is_named_with_the_remedy(
    tmp_path: Path, settings: dict[str, str], remedy: str
) -> None:
    told = host(tmp_path, settings=settings).explain(DENIED)
    assert told.startswith(f"{DENIED}: ")
    assert remedy in told
    assert "\n" not in told


def test_a_container_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / ".dockerenv").touch()
    seen = host(tmp_path)
    assert "--cap-add SYS_ADMIN" in seen.explain(DENIED)
    masked = "cannot isolate: proc at /proc: operation not permitted"
    assert "systempaths=unconfined" in seen.explain(masked)


def test_an_old_kernel_is_told_for_one(tmp_path: Path) -> None:
    failure = "cannot isolate: read-only /: function not implemented"
    assert "Linux 5.12" in host(tmp_path, 1 << SYS_ADMIN).explain(failure)


def test_what_is_the_nodes_own_is_hidden_and_closed_directories_whole(tmp_path: Path) -> None:
    closed, open_one = tmp_path / "closed", tmp_path / "open"
    closed.mkdir(mode=0o750)
    open_one.mkdir(mode=0o755)
    for place in (closed, open_one):
        (place / "key.pem").touch()
    file = tmp_path / "foo.yml"
    file.write_text(f"""
- node: {{id: foo, datadir: {tmp_path}/data}}
- local-only
- control-service: {{filename: {open_one}/foo.sock}}
- work-signing: {{privatekey: {closed}/key.pem}}
- work-command: {{worktype: t, command: true, isolation: full}}
""")
    os.chmod(tmp_path, 0o755)
    hidden = hidden_paths(load_file(str(file)))
    assert hidden == tuple(
        sorted(map(str, (closed, open_one / "foo.sock", tmp_path / "data", file)))
    )


def refused(tmp_path: Path, seen: Host, *lines: str) -> str:
    """Return why a start is refused on that machine."""
    file = tmp_path / "foo.yml"
    more = "".join(f"    {line}\n" for line in lines)
    begin = "- node: {id: foo}\n- local-only\n- work-command:\n    worktype: t\n    command: true\n"
    file.write_text(begin + more)
    config = load_file(str(file))
    with pytest.raises(ConfigFaults) as caught:
        Planner(config, seen).plan(config.work_types[0])
    return str(caught.value)


@pytest.mark.parametrize("parameter", ["user", "group"])
def test_a_node_that_may_not_become_another_says_so_at_its_start(
    tmp_path: Path, parameter: str
) -> None:
    told = refused(tmp_path, Host(1000, 1000, 0), f"{parameter}: root")
    assert f"{parameter}: this node runs as uid 1000 and may not become another" in told
    assert told.endswith(f"run it as root, or leave out {parameter}")


def test_a_capability_that_the_node_lacks_cannot_be_left_to_work(tmp_path: Path) -> None:
    told = refused(tmp_path, Host(1000, 1000, 1 << SETUID), "capabilities: [setuid, net_admin]")
    assert told.endswith("this node has no net_admin that it could leave to its work")
