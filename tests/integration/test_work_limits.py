"""Work types with limits and surroundings of their own, on a real node."""

import resource

from harness import Cluster, bash


def test_a_command_gets_its_environment_and_directory(cluster: Cluster) -> None:
    where = cluster.directory / "place"
    where.mkdir()
    kind = {
        "command": "bash",
        "params": "-c 'echo $GREETING; pwd; echo ${HOME:+home}'",
        "env": {"GREETING": "hi there"},
        "cwd": str(where),
    }
    node = cluster.node("foo", work={"show": kind})
    unit = node.submit("show", "--no-payload")
    assert node.results(unit).decode().splitlines() == ["hi there", str(where), "home"]


def test_a_command_beyond_its_time_or_output_fails_and_says_so(cluster: Cluster) -> None:
    node = cluster.node(
        "foo",
        work={
            "slow": {"command": "sleep", "params": "1000", "timeout": "100ms"},
            "loud": {"command": "yes", "maxoutput": "10kB"},
        },
    )
    slow, loud = node.submit("slow", "--no-payload"), node.submit("loud", "--no-payload")
    assert node.wait_unit(slow, "Failed")["Detail"] == "timed out after 0.1 s"
    assert node.wait_unit(loud, "Failed")["Detail"] == "stopped: it printed more than 10000 bytes"


def test_what_a_command_may_print_counts_errors_and_no_files(cluster: Cluster) -> None:
    within = "printf 0123456789 >&2; head -c 100000 /dev/zero > $MESHNODE_UNIT_DIR/../big; printf "
    types = {name: bash(within + text) for name, text in (("fits", "0123"), ("more", "01234"))}
    node = cluster.node("foo", work={k: v | {"maxoutput": 14} for k, v in types.items()})
    fits, more = node.submit("fits", "--no-payload"), node.submit("more", "--no-payload")
    assert node.wait_unit(fits, "Succeeded")["StdoutSize"] == 14
    assert (node.units / "big").stat().st_size == 100_000
    assert node.wait_unit(more, "Failed")["StdoutSize"] == 14


def test_a_type_adds_to_what_its_commands_inherit_and_takes_nothing_away(cluster: Cluster) -> None:
    cluster.environment |= {"INHERITED": "a token", "REPLACED": "old"}
    kind = {"command": "env", "env": {"REPLACED": "new", "ADDED": "1"}}
    node = cluster.node("foo", work={"show": kind})
    unit = node.submit("show", "--no-payload")
    found = dict(line.split("=", 1) for line in node.results(unit).decode().splitlines())
    own = {"MESHNODE_UNIT_ID": unit, "MESHNODE_UNIT_DIR": str(node.units / unit)}
    assert found == cluster.environment | {"REPLACED": "new", "ADDED": "1"} | own


def test_the_grace_of_a_work_type_is_kept_at_cancel(cluster: Cluster) -> None:
    script = "trap '' INT; echo up; while :; do sleep 1; done"
    kind = {"command": "bash", "params": f'-c "{script}"', "grace": "0s"}
    node = cluster.node("foo", work={"deaf": kind})
    unit = node.submit("deaf", "--no-payload")
    node.wait_output(unit, b"up\n")
    node.meshctl("work", "cancel", unit)
    status = node.unit_status(unit)
    assert (status["StateName"], status["Signal"]) == ("Canceled", "SIGKILL")


def test_a_command_has_the_descriptors_that_the_node_was_started_with(cluster: Cluster) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    node = cluster.node("foo", work={"limit": "ulimit -Sn"})
    assert node.results(node.submit("limit", "--no-payload")).decode().strip() == str(soft)
