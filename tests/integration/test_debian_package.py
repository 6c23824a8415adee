"""The Debian package: made from the checkout, installed, upgraded, removed, on a machine for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import machine
import pytest
from machine import Machine

BUILD_PATIENCE = 400
"""Seconds for making the package: most go to what pip fetches."""

QUICKLY = os.environ | {"DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
"""To make a package as small as can be is most of the work of making it. Nobody downloads these."""

FILE = "/etc/meshnode/meshnode.yml"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the package as ``make deb`` does; return it."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    place = tmp_path_factory.mktemp("deb")
    machine.copy_source(place / "source")
    command = [place / "source" / "packaging" / "build-deb", sys.executable, place]
    done = subprocess.run(
        command, capture_output=True, timeout=BUILD_PATIENCE, check=False, env=QUICKLY
    )
    assert done.returncode == 0, done.stderr.decode()
    (package,) = place.glob("meshnode_*.deb")
    return package


def newer(package: Path, place: Path) -> Path:
    """Return the package of a version to come, whose example of a file is another."""
    tree = place / "newer"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 9."))
    example = tree / "etc" / "meshnode" / "meshnode.yml"
    example.write_text(example.read_text() + "# Changed by the maintainer.\n")
    built = place / "newer.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, built], check=True, env=QUICKLY)
    return built


def put(box: Machine, package: Path, name: str) -> str:
    """Put a package where the machine sees it; return its name there."""
    box.run(f"cat > /var/tmp/{name}", stdin=package.read_bytes())
    return f"/var/tmp/{name}"


def test_the_package_names_what_it_needs_and_nothing_of_where_it_was_made(package: Path) -> None:
    def field(name: str) -> str:
        done = subprocess.run(["dpkg-deb", "-f", package, name], capture_output=True, check=True)
        return done.stdout.decode()

    assert "python3 (<< 3." in field("Depends")
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, check=True).stdout
    assert b" ./opt/meshnode/bin/meshnode\n" in listed
    # What only some have a use for comes along: there is no pip to add it.
    assert b"/site-packages/hypercorn/__init__.py\n" in listed
    assert b"/site-packages/textual/__init__.py\n" in listed
    assert str(package.parent).encode() not in listed
    for name in ("meshctl", "meshnode"):
        for place in (
            f"bash-completion/completions/{name}",
            f"zsh/vendor-completions/_{name}",
            f"fish/vendor_completions.d/{name}.fish",
        ):
            assert f" ./usr/share/{place}\n".encode() in listed
    assert {line.split()[1] for line in listed.splitlines()} == {b"root/root"}


def test_installing_it_starts_a_node_as_its_own_user(box: Machine, package: Path) -> None:
    box.run(f"dpkg -i {put(box, package, 'first.deb')}")
    box.wait_node()
    assert box.output("systemctl is-enabled meshnode") == "enabled\n"
    assert box.output(f"ps -o user= -p {box.node_pid()}").strip() == "meshnode"
    assert box.output(f"stat -c '%U:%G %a' {FILE}") == "root:meshnode 640\n"
    assert "hello" in box.output(
        "echo hello | meshctl --socket /run/meshnode/control.sock "
        "work submit echo --payload - --follow"
    )
    # Python would write what it compiles beside its files, and may not.
    assert box.output("find /opt/meshnode -newer /var/tmp/first.deb -name '*.pyc'") == ""


def test_an_upgrade_and_a_downgrade_lose_no_unit_and_no_change_of_the_file(
    box: Machine, package: Path, tmp_path: Path
) -> None:
    first, second = put(box, package, "first.deb"), put(box, newer(package, tmp_path), "second.deb")
    box.run(f"dpkg -i {first}")
    box.offer_gate()
    box.run("systemctl restart meshnode")
    box.wait_node()
    unit = box.submit("wait")
    for version in (second, first):
        before = box.node_pid()
        # The file was changed on both sides: the administrator's stays where nobody is asked.
        box.run(f"dpkg --force-confold -i {version}")
        box.wait_node(other_than=before)
        assert box.state(unit) == "Running"
    assert "Changed by the maintainer" not in box.output(f"cat {FILE}")
    box.open_gate("through")
    assert box.meshctl(f"work results {unit}") == "through\n"


def test_removing_it_stops_the_node_and_leaves_units_and_their_results(
    box: Machine, package: Path
) -> None:
    box.run(f"dpkg -i {put(box, package, 'first.deb')}")
    box.wait_node()
    unit = box.submit("echo")
    box.meshctl(f"work wait {unit}")
    box.run("dpkg --remove meshnode")
    assert box.run("systemctl is-active --quiet meshnode", check=False).returncode != 0
    assert box.output("ls /opt") == "" or "meshnode" not in box.output("ls /opt")
    assert f"{unit}" in box.output("ls /var/lib/meshnode/*/")
    said = box.output("dpkg --purge meshnode")
    assert "/var/lib/meshnode is left" in said
    assert box.run(f"test -e {FILE}", check=False).returncode != 0
    assert f"{unit}" in box.output("ls /var/lib/meshnode/*/")


def test_a_package_that_comes_back_runs_the_node_and_the_file_that_were_there(
    box: Machine, package: Path
) -> None:
    first = put(box, package, "first.deb")
    box.run(f"dpkg -i {first}")
    box.wait_node()
    unit = box.submit("echo")
    box.meshctl(f"work wait {unit}")
    box.run(f"echo '# Ours.' >> {FILE}")
    box.run("dpkg --remove meshnode")
    box.run(f"dpkg -i {first}")
    box.wait_node()
    assert box.output("systemctl is-enabled meshnode") == "enabled\n"
    assert box.output(f"tail -n 1 {FILE}") == "# Ours.\n"
    assert box.state(unit) == "Succeeded"


def test_a_node_that_somebody_stopped_stays_so_over_an_upgrade(
    box: Machine, package: Path, tmp_path: Path
) -> None:
    box.run(f"dpkg -i {put(box, package, 'first.deb')}")
    box.wait_node()
    box.run("systemctl stop meshnode")
    box.run(f"dpkg --force-confold -i {put(box, newer(package, tmp_path), 'second.deb')}")
    assert box.run("systemctl is-active --quiet meshnode", check=False).returncode != 0
