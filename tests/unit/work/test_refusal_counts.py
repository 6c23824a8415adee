"""Each refusal for a signature or by rules is counted once, by its reason; questions are not."""

import json
from collections import Counter

import pytest
from signing_keys import golang_token, new_key

from meshnode.config import load_arguments
from meshnode.errors import SignatureProblem
from meshnode.permissions import AccessRule, Verb, Way
from meshnode.security.access import AccessRules, Asker, Grounds, Target
from meshnode.security.identity import UnixClient
from meshnode.security.tokens import VerificationKey, Verifier
from meshnode.work.units.signatures import Signatures

KEY, STRANGER = new_key(), new_key()
SUBMIT = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "signed"}


def rules(*written: str) -> tuple[AccessRule, ...]:
    words = ["--local-only", "--node", "foo"]
    for one in written:
        words += ["--access-rule", *one.split(" | ")]
    return load_arguments(words).rules


def signatures(node) -> Signatures:
    keys = [VerificationKey.of("k", KEY.public_key())]
    return Signatures(verifier=Verifier(keys, "foo", lambda: node.mesh.now().timestamp()))


def token(node, problem: SignatureProblem) -> str:
    """Return a token that is refused for that reason."""
    now = int(node.mesh.now().timestamp())
    claims: dict[str, object] = {"exp": now + 300, "aud": ["foo"]}
    match problem:
        case SignatureProblem.MISSING:
            return ""
        case SignatureProblem.MALFORMED:
            return "no.token.at.all"
        case SignatureProblem.WRONG_KEY:
            return golang_token(STRANGER, claims)
        case SignatureProblem.EXPIRED:
            claims["exp"] = now - 3600
        case SignatureProblem.NOT_YET_VALID:
            claims["nbf"] = now + 3600
        case SignatureProblem.WRONG_NODE:
            claims["aud"] = ["bar"]
    return golang_token(KEY, claims)


@pytest.mark.parametrize("problem", SignatureProblem)
async def test_a_refused_signature_is_counted_by_what_is_wrong_with_it(foo, problem):
    has_key = problem is not SignatureProblem.NO_KEY
    foo.signatures = signatures(foo) if has_key else Signatures()
    asked = SUBMIT
    if problem is SignatureProblem.NOT_EXPECTED:
        asked = SUBMIT | {"worktype": "cat"}
    async with foo.running():
        for number in (1, 2):
            (line,) = await foo.talk(asked | {"signature": token(foo, problem)}, kind="tcp")
            assert line.startswith("ERROR: ")
            assert foo.signatures.refusals == Counter({problem: number})


async def test_a_signature_that_is_taken_is_not_counted(foo):
    foo.signatures = signatures(foo)
    good = golang_token(KEY, {"exp": int(foo.mesh.now().timestamp()) + 300, "aud": ["foo"]})
    async with foo.running():
        lines = await foo.talk(SUBMIT | {"signature": good}, b"", kind="tcp")
        unit_id = json.loads(lines[1])["unitid"]
        cancel = {"command": "work", "subcommand": "cancel", "unitid": unit_id}
        assert foo.signatures.refusals == Counter()
        await foo.talk(cancel, kind="tcp")
        assert foo.signatures.refusals == Counter({SignatureProblem.MISSING: 1})


@pytest.mark.parametrize(
    ("written", "asked", "found"),
    [
        ("action=deny | who=any | do=submit", SUBMIT, (Verb.SUBMIT, Grounds.RULE)),
        ("action=allow | who=uid=7 | do=any | units=all", SUBMIT, (Verb.SUBMIT, Grounds.NO_RULE)),
    ],
)
async def test_a_refusal_by_rules_is_counted_by_what_was_asked_and_the_grounds(
    foo, written, asked, found
):
    foo.clients["ann"] = UnixClient(1000, 100, 7, "ann")
    foo.rules.rules = rules(written)
    async with foo.running():
        await foo.talk(asked, peer="ann")
        assert foo.rules.refusals == Counter({found: 1})


def test_what_no_rule_can_be_compared_with_is_counted_as_unreadable():
    asker = Asker(UnixClient(1000, 100, 7, "ann"), Way.SOCKET)
    access = AccessRules(rules("action=allow | who=any | do=any | units=all"))
    assert not access.judge(asker, Verb.SUBMIT, Target(work_type="\ud800")).allowed
    assert access.refusals == Counter({(Verb.SUBMIT, Grounds.UNREADABLE): 1})


async def test_work_that_a_node_passes_on_for_nobody_is_counted_without_any_rules(bar):
    async with bar.running():
        await bar.talk(SUBMIT | {"node": "fish", "worktype": "x"}, kind="mesh", peer="foo")
        assert bar.rules.refusals == Counter({(Verb.SUBMIT, Grounds.FORWARDING): 1})
        unit_id = await bar.submit("fish", "cat", ttl="1h")
        await bar.talk(f"work cancel {unit_id}", kind="mesh", peer="foo")
        assert bar.rules.refusals[Verb.CANCEL, Grounds.OTHERS] == 1


async def test_to_ask_whether_one_may_is_no_refusal(foo):
    foo.clients["ann"] = UnixClient(1000, 100, 7, "ann")
    foo.signatures = signatures(foo)
    foo.rules.rules = rules("action=allow | who=uid=7 | do=any | units=all")
    async with foo.running():
        asked = {"command": "auth", "subcommand": "can", "verb": "submit", "worktype": "signed"}
        for kind in ("unix", "tcp"):
            (line,) = await foo.talk(asked, peer="ann", kind=kind)
            assert not json.loads(line)["Allowed"]
        assert foo.rules.refusals == Counter()
        assert foo.signatures.refusals == Counter()
