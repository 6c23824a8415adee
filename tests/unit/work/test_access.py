"""Who may ask what of units: clients of the mesh, of this node, and of nodes on the way."""

import json
from dataclasses import replace

import pytest
from signing_keys import golang_token, new_key

from meshnode.protocol.lifecycle import UnitState
from meshnode.security.tokens import Signer, VerificationKey, Verifier
from meshnode.work.local.worktypes import CommandType
from meshnode.work.units.signatures import Signatures

KEY = new_key()
SUBMIT = {"command": "work", "subcommand": "submit"}
ON_UNIT = ("status", "list", "results", "watch", "cancel", "release", "force-release")
EMPTY = "could not verify signature: signature is empty"
NOT_OURS = "this work unit was submitted here for another node"


def on_unit(subcommand: str, unit_id: str) -> dict[str, object]:
    return {"command": "work", "subcommand": subcommand, "unitid": unit_id, "startpos": 0}


def verifier(node) -> Verifier:
    return Verifier(
        [VerificationKey.of("k", KEY.public_key())],
        node.node_id,
        lambda: node.mesh.now().timestamp(),
    )


def signature(node) -> str:
    expires = int(node.mesh.now().timestamp()) + 300
    return golang_token(KEY, {"exp": expires, "aud": [node.node_id]})


# --- work for other nodes ---------------------------------------------------------------------


@pytest.mark.parametrize("extra", [{}, {"signwork": "false"}, {"ttl": "1h"}, {"params": "x"}])
async def test_a_client_from_the_mesh_leaves_no_work_for_another_node_here(bar, extra):
    async with bar.running():
        request = SUBMIT | {"node": "fish", "worktype": "anything"} | extra
        (line,) = await bar.talk(request, kind="mesh")
        assert line.startswith("ERROR: this node takes no work for fish from the mesh; ")
        assert bar.units.all() == ()
        assert bar.left() == []


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_client_of_this_node_submits_for_others(bar, kind):
    async with bar.running():
        request = SUBMIT | {"node": "fish", "worktype": "anything", "ttl": "1s"}
        lines = await bar.talk(request, b"payload", kind=kind)
        assert lines[0].startswith("Work unit created with ID")


async def test_where_forwarding_is_allowed_a_unit_belongs_to_the_node_that_brought_it(
    bar, autojump_clock
):
    bar.forwarding = True
    async with bar.running():
        request = SUBMIT | {"node": "fish", "worktype": "anything", "ttl": "1h"}
        lines = await bar.talk(request, b"payload", kind="mesh", peer="foo")
        unit_id = json.loads(lines[1])["unitid"]
        assert bar.status(unit_id).submitter == "foo"
    async with bar.running():  # a restart knows it still
        for subcommand in ON_UNIT:
            (line,) = await bar.talk(on_unit(subcommand, unit_id), kind="mesh", peer="cod")
            assert line.startswith(f"ERROR: {NOT_OURS}"), subcommand
        assert await bar.talk("work list", kind="mesh", peer="cod") == ["{}"]
        (line,) = await bar.talk("work list", kind="mesh", peer="foo")
        assert list(json.loads(line)) == [unit_id]
        (line,) = await bar.talk(on_unit("force-release", unit_id), kind="mesh", peer="foo")
        assert line == f'{{"released":"{unit_id}"}}'


@pytest.mark.parametrize("subcommand", ON_UNIT)
async def test_a_units_for_another_node_are_out_of_reach_from_the_mesh(
    foo, bar, caplog, subcommand, autojump_clock
):
    async with foo.running(), bar.running():
        unit_id = await bar.submit("foo", "cat", b"secret")
        await bar.wait_final(unit_id)
        before = bar.status(unit_id)
        (line,) = await bar.talk(on_unit(subcommand, unit_id), kind="mesh", peer="foo")
        assert line.startswith(f"ERROR: {NOT_OURS}")
        assert "secret" not in line
        assert bar.status(unit_id) == before
        assert await bar.talk("work list", kind="mesh", peer="foo") == ["{}"]
        # The node's own clients, and what runs here for others, are as ever.
        (line,) = await bar.talk("work list", kind="tcp")
        assert unit_id in line
        (ours,) = foo.units.all()
        (line,) = await foo.talk(on_unit("status", ours.unit_id), kind="mesh", peer="bar")
        assert json.loads(line)["WorkType"] == "cat"
    (warning,) = (r.getMessage() for r in caplog.records if "refused to" in r.getMessage())
    assert f"refused to mesh client foo: {NOT_OURS}" in warning


# --- units of verifying types -----------------------------------------------------------------


LATER_TYPES = {
    "renamed": {"signed2": CommandType("cat", verify_signature=True)},
    "removed": {},
    "opened to all": {"signed": CommandType("cat")},
    "the same": {"signed": CommandType("cat", verify_signature=True)},
}


@pytest.mark.parametrize("kind", ["tcp", "mesh"])
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("later", [name for name in LATER_TYPES if name != "opened to all"])
async def test_a_unit_of_a_verifying_type_stays_protected_whatever_becomes_of_its_type(
    bar, later, recorded, kind
):
    bar.signatures = Signatures(verifier=verifier(bar))
    async with bar.running():
        unit_id = await bar.submit("bar", "signed", b"secret")
        await bar.wait_final(unit_id)
    if not recorded:  # as a version wrote it that did not record what the type asked for
        status = bar.store.read_status(unit_id)
        bar.store.write_status(unit_id, replace(status, verifies=None))
    bar.work_types = LATER_TYPES[later]
    async with bar.running():
        for subcommand in ("results", "watch", "cancel", "release", "force-release"):
            (line,) = await bar.talk(on_unit(subcommand, unit_id), kind=kind)
            assert line.startswith(f"ERROR: {EMPTY}")
        signed = on_unit("results", unit_id) | {"signature": signature(bar)}
        assert (await bar.talk(signed, kind=kind))[1] == "secret"


async def test_a_type_that_stops_verifying_opens_none_of_its_old_units(bar):
    bar.signatures = Signatures(verifier=verifier(bar))
    async with bar.running():
        unit_id = await bar.submit("bar", "signed", b"secret")
        await bar.wait_final(unit_id)
    bar.work_types = LATER_TYPES["opened to all"]
    bar.signatures = Signatures()
    async with bar.running():
        (line,) = await bar.talk(on_unit("results", unit_id), kind="mesh")
        assert line == f"ERROR: {EMPTY}: sign it, or use the unix socket on node bar"
        new = await bar.submit("bar", "signed", b"open")
        await bar.wait_final(new)
        assert (await bar.talk(on_unit("results", new), kind="mesh"))[1] == "open"


THEN_SIGNED = {
    "it verifies": {"cat": CommandType("cat", verify_signature=True)},
    "it is gone": {"signed": CommandType("cat", verify_signature=True)},
}


@pytest.mark.parametrize("restarts", [False, True], ids=["reload", "restart"])
@pytest.mark.parametrize("later", THEN_SIGNED.values(), ids=THEN_SIGNED)
async def test_a_unit_that_was_submitted_unsigned_stays_its_submitters(
    foo, bar, later, restarts, autojump_clock
):
    """Whoever submitted it signs nothing: only a release by force would be left to it."""
    bar.work_types, bar.signatures = dict(bar.work_types), Signatures()
    async with foo.running():
        async with bar.running():
            unit_id = await foo.submit("bar", "cat", b"mine")
            await foo.wait_final(unit_id)
            (theirs,) = bar.units.all()
            if not restarts:
                bar.work_types.clear()
                bar.work_types.update(later)
                bar.signatures.verifier = verifier(bar)
                await _submitter_rules(foo, unit_id, bar, theirs.unit_id)
        if restarts:
            bar.work_types, bar.signatures = later, Signatures(verifier=verifier(bar))
            async with bar.running():
                await _submitter_rules(foo, unit_id, bar, theirs.unit_id)


async def _submitter_rules(foo, unit_id, bar, remote_id):
    for subcommand in ("results", "watch", "cancel"):
        (first, *_) = await bar.talk(on_unit(subcommand, remote_id), kind="mesh", peer="foo")
        assert not first.startswith("ERROR"), subcommand
    assert await foo.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']
    assert not list(bar.units.all())


async def test_signed_work_for_others_is_taken_from_the_mesh(foo, bar, autojump_clock):
    bar.signatures = Signatures(
        Signer(KEY, 300.0, lambda: bar.mesh.now().timestamp()), verifier(bar)
    )
    foo.signatures = Signatures(verifier=verifier(foo))
    async with foo.running(), bar.running():
        request = SUBMIT | {"node": "foo", "worktype": "signed", "signwork": "true"}
        signed = request | {"signature": signature(bar)}
        lines = await bar.talk(signed, b"payload", kind="mesh", peer="cod")
        unit_id = json.loads(lines[1])["unitid"]
        assert (await bar.wait_final(unit_id)).state is UnitState.SUCCEEDED
