"""packaging/Containerfile, instruction by instruction.

No image can be built where there is no registry to take Debian's from. A machine of the same
Debian does what the instructions say instead, and then starts what a container would start.
"""

import json
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from harness import PATIENCE
from machine import ROOT, Machine

FILE = ROOT / "packaging" / "Containerfile"

BASE = "docker.io/library/debian:12-slim"


def instructions() -> Iterator[tuple[str, str]]:
    """Yield each instruction of the file: its word, and the rest with its lines joined."""
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, rest = line.split(maxsplit=1)
            yield word, rest


@dataclass
class Image:
    """What the instructions leave behind beside files: how a container begins."""

    environment: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    entry: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def take(self, box: Machine, word: str, rest: str) -> None:
        """Do one instruction."""
        match word:
            case "FROM":
                assert rest.startswith(BASE)
            case "RUN":
                box.run(f"cd / && {rest}")
            case "COPY" if rest.startswith("--from="):
                # There is one machine for all stages, so it is there already.
                _, source, target = rest.split()
                assert source == target
                box.run(f"test -e {source}")
            case "COPY":
                *sources, target = rest.split()
                box.run(f"mkdir -p $(dirname {target}x)")
                box.run(
                    f"cp -r --no-preserve=ownership -T {sources[0]} {target}"
                    if len(sources) == 1
                    else f"cp {' '.join(sources)} {target}"
                )
            case "ENV":
                name, value = rest.split("=")
                self.environment[name] = value
            case "USER":
                self.user = rest
            case "ENTRYPOINT":
                self.entry = json.loads(rest)
            case "CMD":
                self.arguments = json.loads(rest)
            case _:
                assert word == "VOLUME"

    def words(self, box: Machine, *command: str) -> list[str]:
        """Return the arguments that run a command as in a container of this image."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return box.words(
            f"cd / && exec {shlex.join(['env', '-i', *settings, *command])}", self.user
        )


def test_each_file_that_it_copies_is_in_the_checkout() -> None:
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY"]
    here = [name for names in copied for name in names if not names[0].startswith("--from=")]
    assert "meshnode" in here
    assert [name for name in here if not (ROOT / name).exists()] == []


@pytest.mark.timeout(600)
def test_what_it_makes_is_a_node_that_runs_units_and_stops_when_told(box: Machine) -> None:
    release = platform.freedesktop_os_release()
    if (release["ID"], release.get("VERSION_ID")) != ("debian", "12"):
        pytest.skip("this machine is not of the image's Debian")
    image = Image()
    for word, rest in instructions():
        image.take(box, word, rest)
    # The first process of a container, as tini would say if it were not.
    start = ["unshare", "--pid", "--fork", "--kill-child=TERM", "--mount-proc"]
    command = image.words(box, *image.entry, *image.arguments)
    inside = command.index("setpriv")
    node = subprocess.Popen(
        [*command[:inside], *start, *command[inside:]], stderr=subprocess.DEVNULL
    )
    try:
        box.wait_for("test -S /run/meshnode/control.sock", what="the node's socket")
        done = subprocess.run(
            image.words(box, *shlex.split("meshctl work submit echo --payload - --follow")),
            input=b"hello\n",
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr.decode()
        box.run("pkill --exact --signal TERM tini")
        assert node.wait(PATIENCE) in {0, 143}
    finally:
        node.kill()
        node.wait()
