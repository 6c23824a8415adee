"""The page of a real node, over mutual TLS, in a mesh of three: what a person does there.

The browser shows a certificate as a person's does: from its store, for the address of the node.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import driving
import pytest
from driving import Browser, browsing, strangers
from harness import Cluster, Node, free_port

GATED = """\
import pathlib, sys, time
gate = pathlib.Path(sys.argv[2])
for number in range(int(sys.argv[1])):
    print("step", number, flush=True)
    while not gate.exists():
        time.sleep(0.02)
print("done with <b>all</b>")
"""
"""A job that prints one line, and the others when a test has made a file: a live log shows that."""

TOOLS = ("certutil", "pk12util", "openssl")


@dataclass(frozen=True, slots=True)
class Mesh:
    """Three nodes: foo, which a browser looks at, dials bar, and so does baz."""

    foo: Node
    bar: Node
    baz: Node
    address: str
    gate: Path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Yield a place for the nodes of all tests here: each test leaves them as they were."""
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def mesh(cluster: Cluster) -> Mesh:
    """Return the nodes, which run."""
    words = ("--node", "foo=127.0.0.1", "--node", "somebody", "--out", "certs")
    cluster.run("meshnode", "cert", "mesh", *words)
    certs = cluster.directory / "certs"
    server = {"name": "web", "cert": str(certs / "foo.crt"), "key": str(certs / "foo.key")}
    server |= {"clientcas": str(certs / "ca.crt")}
    face = {"port": free_port(), "tls": "web", "requireclientcert": True}
    (cluster.directory / "gated.py").write_text(GATED)
    gate = cluster.directory / "gate"
    gated = {
        "command": "python3",
        "params": f"{cluster.directory / 'gated.py'} {{steps}} {gate}",
        "help": "Steps through a gate.",
        "arguments": [{"name": "steps", "type": "int", "required": True, "min": 1, "max": 99}],
    }
    port = free_port()
    directives = [{"tls-server": server}, {"http-service": face}]
    bar = cluster.node("bar", listen=port, work={"gated": gated, "lasting": "sleep 1000"})
    baz = cluster.node("baz", peers=[port], work={"cat": {"command": "cat"}})
    foo = cluster.node("foo", peers=[port], more=directives, work={"gated": gated})
    foo.wait_service("bar")
    foo.wait_service("baz")
    return Mesh(foo, bar, baz, f"https://127.0.0.1:{face['port']}/", gate)


@pytest.fixture(scope="module")
def one_browser(cluster: Cluster, mesh: Mesh) -> Iterator[Browser]:
    """Yield a browser that has a certificate of somebody, and trusts the mesh's authority."""
    if reason := driving.reason_against():
        pytest.skip(reason)
    if missing := [name for name in TOOLS if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)} to give the browser a certificate: libnss3-tools")
    home = cluster.directory / "home"
    store(cluster, home)
    # What a click would answer to the question which certificate to show.
    answer = {f"{mesh.address.rstrip('/')},*": {"setting": {"filters": [{}]}}}
    settings = {"exceptions": {"auto_select_certificate": answer}}
    with browsing(home, {"profile": {"content_settings": settings}}) as browser:
        yield browser


def store(cluster: Cluster, home: Path) -> None:
    """Put a certificate, its key and the authority into a home's store, which chromium reads."""
    certs, database = cluster.directory / "certs", home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    place = f"sql:{database}"
    cluster.run("certutil", "-N", "-d", place, "--empty-password")
    cluster.run("certutil", "-A", "-d", place, "-n", "mesh", "-t", "C,,", "-i", certs / "ca.crt")
    key, cert, both = certs / "somebody.key", certs / "somebody.crt", cluster.directory / "me.p12"
    words = ("-inkey", key, "-in", cert, "-out", both, "-passout", "pass:page")
    cluster.run("openssl", "pkcs12", "-export", "-name", "somebody", *words)
    cluster.run("pk12util", "-d", place, "-i", both, "-W", "page")


@pytest.fixture
def page(browser: Browser, mesh: Mesh) -> Iterator[Browser]:
    """Yield the browser at the page; it must ask nobody but the node, and complain of nothing.

    The browser itself tells of each answer 404: a unit may be released between two questions.
    """
    browser.open(mesh.address)
    browser.wait_text("#state", "live")
    yield browser
    complaints, asked = browser.complaints(), browser.requests()
    assert strangers(asked, mesh.address) == []
    assert [one for one in complaints if "status of 404" not in one] == []


def states(page: Browser) -> dict[str, str]:
    """Return the state of each node in the table."""
    return {row[0].split()[0]: row[1].split()[1] for row in page.rows("Nodes of the mesh")}


def test_the_mesh_of_three_nodes_is_seen(page: Browser) -> None:
    everybody = {"foo": "here", "bar": "reachable", "baz": "reachable"}
    page.wait(lambda: states(page) == everybody, "three nodes")
    rows = {row[0]: row for row in page.rows("Nodes of the mesh")}
    assert rows["bar"][2:5] == ["direct", "1 (cost 1)", "2"]
    assert rows["baz"][2:5] == ["bar", "2 (cost 2)", "1"]
    assert rows["bar"][6] == "gated, lasting"
    page.wait(lambda: "0.1.0" in str(page.rows("Nodes of the mesh")[1:]), "what others say")
    assert sorted(page.texts(".vertex .label")) == ["bar", "baz", "foo"]
    assert len(page.texts(".edge")) == 2
    page.run("document.querySelector('a[href=\"#/mesh/baz\"]').focus()")
    page.wait(lambda: len(page.texts(".edge.on-path")) == 2, "the path to baz")


def test_a_typed_job_is_submitted_and_its_log_is_followed_live(page: Browser, mesh: Mesh) -> None:
    mesh.gate.unlink(missing_ok=True)
    page.go("#/work/new/bar/gated")
    page.wait_text("fieldset", "steps (required)")
    page.run("document.querySelector('fieldset input').focus()")
    page.keys("100")
    page.click("Submit")
    page.wait_text(".error", "100" if "99" not in page.text(".error") else "99")
    page.run("document.querySelector('fieldset input').value = ''")
    page.keys("3")
    page.click("Submit")
    page.wait(lambda: page.texts(".line .text") == ["step 0"], "the first line, while it runs")
    page.wait_text(".heading .badge", "Running")
    assert "bar" in page.text(".facts")
    mesh.gate.touch()
    lines = ["step 0", "step 1", "step 2", "done with <b>all</b>"]
    page.wait(lambda: page.texts(".line .text") == lines, "all lines")
    page.wait_text(".heading .badge", "Succeeded")
    page.wait_text(".log .heading", "4 lines, ended")
    page.wait_text(".facts", "exit status 0")


def test_a_unit_that_runs_is_canceled_and_released(page: Browser, mesh: Mesh) -> None:
    unit = mesh.foo.submit("lasting", "--node", "bar", "--no-payload")
    page.go("#/work")
    page.wait(lambda: unit in str(page.rows("Units of work")), "the new unit, by an event")
    page.go(f"#/work/{unit}")
    page.wait_text(".heading .badge", "Running")
    page.click("Cancel")
    page.click("Cancel", within="dialog")
    page.wait_text(".heading .badge", "Canceled")
    assert mesh.foo.wait_unit(unit, "Canceled")
    page.click("Release")
    page.click("Release", within="dialog")
    page.wait_text(".heading .badge", "released")
    page.go("#/work")
    page.wait(lambda: unit not in str(page.rows("Units of work")), "the unit to be gone")


def test_a_batch_is_followed_from_the_list_to_its_members(page: Browser, mesh: Mesh) -> None:
    mesh.gate.unlink(missing_ok=True)
    page.go("#/work/new/bar/gated")
    page.wait_text("fieldset", "steps (required)")
    page.run("""
        const choice = [...document.querySelectorAll("label")]
            .find((one) => one.textContent === "Run it").control;
        choice.value = "array";
        choice.dispatchEvent(new Event("change"));""")
    for label, text in (("steps", "{index}"), ("Numbers", "1-12"), ("At a time", "3")):
        page.field(label).send_keys(text)
    page.click("Submit")
    page.wait(lambda: page.text("h1").startswith("b-"), "the batch")
    batch = page.text("h1")
    page.go("#/work")
    page.wait(lambda: batch in str(page.rows("Batches")), "the new batch")
    page.click(batch)
    page.wait_text("h1", batch)
    running = [["▶ Running"]] * 3
    page.wait(lambda: [row[1:2] for row in page.rows("Members")] == running, "three that run")
    assert page.texts(".actions button") == ["Cancel", "Release"]
    mesh.gate.touch()
    page.wait_text(".heading .badge", "Succeeded")
    page.wait_text(".bar .summary", "12 members")
    rows = {row[0]: row[2] for row in page.rows("Members")}
    assert sorted(rows, key=int) == [str(index) for index in range(1, 13)]
    page.click(rows["12"])
    page.wait(lambda: len(page.texts(".line")) == 13, "the output of the last member")
    page.click(batch, within=".facts")
    page.click("Release")
    page.click("Release", within="dialog")
    page.wait_text(".heading .badge", "released")
    page.go("#/work")
    page.wait(lambda: not page.rows("Batches") and batch not in page.text("main"), "nothing")
    # The browser itself complains of a question that was on its way as the batch went.
    assert [one for one in page.complaints() if "404" not in one] == []


def test_a_link_is_seen_to_go_down_and_to_come_back(page: Browser, mesh: Mesh) -> None:
    page.wait(lambda: states(page).get("baz") == "reachable", "three nodes")
    mesh.bar.kill()
    page.wait(lambda: "reachable" not in states(page).values(), "nobody to be reached")
    down = page.wait(lambda: page.rows("Configured peers that are down"), "the peer")
    assert "refused" in down[0][2]
    page.wait(lambda: page.texts(".vertex[data-kind=peer]"), "the peer in the graph")
    mesh.bar.start()
    everybody = {"foo": "here", "bar": "reachable", "baz": "reachable"}
    page.wait(lambda: states(page) == everybody, "three nodes again")
    page.wait(lambda: not page.texts(".vertex[data-kind=peer]"), "no peer that is down")
    assert page.text("#state") == "live"


def test_what_a_node_remembers_is_plotted(page: Browser) -> None:
    page.go("#/history")
    names = {"Units by state", "Units in a minute", "Traffic of links"}
    page.wait(lambda: names <= set(page.texts(".card h2")), "its plots")
    page.click("Units by state as a table")
    page.wait(lambda: page.rows("Units by state"), "a row for the first moment")


def test_a_restart_of_the_node_is_seen_and_what_came_meanwhile_is_shown(
    page: Browser, mesh: Mesh
) -> None:
    page.go("#/work")
    mesh.foo.kill()
    page.wait_text("#banner", "The connection to the node is lost")
    page.wait_text("#state", "connection lost")
    mesh.foo.start()
    unit = mesh.foo.submit("gated", "--arg", "steps=1")
    page.wait_text("#state", "live")
    page.wait(lambda: unit in str(page.rows("Units of work")), "the unit that came meanwhile")
    mesh.foo.wait_knows("bar", "baz")
    # The browser itself complains of a node that is not there, and nobody else does.
    assert [one for one in page.complaints() if "net::ERR_" not in one] == []


def test_who_may_only_look_is_offered_nothing_else(cluster: Cluster, browser: Browser) -> None:
    port = free_port()
    looks = {"action": "allow", "who": "any", "do": ["list", "status", "results"], "units": "all"}
    submits = {"action": "allow", "who": f"uid={os.getuid()}", "do": ["submit"]}
    rules = [{"access-rule": looks}, {"access-rule": submits}]
    work = {"lasting": "echo begun; sleep 1000"}
    node = cluster.node("guarded", work=work, more=[*rules, {"http-service": {"port": port}}])
    unit = node.submit("lasting", "--no-payload")
    browser.open(f"http://127.0.0.1:{port}/#/work/{unit}")
    browser.wait(lambda: browser.texts(".line .text") == ["begun"], "its output")
    browser.wait(
        lambda: browser.texts(".actions :is(a, button)") == ["Submit another", "Download stdout"],
        "no button to cancel it with",
    )
    browser.go("#/mesh")
    browser.wait_text(".note", "The mesh is not available to you")
    browser.go("#/work/new")
    browser.wait_text("form", "not available to you")
