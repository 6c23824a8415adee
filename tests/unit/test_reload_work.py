"""Work types and keys are taken over while the node runs, and only with all else of the file."""

import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from signing_keys import new_key, private_pem, public_pem, write_key

from meshnode import logs
from meshnode.config import load_file
from meshnode.control.service import SERVICE_TAGS
from meshnode.errors import ReloadFault, ReloadRefused, SignatureRefused
from meshnode.mesh.mesh import Mesh, open_mesh
from meshnode.mesh.peers.configured import ConfiguredLinks
from meshnode.reload import Reloader
from meshnode.resources import DescriptorReserve
from meshnode.security.keys import fingerprint
from meshnode.security.tokens import Signer, VerificationKey
from meshnode.work.configured import ConfiguredWork
from meshnode.work.units.access import Caller
from meshnode.work.units.submission import Submission

BASE = """\
- node: {id: foo, datadir: DIRECTORY}
- local-only
- control-service: {service: control}
"""
ONE = "- work-command: {worktype: one, command: 'true'}\n"
ONE_OTHERWISE = "- work-command: {worktype: one, command: 'false'}\n"
TWO = "- work-command: {worktype: two, command: cat}\n"
SIGNED = "- work-command: {worktype: one, command: 'true', verifysignature: true}\n"
KEYS = [new_key(), new_key()]


class Running:
    """foo, which advertises its work types, its file, and what a reload makes of that."""

    def __init__(self, directory: Path, mesh: Mesh, text: str) -> None:
        self.directory = directory
        self.mesh = mesh
        self.path = directory / "foo.yml"
        self.private, self.public = directory / "private.pem", directory / "public.pem"
        self.keys(KEYS[0])
        self.signing = f"- work-signing: {{privatekey: {self.private}}}\n"
        self.verification = f"- work-verification: {{publickey: {self.public}}}\n"
        self.write(text)
        config = load_file(str(self.path))
        self.work = ConfiguredWork(config, mesh, 1024, DescriptorReserve(0))
        self.reload = Reloader(
            config, lambda: load_file(str(self.path)), mesh, ConfiguredLinks(mesh), self.work
        )
        self.reload.start()

    def keys(self, key: rsa.RSAPrivateKey) -> None:
        write_key(self.private, private_pem(key))
        write_key(self.public, public_pem(key))

    def write(self, text: str) -> None:
        self.path.write_text(BASE.replace("DIRECTORY", str(self.directory)) + text)

    async def reload_with(self, text: str) -> ReloadRefused | None:
        self.write(text)
        return await self.reload()

    async def take(self, text: str) -> None:
        assert await self.reload_with(text) is None

    def advertised(self) -> dict[str, bool]:
        (advert,) = self.mesh.status().advertisements
        assert advert.tags is not None
        assert SERVICE_TAGS.items() <= advert.tags.items()
        return {kind.name: kind.secure for kind in advert.work_types or ()}

    def check(self, worktype: str, signed_by: rsa.RSAPrivateKey | None) -> None:
        """Judge a client of the network that signs with a key, or does not."""
        signature = Signer(signed_by, 300.0).sign("foo") if signed_by else ""
        submission = Submission("foo", worktype, signature=signature)
        self.work.units.access.check_submission(submission, Caller())


def shown(key: rsa.RSAPrivateKey) -> str:
    return str(VerificationKey.of("public", key.public_key()))


@pytest.fixture
async def running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Running]:
    caplog.set_level(logging.INFO, logs.ROOT)
    async with open_mesh("foo") as mesh:
        running = Running(tmp_path, mesh, ONE)
        await mesh.listen("control", tags=SERVICE_TAGS, work_types=running.work.advertised)
        yield running


CHANGES = {
    "added": (ONE + TWO, {"one": False, "two": False}, ["type two: added"]),
    "removed": ("", {}, ["type one: removed"]),
    "replaced": (TWO, {"two": False}, ["type one: removed", "type two: added"]),
    "changed": (ONE_OTHERWISE, {"one": False}, ["type one: changed"]),
}


@pytest.mark.parametrize(("text", "advertised", "lines"), CHANGES.values(), ids=CHANGES)
async def test_other_work_types_are_offered_advertised_and_logged(
    running: Running,
    text: str,
    advertised: dict[str, bool],
    lines: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await running.take(text)
    assert running.advertised() == advertised
    assert caplog.messages == [*(f"work: {line}" for line in lines), "reload: done"]
    await running.take(ONE)
    assert running.advertised() == {"one": False}


async def test_the_same_types_in_another_order_are_no_change(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    await running.take(TWO + ONE)
    await running.take(ONE + TWO)
    assert caplog.messages[-1] == "reload: nothing changed"


async def test_a_type_that_demands_signatures_comes_with_the_key_to_check_them(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.check("one", None)
    await running.take(running.verification + SIGNED)
    assert running.advertised() == {"one": True}
    running.check("one", KEYS[0])
    with pytest.raises(SignatureRefused):
        running.check("one", None)
    await running.take(ONE)
    running.check("one", None)
    assert f"work: verification key: added, now {shown(KEYS[0])}" in caplog.messages
    assert "work: verification key: removed" in caplog.messages


async def test_a_key_file_that_is_replaced_counts_from_the_reload_on(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    text = running.signing + running.verification + SIGNED
    await running.take(text)
    running.keys(KEYS[1])
    running.check("one", KEYS[0])
    caplog.clear()
    await running.take(text)
    running.check("one", KEYS[1])
    with pytest.raises(SignatureRefused):
        running.check("one", KEYS[0])
    assert caplog.messages == [
        f"work: signing key: changed, now {fingerprint(KEYS[1].public_key())}",
        f"work: verification key: changed, now {shown(KEYS[1])}",
        "reload: done",
    ]
    await running.take(text)
    assert caplog.messages[-1] == "reload: nothing changed"


@pytest.mark.parametrize("directive", ["signing", "verification"])
async def test_a_key_that_cannot_be_used_holds_all_changes_back(
    running: Running, directive: str
) -> None:
    running.private.write_text("no key")
    running.public.write_text("no key")
    refusal = await running.reload_with(getattr(running, directive) + TWO)
    assert refusal is not None
    assert refusal.fault is ReloadFault.FAILED
    assert f"{running.path}:4: work-{directive}: " in str(refusal)
    assert "holds no key" in str(refusal)
    assert running.advertised() == {"one": False}


async def test_a_port_that_is_taken_holds_work_types_and_keys_back(running: Running) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        running.write(running.verification + SIGNED)
        listener = f"- tcp-listener: {{bindaddr: 127.0.0.1, port: {port}}}\n"
        running.path.write_text(running.path.read_text().replace("- local-only\n", listener))
        assert await running.reload() is not None
    assert running.advertised() == {"one": False}
    running.check("one", None)


async def test_a_service_that_has_ended_is_not_advertised_again_by_a_reload(tmp_path: Path) -> None:
    async with open_mesh("foo") as mesh:
        running = Running(tmp_path, mesh, ONE)
        listener = await mesh.listen("control", tags=SERVICE_TAGS)
        await listener.aclose()
        await running.take(TWO)
        assert mesh.status().advertisements == ()


async def test_a_type_of_kubernetes_comes_by_reload_and_is_warned_of_once(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    kubernetes = "- work-kubernetes: {worktype: pod}\n"
    await running.take(ONE + kubernetes)
    await running.take(kubernetes + ONE)
    assert running.advertised() == {"one": False}
    assert sum("cannot be run by this node" in line for line in caplog.messages) == 1
    (warning,) = [line for line in await running.work.warnings() if "Kubernetes" in line]
    assert warning.endswith(": pod")
    await running.take(ONE)
    assert not [line for line in await running.work.warnings() if "Kubernetes" in line]
