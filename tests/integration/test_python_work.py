"""Python work: functions of installed plugins, called as units by a real node."""

import json
from pathlib import Path

import pytest
from harness import Cluster, Node

MODULE = """
import receptor
from meshnode.plugins import BUFFER_PAYLOAD, FILE_PAYLOAD, plugin_export


@receptor.plugin_export(payload_type=receptor.BYTES_PAYLOAD)
def shout(payload, config, results):
    results.put({"said": payload.decode().upper(), "config": config})


@plugin_export(payload_type=BUFFER_PAYLOAD)
def lines(payload, config, results):
    for line in payload:
        results.put(line.decode().strip())


@plugin_export(payload_type=FILE_PAYLOAD)
def size(payload, config, results):
    with open(payload, "rb") as file:
        results.put(len(file.read()))


@plugin_export(payload_type=BUFFER_PAYLOAD)
def fail(payload, config, results):
    results.put("first")
    raise ValueError("no good")


def hidden(payload, config, results):
    results.put("never")
"""
FUNCTIONS = ("shout", "lines", "size", "fail", "hidden", "absent")


@pytest.fixture
def site(cluster: Cluster) -> Path:
    """Return a directory in which a plugin is installed."""
    site = cluster.directory / "site"
    metadata = site / "shouter-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "shouter.py").write_text(MODULE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shouter\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[receptor.worker]\nshouter = shouter\n")
    return site


@pytest.fixture
def node(cluster: Cluster, site: Path) -> Node:
    """Return a node that offers every function of an installed plugin, and one of none."""
    kinds = [work_python(name, "shouter", site) for name in FUNCTIONS]
    return cluster.node("foo", more=[*kinds, work_python("stranger", "nobody", site)])


def work_python(function: str, plugin: str, site: Path) -> dict[str, dict[str, object]]:
    return {
        "work-python": {
            "worktype": function,
            "plugin": plugin,
            "function": function,
            "config": {"loud": True},
            "env": {"PYTHONPATH": str(site)},
        }
    }


def test_each_kind_of_payload_reaches_its_function(node: Node) -> None:
    shout = node.submit("shout", "--payload-literal", "hello", "--param", "params=a b")
    (line,) = node.results(shout).splitlines()
    assert json.loads(line) == {"said": "HELLO\n", "config": {"loud": True, "params": "a b"}}
    lines = node.submit("lines", "--payload", "-", stdin=b"one\ntwo\n")
    assert node.results(lines) == b'"one"\n"two"\n'
    size = node.submit("size", "--payload", "-", stdin=b"x" * 100_000)
    assert node.results(size) == b"100000\n"
    for unit in (shout, lines, size):
        assert node.wait_unit(unit, "Succeeded")["Detail"] == "exit status 0"


@pytest.mark.parametrize(
    ("function", "output"),
    [
        ("fail", b"\"first\"\nworker failed: ValueError('no good')\n"),
        ("hidden", b"function hidden of plugin shouter is not marked with plugin_export\n"),
        ("absent", b"plugin shouter has no function absent\n"),
        ("stranger", b"no plugin nobody is installed (entry point group meshnode.worker)\n"),
    ],
)
def test_what_cannot_be_called_fails_and_says_why(node: Node, function: str, output: bytes) -> None:
    unit = node.submit(function, "--no-payload")
    assert node.results(unit).removeprefix(b"cannot load worker: ") == output
    assert node.wait_unit(unit, "Failed")["Detail"] == "exit status 1"


@pytest.mark.parametrize("path", ["", ":", ".:{site}", "{site}:"])
def test_a_file_of_the_working_directory_is_imported_by_no_plugin(
    cluster: Cluster, site: Path, path: str
) -> None:
    strangers = cluster.directory / "strangers"
    strangers.mkdir()
    ran = strangers / "ran"
    # What the program itself and the interpreter's start import, and what a plugin might.
    for name in ("queue", "json", "threading", "receptor", "sitecustomize", "usercustomize", "re"):
        (strangers / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write('{name} ')")
    kind = work_python("shout", "shouter", site)
    kind["work-python"] |= {
        "cwd": str(strangers),
        "env": {"PYTHONPATH": f"{site}:{path.format(site=site)}"},
    }
    node = cluster.node("foo", more=[kind])
    unit = node.submit("shout", "--payload-literal", "hello")
    assert node.wait_unit(unit, "Succeeded")["Detail"] == "exit status 0"
    assert not ran.exists()
