"""What becomes of parameters that nobody may see."""

import json
from dataclasses import replace

import pytest

from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.status import UnitStatus

SECRET = "hush-hush"
EXTRA = RemoteExtra("bar", "cat", {"secret_token": SECRET, "open": "yes"})
PENDING = UnitStatus(UnitState.PENDING, "Starting Worker", "remote", remote=EXTRA, stdin_size=0)


def left_by_receptor(node, status: UnitStatus) -> str:
    """Put a unit on disk as receptor does, which keeps secrets for as long as the unit."""
    node.store.prepare()
    try:
        unit_id = node.store.create(status)
    finally:
        node.store.close()
    path = node.store.directory(unit_id) / "status"
    data = json.loads(path.read_text())
    data["ExtraData"]["RemoteParams"] = dict(EXTRA.params)
    path.write_text(json.dumps(data))
    return unit_id


def everything_on_disk(node) -> str:
    files = (path for path in node.store.root.rglob("*") if path.is_file())
    return "".join(path.read_text() for path in files)


@pytest.mark.parametrize("key", ["secret_x", "SECRET_X", "Secret_"])
async def test_secrets_are_sent_to_no_node_without_tls(foo, caplog, key):
    caplog.set_level("DEBUG")
    async with foo.running():
        request = {"command": "work", "subcommand": "submit", "node": "bar", "worktype": "cat"}
        (line,) = await foo.talk(request | {key: SECRET})
        assert line == "ERROR: cannot send secrets over a non-TLS connection"
        assert foo.units.all() == ()
        assert foo.left() == []
        assert SECRET not in everything_on_disk(foo)
    assert SECRET not in caplog.text


async def test_a_secret_for_local_work_is_neither_stored_nor_told(foo, caplog):
    caplog.set_level("DEBUG")
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", secret_x=SECRET, params="open")
        lines = await foo.talk(f"work status {unit_id}")
        assert SECRET not in lines[0]
        assert foo.launcher.started == [("wait", "for", "the end", "open")]
        assert SECRET not in everything_on_disk(foo)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (EXTRA, "cannot send secrets over a non-TLS connection"),
        (replace(EXTRA, params={}, tls_client="tls"), "unknown TLS config tls"),
    ],
)
async def test_a_unit_of_receptors_that_needs_tls_is_not_sent_without(
    foo, bar, caplog, extra, text, autojump_clock
):
    caplog.set_level("DEBUG")
    unit_id = left_by_receptor(foo, replace(PENDING, remote=extra))
    async with bar.running(), foo.running():
        status = await foo.wait_final(unit_id)
        assert (status.state, status.detail) == (
            UnitState.FAILED,
            f"Error starting worker: {text}",
        )
        assert bar.units.all() == ()
        assert SECRET not in everything_on_disk(foo)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "status",
    [
        replace(PENDING, state=UnitState.FAILED),
        replace(PENDING, state=UnitState.RUNNING, remote=replace(EXTRA, started=True, unit_id="x")),
    ],
)
async def test_secrets_that_receptor_left_are_removed_at_the_start(foo, caplog, status):
    caplog.set_level("DEBUG")
    unit_id = left_by_receptor(foo, status)
    assert SECRET in everything_on_disk(foo)
    async with foo.running():
        assert SECRET not in everything_on_disk(foo)
        assert foo.status(unit_id).remote.params == {"open": "yes"}
    assert SECRET not in caplog.text


async def test_a_disk_that_keeps_a_secret_does_not_keep_the_node_from_starting(
    foo, caplog, monkeypatch
):
    running = replace(
        PENDING, state=UnitState.RUNNING, remote=replace(EXTRA, started=True, unit_id="x")
    )
    unit_id = left_by_receptor(foo, running)

    def refuse(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("work_fakes.MortalStore.write_status", refuse)
    async with foo.running():
        assert foo.status(unit_id).state is UnitState.RUNNING
    assert f"unit {unit_id}: spent secrets stay on disk: " in caplog.text
    assert SECRET not in caplog.text
