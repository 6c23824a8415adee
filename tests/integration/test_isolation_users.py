"""Jobs that run as somebody else, or with less, and nodes that cannot do it and say so."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness import Cluster
from isolated import BASH, NOBODY, PYTHON, isolating, output, run
from test_bad_start import fails_to_start

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")

AS_NOBODY: dict[str, Any] = BASH | {"user": "nobody"}


@needs_root
def test_a_job_of_another_user_is_that_user_in_every_way(cluster: Cluster) -> None:
    program = Path("/usr/local/lib") / f"meshnode-test-{cluster.mark[:8]}"
    work = {
        "nobody": AS_NOBODY,
        "group": BASH | {"group": "nogroup"},
        "umask": BASH | {"umask": "0027"},
        "gains": AS_NOBODY,
        "gains-nothing": AS_NOBODY | {"no-new-privileges": True},
        "binds": AS_NOBODY | {"isolation": "full", "capabilities": ["net_bind_service"]},
        "none": BASH | {"capabilities": []},
        "filtered": BASH | {"seccomp": "default"},
        "separate": AS_NOBODY | {"maxoutput": "1MiB"},
    }
    with isolating(cluster, "root", work) as node:
        script = "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; pwd; cat /etc/shadow"
        text = output(node, "nobody", script + "; true")
        home = os.path.expanduser("~nobody")
        place = home if Path(home).is_dir() else "/"
        lines = text.splitlines()
        assert lines[:3] == [str(NOBODY)] * 3
        assert lines[3:5] == [f"{home} nobody nobody", place]
        assert "Permission denied" in lines[5]
        # It reads and writes its standard streams, also by name, and sees nothing of its unit.
        streams = "echo a; echo b >>/dev/stdout; echo c >>/dev/stderr; cat <<<d"
        assert output(node, "nobody", streams) == "a\nb\nc\nd\n"
        assert output(node, "separate", streams) == "a\nb\nc\nd\n"
        assert output(node, "nobody", "ls $MESHNODE_UNIT_DIR 2>/dev/null; true") == ""
        assert output(node, "group", "id -u; id -g; id -G") == f"0\n{NOBODY}\n{NOBODY}\n"
        assert output(node, "umask", "umask") == "0027\n"
        caps = "grep CapEff /proc/self/status"
        assert int(output(node, "none", caps).split()[1], 16) == 0
        assert int(output(node, "binds", caps).split()[1], 16) == 1 << 10
        assert "Seccomp:\t2" in output(node, "filtered", "grep Seccomp: /proc/self/status")
        shutil.copy("/usr/bin/id", program)
        try:
            program.chmod(0o4755)
            assert output(node, "gains", f"{program} -u") == "0\n"
            assert output(node, "gains-nothing", f"{program} -u") == f"{NOBODY}\n"
        finally:
            program.unlink()
        cluster.close()


@needs_root
def test_a_program_that_cannot_be_executed_by_its_user_fails_its_unit(cluster: Cluster) -> None:
    work = {
        "closed": {"command": "/root/nothing", "user": "nobody"},
        "nowhere": AS_NOBODY | {"cwd": "/root", "isolation": "full"},
    }
    with isolating(cluster, "root", work) as node:
        for kind, detail in (
            ("closed", "fork/exec /root/nothing: permission denied"),
            ("nowhere", "chdir /root: permission denied"),
        ):
            status, _ = run(node, kind, "")
            assert (status["StateName"], status["Detail"]) == ("Failed", detail)
        cluster.close()


@needs_root
def test_a_job_that_is_isolated_and_limited_is_both_to_its_last_process(cluster: Cluster) -> None:
    limits = {"memory": "64MiB", "pids": 16}
    both = {"command": PYTHON, "params": "-", "isolation": "full", "limits": limits}
    with isolating(cluster, "root", {"both": both}) as node:
        script = "import os; os.wait() if os.fork() else print(len(b'x' * 300_000_000))"
        status, text = run(node, "both", script)
        assert (status["StateName"], text) == ("Failed", "")
        assert status["Detail"].startswith("out of memory (limit 64 MiB")
        script = "import os\ntry:\n  while os.fork(): pass\nexcept OSError as e: print(e.errno)"
        assert run(node, "both", script)[1] == "11\n"
        groups = {path.name for path in Path("/sys/fs/cgroup").glob("**/")}
        units = [unit.name for unit in node.units.iterdir() if len(unit.name) == 8]
        assert len(units) == 2
        assert [name for name in groups if any(unit in name for unit in units)] == []
        cluster.close()


BEGIN = "- node: {{id: foo, datadir: {0}/data}}\n- local-only\n- work-command:\n"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("user: nosuchuser", 'user: there is no user "nosuchuser" on this machine'),
        ("user: 12345", "user: there is no user 12345 on this machine; name its group"),
        ("group: nosuchgroup", 'group: there is no group "nosuchgroup" on this machine'),
        (
            "isolation: {mount: private, visible: /nosuchplace}",
            "isolation: cannot isolate: /nosuchplace: no such file or directory",
        ),
    ],
)
def test_what_this_machine_has_not_stops_the_start_and_the_check(
    cluster: Cluster, more: str, told: str
) -> None:
    text = BEGIN.format(cluster.directory)
    line = fails_to_start(cluster, f"{text}    worktype: t\n    command: true\n    {more}\n")
    assert told in line
    done = cluster.run("meshnode", "check", cluster.directory / "faulty.yml", check=False)
    assert done.returncode != 0
    assert told in (done.stdout + done.stderr).decode()
