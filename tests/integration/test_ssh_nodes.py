"""Units on hosts that have only an SSH server: what a user does with them. Real sshds and nodes."""

import os
import re
from pathlib import Path

import pytest
import yaml
from harness import Cluster, wait_until
from sshd import Gate, run_on, work_ssh

SAYS_WHERE = 'echo "$0 ${PWD%%/units/*}"'
"""Prints the directory of the host that runs it."""


def host_of(node, unit: str) -> str:
    return Path(node.results(unit).decode().split()[-1]).name


def test_a_command_runs_on_a_host_with_its_payload_and_leaves_nothing(cluster: Cluster, far):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna, env={"GREETING": "it's $HOME"})])
    script = 'cat; echo err >&2; pwd; umask; echo "$GREETING"; exit 3'
    unit = run_on(node, script, stdin=b"hello\n")
    status = node.wait_unit(unit, "Failed", "Succeeded")
    lines = node.results(unit).decode().splitlines()
    assert lines[:2] == ["hello", "err"]
    assert lines[2].startswith(str(anna.units))
    assert lines[3:] == [f"{os.umask(0o22):04o}", "it's $HOME"]
    assert status["Detail"] == "exit status 3"
    assert node.stored_status(unit)["ExitCode"] == 3
    anna.wait_clean()


def test_output_comes_while_the_command_runs(cluster: Cluster, far, tmp_path):
    anna, gate = far.add("anna"), Gate(tmp_path)
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, f"echo one; {gate.wait}; echo two")
    node.wait_output(unit, b"one\n")
    status = node.unit_status(unit)
    assert re.fullmatch(r"Running: PID \d+ on host anna", status["Detail"])
    gate.open()
    assert node.results(unit) == b"one\ntwo\n"


def test_a_script_of_the_node_is_sent_along_and_run_by_what_its_first_line_says(
    cluster: Cluster, far, tmp_path
):
    anna = far.add("anna")
    script = tmp_path / "hello"
    script.write_text('#!/bin/bash\nx=(a b); echo "${x[1]} $1"; cat\n')
    kind = work_ssh(anna, command=None, script=str(script))
    node = cluster.node("foo", more=[kind])
    unit = node.submit("far", "--payload-literal", "in", "--", "two words")
    assert node.results(unit) == b"b two words\nin\n"
    anna.wait_clean()


def test_a_host_behind_a_jump_host_is_reached_by_openssh_s_own_configuration(
    cluster: Cluster, far, tmp_path
):
    gate, inner = far.add("gate"), far.add("inner")
    config = tmp_path / "ssh_config"
    config.write_text(
        f"""
Host gate
    HostName 127.0.0.1
    Port {gate.port}
Host inner
    HostName 127.0.0.1
    Port {inner.port}
    ProxyJump gate
Host *
    IdentityFile {far.key}
    UserKnownHostsFile {far.known_hosts}
"""
    )
    kind = work_ssh(inner, hosts=["inner"], sshconfig=str(config))
    node = cluster.node("foo", more=[kind])
    unit = run_on(node, "echo there")
    assert node.results(unit) == b"there\n"
    assert "Accepted publickey" in gate.log.read_text()
    inner.wait_clean()


def test_connections_that_one_master_carries_are_as_good(cluster: Cluster, far, tmp_path):
    anna, gate = far.add("anna"), Gate(tmp_path)
    # In /tmp, since a socket's path is short.
    control = cluster.directory / "master"
    shared = [f"ControlPath={control}", "ControlMaster=auto", "ControlPersist=2"]
    host = anna.as_host()
    host["options"] += shared
    node = cluster.node("foo", more=[work_ssh(anna, hosts=[host])])
    # All at the same time: between one that has ended and the next the master may end.
    units = [run_on(node, f"{gate.wait}; echo {number}") for number in range(4)]
    gate.open(len(units))
    assert [node.results(unit) for unit in units] == [b"0\n", b"1\n", b"2\n", b"3\n"]
    anna.wait_clean()
    assert anna.log.read_text().count("Accepted publickey") < 4
    wait_until(lambda: not control.exists(), what="the master to end")


def test_a_host_is_chosen_by_name_at_random_or_by_fewest_units(cluster: Cluster, far, tmp_path):
    anna, bert, gate = far.add("anna"), far.add("bert"), Gate(tmp_path)
    node = cluster.node("foo", more=[work_ssh(anna, bert)])
    named = [run_on(node, SAYS_WHERE, "-a", f"host={name}") for name in ("bert", "anna", "bert")]
    assert [host_of(node, unit) for unit in named] == ["bert", "anna", "bert"]
    unit = run_on(node, SAYS_WHERE, "-a", "host=random")
    assert host_of(node, unit) in {"anna", "bert"}
    waiting = [run_on(node, f"{gate.wait}; {SAYS_WHERE}") for _ in range(4)]
    for one in waiting:
        node.wait_unit(one, "Running")
    details = [node.unit_status(unit)["Detail"].split()[-1] for unit in waiting]
    assert sorted(details) == ["anna", "anna", "bert", "bert"]
    gate.open(len(waiting))
    for one in waiting:
        node.wait_unit(one, "Succeeded")
    refused = node.meshctl(
        *("work", "submit", "far", "--no-payload", "-a", "host=carl"), check=False
    )
    assert refused == b""
    assert node.find_log("work type far has no host carl; it has anna, bert, or random or least")


def test_units_beyond_maxconcurrent_wait_for_their_host_and_a_restart_keeps_count(
    cluster: Cluster, far, tmp_path
):
    anna, gate = far.add("anna"), Gate(tmp_path)
    ledger = tmp_path / "ledger"
    node = cluster.node("foo", more=[work_ssh(anna, maxconcurrent=2)])
    units = [run_on(node, f"echo x >>{ledger}; {gate.wait}") for _ in range(4)]
    for unit in units[:2]:
        node.wait_unit(unit, "Running")
    for unit in units[2:]:
        assert node.unit_status(unit)["Detail"].startswith("Queued: ")
    node.kill()
    node.start()
    for unit in units[:2]:
        node.wait_unit(unit, "Running")
    assert [node.unit_status(unit)["StateName"] for unit in units[2:]] == ["Pending"] * 2
    gate.open(2)
    for unit in units[2:]:
        node.wait_unit(unit, "Running")
    gate.open(2)
    for unit in units:
        node.wait_unit(unit, "Succeeded")
    assert ledger.read_text() == "x\n" * 4
    anna.wait_clean()


def test_a_server_that_refuses_bursts_is_not_asked_for_more_than_it_bears(
    cluster: Cluster, far, tmp_path
):
    anna = far.add("anna", "MaxStartups 3:100:3")
    node = cluster.node("foo", more=[work_ssh(anna, sessions=3)])
    units = [run_on(node, "echo done") for _ in range(12)]
    for unit in units:
        node.wait_unit(unit, "Succeeded")
    assert "drop connection" not in anna.log.read_text()
    anna.wait_clean()


def test_a_cancel_ends_all_processes_there_also_those_that_left_the_group(
    cluster: Cluster, far, tmp_path
):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, "trap 'echo cleaned; exit' TERM; setsid sleep 1000 & echo up; wait")
    node.wait_output(unit, b"up\n")
    node.meshctl("work", "cancel", unit)
    status = node.wait_unit(unit, "Canceled")
    assert status["Detail"] == "Canceled"
    assert node.results(unit) == b"up\ncleaned\n"
    anna.wait_clean()


def test_a_command_that_ignores_the_cancel_is_killed_after_its_grace(cluster: Cluster, far):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna, grace="1s")])
    unit = run_on(node, "trap '' TERM; echo up; while :; do sleep 1000; done")
    node.wait_output(unit, b"up\n")
    node.meshctl("work", "cancel", unit)
    node.wait_unit(unit, "Canceled")
    anna.wait_clean()


@pytest.mark.parametrize("how", ["release", "force-release"])
def test_a_release_leaves_nothing_there_and_nothing_here(cluster: Cluster, far, how):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna)])
    unit = run_on(node, "echo up; sleep 1000")
    node.wait_output(unit, b"up\n")
    force = ["--force"] if how == "force-release" else []
    node.meshctl("work", "release", *force, unit)
    wait_until(lambda: not (node.units / unit).exists(), what="the unit to be released")
    anna.wait_clean()


def test_a_command_is_ended_when_it_has_printed_too_much(cluster: Cluster, far):
    anna = far.add("anna")
    node = cluster.node("foo", more=[work_ssh(anna, maxoutput="100KB", grace="1s")])
    unit = run_on(node, "yes")
    status = node.wait_unit(unit, "Failed")
    assert status["Detail"] == "stopped: it printed more than 100000 bytes"
    assert node.results(unit) == b"y\n" * 50_000
    anna.wait_clean()


def test_a_type_that_a_reload_brings_runs_at_once(cluster: Cluster, far):
    anna = far.add("anna")
    node = cluster.node("foo")
    directives = yaml.safe_load(node.config.read_text())
    node.config.write_text(yaml.safe_dump([*directives, work_ssh(anna)]))
    node.meshctl("reload")
    assert node.results(run_on(node, "echo there")) == b"there\n"
