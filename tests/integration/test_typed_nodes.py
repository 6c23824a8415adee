"""Typed jobs on real nodes: foo passes work on to qux, which it reaches by way of bar."""

import json

import pytest
from harness import Cluster, Node, free_port

SHOW = """import json, os, sys
names = [name for name in os.environ if name.startswith(("JOB_", "MESHNODE_UNIT_ID"))]
print(json.dumps([sys.argv[1:], os.getcwd(), {name: os.environ[name] for name in sorted(names)}]))
"""

TEXT = "two words; $(touch broken) `touch broken` \"'\\ {position} * ü\n"


@pytest.fixture
def three(cluster: Cluster) -> tuple[Node, Node, Node]:
    """Return foo, bar and qux in a line; qux has the typed job."""
    ports = [free_port(), free_port()]
    script = cluster.directory / "show.py"
    script.write_text(SHOW)
    show = {
        "command": "python3",
        "params": f"{script} {{position}} --text={{text}}",
        "arguments": [
            {"name": "position", "type": "int", "required": True, "max": 9},
            {"name": "text"},
        ],
        "allowruntimeenv": ["JOB_*"],
        "allowruntimecwd": [str(cluster.directory)],
    }
    bar = cluster.node("bar", listen=ports[0])
    foo = cluster.node("foo", peers=[ports[0]])
    qux = cluster.node("qux", peers=[ports[0]], work={"show": show})
    foo.wait_knows("qux")
    foo.wait_service("qux")
    return foo, bar, qux


def test_each_text_is_one_argument_two_hops_away_with_its_variables_and_directory(
    three: tuple[Node, Node, Node],
) -> None:
    foo, _, qux = three
    place = str(foo.cluster.directory)
    given = ("--arg", "position=3", "--arg", f"text={TEXT}", "--env", f"JOB_A={TEXT}")
    unit = foo.submit("show", "--node", "qux", "--no-payload", *given, "--cwd", place)
    foo.wait_unit(unit, "Succeeded")
    words, where, variables = json.loads(foo.results(unit))
    (far,) = qux.ask("work list")
    assert words == ["3", f"--text={TEXT}"]
    assert where == place
    assert variables == {"JOB_A": TEXT, "MESHNODE_UNIT_ID": far}
    assert not (foo.cluster.directory / "broken").exists()


def test_what_waits_for_a_node_is_there_after_kills_of_both(
    three: tuple[Node, Node, Node],
) -> None:
    foo, _, qux = three
    qux.kill()
    given = ("--arg", "position=7", "--env", "JOB_A=x", "--cwd", str(foo.cluster.directory))
    unit = foo.submit("show", "--node", "qux", "--no-payload", *given)
    foo.kill()
    foo.start()
    qux.start()
    foo.wait_unit(unit, "Succeeded")
    words, _, variables = json.loads(foo.results(unit))
    assert (words, variables["JOB_A"]) == (["7"], "x")
    assert "Job" not in {key for key, value in foo.stored_status(unit).items() if value}


def test_a_type_two_hops_away_is_described_and_a_mistake_is_told_before_anything_is_made(
    three: tuple[Node, Node, Node],
) -> None:
    foo, _, qux = three
    described = json.loads(foo.meshctl("work", "describe", "show", "--node", "qux", "--json"))
    assert described["Usage"] == "meshctl work submit show --arg position=INT [--arg text=TEXT]"
    words = ["work", "submit", "show", "--node", "qux", "--no-payload", "--arg", "position=10"]
    done = foo.cluster.run("meshctl", "--socket", foo.socket, *words, check=False)
    assert done.returncode == 103
    assert f"10 is more than 9; usage: {described['Usage']}" in done.stderr.decode()
    assert foo.ask("work list") == qux.ask("work list") == {}
