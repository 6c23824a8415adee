"""receptorctl's own tests, unchanged in what they ask and assert, against nodes of ours.

They are those of its source distribution on PyPI, which is beside our other data as it was
published, by Red Hat under the Apache License 2.0. They start ``receptor -c FILE``, which is our
node here.

The places where they keep files, and their ports, are put where they touch nobody else. Where they
wait for a fixed time, they wait for what they wait for: a test of ours measures no time.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from harness import COMMANDS, Cluster, free_port

SDIST = Path(__file__).parents[1] / "data/receptorctl-1.6.9.tar.gz"

SHA256 = "b98a878c79d5841cc3aa1b72fe1aad4cebacbb7997722eced155783f3d0d373d"
"""The sum that PyPI has of it."""

SUITE_PATIENCE = 500
"""Seconds until a file of tests must have ended; they take half a minute on a quiet machine."""

PORT = re.compile(r"\b1[12]1[12][123]\b")

WAITS = {
    "tests/conftest.py": {
        # Half a second may not be enough for a socket to be there, and to be listened on.
        "    time.sleep(0.5)\n": (
            "    from socket import AF_UNIX, socket\n"
            "    path = receptor_controller._socketaddress.removeprefix('unix://')\n"
            "    def refuses():\n"
            "        with socket(AF_UNIX) as probe:\n"
            "            return probe.connect_ex(path)\n"
            "    while refuses() and all(n.poll() is None for n in nodes):\n"
            "        time.sleep(0.1)\n"
        ),
        "tries > 6": "tries > 60",
    },
    "tests/test_cli.py": {"max_retries = 10": "max_retries = 60"},
    "tests/test_workunit.py": {
        "wait_for = 5 ": "wait_for = 60 ",
        "wait_for = 15 ": "wait_for = 60 ",
    },
}
"""File → what bounds a wait there → what stands in its place."""

FILES = {
    "test_cli.py": (10, {"test_cmd_work_missing_subcommand", "test_cmd_work_missing_param"}),
    "test_connection.py": (11, set[str]()),
    "test_mesh.py": (1, set[str]()),
    "test_workunit.py": (2, set[str]()),
}
"""File → how many tests pass, and which ones it skips by itself, whatever node there is."""


def unpacked(place: Path) -> None:
    """Unpack the tests, with places and ports of their own."""
    assert hashlib.sha256(SDIST.read_bytes()).hexdigest() == SHA256
    with tarfile.open(SDIST) as archive:
        archive.extractall(place, filter="data")
    shutil.move(place / SDIST.name.removesuffix(".tar.gz") / "tests", place / "tests")
    ports: dict[str, str] = {}
    for path in (place / "tests").rglob("*.*"):
        text = path.read_text()
        for port in PORT.findall(text):
            ports[port] = ports.get(port) or str(free_port())
        for old, new in WAITS.get(str(path.relative_to(place)), {}).items():
            assert old in text
            text = text.replace(old, new)
        text = PORT.sub(lambda found: ports[found[0]], text)
        text = text.replace("/tmp/receptorctltest", f"{place}/files")
        text = text.replace('"/tmp/receptor"', f'"{place}/data"')
        text = re.sub(r"^(    id: .*\n)", rf"\1    datadir: {place}/data\n", text, flags=re.M)
        path.write_text(text)


@pytest.fixture
def suite(cluster: Cluster) -> Cluster:
    """Return a place with the tests, and with ``receptor`` before all other programs.

    So is a ``killall`` that ends nothing: the tests would end whatever is called receptor on this
    machine. They end the nodes that they started without it.
    """
    unpacked(cluster.directory)
    programs = cluster.directory / "programs"
    programs.mkdir()
    (programs / "receptor").symlink_to(COMMANDS / "meshnode")
    nothing = shutil.which("true")
    assert nothing is not None
    (programs / "killall").symlink_to(nothing)
    cluster.environment["PATH"] = f"{programs}{os.pathsep}{cluster.environment['PATH']}"
    return cluster


@pytest.mark.skipif(shutil.which("openssl") is None, reason="its tests need the program openssl")
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="its tests need ssh-keygen")
@pytest.mark.timeout(SUITE_PATIENCE + 20)
@pytest.mark.parametrize("file", FILES)
def test_receptorctls_own_tests_pass(file: str, suite: Cluster) -> None:
    report = suite.directory / "report.xml"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--rootdir", suite.directory, "--junit-xml", report, f"tests/{file}"),
        ],
        cwd=suite.directory,
        env=suite.environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SUITE_PATIENCE,
        check=False,
    )
    logs = [path.read_text()[-4000:] for path in sorted(suite.directory.glob("files/*/*.log"))]
    assert done.returncode == 0, "\n".join([done.stdout.decode()[-8000:], *logs])
    cases = list(ET.parse(report).iter("testcase"))
    skipped = {case.attrib["name"].partition("[")[0] for case in cases if list(case)}
    passed = sum(not list(case) for case in cases)
    assert (passed, skipped) == FILES[file]
