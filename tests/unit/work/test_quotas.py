"""What one submitter may have of a node: units, and bytes of their payloads."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.security.identity import CertificateNames, MeshClient, TcpClient, UnixClient
from meshnode.work.units.quotas import QuotaBounds, account

ANN, ANN_AGAIN, BOB = (UnixClient(uid, 100, pid) for uid, pid in ((1, 7), (1, 8), (2, 9)))
SUBMIT = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}


async def submit(where, client, payload=b"", **fields):
    """Return the last line that a client is told."""
    where.clients["client"] = client
    return (await where.talk(SUBMIT | fields, payload, "unix"))[-1]


def unit_of(line):
    return json.loads(line)["unitid"]


async def test_who_has_as_many_units_as_it_may_gets_no_more_and_others_do(foo):
    async with foo.running():
        foo.units.quotas.bounds = QuotaBounds(units=2)
        units = [unit_of(await submit(foo, client)) for client in (ANN, ANN_AGAIN)]
        refusal = await submit(foo, ANN)
        assert "you have 2 units on this node, of at most 2" in refusal
        assert unit_of(await submit(foo, BOB))
        await foo.wait_final(units[0])
        await foo.talk(f"work release {units[0]}")
        assert unit_of(await submit(foo, ANN_AGAIN))


async def test_units_for_other_nodes_count_as_well(foo, bar):
    async with foo.running(), bar.running():
        foo.units.quotas.bounds = QuotaBounds(units=1)
        assert unit_of(await submit(foo, ANN, node="bar"))
        assert "you have 1 units" in await submit(foo, ANN)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_payload_beyond_what_its_submitter_may_have_fails_its_unit_only(foo, announced):
    async with foo.running():
        foo.units.quotas.bounds = QuotaBounds(payload=1000)
        first = unit_of(await submit(foo, ANN, bytes(600)))
        await foo.wait_final(first)
        said = {"stdinsize": "500"} if announced else {}
        refusal = await submit(foo, ANN_AGAIN, bytes(500), **said)
        assert "more than 1000 bytes of payload (submitter-maxpayload)" in refusal
        assert unit_of(await submit(foo, BOB, bytes(1000)))
        assert unit_of(await submit(foo, ANN, bytes(400)))
        await foo.talk(f"work release {first}")
        assert unit_of(await submit(foo, ANN, bytes(500)))


async def test_a_node_without_bounds_takes_any(foo):
    async with foo.running():
        for _ in range(5):
            assert unit_of(await submit(foo, ANN, bytes(5000)))


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_an_account_is_the_same_for_each_connection_of_a_client(one, other):
    card = CertificateNames("CN=ann")
    for first, second in (
        (UnixClient(1, one, one), UnixClient(1, other, other)),
        (MeshClient("bar", f"s{one}"), MeshClient("bar", f"s{other}")),
        (TcpClient(f"10.0.0.1:{one}"), TcpClient(f"10.0.0.1:{other}")),
        (TcpClient(f"10.0.0.1:{one}", card), TcpClient(f"10.9.0.1:{other}", card)),
    ):
        assert account(first) == account(second)
    assert account(TcpClient("10.0.0.1:1", card)) != account(TcpClient("10.0.0.1:1"))
