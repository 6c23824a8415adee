import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signing_keys import (
    decode,
    encode,
    golang_token,
    new_key,
    public_pem,
    secret_token,
    sign,
    unsigned_token,
)

from meshnode.errors import SignatureRefused
from meshnode.security.keys import fingerprint
from meshnode.security.tokens import (
    CLOCK_SKEW,
    MAX_TOKEN,
    Signer,
    VerificationKey,
    Verifier,
)

NOW = 1_793_588_400.0
CLAIMS = {"exp": int(NOW) + 300, "aud": ["bar"]}
RECEPTORS = "crypto/rsa: verification error:"
CHANGED = f"could not verify signature: {RECEPTORS} token was changed, or not"
KEYS = [new_key() for _ in range(3)]
MALFORMED = "could not verify signature: token is malformed: "


@pytest.fixture
def verifier(key):
    return Verifier([VerificationKey.of("mine", key.public_key())], "bar", lambda: NOW)


def refusal(verifier: Verifier, token: str) -> str:
    with pytest.raises(SignatureRefused) as refused:
        verifier.verify(token)
    text = str(refused.value)
    assert text.isprintable()
    return text


# --- what we sign ------------------------------------------------------------------------------


def test_our_token_has_the_header_and_the_claims_of_receptors(key):
    token = Signer(key, 5400.0, lambda: NOW + 0.25).sign("bar")
    header, claims, signature = (decode(part) for part in token.split("."))
    fields = json.loads(header)
    assert fields.pop("kid") == fingerprint(key.public_key())
    assert fields == {"alg": "RS512", "typ": "JWT"}
    assert json.loads(claims) == {"exp": int(NOW) + 5401, "aud": ["bar"]}
    assert len(signature) == 256


def test_our_token_is_taken_by_the_node_it_is_for(key, verifier):
    verifier.verify(Signer(key, 1.0, lambda: NOW).sign("bar"))


# --- what we take ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["bar"], "exp": int(NOW) + 300},
        {"aud": ["foo", "bar"], "exp": int(NOW) + 300},
        {"aud": "bar", "exp": int(NOW) + 300},
        {"aud": ["bar"], "exp": NOW + 300.5},
        {"aud": ["bar"], "exp": int(NOW) + 300, "nbf": int(NOW), "iat": int(NOW), "iss": "foo"},
        {"aud": ["bar"], "exp": int(NOW) + 300, "sub": 7, "jti": 7, "own": {}},
        # Within the skew of the clocks, both ways.
        {"aud": ["bar"], "exp": NOW - CLOCK_SKEW + 1},
        {"aud": ["bar"], "exp": int(NOW) + 300, "nbf": NOW + CLOCK_SKEW, "iat": NOW + CLOCK_SKEW},
    ],
)
def test_a_token_of_a_library_of_another_language_is_taken(key, verifier, claims):
    verifier.verify(golang_token(key, claims))


# --- several keys ------------------------------------------------------------------------------


def named(key, name: str) -> VerificationKey:
    return VerificationKey.of(name, key.public_key())


@given(st.permutations(range(3)), st.integers(0, 2), st.booleans())
def test_each_of_several_keys_is_taken_and_told_by_its_name(order, signer, ours):
    keys = [named(KEYS[number], str(number)) for number in order]
    verifier = Verifier(keys, "bar", lambda: NOW)
    token = Signer(KEYS[signer], 300, lambda: NOW).sign("bar")
    if not ours:
        token = golang_token(KEYS[signer], CLAIMS)
    assert verifier.verify(token) == str(signer)


@given(st.text(max_size=80))
def test_what_a_token_says_of_its_key_decides_nothing(said):
    header = {"alg": "RS512", "typ": "JWT", "kid": said}
    verifier = Verifier([named(KEYS[0], "old"), named(KEYS[1], "new")], "bar", lambda: NOW)
    assert verifier.verify(golang_token(KEYS[1], CLAIMS, header)) == "new"
    told = refusal(verifier, golang_token(KEYS[2], CLAIMS, header))
    assert told.startswith(f"could not verify signature: {RECEPTORS} token is signed with the key ")


def test_a_token_of_another_key_is_refused_with_both_fingerprints(key, other_key):
    verifier = Verifier([named(key, "release"), named(KEYS[0], "old")], "bar", lambda: NOW)
    assert refusal(verifier, Signer(other_key, 300, lambda: NOW).sign("bar")) == (
        f"could not verify signature: {RECEPTORS} token is signed with the key "
        f"{fingerprint(other_key.public_key())}, and this node has "
        f"release ({fingerprint(key.public_key())}), old ({fingerprint(KEYS[0].public_key())})"
    )


def test_a_token_that_names_a_key_of_ours_and_has_not_its_signature_was_changed(key, other_key):
    verifier = Verifier([named(key, "release")], "bar", lambda: NOW)
    mine = fingerprint(key.public_key())
    token = golang_token(other_key, CLAIMS, {"alg": "RS512", "kid": mine})
    assert refusal(verifier, token) == (
        f"could not verify signature: {RECEPTORS} token was changed: it names the key "
        f"release ({mine}), whose signature it does not have"
    )


def test_a_refusal_names_some_of_many_keys(key, other_key):
    verifier = Verifier([named(key, f"k{n}") for n in range(9)], "bar", lambda: NOW)
    told = refusal(verifier, golang_token(other_key, CLAIMS))
    assert "k3 (" in told
    assert "k4 (" not in told
    assert told.endswith(" and 5 more; it does not say which key made it")


# --- what we refuse, each with words of its own ------------------------------------------------


def test_no_token_is_refused(verifier):
    assert refusal(verifier, "") == "could not verify signature: signature is empty"


def test_a_token_of_another_key_is_refused(other_key, verifier):
    assert refusal(verifier, golang_token(other_key, CLAIMS)).startswith(CHANGED)


@pytest.mark.parametrize("part", [1, 2])
def test_a_changed_token_is_refused(key, verifier, part):
    parts = golang_token(key, CLAIMS).split(".")
    changed = {**CLAIMS, "exp": CLAIMS["exp"] + 1}
    parts[part] = encode(json.dumps(changed).encode() if part == 1 else decode(parts[2])[::-1])
    assert refusal(verifier, ".".join(parts)).startswith(CHANGED)


def test_a_token_without_its_signature_is_refused(key, verifier):
    token = golang_token(key, CLAIMS)
    assert refusal(verifier, token[: token.rindex(".") + 1]).startswith(CHANGED)


def test_an_expired_token_is_refused_and_the_time_told(key, verifier):
    token = golang_token(key, {**CLAIMS, "exp": int(NOW) - 5400})
    assert refusal(verifier, token) == (
        "could not verify signature: token is expired by 1h30m0s: it held until "
        "2026-11-02T01:30:00Z, and here it is 2026-11-02T03:00:00Z; check the clocks of both nodes"
    )


def test_a_token_expires_once_the_skew_of_the_clocks_is_over(key, verifier):
    token = golang_token(key, {**CLAIMS, "exp": NOW - CLOCK_SKEW})
    text = refusal(verifier, token)
    assert text.startswith("could not verify signature: token is expired by 1m0s: it held until ")


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_from_the_future_is_refused(key, verifier, claim):
    token = golang_token(key, {**CLAIMS, claim: NOW + CLOCK_SKEW + 1})
    assert refusal(verifier, token) == (
        f"could not verify signature: token is not valid yet ({claim}): it holds from "
        "2026-11-02T03:01:01Z, and here it is 2026-11-02T03:00:00Z; check the clocks of both nodes"
    )


def test_a_token_that_never_expires_is_refused(key, verifier):
    assert refusal(verifier, golang_token(key, {"aud": ["bar"]})) == (
        "could not verify signature: token has no expiration time (exp)"
    )


@pytest.mark.parametrize(
    ("audience", "named"),
    [
        (["foo"], "foo"),
        ("barbar", "barbar"),
        (["foo", "baz"], "foo, baz"),
        (["BAR"], "BAR"),
        ([["bar"]], "['bar']"),
        ({"bar": 1}, "{'bar': 1}"),
        ([], ""),
        (None, "nobody"),
        (["x" * 999], "x" * 60 + "…"),
        (["a\nb"], "a\\nb"),
    ],
)
def test_a_token_for_another_node_is_refused(key, verifier, audience, named):
    assert refusal(verifier, golang_token(key, {**CLAIMS, "aud": audience})) == (
        f"token audience did not match node ID: it is signed for {named}, this is bar"
    )


@pytest.mark.parametrize("name", ["none", "None", "NONE"])
def test_a_token_that_says_it_needs_no_signature_is_refused(key, verifier, name):
    for token in (
        unsigned_token(CLAIMS, name),
        golang_token(key, CLAIMS, {"alg": name, "typ": "JWT"}),
    ):
        assert refusal(verifier, token) == (
            'could not verify signature: token is not signed (algorithm "none"); RS512 is needed'
        )


def test_a_token_with_the_public_key_as_a_shared_secret_is_refused(key, verifier):
    for secret in (public_pem(key), public_pem(key).rstrip(b"\n"), b""):
        assert refusal(verifier, secret_token(secret, CLAIMS)) == (
            "could not verify signature: token is signed with a shared secret (HS512), "
            "not with a private key; RS512 is needed"
        )


@pytest.mark.parametrize("name", ["RS256", "PS512", "ES512", "rs512", "", None, 7, ["RS512"]])
def test_a_token_of_another_algorithm_is_refused(key, verifier, name):
    token = golang_token(key, CLAIMS, {"alg": name, "typ": "JWT"})
    assert refusal(verifier, token) == (
        "could not verify signature: token is signed with the algorithm "
        f"{json.dumps(name)}; RS512 is needed"
    )


@pytest.mark.parametrize(
    "exp",
    ["soon", None, True, [], -1, 10**400, float("nan"), float("inf"), 253402300800],
)
def test_a_token_whose_end_is_no_time_is_refused(key, verifier, exp):
    token = golang_token(key, {**CLAIMS, "exp": exp})
    assert refusal(verifier, token) == f"{MALFORMED}exp is no time"


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "....",
        "\ud800",
        "é.é.é",
        f"{encode(b'[' * 5000)}.e30.x",
        f"{encode(b'[]')}.e30.x",
        f"{encode(b'{}')}\n.e30.x",
    ],
)
def test_what_is_no_token_is_refused_as_malformed(verifier, token):
    text = refusal(verifier, token)
    assert text.startswith((MALFORMED, "could not verify signature: token is signed with the"))


def test_a_token_longer_than_any_is_refused_unread(key, verifier):
    token = golang_token(key, {**CLAIMS, "own": "x" * MAX_TOKEN})
    assert refusal(verifier, token) == f"{MALFORMED}it has more than {MAX_TOKEN} characters"


@pytest.mark.parametrize("payload", [b"[]", b'"x"', b"7", b"{", b"", b"\xff", b"[" * 5000])
def test_signed_claims_that_are_no_claims_are_refused(key, verifier, payload):
    header = encode(b'{"alg":"RS512","typ":"JWT"}')
    assert refusal(verifier, sign(key, f"{header}.{encode(payload)}")).startswith(MALFORMED)


SMALL_KEY = new_key()


@given(
    st.dictionaries(
        st.sampled_from(["exp", "aud", "nbf", "iat"]),
        st.integers() | st.text(max_size=5) | st.none() | st.lists(st.text(max_size=3)),
    )
)
def test_signed_claims_are_taken_or_refused_whatever_they_are(claims):
    verifier = Verifier([VerificationKey.of("mine", SMALL_KEY.public_key())], "bar", lambda: NOW)
    token = golang_token(SMALL_KEY, claims)
    try:
        verifier.verify(token)
    except SignatureRefused:
        return
    assert "bar" in claims["aud"]
    assert claims["exp"] > NOW - CLOCK_SKEW


@given(st.text() | st.text(alphabet="abcdefXYZ0129-_.=", max_size=200))
def test_any_text_is_refused(text):
    with pytest.raises(SignatureRefused):
        Verifier([VerificationKey.of("mine", SMALL_KEY.public_key())], "bar", lambda: NOW).verify(
            text
        )
