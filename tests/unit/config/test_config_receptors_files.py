"""Configuration files of real deployments of receptor pass ``meshnode check``, with TLS too.

The files are as they were found, with names replaced. Here their absolute paths are put below a
directory of the test, and what they name (keys, directories of sockets) is made there.
"""

import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tls_makers import authority

from meshnode.cli import ExitCode, main
from meshnode.config import load_file

FILES = Path(__file__).parents[2] / "data/configs"

A_PATH = re.compile(r"(?<=[ \"'])/(?:etc|var|run|tmp|full)/[\w./-]+")

WARNINGS: dict[str, list[str]] = {
    "awx-control-pod-generated.yml": [
        "local-only",
        "work-kubernetes: worktype",
        "work-kubernetes: worktype",
    ],
    "awx-control-node-vm.yml": ["work-kubernetes: worktype"],
    "awx-devel-control-v2.yml": ["work-kubernetes: worktype"],
    "receptor-node-kube-and-pyroscope.yml": [
        "node: receptorkubesupportreconnect",
        "node: receptorkubeclientsetqps",
        "pyroscope-client",
    ],
    "receptor-poc-runtime-env.yml": ["work-command: allowruntimeenvvars"],
    "receptor-reload-test-trace.yml": ["trace"],
}
"""What passes and is warned of, by directive and parameter, in each file."""

NAMES = sorted(path.name for path in FILES.glob("*.yml"))


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a directory with a path short enough for those of unix sockets below it."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), public


def write_certificate(path: Path) -> None:
    """Write the certificate of a CA, or one and its key for all nodes that the files have."""
    if "ca" in path.name.lower().split(".")[0].split("-"):
        path.write_bytes(authority().pem)
    elif not path.exists():
        made = authority().issue("node", nodes=["exec01.example.org", "awx-task-0", "foo"])
        made.write(path.parent, path.stem)


def installed(name: str, place: Path, keys: tuple[bytes, bytes]) -> Path:
    """Return a copy of a file whose paths are below ``place``, with all that they name."""
    text = (FILES / name).read_text()
    for found in A_PATH.findall(text):
        path = place / found.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".crt", ".key"):
            write_certificate(path)
        elif "public" in path.name or path.suffix == ".pub":
            path.write_bytes(keys[1])
        elif "key" in path.name:
            path.write_bytes(keys[0])
            path.chmod(0o600)
    file = place / name
    file.write_text(A_PATH.sub(lambda found: f"{place}{found[0]}", text))
    return file


@pytest.fixture(autouse=True)
def host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the machine: one of the files leaves the node's ID to it."""
    monkeypatch.setattr(socket, "gethostname", lambda: "awx-task-0")


def test_the_tables_name_files_that_are_there():
    assert len(NAMES) == 19
    assert set(WARNINGS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_receptors_passes(
    name: str, place: Path, keys: tuple[bytes, bytes], capsys: pytest.CaptureFixture[str]
):
    file = installed(name, place, keys)
    code = main(["check", str(file)])
    lines = [line.removeprefix(f"{file}:") for line in capsys.readouterr().err.splitlines()]
    assert [line for line in lines if "warning: " not in line] == []
    assert code == ExitCode.OK


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_receptors_is_warned_of_where_it_has_no_effect(
    name: str, place: Path, keys: tuple[bytes, bytes]
):
    config = load_file(str(installed(name, place, keys)))
    assert [": ".join(fault.subject) for fault in config.warnings] == WARNINGS.get(name, [])


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_receptors_means_the_same_when_converted(
    name: str,
    place: Path,
    keys: tuple[bytes, bytes],
    capsys: pytest.CaptureFixture[str],
):
    file = installed(name, place, keys)
    config = load_file(str(file))
    assert main(["check", "--convert", str(file)]) == ExitCode.OK
    file.write_text(capsys.readouterr().out)
    assert load_file(str(file)) == config
