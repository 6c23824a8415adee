"""Units that run containers by real rootless podman, as docs/containers.md has them."""

import re
import signal
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import rootless
import yaml
from harness import Cluster, Node, wait_until

from meshnode.work.local.launcher import tree
from meshnode.work.local.launcher.leaving import names_of

PAGE = (rootless.ROOT / "docs/containers.md").read_text(encoding="utf-8")

AT_ONCE = 10

DEAF = ("/bin/sh", "-c", "trap '' INT TERM; echo up; while :; do sleep 1000; done")
"""What runs in a container that nothing but SIGKILL ends."""


@cache
def _reason() -> str | None:
    return rootless.reason_against()


@pytest.fixture
def user(cluster: Cluster) -> Iterator[rootless.User]:
    if reason := _reason():
        pytest.skip(reason)
    with rootless.user(cluster) as user:
        yield user


def documented(worktype: str) -> dict[str, Any]:
    """Return the work type that the page has, for the image of the tests."""
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        for directive in yaml.safe_load(block):
            parameters = dict(directive["work-command"])
            if parameters.pop("worktype") == worktype:
                return parameters
    raise AssertionError(f"docs/containers.md has no {worktype}")


@pytest.fixture
def node(cluster: Cluster, user: rootless.User) -> Node:
    container = documented("container")
    container["params"] = container["params"].replace("registry.example/image", rootless.IMAGE)
    # Without --init the first process of the container is deaf to all but SIGKILL.
    deaf = container | {"params": container["params"].replace("--init ", ""), "grace": "100ms"}
    daemon = {"command": "podman", "params": f"run --detach {rootless.IMAGE} /bin/sleep 1000"}
    return cluster.node(
        "foo",
        work={
            "container": container,
            "deaf": deaf,
            "brief": deaf | {"timeout": "3s"},
            "unnamed": {k: v for k, v in deaf.items() if k != "leave-processes"},
            "daemon": daemon | {"leave-processes": True},
        },
    )


def run(node: Node, worktype: str, *words: str) -> str:
    return node.submit(worktype, "--no-payload", "--", *words)


def containers(node: Node) -> list[str]:
    """Return the names of the containers that podman has on record, running or not."""
    done = node.cluster.run("podman", "ps", "--all", "--format", "{{.Names}}")
    return done.stdout.decode().split()


def pause_processes() -> list[int]:
    return [one.pid for one in rootless.processes() if names_of(one.pid).line == "catatonit -P"]


def wait_only_pause() -> None:
    """Wait until of all that the user's units ran only the pause process is left."""

    def left() -> set[str]:
        ours = ("python", "meshnode", "catatonit")
        names = {names_of(one.pid).name for one in rootless.processes()}
        return {name for name in names if not name.startswith(ours)}

    # conmon cleans up after its unit's end.
    wait_until(lambda: not left(), what="the end of conmon and podman")


def expect_works(node: Node) -> None:
    unit = run(node, "container", "/bin/echo", "works")
    assert node.wait_unit(unit, "Succeeded", "Failed")["StateName"] == "Succeeded"
    assert node.results(unit).endswith(b"works\n")


def test_containers_run_one_after_the_other_on_one_pause_process(node: Node) -> None:
    before = pause_processes()
    for _ in range(3):
        expect_works(node)
        wait_only_pause()
    assert len(before) == 1
    assert pause_processes() == before
    assert containers(node) == []


def test_ten_containers_run_side_by_side_while_the_first_is_canceled(node: Node) -> None:
    # So that the pause process is that of a unit which is canceled.
    node.cluster.run("podman", "system", "migrate")
    assert pause_processes() == []
    first = run(node, "deaf", *DEAF)
    node.wait_output(first, b"up")
    (pause,) = pause_processes()
    units = [
        run(node, "container", "/bin/sh", "-c", f"sleep 0.5; echo {n}") for n in range(AT_ONCE)
    ]
    node.meshctl("work", "cancel", first)
    for number, unit in enumerate(units):
        assert node.wait_unit(unit, "Succeeded", "Failed")["StateName"] == "Succeeded"
        assert node.results(unit).endswith(f"{number}\n".encode())
    assert node.unit_status(first)["StateName"] == "Canceled"
    wait_only_pause()
    assert pause_processes() == [pause]
    assert containers(node) == []


def test_a_container_hears_of_a_cancel(node: Node) -> None:
    script = "trap 'echo cleaned; exit 3' INT; echo up; while :; do sleep 0.1; done"
    unit = run(node, "container", "/bin/sh", "-c", script)
    node.wait_output(unit, b"up\n")
    node.meshctl("work", "cancel", unit)
    node.wait_unit(unit, "Canceled")
    # podman, which passes the signal on as well, may complain that the container has ended.
    printed = node.results(unit).splitlines()
    assert printed[0] == b"up"
    assert b"cleaned" in printed
    wait_only_pause()
    assert containers(node) == []


@pytest.mark.parametrize("user_inside", ["0", "1000"])
def test_nothing_is_left_of_a_canceled_container_that_is_deaf(node: Node, user_inside: str) -> None:
    script = f"{DEAF[2]} # {user_inside}"
    words = ("/bin/sh", "-c", script)
    unit = run(node, "deaf", *words)
    node.wait_output(unit, b"up")
    assert len(containers(node)) == 1
    node.meshctl("work", "cancel", unit)
    node.wait_unit(unit, "Canceled")
    wait_only_pause()
    assert containers(node) == []
    expect_works(node)


def test_nothing_is_left_of_a_container_that_has_used_up_its_time(node: Node) -> None:
    unit = run(node, "brief", *DEAF)
    status = node.wait_unit(unit, "Failed")
    assert status["Detail"] == "timed out after 3 s"
    wait_only_pause()
    assert containers(node) == []
    expect_works(node)


def test_a_container_outlives_its_node_and_is_canceled_by_the_next(node: Node) -> None:
    unit = run(node, "deaf", *DEAF)
    node.wait_output(unit, b"up")
    node.kill()
    node.start()
    assert len(containers(node)) == 1
    node.meshctl("work", "cancel", unit)
    node.wait_unit(unit, "Canceled")
    wait_only_pause()
    assert containers(node) == []


def test_nothing_is_left_of_a_container_whose_supervisor_was_killed(node: Node) -> None:
    unit = run(node, "deaf", *DEAF)
    node.wait_output(unit, b"up")
    supervisor = wait_until(
        lambda: (stored := node.stored_status(unit)).get("Pid") and stored["Supervisor"],
        watch=[node.units / unit],
        what="the PID on record",
    )
    assert tree.send_signal(supervisor["Pid"], supervisor["Started"], signal.SIGKILL)
    assert node.wait_unit(unit, "Failed")["Detail"].startswith("lost: ")
    wait_only_pause()
    assert len(pause_processes()) == 1
    assert containers(node) == []
    expect_works(node)


def test_without_the_names_a_canceled_container_is_removed_all_the_same(node: Node) -> None:
    unit = run(node, "unnamed", *DEAF)
    node.wait_output(unit, b"up")
    node.meshctl("work", "cancel", unit)
    node.wait_unit(unit, "Canceled")
    assert containers(node) == []
    expect_works(node)


def test_a_detached_container_goes_on_where_processes_are_left(node: Node) -> None:
    unit = run(node, "daemon")
    status = node.wait_unit(unit, "Succeeded")
    assert "running" in status["Detail"]
    expect_works(node)
    node.meshctl("work", "release", unit)
    node.stop()
    node.start()
    (name,) = containers(node)
    node.cluster.run("podman", "rm", "--force", "--time=0", name)
    wait_only_pause()
