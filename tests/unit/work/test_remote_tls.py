"""Work for nodes whose control service has TLS settings: which are used, and what if they fail."""

import json

import pytest
import trio
from work_fakes import LONG

from meshnode.protocol.lifecycle import UnitState

REFUSED = "TLS error connecting to remote service: service control of node bar: it expired"

SETTINGS = object()


@pytest.fixture
def secured(foo, bar):
    """Node bar asks for the settings that node foo has by the name of ``mine``."""
    foo.tls_clients["mine"] = bar.asks_for = SETTINGS
    return bar


def submission(worktype="cat", tls="mine", **more):
    names = {"command": "work", "subcommand": "submit", "node": "bar", "worktype": worktype}
    return names | ({"tlsclient": tls} if tls else {}) | more


async def submit(foo, worktype="cat", **more):
    lines = await foo.talk(submission(worktype, **more))
    return json.loads(lines[-1])["unitid"]


async def outage(foo, unit_id):
    """Return what keeps the other node away, as clients see it."""
    unit = foo.units.find(unit_id)
    with trio.fail_after(LONG):
        while not unit.outage:
            await unit.wait_changed(unit.version)
    return unit.outage


async def test_a_unit_is_submitted_followed_and_released_with_its_tls_client(
    foo, secured, autojump_clock
):
    async with foo.running(), secured.running():
        unit_id = await submit(foo)
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED
        await foo.talk(f"work release {unit_id}")
        assert secured.units.all() == ()


async def test_a_unit_is_cancelled_with_its_tls_client(foo, secured, autojump_clock):
    async with foo.running(), secured.running():
        unit_id = await submit(foo, "wait")
        (line,) = await foo.talk(f"work cancel {unit_id}")
        assert json.loads(line) == {"cancelled": unit_id}
        assert (await foo.wait_final(unit_id)).state is UnitState.CANCELED


async def test_the_name_is_shown_and_outlives_a_restart(foo, secured, autojump_clock):
    async with secured.running():
        async with foo.running():
            unit_id = await submit(foo, "wait")
            (line,) = await foo.talk(f"work status {unit_id}")
            assert json.loads(line)["ExtraData"]["TLSClient"] == "mine"
        async with foo.running():
            assert foo.status(unit_id).remote.tls_client == "mine"
            await foo.talk(f"work cancel {unit_id}")
            assert (await foo.wait_final(unit_id)).state is UnitState.CANCELED


async def test_a_unit_is_adopted_with_its_tls_client(foo, secured, autojump_clock):
    async with foo.running(), secured.running():
        there = await secured.submit("bar", "cat")
        adopt = {"command": "work", "subcommand": "adopt", "node": "bar", "unitid": there}
        (line,) = await foo.talk(adopt | {"tlsclient": "mine"})
        assert (await foo.wait_final(json.loads(line)["unitid"])).state is UnitState.SUCCEEDED
        (line,) = await foo.talk(adopt)
        assert "adopted here already" in line


async def test_an_adoption_without_the_settings_fails_and_says_so(foo, secured, autojump_clock):
    async with foo.running(), secured.running():
        there = await secured.submit("bar", "cat")
        (line,) = await foo.talk(
            {"command": "work", "subcommand": "adopt", "node": "bar", "unitid": there}
        )
        assert line == f"ERROR: {REFUSED}"
        assert foo.units.all() == ()


@pytest.mark.parametrize("tls", ["", "other"])
async def test_a_refusal_of_tls_fails_what_was_never_submitted_in_receptors_words(
    tls, foo, secured, autojump_clock
):
    foo.tls_clients["other"] = object()
    async with foo.running(), secured.running():
        lines = await foo.talk(submission(tls=tls))
        assert lines[-1] == f"ERROR: {REFUSED}"
        (unit,) = foo.units.all()
        assert (unit.status.state, unit.status.detail) == (UnitState.FAILED, REFUSED)


async def test_a_unit_that_runs_there_waits_while_tls_is_refused(foo, secured, autojump_clock):
    async with foo.running(), secured.running():
        unit_id = await submit(foo, "wait")
        secured.asks_for = renewed = object()
        foo.mesh.break_all()
        assert REFUSED in await outage(foo, unit_id)
        assert not foo.status(unit_id).state.is_final
        foo.tls_clients["mine"] = renewed
        secured.launcher.supervisors[foo.status(unit_id).remote.unit_id].finish()
        assert (await foo.wait_final(unit_id)).state is UnitState.SUCCEEDED


async def test_a_unit_that_runs_there_waits_for_settings_that_are_gone(
    foo, secured, autojump_clock
):
    async with secured.running():
        async with foo.running():
            unit_id = await submit(foo, "wait")
        del foo.tls_clients["mine"]
        async with foo.running():
            assert "unknown TLS config mine" in await outage(foo, unit_id)
            assert not foo.status(unit_id).state.is_final


async def test_unknown_settings_are_refused_at_once(foo, secured, autojump_clock):
    async with foo.running(), secured.running():
        (line,) = await foo.talk(submission(tls="nosuch"))
        assert line == "ERROR: unknown TLS config nosuch"
        assert foo.units.all() == ()


async def test_secrets_are_sent_with_tls(foo, secured, autojump_clock):
    async with foo.running(), secured.running():
        unit_id = await submit(foo, secret_token="hush", more="open")
        await foo.wait_final(unit_id)
        assert foo.status(unit_id).remote.open_params == {"more": "open"}
