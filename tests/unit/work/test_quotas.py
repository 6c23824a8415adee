"""What one submitter may have of a node: units, and bytes of their payloads."""

import json

import pytest
import trio
import trio.testing
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


# --- batches -------------------------------------------------------------------------------------

BATCH = {"command": "work", "subcommand": "batch", "action": "submit"}
LINE = b'{"node": "foo", "worktype": "cat"}\n'


async def submit_list(where, client, count):
    """Submit a list of so many lines, and return the last line that its client is told."""
    peer = str(client)
    where.clients[peer] = client
    return (await where.talk(BATCH | {"lines": "true"}, LINE * count, peer=peer))[-1]


async def release_batch(where, told):
    request = BATCH | {"action": "release", "batch": json.loads(told)["batch"]}
    assert "released" in (await where.talk(request))[0]


def kept(where):
    """Return the bytes of the lists on a node's disk."""
    return sum(path.stat().st_size for path in where.store.root.rglob("lines"))


async def test_a_list_counts_as_payload_of_its_submitter_until_its_batch_is_released(
    foo, autojump_clock
):
    most = 30 * len(LINE)
    async with foo.running():
        foo.units.quotas.bounds = QuotaBounds(payload=most)
        first = await submit_list(foo, ANN, 20)
        refusal = await submit_list(foo, ANN_AGAIN, 11)
        assert f"more than {most} bytes of payload (submitter-maxpayload)" in refusal
        assert kept(foo) == 20 * len(LINE)
        assert '"members":30' in (await submit_list(foo, BOB, 30)).replace(" ", "")
    # What is there counts in the next life of the node, too.
    async with foo.running():
        foo.units.quotas.bounds = QuotaBounds(payload=most)
        assert "(submitter-maxpayload)" in await submit_list(foo, ANN, 11)
        assert "(submitter-maxpayload)" in await submit(foo, ANN, bytes(11 * len(LINE)))
        await release_batch(foo, first)
        assert "batch" in json.loads(await submit_list(foo, ANN, 30))


@pytest.mark.parametrize("counts", [(30, 30), (10, 45), (26, 25, 20, 30)])
async def test_lists_that_come_at_once_are_together_no_more_than_one_may_have(
    foo, counts, autojump_clock
):
    async def finish(client, count):
        await client.send_all(LINE * (count - count // 2))
        await client.send_eof()
        told.append(b"".join([piece async for piece in client]).splitlines()[-1])

    told: list[bytes] = []
    async with foo.running():
        foo.units.quotas.bounds = QuotaBounds(payload=50 * len(LINE))
        clients = [foo.connect("unix", "client") for _ in counts]
        for client, count in zip(clients, counts, strict=True):
            request = json.dumps(BATCH | {"lines": "true"}).encode() + b"\n"
            await client.send_all(request + LINE * (count // 2))
            await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for client, count in zip(clients, counts, strict=True):
                nursery.start_soon(finish, client, count)
        assert kept(foo) <= 50 * len(LINE)
        assert any(b"(submitter-maxpayload)" in line for line in told)
        # Nothing is reckoned that has not stayed.
        assert "batch" in await submit_list(foo, BOB, 50)


async def test_who_has_as_many_batches_as_it_may_have_units_gets_no_more_and_others_do(
    foo, autojump_clock
):
    waiting = {"submissionafter": "", "array": "1-2", "node": "foo", "worktype": "cat"}
    async with foo.running():
        foo.units.quotas.bounds = QuotaBounds(units=2)
        first = unit_of(await submit(foo, BOB, node="nowhere"))
        waiting["submissionafter"] = first

        async def chained(client):
            foo.clients["client"] = client
            return (await foo.talk(BATCH | waiting))[-1]

        kept_ones = [await chained(one) for one in (ANN, ANN_AGAIN)]
        refusal = await chained(ANN)
        assert "you have 2 batches on this node, of at most 2 (submitter-maxunits)" in refusal
        assert "batch" in json.loads(await chained(BOB))
        await release_batch(foo, kept_ones[0])
        assert "batch" in json.loads(await chained(ANN))
