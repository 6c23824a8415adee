"""Files come back from a job two hops away, byte for byte, whichever process is killed when."""

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from harness import COMMANDS, Cluster, Node, bash, free_port, wait_until
from isolated import BASH, WHO, isolating

from meshctl import ControlClient, JobSettings

BIG_BYTES = 128 * 1024 * 1024
"""More than a process may grow by, which has a piece of it in memory at a time; and enough that who
is killed is killed amid it."""

SMALL_FILES = 300

MOST_GROWTH = 48 * 1024 * 1024

GLOBS = ("--output", "out/**", "--output", "*.log", "--output", "nothing*")

MAKE = f"""
echo ran >> ../../../ran
mkdir -p out/small
head -c 1048576 /dev/urandom > part
for i in $(seq {BIG_BYTES >> 20}); do cat part; done > out/big
for i in $(seq {SMALL_FILES}); do echo $i > out/small/$i; done
ln -s small/7 out/link
echo done > job.log
find out job.log -type f | sort | xargs sha256sum
"""


class Line:
    """foo, hop and bar in a line; bar runs the job."""

    def __init__(self, cluster: Cluster) -> None:
        left, right = free_port(), free_port()
        self.cluster = cluster
        self.bar = cluster.node("bar", listen=right, work={"make": bash(MAKE)})
        self.hop = cluster.node("hop", listen=left, peers=[right])
        self.foo = cluster.node("foo", peers=[left])
        self.foo.wait_service("bar")

    def submit(self) -> str:
        return self.foo.submit("make", "--node", "bar", *GLOBS)

    def there(self, unit: str) -> str:
        """Return the ID of foo's unit on bar."""
        return str(self.foo.unit_status(unit)["ExtraData"]["RemoteUnitID"])

    def check(self, unit: str, place: Path) -> None:
        """Fetch the files of a unit, and see that they are all there, and the job ran once."""
        self.foo.wait_unit(unit, "Succeeded")
        self.foo.meshctl("work", "fetch", unit, "-o", place)
        assert sums(place) == self.foo.results(unit).decode()
        assert os.readlink(place / "out" / "link") == "small/7"
        assert (self.bar.units.parent / "ran").read_text() == "ran\n"
        status = self.foo.unit_status(unit)
        assert status["Detail"] == (
            f"exit status 0; collected {SMALL_FILES + 3} files; nothing matches 'nothing*'"
        )
        assert status["FilesSize"] == size(self.foo, unit) == size(self.bar, self.there(unit))


def sums(place: Path) -> str:
    """Return what sha256sum prints of all files below a directory."""
    found = sorted(
        os.fspath(path.relative_to(place))
        for path in place.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    lines = []
    for name in found:
        with open(place / name, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def size(node: Node, unit: str, name: str = "files") -> int:
    path = node.units / unit / name
    return path.stat().st_size if path.exists() else 0


def peak(pid: int) -> int:
    """Return the bytes of memory that a process has had at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def wait_more(node: Node, unit: str, least: int, name: str = "files") -> None:
    wait_until(
        lambda: size(node, unit, name) >= least,
        watch=[node.units / unit],
        what=f"{name} of unit {unit} on {node.name} to have {least} bytes",
    )


def test_many_files_and_a_large_one_come_back_through_a_hop_in_bounded_memory(
    cluster: Cluster, tmp_path: Path
) -> None:
    line = Line(cluster)
    nodes = (line.foo, line.hop, line.bar)
    before = {node.pid: peak(node.pid) for node in nodes}
    unit = line.submit()
    line.check(unit, tmp_path / "fetched")
    grown = {pid: peak(pid) - size for pid, size in before.items()}
    assert max(grown.values()) < MOST_GROWTH
    line.foo.meshctl("work", "release", unit)
    assert line.bar.ask("work list") == {}


def killed_while_it_collects(line: Line) -> str:
    """Have bar killed amid the files of a unit, and return that.

    On a busy machine the files may be there before this is seen; then it is done with another unit.
    """
    for _ in range(10):
        unit = line.submit()
        remote = line.there(unit)
        wait_until(
            lambda remote=remote: size(line.bar, remote, "files.new") or size(line.bar, remote),
            watch=[line.bar.units / remote],
            what=f"files of unit {remote}",
        )
        line.bar.kill()
        if line.bar.stored_status(remote)["State"] == 1:
            return unit
        line.bar.start()
        line.foo.meshctl("work", "release", unit)
        (line.bar.units.parent / "ran").unlink()
    raise AssertionError("bar has collected all files before it was killed, ten times")


def test_files_come_back_though_each_node_is_killed_amid_them(
    cluster: Cluster, tmp_path: Path
) -> None:
    line = Line(cluster)
    unit = killed_while_it_collects(line)
    remote = line.there(unit)
    line.bar.start()
    wait_more(line.foo, unit, 1)
    line.hop.kill()
    line.hop.start()
    wait_more(line.foo, unit, min(size(line.foo, unit) + 1, size(line.bar, remote)))
    line.foo.kill()
    line.foo.start()
    line.check(unit, tmp_path / "fetched")


def test_a_fetch_goes_on_when_the_node_that_it_asks_is_killed(
    cluster: Cluster, tmp_path: Path
) -> None:
    line = Line(cluster)
    unit = line.submit()
    line.foo.wait_unit(unit, "Succeeded")
    place = tmp_path / "fetched"
    with subprocess.Popen(
        [COMMANDS / "meshctl", "--socket", line.foo.socket, "work", "fetch", unit, "--tar"],
        env=cluster.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as fetch:
        assert fetch.stdout is not None
        tar = fetch.stdout.read(1024 * 1024)
        # What is on its way fits into no pipe: it has sent a part only.
        line.foo.kill()
        line.foo.start()
        tar += fetch.stdout.read()
    assert fetch.returncode == 0
    assert tar == (line.foo.units / unit / "files").read_bytes()
    line.check(unit, place)


def test_files_of_a_job_whose_supervisor_is_killed_or_that_is_canceled_come_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    foo = cluster.node("foo", work={"log": bash("echo one > a.log; echo here; sleep 1000")})
    for how, state in (("kill", "Failed"), ("cancel", "Canceled")):
        unit = foo.submit("log", "--output", "*.log")
        foo.wait_output(unit, b"here\n")
        if how == "kill":
            os.kill(foo.stored_status(unit)["Supervisor"]["Pid"], signal.SIGKILL)
        else:
            foo.meshctl("work", "cancel", unit)
        foo.wait_unit(unit, state)
        foo.meshctl("work", "fetch", unit, "-o", tmp_path / how, check=False)
        assert (tmp_path / how / "a.log").read_text() == "one\n"


def test_a_short_job_brings_files_back_while_its_supervisor_takes_the_next_one(
    cluster: Cluster, tmp_path: Path
) -> None:
    foo = cluster.node("foo", work={"echo": bash("cat > out")})
    with ControlClient(str(foo.socket)) as client:
        for number in range(20):
            text = b"%d\n" % number
            unit = client.submit("echo", text, job=JobSettings(output=("out",))).unit_id
            assert client.fetch(unit, tmp_path / str(number)) == ("out",)
            assert (tmp_path / str(number) / "out").read_bytes() == text


def test_files_of_a_batch_lie_in_directories_of_its_members(
    cluster: Cluster, tmp_path: Path
) -> None:
    port = free_port()
    cluster.node(
        "bar",
        listen=port,
        work={"square": bash("i=$MESHNODE_ARRAY_INDEX; echo $((i * i)) > out; test $i != 3")},
    )
    foo = cluster.node("foo", peers=[port])
    foo.wait_service("bar")
    array = ("work", "submit", "square", "--node", "bar", "--array", "1-4", "--output", "out")
    told = foo.meshctl(*array, "--json")
    batch = str(json.loads(told)["batch"])
    place = tmp_path / "fetched"
    told = foo.meshctl("work", "fetch", batch, "-o", place, check=False)
    assert told.decode() == f"4 files of 4 members in {place}\n"
    for number in range(1, 5):
        assert (place / str(number) / "out").read_text() == f"{number * number}\n"


@pytest.mark.parametrize("who", WHO)
def test_an_isolated_job_brings_files_back(cluster: Cluster, tmp_path: Path, who: str) -> None:
    types = {"full": BASH | {"isolation": "full"}}
    script = b"echo made > new; ln -s ../status out; ln -s /etc/passwd out2"
    with isolating(cluster, who, types) as node, ControlClient(str(node.socket)) as client:
        unit = client.submit("full", script, job=JobSettings(output=("*",))).unit_id
        assert client.fetch(unit, tmp_path / "fetched") == ("new",)
        assert "left out 'out' (a link" in client.work_status(unit)["Detail"]
