"""Signed work through control sessions: what is refused to whom, and what a node signs itself."""

import json

import pytest
import trio
from signing_keys import golang_token, new_key, public_pem, secret_token, unsigned_token

from meshnode.protocol.lifecycle import UnitState
from meshnode.security.tokens import Signer, VerificationKey, Verifier
from meshnode.work.local.worktypes import CommandType
from meshnode.work.units.signatures import Signatures
from meshnode.work.units.statusreply import status_reply

KEY = new_key()
OTHER_KEY = new_key()
EMPTY = "could not verify signature: signature is empty"
SUBMIT = {"command": "work", "subcommand": "submit", "worktype": "signed"}
STRANGERS = pytest.mark.parametrize("kind", ["tcp", "mesh"])


def clock(node):
    return lambda: node.mesh.now().timestamp()


@pytest.fixture
def signing(foo):
    """A node that signs."""
    foo.signatures = Signatures(signer=Signer(KEY, 300.0, clock(foo)))
    return foo


@pytest.fixture
def checking(bar):
    """A node that checks."""
    bar.signatures = Signatures(
        verifier=Verifier([VerificationKey.of("k", KEY.public_key())], "bar", clock(bar))
    )
    return bar


@pytest.fixture(params=["meshnode", "receptor"])
def target(request, checking):
    """The same, as one of us and as one that cannot push."""
    checking.is_receptor = request.param == "receptor"
    return checking


def token(node, key=KEY, **changes) -> str:
    claims = {"exp": int(clock(node)()) + 300, "aud": ["bar"], **changes}
    return golang_token(key, claims)


# --- to whom a verifying type is refused, and with which words --------------------------------


REFUSALS = {
    "unsigned": (lambda node: "", EMPTY),
    "expired": (
        lambda node: token(node, exp=int(clock(node)()) - 600),
        "could not verify signature: token is expired by 10m",
    ),
    "of another key": (
        lambda node: token(node, OTHER_KEY),
        "could not verify signature: crypto/rsa: verification error: token was changed, or not "
        "made with the private key of "
        "this node's public key",
    ),
    "for another node": (
        lambda node: token(node, aud=["foo"]),
        "token audience did not match node ID: it is signed for foo, this is bar",
    ),
    "malformed": (
        lambda node: "a.b.c",
        "could not verify signature: token is malformed: ",
    ),
    "of the algorithm none": (
        lambda node: unsigned_token({"exp": int(clock(node)()) + 300, "aud": ["bar"]}),
        'could not verify signature: token is not signed (algorithm "none"); RS512 is needed',
    ),
    "with the public key as a secret": (
        lambda node: secret_token(
            public_pem(KEY), {"exp": int(clock(node)()) + 300, "aud": ["bar"]}
        ),
        "could not verify signature: token is signed with a shared secret (HS512), "
        "not with a private key; RS512 is needed",
    ),
}


@STRANGERS
@pytest.mark.parametrize("name", REFUSALS)
async def test_a_submission_with_a_wrong_signature_is_refused_and_logged(
    checking, caplog, name, kind
):
    make, text = REFUSALS[name]
    async with checking.running():
        signature = make(checking)
        fields = {"node": "bar", "signature": signature} if signature else {"node": "bar"}
        (line,) = await checking.talk(SUBMIT | fields, kind=kind)
        assert line.startswith(f"ERROR: {text}")
        assert checking.units.all() == ()
        assert checking.left() == []
    (warning,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert warning.startswith(f"session client: submission refused to {kind} client client: {text}")
    assert not signature or signature not in caplog.text


@STRANGERS
@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("subcommand", ["cancel", "release", "force-release", "results", "watch"])
async def test_a_command_on_a_signed_unit_with_a_wrong_signature_is_refused_and_logged(
    checking, caplog, name, kind, subcommand
):
    make, text = REFUSALS[name]
    async with checking.running():
        unit_id = await checking.submit("bar", "signed", b"payload")
        await checking.wait_final(unit_id)
        before = checking.status(unit_id)
        request = {"command": "work", "subcommand": subcommand, "unitid": unit_id, "startpos": 0}
        (line,) = await checking.talk(request | {"signature": make(checking)}, kind=kind)
        assert line.startswith(f"ERROR: {text}")
        assert checking.status(unit_id) == before
    (warning,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    what = subcommand.removeprefix("force-")
    assert warning.startswith(f"unit {unit_id}: {what} refused to {kind} client client: {text}")


@STRANGERS
async def test_who_signs_may_do_everything(checking, kind):
    async with checking.running():
        fields = {"node": "bar", "signature": token(checking)}
        lines = await checking.talk(SUBMIT | fields, b"payload", kind=kind)
        unit_id = json.loads(lines[1])["unitid"]
        await checking.wait_final(unit_id)
        ask = {"command": "work", "unitid": unit_id, "signature": token(checking)}
        results = await checking.talk({**ask, "subcommand": "results", "startpos": 0}, kind=kind)
        assert results == [f"Streaming results for work unit {unit_id}", "payload"]
        (line,) = await checking.talk({**ask, "subcommand": "watch"}, kind=kind)
        assert json.loads(line)["StateName"] == "Succeeded"
        assert await checking.talk({**ask, "subcommand": "cancel"}, kind=kind) == [
            f'{{"cancelled":"{unit_id}"}}'
        ]
        assert await checking.talk({**ask, "subcommand": "release"}, kind=kind) == [
            f'{{"released":"{unit_id}"}}'
        ]


async def test_a_unix_socket_needs_no_signature_and_may_bring_any(checking):
    async with checking.running():
        assert await checking.submit("bar", "signed")
        assert await checking.submit("bar", "signed", signature="x")


@pytest.mark.parametrize("kind", ["unix", "tcp", "mesh"])
async def test_a_signature_that_nobody_asked_for_is_refused(checking, kind):
    text = "ERROR: work type did not expect a signature"
    async with checking.running():
        unit_id = await checking.submit("bar", "cat")
        fields = {"signature": token(checking)}
        request = {**SUBMIT, "worktype": "cat", "node": "bar"} | fields
        assert await checking.talk(request, kind=kind) == [text]
        for subcommand in ("cancel", "release", "results", "watch"):
            request = {"command": "work", "subcommand": subcommand, "unitid": unit_id}
            assert await checking.talk(request | fields | {"startpos": 0}, kind=kind) == [text]


async def test_a_verifying_type_without_a_key_is_closed_to_strangers(bar):
    async with bar.running():
        (line,) = await bar.talk(SUBMIT | {"node": "bar", "signature": token(bar)}, kind="tcp")
        assert line == (
            "ERROR: could not verify signature: this node has no work-verification directive"
        )


async def test_status_and_list_need_no_signature(checking):
    async with checking.running():
        unit_id = await checking.submit("bar", "signed")
        for request in (f"work status {unit_id}", f"work list {unit_id}", "work list"):
            (line,) = await checking.talk(request, kind="tcp")
            assert not line.startswith("ERROR")


# --- what a node signs itself ------------------------------------------------------------------


async def test_a_signed_remote_submission_runs_and_an_unsigned_one_is_refused(
    signing, target, autojump_clock
):
    async with signing.running(), target.running():
        lines = await signing.talk(SUBMIT | {"node": "bar"}, b"payload")
        assert lines[1] == f"ERROR: node bar refused: {EMPTY}: submit with --signwork"
        assert target.units.all() == ()
        unit_id = await signing.submit("bar", "signed", b"payload", signwork="true")
        status = await signing.wait_final(unit_id)
        assert status.detail == "exit status 0"
        assert signing.stdout(unit_id) == b"payload"
        assert status_reply(status, 0)["ExtraData"]["SignWork"] is True


async def test_a_signed_unit_lives_longer_than_any_of_its_signatures(
    signing, target, autojump_clock
):
    target.work_types = {"signed": CommandType("wait", verify_signature=True)}
    async with signing.running(), target.running():
        unit_id = await signing.submit("bar", "signed", signwork="true")
        await signing.wait_for(unit_id, lambda status: status.state is UnitState.RUNNING)
        await trio.sleep(3600)
        signing.mesh.break_all()
        await trio.sleep(3600)
        assert await signing.talk(f"work cancel {unit_id}") == [f'{{"cancelled":"{unit_id}"}}']
        assert (await signing.wait_final(unit_id)).state is UnitState.CANCELED
        assert await signing.talk(f"work release {unit_id}") == [f'{{"released":"{unit_id}"}}']
        assert target.units.all() == ()


async def test_a_forced_release_is_signed_too(signing, target, autojump_clock):
    async with signing.running(), target.running():
        unit_id = await signing.submit("bar", "signed", signwork="true")
        await signing.wait_final(unit_id)
        assert await signing.talk(f"work force-release {unit_id}") == [
            f'{{"released":"{unit_id}"}}'
        ]
        assert target.units.all() == ()


async def test_the_wrong_key_fails_the_unit_with_the_other_nodes_words(
    signing, target, autojump_clock
):
    signing.signatures = Signatures(signer=Signer(OTHER_KEY, 300.0, clock(signing)))
    async with signing.running(), target.running():
        lines = await signing.talk(SUBMIT | {"node": "bar", "signwork": "true"}, b"payload")
        assert lines[1].startswith(
            "ERROR: node bar refused: could not verify signature: crypto/rsa: verification error: "
        )
        (unit,) = signing.units.all()
        assert unit.status.state is UnitState.FAILED
        assert target.units.all() == ()


async def test_signing_for_a_type_that_does_not_ask_for_it_fails_the_unit(
    signing, target, autojump_clock
):
    async with signing.running(), target.running():
        request = {**SUBMIT, "worktype": "cat", "node": "bar", "signwork": "true"}
        lines = await signing.talk(request, b"payload")
        assert lines[1] == ("ERROR: node bar refused: work type did not expect a signature")
        assert target.units.all() == ()


async def test_a_node_that_lost_its_key_says_so_and_loses_no_unit(signing, target, autojump_clock):
    async with target.running():
        async with signing.running():
            unit_id = await signing.submit("bar", "signed", signwork="true")
            await signing.wait_final(unit_id)
        signing.signatures = Signatures()
        text = "this node has no work-signing directive: it cannot sign work"
        async with signing.running():
            for subcommand in ("release", "release"):
                (line,) = await signing.talk(f"work {subcommand} {unit_id}")
                assert line == f"ERROR: error releasing remote unit: {text}"
            assert signing.status(unit_id).state is UnitState.SUCCEEDED
            assert len(target.units.all()) == 1


# --- whom a node lends its key -----------------------------------------------------------------


@STRANGERS
async def test_a_stranger_gets_no_signature_from_us(signing, checking, kind, autojump_clock):
    async with signing.running(), checking.running():
        request = SUBMIT | {"node": "bar", "signwork": "true"}
        remedy = "whoever has this node sign work must sign the request, or use the unix socket"
        for worktype in ("cat", "signed"):
            (line,) = await signing.talk(request | {"worktype": worktype}, kind=kind)
            assert line.startswith(f"ERROR: {EMPTY}: {remedy}")
        assert signing.units.all() == ()


@STRANGERS
async def test_who_asks_a_node_without_a_key_to_sign_is_told_of_that_and_not_of_its_own_signature(
    foo, kind, autojump_clock
):
    async with foo.running():
        request = SUBMIT | {"node": "bar", "signwork": "true"}
        (line,) = await foo.talk(request, kind=kind)
        assert line == "ERROR: this node has no work-signing directive: it cannot sign work"


@STRANGERS
async def test_who_signs_for_us_may_have_us_sign_for_others(
    signing, checking, kind, autojump_clock
):
    verifier = Verifier([VerificationKey.of("k", KEY.public_key())], "foo", clock(signing))
    signing.signatures = Signatures(signing.signatures.signer, verifier)
    async with signing.running(), checking.running():
        ours = token(signing, aud=["foo"])
        request = SUBMIT | {"node": "bar", "signwork": "true", "signature": ours}
        lines = await signing.talk(request, b"payload", kind=kind)
        unit_id = json.loads(lines[1])["unitid"]
        await signing.wait_final(unit_id)
        results = {"command": "work", "subcommand": "results", "unitid": unit_id, "startpos": 0}
        (line,) = await signing.talk(results, kind=kind)
        assert line.startswith(f"ERROR: {EMPTY}: sign it, or use the unix socket ")
        lines = await signing.talk(results | {"signature": ours}, kind=kind)
        assert lines[1] == "payload"
