"""Every shell example in README.md and docs/ does what it is shown to do."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from harness import Cluster
from shell_examples import ROOT, Example, File, Nodes, Session, read_console, read_document

from meshnode.work.local.hierarchies import look

LIMITS = ("cpu", "memory", "pids", "io-write")
"""What pages that show limits of work ask of the machine."""

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

ELSEWHERE = {ROOT / "docs" / "install.md", ROOT / "docs" / "from-ssh-offloader.md"}
"""Whose examples want more: test_install.py runs them on a machine that is there for that, and
test_from_ssh_offloader.py with SSH servers."""


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def needs_netcat() -> None:
    """Skip the test where nc(1), which the page is about, is not installed."""
    if shutil.which("nc") is None:
        pytest.skip("nc (netcat-openbsd) is not installed")


@pytest.fixture
def session(cluster: Cluster) -> Iterator[Session]:
    session = Session(cluster)
    yield session
    session.close()


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, id=name(path))
        for path in DOCUMENTS
        if "```console" in path.read_text() and path not in ELSEWHERE
    ],
)
def test_each_shell_example_prints_what_is_shown(session: Session, document: Path) -> None:
    steps = read_document(document.read_text())
    shown = "".join(step.text for step in steps if isinstance(step, File))
    if " limits: " in shown and (refusal := look().refusal(LIMITS)):
        pytest.skip(refusal)
    if " isolation: " in shown and os.getuid():
        pytest.skip("only root can isolate work in any case")
    if any("nc -kl" in step.command for step in steps if isinstance(step, Example)):
        needs_netcat()
    for step in steps:
        session.take(step)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_shell_examples_are_console_blocks_so_that_they_are_run(document: Path) -> None:
    kinds = set(re.findall(r"^ *```(\S+)$", document.read_text(), re.MULTILINE))
    assert kinds.isdisjoint({"sh", "bash", "shell", "shell-session"})


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_to_files_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


LISTENERS = {"tcp-listener", "ws-listener", "udp-listener", "tcp-server", "udp-server"}

SHOWS_OPEN_PORTS = {"docs/exposure.md", "docs/tls.md"}
"""To show what is said of them, or where only those with a certificate get in."""


def test_nobody_who_copies_an_example_opens_a_port_to_the_network() -> None:
    examples = {
        f"{name(page)}: {block}": block
        for page in DOCUMENTS
        if name(page) not in SHOWS_OPEN_PORTS
        for block in re.findall(r"^ *```yaml\n(.*?)^ *```$", page.read_text(), re.M | re.S)
    }
    for folder in ("examples", "packaging"):
        examples |= {str(file): file.read_text() for file in (ROOT / folder).glob("*.yml")}
    found = list(_listening(examples))
    assert len(found) > 10
    assert [where for where, host in found if not host.startswith("127.")] == []


def _listening(examples: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield where a port is opened, and on which address: empty for all."""
    for where, text in examples.items():
        directives = yaml.safe_load(text)
        for directive in directives if isinstance(directives, list) else []:
            for kind, parameters in directive.items() if isinstance(directive, dict) else []:
                if kind in LISTENERS:
                    yield where, parameters.get("bindaddr", "")
                elif kind == "control-service" and "tcplisten" in parameters:
                    yield where, str(parameters["tcplisten"])


# --- The runner itself must be able to fail ------------------------------------------------------


def test_a_document_is_read_as_files_nodes_and_examples() -> None:
    text = (
        "<!-- nodes: foo bar -->\n"
        "```yaml\n# a.yml\n- node: a\n```\n"
        "```yaml\n- only: shown\n```\n"
        "```console\n$ one \\\n> two\n$ three  # exits with 4\nprinted\n\n$ five\n```\n"
    )
    assert read_document(text) == [
        Nodes(1, ["foo", "bar"]),
        File(2, "a.yml", "# a.yml\n- node: a\n"),
        Example(10, "one \\\ntwo", None),
        Example(12, "three", "printed\n", 4),
        Example(15, "five", None),
    ]


def test_output_that_differs_is_an_error(session: Session) -> None:
    with pytest.raises(AssertionError, match="printed:\ntwo"):
        session.take(read_console("$ echo two\none\n", 1)[0])


def test_an_unexpected_exit_code_is_an_error(session: Session) -> None:
    with pytest.raises(AssertionError, match="exited with 3"):
        session.take(read_console("$ exit 3\n", 1)[0])


def test_what_differs_on_every_run_may_differ_but_unit_ids_stay_themselves(
    session: Session,
) -> None:
    for step in read_console(
        "$ echo unit Abcdefg1 in 17.25ms by PID 99\nunit t1BlAB18 in 3s by PID 1\n"
        "$ echo t1BlAB18 87Vwqb6B\n...\n"
        "$ echo t1BlAB18\nt1BlAB18\n",
        1,
    ):
        session.take(step)
    assert session.unit_ids == {"t1BlAB18": "Abcdefg1"}
    with pytest.raises(AssertionError):
        session.take(read_console("$ echo Other123\nt1BlAB18\n", 1)[0])
