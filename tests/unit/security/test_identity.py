"""Who asks, as a value: recorded, shown, sent, and read from whatever others write."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.security.identity import (
    IDS,
    MAX_ADDRESS,
    MAX_CERTIFICATE_NODES,
    MAX_NODE,
    MAX_SERVICE,
    MAX_SUBJECT,
    MAX_USER,
    PIDS,
    CertificateNames,
    Identity,
    MeshClient,
    TcpClient,
    UnixClient,
    UnknownClient,
    claim_from_json,
    claim_of,
    identity_from_json,
    shown_text,
)


def texts(most: int, least: int = 0) -> st.SearchStrategy[str]:
    return st.text(min_size=least, max_size=most).map(lambda text: shown_text(text, most))


unix = st.builds(
    UnixClient,
    uid=st.integers(0, IDS[-1]),
    gid=st.integers(0, IDS[-1]),
    pid=st.integers(0, PIDS[-1]),
    user=texts(MAX_USER),
)
certificates = st.none() | st.builds(
    CertificateNames,
    texts(MAX_SUBJECT),
    st.lists(texts(MAX_NODE), max_size=MAX_CERTIFICATE_NODES).map(tuple),
)
tcp = st.builds(TcpClient, texts(MAX_ADDRESS, least=1), certificates)
claims = st.one_of(
    st.none(),
    unix,
    tcp.map(claim_of),
    st.builds(MeshClient, texts(MAX_NODE, least=1), texts(MAX_SERVICE)),
)
mesh = st.builds(MeshClient, texts(MAX_NODE, least=1), texts(MAX_SERVICE), claims, certificates)
identities = st.one_of(unix, tcp, mesh, st.just(UnknownClient()))

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
nearly = st.fixed_dictionaries(
    {"Kind": st.sampled_from(["unix", "tcp", "mesh", "unknown", "certificate", 7, None])},
    optional=dict.fromkeys(("Uid", "Gid", "Pid", "User", "Address", "Node", "Service"), anything)
    | {
        "Certificate": anything
        | st.fixed_dictionaries({"Subject": anything, "Nodes": anything | st.lists(st.text())})
    },
)


@given(identities)
def test_an_identity_is_read_again_as_it_was_written(identity: Identity) -> None:
    assert identity_from_json(json.loads(json.dumps(identity.to_json()))) == identity


def test_units_of_one_client_share_its_identity() -> None:
    data = UnixClient(1000, 100, 7, "ann").to_json()
    assert identity_from_json(data) is identity_from_json(dict(data))


@given(anything | nearly | nearly.flatmap(lambda n: anything.map(lambda c: {**n, "Claim": c})))
def test_whatever_stands_for_an_identity_none_or_a_bounded_printable_one_is_read(
    data: Any,
) -> None:
    identity = identity_from_json(data)
    if identity is not None:
        assert str(identity).isprintable()
        assert len(str(identity)) < 2 * MAX_NODE + MAX_USER + 100
        assert identity_from_json(identity.to_json()) == identity


@given(identities)
def test_a_line_says_who_it_is_in_printable_words(identity: Identity) -> None:
    assert str(identity).isprintable()
    assert identity.brief.isprintable()
    assert identity.brief


@given(mesh)
def test_a_node_tells_of_a_third_one_its_name_and_not_what_it_only_heard(
    client: MeshClient,
) -> None:
    told = claim_of(client)
    assert told == replace(client, claim=None, certificate=None)
    assert claim_from_json(client.to_json()) == told


@given(identities)
def test_what_a_certificate_has_shown_here_is_told_to_no_other_node(identity: Identity) -> None:
    claim = claim_of(identity)
    assert claim is None or "Certificate" not in json.dumps(claim.to_json())


@pytest.mark.parametrize("names", [7, {"Subject": "a\nb", "Nodes": []}, {"Subject": "CN=a"}])
@pytest.mark.parametrize("client", [MeshClient("foo"), TcpClient("1.2.3.4:5")])
def test_a_client_whose_certificate_cannot_be_read_is_not_one_without(
    client: Identity, names: object
) -> None:
    assert identity_from_json(client.to_json() | {"Certificate": names}) is None


def test_claims_within_claims_are_not_followed_however_deep() -> None:
    data: dict[str, Any] = {"Kind": "unix", "Uid": 1, "Gid": 1, "Pid": 1}
    for _ in range(100_000):
        data = {"Kind": "mesh", "Node": "foo", "Claim": data}
    assert identity_from_json(data) == MeshClient("foo", claim=MeshClient("foo"))


@pytest.mark.parametrize(
    ("identity", "line", "brief"),
    [
        (UnixClient(1000, 100, 7, "ann"), "ann (uid 1000, pid 7)", "ann (uid 1000)"),
        (UnixClient(1000, 100, 7), "uid 1000 (pid 7)", "uid 1000"),
        (TcpClient("10.0.0.7:4312"), "10.0.0.7:4312", "10.0.0.7:4312"),
        (MeshClient("foo", "abc"), "node foo", "node foo"),
        (
            MeshClient("foo", "abc", UnixClient(0, 0, 9, "root")),
            "node foo, which says for root (uid 0, pid 9)",
            "node foo, which says for root (uid 0)",
        ),
        (UnknownClient(), "an unknown client", "an unknown client"),
    ],
)
def test_each_kind_of_client_has_its_words(identity: Identity, line: str, brief: str) -> None:
    assert (str(identity), identity.brief) == (line, brief)
